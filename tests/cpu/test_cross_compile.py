"""The kernels of every instruction set, compiled for processors that have it, whatever this machine is, and read.

They are not run: what counts here is that a step of their loops is the dot instructions and the loads these need, with
every sum in a register: no call, nothing put to the stack.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import llvmlite.binding as llvm
import pytest
from llvmlite import ir

from gpuq.cpu import amx, block_tile, real_gemm
from gpuq.cpu.interleave import _emit_interleave
from gpuq.cpu.isa import INSTRUCTION_SETS
from gpuq.cpu.microkernel import _emit_tiles
from gpuq.cpu.strips import _emit_copy
from gpuq.cpu.vectors import I8, I64

X86, ARM = "x86_64-unknown-linux-gnu", "aarch64-unknown-linux-gnu"
# triple, features, how the dot instruction is written, and what the stack is
TARGETS = {
    "amx_int8": (X86, "+amx-tile,+amx-int8,+avx512f,+avx512bw,+avx512vnni,+avx512vl,+avx512dq", "tdpbsud", "%rsp"),
    "avx512_vnni": (X86, "+avx512f,+avx512bw,+avx512vnni,+avx512vl,+avx512dq", "vpdpbusd", "%rsp"),
    "avx_vnni": (X86, "+avx2,+avxvnni", "vpdpbusd", "%rsp"),
    "avx2": (X86, "+avx2", "vpmaddwd", "%rsp"),
    "neon_dotprod": (ARM, "+neon,+dotprod", "sdot", "sp"),
}
VECTOR_SETS = [name for name in TARGETS if not INSTRUCTION_SETS[name].without_tiles]
by_set = pytest.mark.parametrize("name", VECTOR_SETS)


@pytest.fixture(scope="module", autouse=True)
def targets() -> None:
    """Every target that llvmlite was built with."""
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()


def assembly(name: str, kinds: list[Any], emit: Callable[..., Any]) -> str:
    """The machine code of one function, which `emit` fills, for a processor with that instruction set."""
    triple, features, *_ = TARGETS[name]
    try:
        target = llvm.Target.from_triple(triple)
    except RuntimeError:
        pytest.skip(f"llvmlite was built without the target of {triple}")
    module = ir.Module()
    module.triple = triple
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), kinds), "kernel")
    builder = ir.IRBuilder(function.append_basic_block())
    emit(builder, *function.args)
    builder.ret_void()
    machine = target.create_target_machine(cpu="generic" if triple == ARM else "x86-64", features=features, opt=3)
    return str(machine.emit_assembly(llvm.parse_assembly(str(module))))


def loop_of(text: str, instruction: str) -> list[str]:
    """The instructions of the innermost loop that holds this one: from a label to the jump back to it."""
    lines = [line.split("#")[0].split("//")[0].strip() for line in text.splitlines()]
    places = {line[:-1]: i for i, line in enumerate(lines) if re.fullmatch(r"\.L\w+:", line)}
    loops = []
    for i, line in enumerate(lines):
        label = line.split()[-1].lstrip(",") if line else ""
        if label in places and places[label] < i and any(instruction in own for own in lines[places[label] : i]):
            loops.append([own for own in lines[places[label] + 1 : i + 1] if own and not own.endswith(":")])
    assert loops, f"no loop with {instruction}:\n{text}"
    return min(loops, key=len)


def check_loop(name: str, text: str, dots: int, spilled: int = 0) -> None:
    """Assert that the loop has so many dot instructions, no call and no access to the stack, or four for each of so
    many values that have no register.
    """
    _, _, instruction, stack = TARGETS[name]
    loop = loop_of(text, instruction)
    assert sum(instruction in line for line in loop) == dots, "\n".join(loop)
    assert not [line for line in loop if re.match(r"(call|bl)\b", line)]
    assert len([line for line in loop if re.search(rf"(?<!\w){re.escape(stack)}\b", line)]) <= 4 * spilled


TILES = [
    (name, rows)
    for name in VECTOR_SETS
    for rows in {1, 2, INSTRUCTION_SETS[name].rows - 1, INSTRUCTION_SETS[name].rows}
]


@pytest.mark.parametrize(("name", "rows"), TILES)
def test_a_step_of_a_tile(name: str, rows: int) -> None:
    isa = INSTRUCTION_SETS[name]
    kinds = [I64] * 8 + [ir.IntType(1)] * 2 + [I64] * 5
    text = assembly(name, kinds, lambda builder, *words: _emit_tiles(isa, builder, rows, 1, words[0], words[1:]))
    check_loop(name, text, rows * isa.vectors)


@pytest.mark.parametrize("rows", [amx.ROWS, 2 * amx.ROWS])
def test_a_step_of_amx(rows: int) -> None:
    """Each tile of codes is loaded once, and sums stay in theirs."""
    isa, kinds = INSTRUCTION_SETS["amx_int8"], [I64] * 8 + [ir.IntType(1)] * 2 + [I64] * 5
    text = assembly(
        isa.name, kinds, lambda builder, *words: amx.emit_tiles(isa, builder, rows, words[0], words[1:])
    )
    down, loop = rows // amx.ROWS, loop_of(text, "tdpbsud")
    assert sum("prefetcht0" in line for line in loop) == isa.steps * isa.vectors
    assert sum("tileload" in line for line in loop) == down + isa.vectors
    assert not [line for line in loop if "tilestore" in line]
    check_loop(isa.name, text, down * isa.vectors)


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize(("name", "rows"), TILES)
def test_a_step_of_a_block(name: str, rows: int, bits: int) -> None:
    """Codes of 4 bits whose second half waits have no register beside a whole tile, but on AVX-512."""
    isa = INSTRUCTION_SETS[name]
    spilled = isa.vectors if bits == 4 and rows >= isa.rows - 1 and isa.rows < 12 else 0

    def emit(builder: Any, *words: Any) -> None:
        block_tile._emit_tiles(isa, bits, builder, rows, 1, words[0], words[1:])

    text = assembly(name, [I64] * 19, emit)
    check_loop(name, text, rows * isa.vectors * 8 // bits, spilled)


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize(
    ("name", "rows"), [(name, rows) for name in VECTOR_SETS for rows in real_gemm._row_counts(INSTRUCTION_SETS[name])]
)
def test_a_step_of_real_activations(name: str, rows: int, bits: int) -> None:
    """What is made of the codes, and all sums, stay in registers; zero points may be read from the stack. Of 4-bit
    codes a step is twice as long, and LLVM makes a few of their numbers too early.
    """
    isa, subtraction = INSTRUCTION_SETS[name], "fsub" if name == "neon_dotprod" else "vsubps"
    text = assembly(name, [I64] * 6, lambda builder, *arguments: real_gemm._emit(builder, isa, bits, rows, *arguments))
    loop = loop_of(text, subtraction)
    assert sum(subtraction in line for line in loop) == isa.group * isa.vectors * 8 // bits, "\n".join(loop)
    assert not [line for line in loop if re.match(r"(call|bl)\b", line)]
    stored = [line for line in loop if re.match(r"st[rp]\b", line) or line.endswith("(%rsp)")]
    assert len(stored) <= (4 if bits == 4 else 0), "\n".join(loop)


@by_set
def test_filling_a_strip(name: str) -> None:
    isa = INSTRUCTION_SETS[name]

    def emit(builder: Any, source: Any, target: Any, vectors: Any, flip: Any, result: Any) -> None:
        total = _emit_copy(builder, isa, source, target, vectors, flip)
        builder.store(total, builder.inttoptr(result, total.type.as_pointer()))

    check_loop(name, assembly(name, [I64, I64, I64, I8, I64], emit), 1)


@by_set
def test_packing_rows(name: str) -> None:
    isa = INSTRUCTION_SETS[name]
    text = assembly(
        name, [I64] * 5 + [I8, I64], lambda builder, *arguments: _emit_interleave(builder, isa, 1, *arguments)
    )
    check_loop(name, text, isa.vectors)
