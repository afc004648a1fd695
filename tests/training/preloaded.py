"""Imports shared by the processes of a group, loaded once by the fork server."""

from raycol.core.lazy import without_gc

with without_gc():
    import raycol.training.worker  # noqa: F401
    import tests.training.material  # noqa: F401
