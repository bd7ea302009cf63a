"""What the kernels of layers share: who holds what, and how sums become results.

    a block of threads    a tile of ROWS rows of x by 8 · COLUMNS columns of the weight, all of k
    thread t              slot t / 8 of 32 along k; columns t % 8, t % 8 + 8, …; its sums with all rows of the tile
    sum s of the tile     row s / (8 · COLUMNS), column s % (8 · COLUMNS); thread s adds what all slots have of it

Slots take blocks, or chunks, in turn: 32, neighbours along k, are on their way at any time. x is read at the same
addresses by the threads of a slot, the weight once for every ROWS rows.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from gpuq.arithmetic import BFLOAT16, FLOAT32, GELU, bits_of, clip, narrow_half, scalar
from gpuq.cuda import ptx
from gpuq.cuda.compile import Kernel
from gpuq.cuda.indexing import DIVISOR, divide
from gpuq.cuda.numba_cuda import cuda, types
from gpuq.cuda.tiles import THREADS
from gpuq.cuda.vectors import make_fetch, vector_type
from gpuq.curves import curve

LANES = 8  # neighbouring columns of a slot: chunks of four sectors
LANE_BITS = 3
SLOTS = THREADS // LANES
BANKS = 32  # of shared memory, words


class LayerTile(NamedTuple):
    """Rows of a tile, and columns of each of its threads."""

    rows: int
    columns: int

    @property
    def sums(self) -> int:
        """Sums of a tile."""
        return self.rows * self.columns * LANES

    @property
    def step(self) -> int:
        """Words of shared memory from the sums of a slot to those of the next: the four slots of a warp, which store
        them together, meet in no bank.
        """
        return self.sums + (LANES if self.sums % BANKS == 0 else 0)


ONE_ROW, FOUR_ROWS = LayerTile(1, 1), LayerTile(4, 2)  # the first for matrices times vectors: all devices' threads
LAYER_TILES = (ONE_ROW, FOUR_ROWS)
INPUT = types.Tuple((types.int64, types.int64))  # address of x, bytes from row to row
WEIGHT = types.Tuple((types.int64, types.int64, types.int64))  # address, bytes from chunk to chunk, column to column
SIZES = types.UniTuple(types.int64, 2)  # m, n
PARAMETERS = types.UniTuple(types.int64, 2)  # addresses of scales and zero points; the second may be 0
ENDS = types.Tuple((vector_type(types.float32), types.int32, types.int32, types.int64))  # bias, activation, type, y

_fetch_bias, _load_scale, _load_point = make_fetch(types.float32), ptx.load[types.float32], ptx.load[types.int32]
_store_word, _store_half = ptx.store[types.uint32], ptx.store[types.uint16]


def layer_kernel(
    name: str, tile: LayerTile, function: Callable[..., Any], own: tuple[Any, ...], resident: int = 2
) -> Kernel:
    """A kernel (tiles, x, weight, sizes, …, parameters, ends): tiles of rows; `own` are the types in between."""
    arguments, extents = (DIVISOR, INPUT, WEIGHT, SIZES, *own, PARAMETERS, ENDS), (tile.rows, tile.columns * LANES)
    name = f"{name}_{tile.rows}x{tile.columns}"
    return Kernel(name, "gemm", function, arguments, THREADS, extents, resident=resident)


@scalar
def tile_place(tiles: Any) -> Any:
    """The tile of rows and that of columns of this block of threads: those with the same columns come together."""
    across, down = divide(types.int32(cuda.blockIdx.x), tiles)
    return down, across


@scalar
def parameters_at(parameters: Any, shift: int, index: int) -> Any:
    """Scale, and zero point as the codes have it, of a column in a block."""
    point = types.int32(_load_point(parameters[1] + index * 4) - shift) if parameters[1] != 0 else types.int32(0)
    return _load_scale(parameters[0] + index * 4), point


@scalar
def finish_sum(total: Any, i: int, j: int, n: int, ends: Any) -> None:
    """Equation (4) from its bias on: y[i, j] = act(total + bias), rounded once."""
    bias, activation, real, y = ends
    value = np.float32(total + _fetch_bias(bias, j))
    value = clip(value, activation) if activation < GELU else curve(value, activation)
    place = i * n + j
    if real == FLOAT32:
        _store_word(y + place * 4, bits_of(value))
    elif real == BFLOAT16:
        _store_half(y + place * 2, types.uint16(narrow_half(value, BFLOAT16)))
    else:
        _store_half(y + place * 2, ptx.half_of_float32(value))
