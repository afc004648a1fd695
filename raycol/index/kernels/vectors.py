"""The innermost loops, written as LLVM vectors so that every processor gets the intended vector code.

Each loop handles a block of LANES query tokens, stored side by side, so that no sum runs across a vector. LLVM lowers
the vectors to AVX-512, AVX2 or NEON. Products of bytes have a variant for each family of instructions that multiplies
them (`byte_instructions`), and one for other processors, which widens them first. All of them give the same integers.

Arguments are addresses (`array.ctypes.data` inside a kernel); callers are responsible for bounds.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import llvmlite.binding
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

# Query tokens per block, and centroids or tokens per call.
LANES = 32
ROWS = 8
TOKENS = 4

# VPMADDUBSW adds two products of an unsigned byte and a weight in 16 bits: 255 times this is less than 2^15.
MAX_PAIR = 128

_I8, _I16, _I32, _I64, _F32 = ir.IntType(8), ir.IntType(16), ir.IntType(32), ir.IntType(64), ir.FloatType()
_HALF = LANES // 2
_FLOATS, _BYTES, _SHORTS = (
    ir.VectorType(kind, size) for kind, size in ((_F32, _HALF), (_I8, LANES), (ir.IntType(16), _HALF))
)


# Instructions that multiply bytes, and LLVM's names of the features that they need. The first that a processor has is
# used.
_BYTE_INSTRUCTIONS = {
    "avx512-vnni": {"avx512f", "avx512vnni"},
    "avx-vnni": {"avx2", "avxvnni"},
    "avx2": {"avx2"},
    "neon-dot": {"neon", "dotprod"},
    "none": set(),
}


def byte_instructions(codegen: Any) -> str:
    """Name the instructions that multiply bytes in numba's code; its settings can disable some of the processor's.

    avx512-vnni and avx-vnni: VPDPBUSD, which adds four products to a 32-bit integer. avx2: VPMADDUBSW, which adds two
    in a 16-bit integer. neon-dot: SDOT, as VPDPBUSD. none: bytes are widened first.
    """
    features = _features(codegen)
    return next(name for name, needed in _BYTE_INSTRUCTIONS.items() if needed <= features)


def _features(codegen: Any) -> set[str]:
    *_, features = codegen.magic_tuple()
    return {feature[1:] for feature in features.split(",") if feature.startswith("+")}


def _pointer(builder: Any, address: Any, offset: Any, kind: Any) -> Any:
    return builder.inttoptr(builder.add(address, offset), kind.as_pointer())


def _load(builder: Any, address: Any, offset: Any, kind: Any) -> Any:
    loaded = builder.load(_pointer(builder, address, offset, kind))
    loaded.align = 1
    return loaded


def _store(builder: Any, value: Any, address: Any, offset: Any) -> None:
    builder.store(value, _pointer(builder, address, offset, value.type)).align = 1


def _splat(builder: Any, value: Any, size: int) -> Any:
    kind = ir.VectorType(value.type, size)
    one = builder.insert_element(ir.Constant(kind, ir.Undefined), value, _I32(0))
    return builder.shuffle_vector(one, ir.Constant(kind, ir.Undefined), ir.Constant(ir.VectorType(_I32, size), None))


def _same(kind: Any, value: int) -> Any:
    return ir.Constant(kind, [value] * kind.count)


def _accumulators(builder: Any, kind: Any, number: int) -> list[Any]:
    accumulators = [cgutils.alloca_once(builder, kind) for _ in range(number)]
    for accumulator in accumulators:
        builder.store(ir.Constant(kind, None), accumulator)
    return accumulators


def _fused(builder: Any, a: Any, b: Any, c: Any) -> Any:
    return _call(builder, f"llvm.fmuladd.v{a.type.count}f32", a.type, [a, b, c])


def _call(builder: Any, name: str, result: Any, arguments: list[Any]) -> Any:
    kind = ir.FunctionType(result, [argument.type for argument in arguments])
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), arguments)


class _Tile(NamedTuple):
    """A way to multiply bytes: lanes of an accumulator, rows of a tile, whether the first factor is unsigned."""

    lanes: int
    rows: int
    unsigned: bool
    multiply: Callable[[Any, Any, Any, Any], Any]


def _vpdpbusd(bits: int) -> Callable[[Any, Any, Any, Any], Any]:
    def multiply(builder: Any, total: Any, four: Any, weight: Any) -> Any:
        if llvmlite.binding.llvm_version_info < (22,):  # the arguments were integers
            four, weight = (builder.bitcast(operand, total.type) for operand in (four, weight))
        return _call(builder, f"llvm.x86.avx512.vpdpbusd.{bits}", total.type, [total, four, weight])

    return multiply


def _vpmaddubsw(builder: Any, total: Any, four: Any, weight: Any) -> Any:
    return _add_pairs(builder, total, _multiply_pairs(builder, four, weight))


def _multiply_pairs(builder: Any, unsigned: Any, signed: Any) -> Any:
    return _call(builder, "llvm.x86.avx2.pmadd.ub.sw", _SHORTS, [unsigned, signed])


def _add_pairs(builder: Any, total: Any, pairs: Any) -> Any:
    ones = ir.Constant(_SHORTS, [1] * 16)
    return builder.add(total, _call(builder, "llvm.x86.avx2.pmadd.wd", total.type, [pairs, ones]))


def _sdot(builder: Any, total: Any, four: Any, weight: Any) -> Any:
    return _call(builder, "llvm.aarch64.neon.sdot.v4i32.v16i8", total.type, [total, weight, four])


def _widened(builder: Any, total: Any, four: Any, weight: Any) -> Any:
    undefined, integers = ir.Constant(four.type, ir.Undefined), ir.VectorType(_I32, total.type.count)
    per_lane = four.type.count // total.type.count
    for first in range(per_lane):
        own = ir.Constant(integers, [_I32(i) for i in range(first, four.type.count, per_lane)])
        factors = [
            builder.sext(builder.shuffle_vector(factor, undefined, own), total.type) for factor in (four, weight)
        ]
        total = builder.add(total, builder.mul(*factors))
    return total


# With as many accumulators as there are registers, some are spilled, which takes longer than the products.
_TILES = {
    "avx512-vnni": _Tile(16, 8, True, _vpdpbusd(512)),
    "avx-vnni": _Tile(8, 2, True, _vpdpbusd(256)),
    "avx2": _Tile(8, 2, True, _vpmaddubsw),
    "neon-dot": _Tile(4, 2, False, _sdot),
    "none": _Tile(4, 1, False, _widened),
}


@intrinsic
def dot_bytes(typing_context, rows, stride, weights, dim, offsets, out):  # type: ignore[no-untyped-def]
    """Multiply ROWS rows of bytes less 128 by LANES query tokens of signed bytes: int32 out [ROWS, LANES].

    Rows are `stride` bytes apart, and unsigned; weights are int8 [dim / 4, LANES, 4], and those of the same sign among
    the first or the last two of four add up to at most MAX_PAIR; offsets are 128 times the sum of each query token's
    weights, int32 [LANES].
    """

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        _dot_bytes(builder, byte_instructions(context.codegen()), *arguments)
        return context.get_dummy_value()

    return types.void(*(types.intp,) * 6), generate


def _dot_bytes(
    builder: Any, instructions: str, rows: Any, stride: Any, weights: Any, dim: Any, offsets: Any, out: Any
) -> None:
    tile = _TILES[instructions]
    n_vectors = LANES // tile.lanes
    integers, bytes_ = ir.VectorType(_I32, tile.lanes), ir.VectorType(_I8, 4 * tile.lanes)
    for first in range(0, ROWS, tile.rows):
        sums = _accumulators(builder, integers, tile.rows * n_vectors)
        if tile.unsigned:
            for i, total in enumerate(sums):
                offset = _load(builder, offsets, _I64(4 * tile.lanes * (i % n_vectors)), integers)
                builder.store(builder.neg(offset), total)
        with cgutils.for_range(builder, builder.udiv(dim, _I64(4)), intp=_I64) as loop:
            column, start = builder.mul(loop.index, _I64(4 * LANES)), builder.mul(loop.index, _I64(4))
            fours = []
            for row in range(first, first + tile.rows):
                offset = builder.add(builder.mul(stride, _I64(row)), start)
                four = builder.bitcast(_splat(builder, _load(builder, rows, offset, _I32), tile.lanes), bytes_)
                fours.append(four if tile.unsigned else builder.xor(four, _same(bytes_, -128)))
            for vector in range(n_vectors):
                offset = builder.add(column, _I64(4 * tile.lanes * vector))
                weight = _load(builder, weights, offset, bytes_)
                for row, four in enumerate(fours):
                    total = sums[n_vectors * row + vector]
                    builder.store(tile.multiply(builder, builder.load(total), four, weight), total)
        for i, total in enumerate(sums):
            _store(builder, builder.load(total), out, _I64(4 * tile.lanes * (n_vectors * first + i)))


@intrinsic
def score_levels(typing_context, packed, width, bits, weights, lines, scale, gain, centroid, best):  # type: ignore[no-untyped-def]
    """Raise `best`, float32 [LANES], to the scores of a token with a packed residual of `width` bytes.

    A score is scale * centroid + gain * (low + step * sum), a sum of weights times levels. Levels have at most 4 bits
    and the layout of `codebook.pack`, weights are int8 [dim / 4, LANES, 4], from -127 to 127, `lines` is float32 [2,
    LANES]: low and step of each query token, and `centroid` is float32 [LANES]. `width` is a multiple of 4.
    """

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        packed, width, bits, *rest = arguments
        instructions = byte_instructions(context.codegen())
        for bits_ in (1, 2, 4):
            with builder.if_then(builder.icmp_signed("==", bits, _I64(bits_))):
                _score_levels(builder, instructions, bits_, packed, width, *rest)
        return context.get_dummy_value()

    argument_types = (types.intp,) * 5 + (types.float32, types.float32, types.intp, types.intp)
    return types.void(*argument_types), generate


def _score_levels(
    builder: Any, instructions: str, bits: int, packed: Any, width: Any, weights: Any, lines: Any, scale: Any,
    gain: Any, centroid: Any, best: Any,
) -> None:  # fmt: skip
    tile = _TILES[instructions]
    n_vectors = LANES // tile.lanes
    integers, bytes_ = ir.VectorType(_I32, tile.lanes), ir.VectorType(_I8, 4 * tile.lanes)
    floats = ir.VectorType(_F32, tile.lanes)
    # Two sums per lane, since each product waits for the one before it in its sum.
    sums = _accumulators(builder, integers, 2 * n_vectors)
    pairs = _accumulators(builder, _SHORTS, n_vectors) if instructions == "avx2" else []
    n_groups = builder.udiv(width, _I64(4))
    with cgutils.for_range(builder, n_groups, intp=_I64) as loop:
        four = _splat(builder, _load(builder, packed, builder.mul(loop.index, _I64(4)), _I32), tile.lanes)
        for plane in range(8 // bits):
            shifted = builder.bitcast(builder.lshr(four, _same(integers, plane * bits)), bytes_)
            levels = builder.and_(shifted, _same(bytes_, 2**bits - 1))
            group = builder.add(builder.mul(n_groups, _I64(plane)), loop.index)
            for vector in range(n_vectors):
                offset = builder.add(builder.mul(group, _I64(4 * LANES)), _I64(4 * tile.lanes * vector))
                weight = _load(builder, weights, offset, bytes_)
                if pairs:
                    product = _multiply_pairs(builder, levels, weight)
                    builder.store(builder.add(builder.load(pairs[vector]), product), pairs[vector])
                else:
                    total = sums[2 * vector + plane % 2]
                    builder.store(tile.multiply(builder, builder.load(total), levels, weight), total)
        if pairs:
            # At most 4 x 8 / bits sums of two products of 127 and 2^bits - 1: below 2^15.
            with builder.if_then(builder.icmp_unsigned("==", builder.and_(loop.index, _I64(3)), _I64(3))):
                _flush(builder, pairs, sums[::2])
    if pairs:
        _flush(builder, pairs, sums[::2])
    scale, gain = (_splat(builder, value, tile.lanes) for value in (scale, gain))
    for vector in range(n_vectors):
        start = _I64(4 * tile.lanes * vector)
        total = builder.add(builder.load(sums[2 * vector]), builder.load(sums[2 * vector + 1]))
        low, step = (_load(builder, builder.add(lines, _I64(4 * LANES * line)), start, floats) for line in range(2))
        residual = _fused(builder, step, builder.sitofp(total, floats), low)
        score = _fused(builder, gain, residual, builder.fmul(scale, _load(builder, centroid, start, floats)))
        maximum = _load(builder, best, start, floats)
        larger = builder.fcmp_ordered(">", score, maximum)
        _store(builder, builder.select(larger, score, maximum), best, start)


def _flush(builder: Any, pairs: list[Any], totals: list[Any]) -> None:
    """Add sums of pairs to the totals and reset them."""
    for pair, total in zip(pairs, totals, strict=True):
        builder.store(_add_pairs(builder, builder.load(total), builder.load(pair)), total)
        builder.store(ir.Constant(_SHORTS, None), pair)


@intrinsic
def dot_shorts(typing_context, row, weights, dim, units, out):  # type: ignore[no-untyped-def]
    """Multiply a row of 16-bit integers by LANES query tokens and their units: float32 out [LANES].

    Weights are int16 [dim / 2, LANES, 2], units float32 [LANES]. The caller makes sure that sums fit 32 bits.
    """

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        row, weights, dim, units, out = arguments
        features = _features(context.codegen())
        name, lanes = next(
            ((name, lanes) for needed, name, lanes in _SHORT_PRODUCTS if needed in features), (None, _HALF // 2)
        )
        shorts, integers = ir.VectorType(ir.IntType(16), 2 * lanes), ir.VectorType(_I32, lanes)
        sums = _accumulators(builder, integers, LANES // lanes)
        with cgutils.for_range(builder, builder.udiv(dim, _I64(2)), intp=_I64) as loop:
            column, start = builder.mul(loop.index, _I64(4 * LANES)), builder.mul(loop.index, _I64(4))
            two = builder.bitcast(_splat(builder, _load(builder, row, start, _I32), lanes), shorts)
            for vector, total in enumerate(sums):
                weight = _load(builder, weights, builder.add(column, _I64(4 * lanes * vector)), shorts)
                if name:
                    product = _call(builder, name, integers, [two, weight])
                else:
                    product = _widened(builder, ir.Constant(integers, None), two, weight)
                builder.store(builder.add(builder.load(total), product), total)
        for vector, total in enumerate(sums):
            start = _I64(4 * lanes * vector)
            floats = builder.sitofp(builder.load(total), ir.VectorType(_F32, lanes))
            _store(builder, builder.fmul(floats, _load(builder, units, start, floats.type)), out, start)
        return context.get_dummy_value()

    return types.void(*(types.intp,) * 5), generate


# A feature, and its instruction for sums of two products of 16-bit integers, with its lanes.
_SHORT_PRODUCTS = (
    ("avx512bw", "llvm.x86.avx512.pmaddw.d.512", 16),
    ("avx2", "llvm.x86.avx2.pmadd.wd", 8),
)


@intrinsic
def dot_floats(typing_context, tokens, weights, dim, out):  # type: ignore[no-untyped-def]
    """Multiply tokens, float32 [TOKENS, dim], by query tokens, float32 [dim, LANES]: float32 out [TOKENS, LANES].

    Each sum runs over the dimensions in order, so the result of a token does not depend on the rest of the tile.
    """

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        tokens, weights, dim, out = arguments
        tile = TOKENS if "avx512f" in _features(context.codegen()) else TOKENS // 2
        for first in range(0, TOKENS, tile):
            sums = _accumulators(builder, _FLOATS, 2 * tile)
            with cgutils.for_range(builder, dim, intp=_I64) as loop:
                column = builder.mul(loop.index, _I64(4 * LANES))
                halves = [_load(builder, weights, builder.add(column, _I64(64 * half)), _FLOATS) for half in range(2)]
                for token in range(tile):
                    offset = builder.mul(builder.add(builder.mul(dim, _I64(first + token)), loop.index), _I64(4))
                    value = _splat(builder, _load(builder, tokens, offset, _F32), _HALF)
                    for half in range(2):
                        total = sums[2 * token + half]
                        builder.store(_fused(builder, value, halves[half], builder.load(total)), total)
            for i, total in enumerate(sums):
                _store(builder, builder.load(total), out, _I64(64 * (2 * first + i)))
        return context.get_dummy_value()

    return types.void(types.intp, types.intp, types.intp, types.intp), generate


@intrinsic
def decode_row(typing_context, packed, width, bits, centroid, lows, steps, scale, gain, out):  # type: ignore[no-untyped-def]
    """Decode a token with a packed residual of `width` bytes, a multiple of 16: float32 out [8 width / bits].

    Computes scale * centroid + gain * (low + step * level), with levels in the layout of `codebook.pack`.
    """

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        packed, width, bits, centroid, lows, steps, scale, gain, out = arguments
        scale, gain = (_splat(builder, value, _HALF) for value in (scale, gain))
        bytes_ = ir.VectorType(_I8, _HALF)
        mask = _splat(builder, builder.lshr(_I8(255), builder.trunc(builder.sub(_I64(8), bits), _I8)), _HALF)
        with cgutils.for_range(builder, builder.udiv(width, _I64(_HALF)), intp=_I64) as block:
            start = builder.mul(block.index, _I64(_HALF))
            levels = _load(builder, packed, start, bytes_)
            with cgutils.for_range(builder, builder.udiv(_I64(8), bits), intp=_I64) as plane:
                shift = _splat(builder, builder.trunc(builder.mul(plane.index, bits), _I8), _HALF)
                level = builder.uitofp(builder.and_(builder.lshr(levels, shift), mask), _FLOATS)
                offset = builder.mul(builder.add(builder.mul(plane.index, width), start), _I64(4))
                low, step, origin = (_load(builder, array, offset, _FLOATS) for array in (lows, steps, centroid))
                residual = _fused(builder, step, level, low)
                _store(builder, _fused(builder, gain, residual, builder.fmul(scale, origin)), out, offset)
        return context.get_dummy_value()

    argument_types = (types.intp,) * 6 + (types.float32, types.float32, types.intp)
    return types.void(*argument_types), generate


@intrinsic
def prefetch(typing_context, address):  # type: ignore[no-untyped-def]
    """Prefetch the cache line at an address, which need not be valid."""

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        pointer = builder.inttoptr(arguments[0], _I8.as_pointer())
        kind = ir.FunctionType(ir.VoidType(), [pointer.type, _I32, _I32, _I32])
        function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
        builder.call(function, [pointer, _I32(0), _I32(3), _I32(1)])
        return context.get_dummy_value()

    return types.void(types.intp), generate


def _max_rows(code: ir.IntType) -> Any:
    @intrinsic
    def max_rows(typing_context, table, codes, n_codes):  # type: ignore[no-untyped-def]
        """Return the sum over lanes of the maximum over `codes` of the rows of a table, uint8 [K, LANES]."""

        def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
            table, codes, n_codes = arguments
            (best,) = _accumulators(builder, _BYTES, 1)
            with cgutils.for_range(builder, n_codes, intp=_I64) as loop:
                index = _load(builder, codes, builder.mul(loop.index, _I64(code.width // 8)), code)
                row = _load(builder, table, builder.mul(builder.zext(index, _I64), _I64(LANES)), _BYTES)
                maximum = builder.load(best)
                larger = builder.icmp_unsigned(">", row, maximum)
                builder.store(builder.select(larger, row, maximum), best)
            wide = builder.zext(builder.load(best), ir.VectorType(_I32, LANES))
            return _call(builder, f"llvm.vector.reduce.add.v{LANES}i32", _I32, [wide])

        return types.int32(types.intp, types.intp, types.intp), generate

    return max_rows


max_rows_16 = _max_rows(_I16)
max_rows_32 = _max_rows(_I32)
