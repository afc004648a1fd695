"""Studies: experiments of many cells that anyone reruns on their own model and collections."""

from typing import TYPE_CHECKING

from raycol.core.lazy import lazy_attributes

if TYPE_CHECKING:
    from raycol.studies.config import StudyConfig
    from raycol.studies.result import StudyResult
    from raycol.studies.run import run_study

__getattr__ = lazy_attributes(
    __name__,
    {
        "StudyConfig": "raycol.studies.config",
        "StudyResult": "raycol.studies.result",
        "run_study": "raycol.studies.run",
    },
)

__all__ = ["StudyConfig", "StudyResult", "run_study"]
