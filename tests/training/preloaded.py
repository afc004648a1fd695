"""What processes of a group have in common: loaded once, by the server that forks them."""

from raycol.core.lazy import without_gc

with without_gc():
    import raycol.training.worker  # noqa: F401
    import tests.training.material  # noqa: F401
