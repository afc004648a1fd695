"""The innermost loops, written as LLVM vectors so that every processor gets the intended vector code.

Each loop handles a block of LANES query tokens, stored side by side, so that no sum runs across a vector. LLVM lowers
the vectors to AVX-512, AVX2 or NEON. Only `dot_bytes` has a variant for a special instruction, VPDPBUSD (AVX-512 VNNI:
adds four byte products to a 32-bit integer); its other variant multiplies small integers as floats, with identical
results.

Arguments are addresses (`array.ctypes.data` inside a kernel); callers are responsible for bounds.
"""

from __future__ import annotations

from typing import Any

import llvmlite.binding
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

# Query tokens per block, and centroids or tokens per tile: 16 accumulators of 16 lanes fit AVX-512's registers.
LANES = 32
ROWS = 8
TOKENS = 4

_I8, _I16, _I32, _I64, _F32 = ir.IntType(8), ir.IntType(16), ir.IntType(32), ir.IntType(64), ir.FloatType()
_HALF = LANES // 2
_INTS, _FLOATS, _BYTES, _QUADS = (
    ir.VectorType(kind, size) for kind, size in ((_I32, _HALF), (_F32, _HALF), (_I8, LANES), (_I8, 4 * _HALF))
)


def has_vnni(codegen: Any) -> bool:
    """Whether numba's code generator may use VPDPBUSD; its settings can disable features that the processor has."""
    *_, features = codegen.magic_tuple()
    return {"+avx512f", "+avx512vnni"} <= set(features.split(","))


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


def _accumulators(builder: Any, kind: Any, number: int) -> list[Any]:
    accumulators = [cgutils.alloca_once(builder, kind) for _ in range(number)]
    for accumulator in accumulators:
        builder.store(ir.Constant(kind, None), accumulator)
    return accumulators


def _fused(builder: Any, a: Any, b: Any, c: Any) -> Any:
    return _call(builder, f"llvm.fmuladd.v{_HALF}f32", a.type, [a, b, c])


def _call(builder: Any, name: str, result: Any, arguments: list[Any]) -> Any:
    kind = ir.FunctionType(result, [argument.type for argument in arguments])
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), arguments)


@intrinsic
def dot_bytes(typing_context, rows, stride, weights, dim, out):  # type: ignore[no-untyped-def]
    """Multiply ROWS rows of unsigned bytes by LANES query tokens of signed bytes: int32 out [ROWS, LANES].

    Rows are `stride` bytes apart; weights are int8 [dim / 4, LANES, 4].
    """

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        rows, stride, weights, dim, out = arguments
        inner = _dot_vnni if has_vnni(context.codegen()) else _dot_floats
        inner(builder, rows, stride, weights, dim, out)
        return context.get_dummy_value()

    return types.void(types.intp, types.intp, types.intp, types.intp, types.intp), generate


def _dot_vnni(builder: Any, rows: Any, stride: Any, weights: Any, dim: Any, out: Any) -> None:
    kind = _QUADS if llvmlite.binding.llvm_version_info >= (22,) else _INTS
    sums = _accumulators(builder, _INTS, 2 * ROWS)
    with cgutils.for_range(builder, builder.udiv(dim, _I64(4)), intp=_I64) as loop:
        column = builder.mul(loop.index, _I64(4 * LANES))
        halves = [_load(builder, weights, builder.add(column, _I64(64 * half)), kind) for half in range(2)]
        start = builder.mul(loop.index, _I64(4))
        for row in range(ROWS):
            offset = builder.add(builder.mul(stride, _I64(row)), start)
            four = builder.bitcast(_splat(builder, _load(builder, rows, offset, _I32), _HALF), kind)
            for half in range(2):
                total = sums[2 * row + half]
                operands = [builder.load(total), four, halves[half]]
                builder.store(_call(builder, "llvm.x86.avx512.vpdpbusd.512", _INTS, operands), total)
    for i, total in enumerate(sums):
        _store(builder, builder.load(total), out, _I64(64 * i))


def _dot_floats(builder: Any, rows: Any, stride: Any, weights: Any, dim: Any, out: Any) -> None:
    totals = _accumulators(builder, _INTS, 2 * ROWS)
    sums = _accumulators(builder, _FLOATS, 2 * ROWS)
    quads = builder.udiv(dim, _I64(4))
    with cgutils.for_range(builder, quads, intp=_I64) as loop:
        column = builder.mul(loop.index, _I64(4 * LANES))
        four = [_load(builder, weights, builder.add(column, _I64(64 * half)), _QUADS) for half in range(2)]
        start = builder.mul(loop.index, _I64(4))
        for byte in range(4):
            every_fourth = ir.Constant(ir.VectorType(_I32, _HALF), [_I32(4 * lane + byte) for lane in range(_HALF)])
            undefined = ir.Constant(_QUADS, ir.Undefined)
            halves = [builder.sitofp(builder.shuffle_vector(quad, undefined, every_fourth), _FLOATS) for quad in four]
            for row in range(ROWS):
                offset = builder.add(builder.add(builder.mul(stride, _I64(row)), start), _I64(byte))
                level = _splat(builder, builder.uitofp(_load(builder, rows, offset, _I8), _F32), _HALF)
                for half in range(2):
                    total = sums[2 * row + half]
                    builder.store(_fused(builder, level, halves[half], builder.load(total)), total)
        # A float32 is exact for integers up to 2^24; 128 iterations of 4 products of 255 and 127 stay below.
        last = builder.icmp_unsigned("==", builder.and_(loop.index, _I64(127)), _I64(127))
        with builder.if_then(last):
            _flush(builder, sums, totals)
    _flush(builder, sums, totals)
    for i, total in enumerate(totals):
        _store(builder, builder.load(total), out, _I64(64 * i))


def _flush(builder: Any, sums: list[Any], totals: list[Any]) -> None:
    """Add float sums to the integer totals and reset them."""
    for partial, total in zip(sums, totals, strict=True):
        builder.store(builder.add(builder.load(total), builder.fptosi(builder.load(partial), _INTS)), total)
        builder.store(ir.Constant(_FLOATS, None), partial)


@intrinsic
def dot_floats(typing_context, tokens, weights, dim, out):  # type: ignore[no-untyped-def]
    """Multiply tokens, float32 [TOKENS, dim], by query tokens, float32 [dim, LANES]: float32 out [TOKENS, LANES].

    Each sum runs over the dimensions in order, so the result of a token does not depend on the rest of the tile.
    """

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        tokens, weights, dim, out = arguments
        sums = _accumulators(builder, _FLOATS, 2 * TOKENS)
        with cgutils.for_range(builder, dim, intp=_I64) as loop:
            column = builder.mul(loop.index, _I64(4 * LANES))
            halves = [_load(builder, weights, builder.add(column, _I64(64 * half)), _FLOATS) for half in range(2)]
            for token in range(TOKENS):
                offset = builder.mul(builder.add(builder.mul(dim, _I64(token)), loop.index), _I64(4))
                value = _splat(builder, _load(builder, tokens, offset, _F32), _HALF)
                for half in range(2):
                    total = sums[2 * token + half]
                    builder.store(_fused(builder, value, halves[half], builder.load(total)), total)
        for i, total in enumerate(sums):
            _store(builder, builder.load(total), out, _I64(64 * i))
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
