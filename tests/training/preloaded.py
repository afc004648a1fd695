"""What processes of a group have in common: loaded once, by the server that forks them."""

from raycol.core.lazy import loading

with loading():
    import raycol.training.worker  # noqa: F401
    import tests.training.material  # noqa: F401
