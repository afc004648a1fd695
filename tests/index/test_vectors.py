"""The code of the innermost loops for processors other than this one: their instructions, and no register is spilled.

Results are compared in test_kernels.py, on the processors that this one can stand for.
"""

import re

import llvmlite.binding as llvm
import pytest
from llvmlite import ir

from raycol.index.kernels import vectors

_I64, _F32 = ir.IntType(64), ir.FloatType()
SIGNATURES = {
    "dot_bytes": ([_I64] * 6, lambda builder, instructions, *args: vectors._dot_bytes(builder, instructions, *args)),
    "score_levels": (
        [_I64, _I64, _I64, _I64, _F32, _F32, _I64, _I64],
        lambda builder, instructions, *args: vectors._score_levels(builder, instructions, 4, *args),
    ),
}


def assembly(kernel: str, instructions: str, triple: str, cpu: str, features: str) -> str:
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    try:
        target = llvm.Target.from_triple(triple)
    except RuntimeError:
        pytest.skip(f"this LLVM has no code generator for {triple}")
    arguments, generate = SIGNATURES[kernel]
    function = ir.Function(ir.Module(), ir.FunctionType(ir.VoidType(), arguments), kernel)
    builder = ir.IRBuilder(function.append_basic_block())
    generate(builder, instructions, *function.args)
    builder.ret_void()
    module = llvm.parse_assembly(str(function.module))
    machine = target.create_target_machine(cpu=cpu, features=features, opt=3)
    passes = llvm.create_pass_builder(machine, llvm.create_pipeline_tuning_options(speed_level=3))
    passes.getModulePassManager().run(module, passes)
    return machine.emit_assembly(module)


@pytest.mark.parametrize("kernel", SIGNATURES)
@pytest.mark.parametrize(
    ("instructions", "instruction", "target"),
    [
        ("avx2", "vpmaddubsw", ("x86_64-linux-gnu", "haswell", "")),
        ("avx-vnni", "vpdpbusd", ("x86_64-linux-gnu", "alderlake", "")),
        ("avx512-vnni", "vpdpbusd", ("x86_64-linux-gnu", "icelake-server", "")),
        ("neon-dot", "sdot", ("aarch64-linux-gnu", "neoverse-n1", "+neon,+dotprod")),
    ],
)
def test_accumulators_stay_in_registers(kernel: str, instructions: str, instruction: str, target: tuple) -> None:
    code = assembly(kernel, instructions, *target)
    assert re.search(rf"\b{instruction}\b", code)
    # The arguments that are on the stack are read once, before the loop.
    vector_on_stack = [
        line for line in code.splitlines() if re.search(r"\b[xyzqv]mm?\d+.*\(%rsp\)|\bq\d+.*\[sp", line)
    ]
    assert vector_on_stack == []
