"""Long work as jobs of a Ray cluster: checked here, sent once, followed, found again."""

from raycol.jobs.submit import SubmitConfig, Submitted, submit
from raycol.jobs.verbs import VERBS

__all__ = ["VERBS", "SubmitConfig", "Submitted", "submit"]
