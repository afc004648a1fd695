"""Imports shared by the processes of a group, loaded once by the fork server."""

from raycol.core.lazy import loading

with loading():
    import raycol.training.worker  # noqa: F401
    import tests.training.material  # noqa: F401
