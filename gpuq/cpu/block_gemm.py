"""Products whose b has other parameters in each block of k, on the CPU: weights quantized block by block.

    k:      ├ block 0 ┤├ block 1 ┤ …         sums of each block by the micro-kernel, corrected by equation (3)
    total = f32(f32(acc 0)·f32(sa·sb 0)) + …  in float32, in increasing k, while they are in L1
    y     = act(total + bias)

A strip of a is filled for as many blocks of k as DEPTH holds; the tiles of each take their own steps of it. So blocks
are whole groups of the instruction, and no longer than DEPTH; products of others are added up one by one
(block_products.py).
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from numba import int32

from gpuq.arithmetic import row_constant, scalar
from gpuq.cpu.blocking import SMALLEST, choose_blocks
from gpuq.cpu.compile import jit
from gpuq.cpu.isa import INSTRUCTION_SETS, InstructionSet
from gpuq.cpu.microkernel import make_strip_product
from gpuq.cpu.pack import Packed
from gpuq.cpu.rows import finish_row
from gpuq.cpu.spread import find_crew, runner
from gpuq.cpu.strips import make_fill
from gpuq.cpu.threads import num_threads
from gpuq.cpu.tiles import DEPTH, STRIP
from gpuq.layout import read_only

Array = npt.NDArray[Any]


class BlockParameters(NamedTuple):
    """What a packed (k, n) matrix has in each block of `length` along k: what equation (3) takes of each column, its
    sum and zero point, as int32 (blocks, 2, whole panels of columns); and scales (blocks, n).
    """

    length: int
    numbers: Array
    scale: Array


def fits(length: int, isa: InstructionSet) -> bool:
    """Whether the kernel takes blocks of that length."""
    return isa.dot != "" and length % isa.group == 0 and length <= DEPTH


def block_parameters(codes: Array, packed: Packed, length: int, scale: Array, points: Array) -> BlockParameters:
    """The parameters of a matrix of codes (k, n), with scales and zero points (blocks, n)."""
    starts = np.arange(0, len(codes), length)
    sizes = np.diff([*starts, len(codes)])[:, np.newaxis]
    width = packed.panels.shape[1] * packed.panels.shape[3]
    numbers = np.zeros((len(starts), 2, width), np.int32)
    numbers[:, 0, : codes.shape[1]] = np.add.reduceat(codes.astype(np.int32), starts) - packed.shift * sizes
    numbers[:, 1, : codes.shape[1]] = points.astype(np.int32) - packed.shift
    return BlockParameters(length, read_only(numbers), read_only(np.ascontiguousarray(scale, np.float32)))


def multiply(
    codes: Array, points: Array, scale: Array, b: Packed, blocks: BlockParameters, bias: Array,
    settings: tuple[int, int], y: Array,
) -> None:  # fmt: skip
    """y (m, n) = act(Σ over blocks + bias), for codes (m, k) with zero points and scales of rows; settings: the
    activation, and what y holds, float32 or the bits of a half type.
    """
    (m, k), n, isa = codes.shape, y.shape[1], INSTRUCTION_SETS[b.isa]
    flip = np.uint8(0 if codes.dtype == np.int8 else 128)
    stored = read_only(codes.view(np.uint8))
    rows = np.stack([points - int(flip), np.zeros(m)], axis=1).astype(np.int32)
    constants = np.empty((len(blocks.scale), m), np.int32)
    smallest = -(-SMALLEST // max(1, k * 16))
    _run_constants(find_crew(m, smallest), (stored, flip, read_only(rows), blocks.length, constants), m, smallest)
    threads = num_threads() if m * k * n >= 2 * SMALLEST else 1
    cut = choose_blocks(m, k, n, isa, 1, threads)
    count = -(-m // cut.rows) * -(-n // cut.columns)
    given = (stored, flip, b.panels[0], blocks.length // isa.group), (read_only(rows), read_only(constants), scale)
    parameters = blocks.numbers, blocks.scale, bias
    _kernel(b.isa)(find_crew(count, 1), (*given, parameters, settings, (cut.rows, cut.columns), y), count, 1)


@jit
def _find_constants(arguments: Any, first: int, last: int) -> None:
    """Σ (a − za) of each block of rows first … last, of signed codes."""
    codes, flip, rows, length, constants = arguments
    for row in range(first, last):
        for block in range(constants.shape[0]):
            part = codes[row, block * length : min((block + 1) * length, codes.shape[1])]
            total = int32(0)
            for i in range(part.shape[0]):
                total = int32(total + int32(np.int8(part[i] ^ flip)))
            constants[block, row] = row_constant(total, rows[row, 0], int32(part.shape[0]))


_run_constants = runner(_find_constants)


@functools.cache
def _kernel(isa_name: str) -> Callable[..., Any]:
    return runner(_make_gemm(INSTRUCTION_SETS[isa_name]))


def _make_gemm(isa: InstructionSet) -> Callable[..., Any]:
    """The job over blocks first … last of the result, down its columns of blocks."""
    sum_blocks, storage = _make_sum_blocks(isa), np.dtype(f"i{isa.a_bytes}").type
    tile_rows, tile_columns = isa.rows, isa.columns

    @jit
    def gemm(arguments: Any, first: int, last: int) -> None:
        (codes, flip, panels, steps), (rows, constants, a_scale), parameters, settings, cut, y = arguments
        (block_rows, block_columns), (m, n), (numbers, b_scale, bias) = cut, y.shape, parameters
        down = (m + block_rows - 1) // block_rows
        for block in range(first, last):
            i, j = block % down * block_rows, block // down * block_columns
            i_end, j_end = min(i + block_rows, m), min(j + block_columns, n)
            own = panels[j // tile_columns : (j_end + tile_columns - 1) // tile_columns]
            width = own.shape[0] * tile_columns
            strip, sums = np.empty((tile_rows, STRIP), storage), np.empty((tile_rows, width), np.int32)
            totals, scales = np.empty((tile_rows, width), np.float32), b_scale[:, j:j_end]
            for top in range(i, i_end, tile_rows):
                end = min(top + tile_rows, i_end)
                a = codes[top:end], flip, rows[top:end], constants[:, top:end], a_scale[top:end]
                sum_blocks(a, own, steps, numbers[:, :, j : j + width], scales, strip, sums, totals)
                for row in range(top, end):
                    finish_row(totals[row - top][: j_end - j], bias[j:j_end], settings, y[row, j:j_end])

    return gemm


def _make_sum_blocks(isa: InstructionSet) -> Callable[..., Any]:
    """totals = Σ over blocks of k, for the rows of a strip and some panels."""
    fill, multiply_strip, group = make_fill(isa), make_strip_product(isa), isa.group

    @scalar
    def sum_blocks(
        a: Any, panels: Any, steps: int, numbers: Any, b_scale: Any, strip: Any, sums: Any, totals: Any
    ) -> None:
        codes, flip, rows, constants, a_scale = a
        count, k, all_steps = rows.shape[0], codes.shape[1], panels.shape[1]
        own_rows, unused, in_strip = np.zeros((strip.shape[0], 2), np.int32), np.zeros(count, np.int32), 0
        filled = max(1, DEPTH // (steps * group)) * steps
        for block in range(b_scale.shape[0]):
            first = block * steps
            last = min(first + steps, all_steps)
            if first % filled == 0:
                stop, in_strip = min(first + filled, all_steps), first
                fill(codes, first * group, min(stop * group, k), (stop - first) * group, flip, strip, unused)
            for row in range(count):
                own_rows[row, 0], own_rows[row, 1] = rows[row, 0], constants[block, row]
            multiply_strip(
                count, strip[:, (first - in_strip) * group :], panels, first, last, sums, False,
                (True, own_rows, numbers[block]), sums.ctypes.data, sums.strides[0],
            )  # fmt: skip
            for row in range(count):
                _add_scaled(totals[row], sums[row], a_scale[row], b_scale[block], block > 0)

    return sum_blocks


@scalar
def _add_scaled(totals: Any, sums: Any, a_scale: Any, b_scale: Any, add: bool) -> None:
    """totals = f32(sums)·f32(sa·sb), or added to them."""
    if add:
        for column in range(b_scale.shape[0]):
            totals[column] += np.float32(sums[column]) * (a_scale * b_scale[column])
    else:
        for column in range(b_scale.shape[0]):
            totals[column] = np.float32(sums[column]) * (a_scale * b_scale[column])
