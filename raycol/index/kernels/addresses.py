"""Arrays of many partitions by their addresses, so that one call of a kernel goes through all partitions.

A row of addresses belongs to one partition: the first tokens of its documents (int64), the codes of its tokens, then
the other arrays of the codec in their order. Lists have a table of their own, since those of small partitions are
joined. Callers are responsible for bounds, and keep the arrays alive.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

OFFSETS_AT, CODES_AT, CODEC_AT = range(3)
# Lists: the first byte of each, the lists, and, instead of an address, the bytes of such an offset, 2 or 4.
LIST_OFFSETS_AT, LISTS_AT, OFFSET_BYTES_AT = range(3)


def _loader(kind: Any) -> Any:
    @intrinsic
    def load(typing_context, address, index):  # type: ignore[no-untyped-def]
        """Return the integer number `index` of an array."""

        def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
            address, index = arguments
            pointer = builder.inttoptr(address, ir.IntType(kind.bitwidth).as_pointer())
            return builder.load(builder.gep(pointer, [index], source_etype=ir.IntType(kind.bitwidth)))

        return kind(types.intp, types.intp), generate

    return load


int64_at, uint32_at, uint16_at, uint8_at = map(_loader, (types.int64, types.uint32, types.uint16, types.uint8))


@numba.njit(inline="always")
def unsigned_at(address, index, n_bytes):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Return the integer number `index` of an array whose integers have 2 or 4 bytes, as an int64."""
    return np.int64(uint16_at(address, index)) if n_bytes == 2 else np.int64(uint32_at(address, index))
