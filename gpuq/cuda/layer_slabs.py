"""Slabs of a layer's operands on their way to shared memory, for layer_mma.py: 128 codes along k, two on their
way while one is read.

    a stage    x        rows × 128 bytes; 16-byte pieces change places with the row's number: eight rows meet in no bank
               weight   [chunk][column] of 16 bytes, as columns.py packs them
               scales   [step][column] float32: those of the block that ends with a step; zero points behind them

Parameters come with the codes, as they are needed within a step's time, and memory answers after many.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from gpuq.arithmetic import scalar
from gpuq.cuda.indexing import divide
from gpuq.cuda.mma_loop import STEP
from gpuq.cuda.numba_cuda import types
from gpuq.cuda.ptx_tensor import cp_async4, cp_async16, cp_async_commit
from gpuq.cuda.tiles import CHUNK, WARP

SLAB, STAGES = 128, 3  # codes along k; slabs that there is room for
STEPS = SLAB // STEP


class MmaTile(NamedTuple):
    """Rows and columns of a block of threads, and of each of its warps."""

    rows: int
    columns: int
    warp_rows: int
    warp_columns: int

    @property
    def threads(self) -> int:
        """Of a block."""
        return self.rows // self.warp_rows * (self.columns // self.warp_columns) * WARP


class Stage(NamedTuple):
    """Where in a stage what lies, in bytes; `chunk` is what one of all columns takes, `all` the whole."""

    weight: int
    scales: int
    points: int
    all: int
    chunk: int


def stage_of(bits: int, tile: MmaTile, points: bool) -> Stage:
    """The stage of a weight's codes of so many bits, with zero points or without."""
    chunk, parameters, weight = tile.columns * CHUNK, STEPS * tile.columns * 4, tile.rows * SLAB
    scales = weight + bits * chunk
    return Stage(weight, scales, scales + parameters, scales + (2 if points else 1) * parameters, chunk)


def make_fill(bits: int, tile: MmaTile, points: bool) -> Callable[..., Any]:
    """`fill(to, slab, thread, operands, edges, extents, parameters)`: a slab on its way to a stage, zeros behind the
    last chunk.

    operands    x and weight, as layer_tiles.py has them
    edges       the tile's first row and column, and the last of all
    extents     chunks of a column, its steps, those of a block (a divisor), n
    """
    fill_codes, fill_parameters = _make_fill_codes(bits, tile, points), _make_fill_parameters(bits, tile, points)

    @scalar
    def fill(to: int, slab: int, thread: int, operands: Any, edges: Any, extents: Any, parameters: Any) -> None:
        fill_codes(to, slab, thread, operands, edges, extents[0])
        fill_parameters(to, slab, thread, edges, extents, parameters)
        cp_async_commit()

    return fill


def _make_fill_codes(bits: int, tile: MmaTile, points: bool) -> Callable[..., Any]:
    threads, columns, row_chunks, codes = tile.threads, tile.columns, SLAB // CHUNK, 8 * CHUNK // bits
    x_passes, weight_passes = tile.rows * row_chunks // threads, columns * bits // threads
    weight_place, _, _, _, chunk_bytes = stage_of(bits, tile, points)

    @scalar
    def fill_codes(to: int, slab: int, thread: int, operands: Any, edges: Any, chunks: int) -> None:
        (x, weight), (first_row, first_column, last_row, last_column) = operands, edges
        depth, start = types.int32(chunks * codes), types.int32(slab * SLAB)
        for i in range(x_passes):
            piece = types.int32(thread + i * threads)
            row, chunk = piece // row_chunks, piece % row_chunks
            source = x[0] + min(first_row + row, last_row) * x[1] + types.int64(start + chunk * CHUNK)
            place = types.int32(to + row * SLAB + (chunk ^ (row & 7)) * CHUNK)
            cp_async16(place, source, types.int32(start + chunk * CHUNK >= depth))
        for i in range(weight_passes):
            piece = types.int32(thread + i * threads)
            column, chunk = piece % columns, piece // columns
            own = types.int64(slab * bits + chunk)
            source = weight[0] + own * weight[1] + min(first_column + column, last_column) * weight[2]
            place = types.int32(to + weight_place + chunk * chunk_bytes + column * CHUNK)
            cp_async16(place, source, types.int32(own >= chunks))

    return fill_codes


def _make_fill_parameters(bits: int, tile: MmaTile, points: bool) -> Callable[..., Any]:
    (threads, columns), passes = (tile.threads, tile.columns), STEPS * tile.columns // tile.threads
    _, scales_place, points_place, _, _ = stage_of(bits, tile, points)

    @scalar
    def fill_parameters(to: int, slab: int, thread: int, edges: Any, extents: Any, parameters: Any) -> None:
        _, steps, steps_of_block, n = extents
        for i in range(passes):
            piece = types.int32(thread + i * threads)
            column, after = piece % columns, types.int32(slab * STEPS + piece // columns + 1)
            blocks, begun = divide(after, steps_of_block)
            ignored = after > steps or begun != 0
            offset = (types.int64(blocks - 1) * n + min(edges[1] + column, edges[3])) * 4
            cp_async4(types.int32(to + scales_place + piece * 4), parameters[0] + offset, types.int32(ignored))
            if points:
                ignored = ignored or parameters[1] == 0
                cp_async4(types.int32(to + points_place + piece * 4), parameters[1] + offset, types.int32(ignored))

    return fill_parameters
