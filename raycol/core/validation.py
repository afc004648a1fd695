"""Limits of arguments, and the validation of integers."""

from __future__ import annotations

import operator

from raycol.errors import InputError

MAX_INT32 = 2**31 - 1
# Of a document's id, in UTF-8.
MAX_ID_BYTES = 512


def check_positive_int(name: str, value: object, maximum: int = MAX_INT32, reason: str = "") -> int:
    """Return `value` as an int from 1 to `maximum`.

    Raises:
        InputError: another type or out of range; the message names the argument and ends with `reason`, which says
            where `maximum` comes from.
    """
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise InputError(f"{name} is {value!r:.60}; expected an integer")
    number = operator.index(value)  # accepts NumPy integers
    if not 1 <= number <= maximum:
        expected = "1 or more" if maximum == MAX_INT32 and number < 1 else f"1 to {maximum}"
        raise InputError(f"{name} is {number}; expected {expected}{reason}")
    return number
