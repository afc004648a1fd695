"""What processes of a group have in common: loaded once, by the server that forks them.

The garbage collector leaves it alone: modules are never garbage.
"""

# ruff: noqa: E402, F401
import gc

gc.disable()

import raycol.training.worker
import tests.training.material

gc.freeze()
gc.enable()
