"""The int8 GEMM by tensor cores: a block makes a tile of the result, a warp a part of it, which an epilogue finishes.

               columns of b                         a lane's sums in 16 rows × 8 columns, a product of tensor cores:
           ┌───────┬───────┬─ … ─┐
    rows   │warp 0 │warp 2 │     │                      columns  0 1   2 3   4 5   6 7
    of a   │64 × 64│       │     │                       row 0   0 0   1 1   2 2   3 3     lane
           ├───────┼───────┼─ … ─┤                           1   4 4   5 5   6 6   7 7
           │warp 1 │warp 3 │     │                           …                            rows 8 … 15: the lane's
           └───────┴───────┴─ … ─┘                           7  28 …            31 31    other two sums

mma_places.py says which part, the main loop is in mma_loop.py, what follows in mma_finish.py. Codes are multiplied as
they are, whatever their signs: the kernel has a main loop for each mix of them. Tiles whose warps share a slab have
time to add the rows of a up, by a product with a column of ones; the others are given the sums (row_sums.py). k beyond
int32 ("deep") adds its slices to int64 totals, in a tile whose registers hold both.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from gpuq.arithmetic import scalar
from gpuq.cuda import ptx
from gpuq.cuda.compile import Kernel
from gpuq.cuda.epilogue import FINISHES, Finish
from gpuq.cuda.gemm import arguments, matrix_offsets
from gpuq.cuda.mma_finish import all_sums, joined_bytes, make_finish_tile, staged_bytes
from gpuq.cuda.mma_loop import AMPERE, TURING, make_fill, make_sums, rows_of_pass, words_flying
from gpuq.cuda.mma_parameters import make_publish
from gpuq.cuda.mma_places import BLOCKS, make_place_thread, place_of
from gpuq.cuda.numba_cuda import Capability, cuda, types
from gpuq.cuda.ptx_tensor import KINDS
from gpuq.cuda.tiles import AMPERE_TILES, CHUNK, TURING_TILES, Tile

NO_END: Capability = (1000, 0)


@functools.cache
def tile_kernel(tile: Tile, finish: str, since: Capability, deep: bool) -> Kernel:
    """The kernel (blocks, a, b, …), the rest as in gemm.py, for the capabilities from TURING or from AMPERE on."""
    chosen = FINISHES[finish]
    name = f"gemm_mma_{finish}_{tile}{'_turing' * (since == TURING)}{'_deep' * deep}"
    function, kinds = _make_gemm(tile, chosen, since, deep), (BLOCKS, *arguments(chosen))
    sizes = (tile.rows, tile.columns, tile.depth)
    span = (TURING, AMPERE) if since == TURING else (AMPERE, NO_END)
    shared = parameters_start(tile, deep) + tile.parameter_bytes
    return Kernel(name, "gemm", function, kinds, tile.threads, sizes, shared, 1, *span)


def parameters_start(tile: Tile, deep: bool) -> int:
    """Where in shared memory the parameters of rows and columns lie: behind all that changes."""
    return max(tile.shared_bytes, staged_bytes(tile, deep) + joined_bytes(tile, deep))


def kernels() -> list[Kernel]:
    """All kernels of this module."""
    found = []
    for since, tiles in ((AMPERE, AMPERE_TILES), (TURING, TURING_TILES)):
        found += [tile_kernel(tile, finish, since, False) for tile in tiles for finish in FINISHES]
        found += [tile_kernel(tiles[-1], finish, since, True) for finish in FINISHES]
    return found


def _make_gemm(tile: Tile, finish: Finish, since: Capability, deep: bool) -> Callable[..., Any]:
    rows, columns, chunks_per_slab, pass_rows = tile.rows, tile.columns, tile.depth // CHUNK, rows_of_pass(tile)
    chunk_bits, a_passes, b_passes = chunks_per_slab.bit_length() - 1, rows // pass_rows, columns // pass_rows
    point_at_rows, point_at_columns = _make_point(a_passes, pass_rows), _make_point(b_passes, pass_rows)
    place_thread, fill, sum_products = make_place_thread(tile), make_fill(tile, since), _make_choice(tile, since, deep)
    publish, finish_tile = make_publish(tile, finish, deep), make_finish_tile(tile, finish, deep)
    parameters, flying_words, sums_count = parameters_start(tile, deep), words_flying(tile), all_sums(tile, deep)
    totals_count, total_type = (sums_count, types.int64) if deep else (1, types.int32)

    def gemm(
        blocks: Any, a: Any, b: Any, sizes: Any, chunks: int, axes: Any, a_points: Any, b_points: Any, row_values: Any,
        column_values: Any, settings: Any, result: int, overflow: int,
    ) -> None:  # fmt: skip
        m, n, _ = sizes
        thread = types.int32(cuda.threadIdx.x)
        matrix, down, across = place_of(types.int32(cuda.blockIdx.x), blocks)
        first_row, first_column = types.int64(down) * rows, types.int64(across) * columns
        a_offset, b_offset, a_set, b_set, row_set, column_set = matrix_offsets(matrix, axes)
        row, chunk = thread >> chunk_bits, types.int32(thread & (chunks_per_slab - 1))
        a_first = a[0] + a_offset + chunk * CHUNK, a[1], first_row, m - 1
        b_first = b[0] + b_offset + chunk * CHUNK, b[1], first_column, n - 1
        a_source, b_source = cuda.local.array(a_passes, types.int64), cuda.local.array(b_passes, types.int64)
        point_at_rows(a_source, row, a_first, b_first)
        point_at_columns(b_source, row, b_first, a_first)
        stages = ptx.shared_address(cuda.shared.array(0, types.uint8, alignment=128))
        places, flying = place_thread(stages, thread, row, chunk), cuda.local.array(flying_words, types.uint32)
        sources = a_source, b_source, fill(places[0], a_source, b_source, types.int32(chunks - chunk), flying)
        area, starts = types.int32(stages + parameters), (a_set * m, row_set * m, b_set * n, column_set * n)
        sides = (a_points, row_values), (b_points, column_values)
        publish(area, thread, (first_row, first_column), sizes, starts, sides[0], sides[1], settings)
        sums, totals = cuda.local.array(sums_count, types.int32), cuda.local.array(totals_count, total_type)
        for i in range(sums_count):
            sums[i] = 0
        for i in range(totals_count):
            totals[i] = 0
        sum_products(a[2], b[2], places, sources, flying, chunks, sums, totals)
        cuda.syncthreads()
        finish_tile(sums, totals, stages, area, blocks, sizes, (settings, result, overflow))

    return gemm


@functools.cache
def _make_point(passes: int, pass_rows: int) -> Callable[..., Any]:
    """`point(sources, own_row, operand, other)`: addresses of every so many rows of an operand, which is its start, the
    bytes from row to row, the block's first row and the last of all. Beyond that they are rows of the other operand,
    which the block reads anyway: were they the last row again, all blocks would ask the cache for one line at once.
    """

    @scalar
    def point(sources: Any, own_row: int, operand: Any, other: Any) -> None:
        for i in range(passes):
            row = own_row + i * pass_rows
            start, stride, first, last = operand if operand[2] + row <= operand[3] else other
            sources[i] = start + min(first + row, last) * stride

    return point


@functools.cache
def _make_choice(tile: Tile, since: Capability, deep: bool) -> Callable[..., Any]:
    """`sum_products(a_mask, b_mask, …)`: the main loop of these signs; a mask is 0 for signed codes."""
    signed, signed_unsigned, unsigned_signed, unsigned = (make_sums(tile, since, kinds, deep) for kinds in KINDS)

    @scalar
    def sum_products(
        a_mask: int, b_mask: int, places: Any, sources: Any, flying: Any, chunks: int, sums: Any, totals: Any
    ) -> None:
        if a_mask == 0:
            if b_mask == 0:
                signed(places, sources, flying, chunks, sums, totals)
            else:
                signed_unsigned(places, sources, flying, chunks, sums, totals)
        elif b_mask == 0:
            unsigned_signed(places, sources, flying, chunks, sums, totals)
        else:
            unsigned(places, sources, flying, chunks, sums, totals)

    return sum_products
