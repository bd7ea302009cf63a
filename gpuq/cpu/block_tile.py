"""The micro-kernel of block_gemm.py: a tile of sums of one block of k, scaled and added in registers.

    acc     the loop of microkernel.py over the block's steps, corrected by equation (3)
    totals[row][column] += f32(acc) · f32(sa[row] · sb[column])        each operation rounded by itself

What a tile needs of its columns in a block lies side by side: sums of codes and zero points, then scales.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

from llvmlite import ir
from numba.core import cgutils

from gpuq.arithmetic import scalar
from gpuq.cpu.choice import make_choice
from gpuq.cpu.correction import emit_correction, load_columns
from gpuq.cpu.isa import InstructionSet
from gpuq.cpu.microkernel import a_bytes_of_step, addresses_of, emit_loop
from gpuq.cpu.vectors import I64, load, offset, splat, store

F32 = ir.FloatType()


def make_block_product(isa: InstructionSet, bits: int) -> Callable[..., Any]:
    """`multiply(rows, panels, steps, blocks, strip, panel, numbers, scales, totals)`: the terms of some blocks along k,
    added to the totals of a strip's rows and some panels.

    Of each operand (address, bytes from … to …): `steps` along k are those from the first block to the end of the last,
    and in a block; `blocks` how many; the strip (address of its codes, of its rows' numbers, bytes of them from block
    to block, address of its rows' scales); panel, numbers and scales (address, bytes from panel to panel; of the last
    two also from block to block); totals (address, bytes from row to row).
    """

    def emit(*arguments: Any) -> None:
        _emit_tiles(isa, bits, *arguments)

    choose = make_choice(isa, emit)

    @scalar
    def multiply(
        rows: int, panels: int, steps: Any, blocks: int, strip: Any, panel: Any, numbers: Any, scales: Any, totals: Any
    ) -> None:
        choose(rows, (panels, steps, blocks, strip, panel, numbers, scales, totals))

    return multiply


def _emit_tiles(
    isa: InstructionSet, bits: int, builder: Any, count: int, fewest: int, rows: Any, words: Sequence[Any]
) -> None:
    """All blocks of one panel, then those of the next; the words of what `multiply` is given."""
    panels, all_steps, own_steps, blocks, codes, row_numbers, rows_of_block, row_scales, *others = words
    panel, panel_step, numbers, number_step, number_block, scales, scale_step, scale_block, totals, stride = others
    a_step, b_step = (I64(size) for size in (a_bytes_of_step(isa, bits), isa.columns * isa.group))

    def at(start: Any, *ways: tuple[Any, Any]) -> Any:
        return functools.reduce(lambda place, way: builder.add(place, builder.mul(*way)), ways, start)

    with cgutils.for_range(builder, panels) as along, cgutils.for_range(builder, blocks) as down:
        j, block = along.index, down.index
        first = builder.mul(block, own_steps)
        left = builder.sub(all_steps, first)
        steps = builder.select(builder.icmp_signed("<", left, own_steps), left, own_steps)
        own_rows = at(row_numbers, (block, rows_of_block)), row_scales
        own_scales = at(scales, (j, scale_step), (block, scale_block))
        columns = at(numbers, (j, number_step), (block, number_block)), own_scales
        a, b = at(codes, (first, a_step)), at(panel, (j, panel_step), (first, b_step))
        sums = emit_loop(builder, isa, bits, count, a, b, steps)
        _emit_end(builder, isa, sums, own_rows, columns, (at(totals, (j, I64(isa.columns * 4))), stride))


def _emit_end(
    builder: Any, isa: InstructionSet, sums: Any, own_rows: tuple[Any, Any], columns: tuple[Any, Any], totals: Any
) -> None:
    """The sums, corrected and scaled, are added to the totals: addresses of the numbers and scales of rows and of
    columns; address of the totals, and bytes from row to row.
    """
    (row_numbers, row_scales), (numbers, column_scales) = own_rows, columns
    own_columns = load_columns(builder, isa, numbers, offset(builder, numbers, isa.columns * 4))
    corrected = emit_correction(builder, isa, sums, row_numbers, own_columns)
    reals, places = ir.VectorType(F32, isa.lanes), addresses_of(builder, isa, sums, *totals)
    scales = [load(builder, reals, offset(builder, column_scales, v * isa.lanes * 4), 4) for v in range(isa.vectors)]
    for (row, v), accumulator in corrected.items():
        own = splat(builder, load(builder, F32, offset(builder, row_scales, row * 4), 4), reals)
        term = builder.fmul(builder.sitofp(accumulator, reals), builder.fmul(own, scales[v]))
        store(builder, builder.fadd(load(builder, reals, places[row, v], 4), term), places[row, v], 4)
