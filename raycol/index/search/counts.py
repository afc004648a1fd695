"""Settings that count something, as callers give them."""

from __future__ import annotations

import operator

from raycol.errors import InputError

MOST = 2**31 - 1


def check_count(name: str, value: object, most: int = MOST, why: str = "") -> int:
    """Return a whole number of 1 to `most`, or raise `InputError` naming it; `why` says where `most` comes from."""
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise InputError(f"{name} is {value!r:.60}; expected a whole number")
    number = operator.index(value)  # NumPy's integers too
    if not 1 <= number <= most:
        expected = "1 or more" if most == MOST and number < 1 else f"1 to {most}"
        raise InputError(f"{name} is {number}; expected {expected}{why}")
    return number
