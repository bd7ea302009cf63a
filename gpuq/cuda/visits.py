"""How kernels that reduce see every value of a run of real numbers once: `visit(value, state)` for each.

    run    │ block 0: TILE values │ block 1 │ … │ block 0 again …

A warp takes its share of a whole tile by accesses of 16 bytes, 16 values a lane, where the run starts at a multiple of
16 bytes; of all else a thread takes values one by one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from gpuq.arithmetic import scalar
from gpuq.cuda import ptx
from gpuq.cuda.elementwise import SIZES, make_load_one
from gpuq.cuda.lanes import make_move, make_unpack
from gpuq.cuda.numba_cuda import cuda, types
from gpuq.cuda.tiles import LANE_ELEMENTS, THREADS, TILE, WARP


def make_visit_all(real: str, visit: Callable[..., Any]) -> Callable[..., Any]:
    """`visit_all(source, run, state)`: the thread's values of the `run` ones at an address, halves as float32; blocks
    share them along the grid's first axis, no more of them than tiles, so that int32 holds all places of 2^30 values.
    """
    size, load_one, unpack = SIZES[real], make_load_one(real), make_unpack(real)
    load_lane, _ = make_move(size, WARP)
    word_count = LANE_ELEMENTS * size // 4

    @scalar
    def visit_all(source: int, run: int, state: Any) -> None:
        thread, apart = types.int32(cuda.threadIdx.x), types.int32(types.int32(cuda.gridDim.x) * TILE)
        whole = source % ptx.VECTOR_BYTES == 0
        start = types.int32(types.int32(cuda.blockIdx.x) * TILE)
        while start < run:
            if whole and run - start >= TILE:
                words = cuda.local.array(word_count, types.uint32)
                first = types.int32(start + (thread & ~(WARP - 1)) * LANE_ELEMENTS)
                load_lane(source + types.int64(first) * size, types.int32(thread & (WARP - 1)), words)
                for i in range(LANE_ELEMENTS):
                    visit(unpack(words, i), state)
            else:
                index, end = types.int32(start + thread), types.int32(min(run, start + TILE))
                while index < end:
                    visit(load_one(source, index), state)
                    index = types.int32(index + THREADS)
            start = types.int32(start + apart)

    return visit_all
