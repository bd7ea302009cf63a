"""The micro-kernel of block_gemm.py: a tile of sums of one block of k, scaled and added in registers.

    acc     the loop of microkernel.py over the block's steps, corrected by equation (3)
    totals[row][column] += f32(acc) · f32(sa[row] · sb[column])        each operation rounded by itself

What a tile needs of its columns in a block lies side by side: sums of codes and zero points, then scales.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from gpuq.arithmetic import scalar
from gpuq.cpu.isa import InstructionSet
from gpuq.cpu.microkernel import a_bytes_of_step, addresses_of, emit_correction, emit_loop, make_choice, row_counts
from gpuq.cpu.vectors import load, offset, splat, store

F32 = ir.FloatType()


def make_block_product(isa: InstructionSet, bits: int) -> Callable[..., Any]:
    """`multiply(rows, panels, steps, blocks, strip, panel, numbers, scales, totals)`: the terms of some blocks along k,
    added to the totals of a strip's rows and some panels.

    Of each operand (address, bytes from … to …): `steps` along k are those from the first block to the end of the last,
    and in a block; `blocks` how many; the strip (address of its codes, of its rows' numbers, bytes of them from block
    to block, address of its rows' scales); panel, numbers and scales (address, bytes from panel to panel; of the last
    two also from block to block); totals (address, bytes from row to row).
    """
    return make_choice([(count, _make_row_of_tiles(isa, bits, count)) for count in row_counts(isa)])


def _make_row_of_tiles(isa: InstructionSet, bits: int, count: int) -> Callable[..., Any]:
    """All blocks of one panel, then those of the next."""
    tile, a_step, b_step = _make_tile(isa, bits, count), a_bytes_of_step(isa, bits), isa.columns * isa.group
    totals_step = isa.columns * 4

    @scalar
    def multiply_tiles(
        rows: int, panels: int, steps: Any, blocks: int, strip: Any, panel: Any, numbers: Any, scales: Any, totals: Any
    ) -> None:
        (all_steps, own_steps), (codes, row_numbers, rows_of_block, row_scales) = steps, strip
        for j in range(panels):
            for block in range(blocks):
                first = block * own_steps
                tile(
                    codes + first * a_step, panel[0] + j * panel[1] + first * b_step, min(own_steps, all_steps - first),
                    row_numbers + block * rows_of_block, row_scales,
                    numbers[0] + j * numbers[1] + block * numbers[2], scales[0] + j * scales[1] + block * scales[2],
                    totals[0] + j * totals_step, totals[1],
                )  # fmt: skip

    return multiply_tiles


def _make_tile(isa: InstructionSet, bits: int, rows: int) -> Callable[..., Any]:
    """The intrinsic for a tile of `rows` rows: addresses of a strip and a panel, steps along k, addresses of the
    numbers and scales of rows and of columns, of the totals, and bytes from row to row of those.
    """

    @intrinsic
    def tile(
        typing_context: Any, a: Any, b: Any, steps: Any, own_rows: Any, row_scales: Any,
        numbers: Any, scales: Any, totals: Any, stride: Any,
    ) -> Any:  # fmt: skip
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            _emit(builder, isa, bits, rows, *arguments)
            return context.get_dummy_value()

        address = types.uintp
        return types.void(address, address, types.intp, *[address] * 5, types.intp), generate

    return tile


def _emit(
    builder: Any, isa: InstructionSet, bits: int, rows: int, a: Any, b: Any, steps: Any, own_rows: Any, row_scales: Any,
    numbers: Any, scales: Any, totals: Any, stride: Any,
) -> None:  # fmt: skip
    sums = emit_loop(builder, isa, bits, rows, a, b, steps)
    points = offset(builder, numbers, isa.columns * 4)
    corrected = emit_correction(builder, isa, sums, own_rows, numbers, points)
    reals, places = ir.VectorType(F32, isa.lanes), addresses_of(builder, isa, sums, totals, stride)
    columns = [load(builder, reals, offset(builder, scales, v * isa.lanes * 4), 4) for v in range(isa.vectors)]
    for (row, v), accumulator in corrected.items():
        own = splat(builder, load(builder, F32, offset(builder, row_scales, row * 4), 4), reals)
        term = builder.fmul(builder.sitofp(accumulator, reals), builder.fmul(own, columns[v]))
        store(builder, builder.fadd(load(builder, reals, places[row, v], 4), term), places[row, v], 4)
