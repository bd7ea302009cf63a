"""Parameters of a tile's rows and columns: fetched while the first slabs of codes fly, and kept in shared memory until
the epilogue, which so waits for nothing.

    words of rows       [word][row]          a thread fetches those of one row and of one column; a lane reads those of
    words of columns    [word][column]       a row, and of four neighbouring columns together

The words: zero point, sum, its upper half if sums are int64, then what the finish keeps (epilogue.py).
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from gpuq.arithmetic import scalar
from gpuq.cuda import ptx
from gpuq.cuda.epilogue import Finish
from gpuq.cuda.gemm import make_column, make_row
from gpuq.cuda.numba_cuda import types
from gpuq.cuda.tiles import PARAMETER_WORDS, Tile

OWN_WORDS = 3  # before those of the finish
COLUMN_WORDS = 4 * (OWN_WORDS + 2)  # of four columns
_load, _store = ptx.load_shared[types.int32], ptx.store_shared[types.int32]


@functools.cache
def make_publish(tile: Tile, finish: Finish, deep: bool) -> Callable[..., Any]:
    """`publish(area, thread, part, sizes, starts, a_side, b_side, settings)`: a thread's share of the parameters; the
    block's first row and column; where the matrix's sums and parameters begin; points and parameters of both sides.
    """
    rows, columns, row_step, column_step = tile.rows, tile.columns, tile.rows * 4, tile.columns * 4
    row_at, column_at = make_row(finish, deep), make_column(finish, deep)
    keep, keep_column = finish.keep, finish.keep_column

    @scalar
    def keep_sum(point: int, total: int, place: int, step: int) -> None:
        _store(place, point)
        _store(types.int32(place + step), types.int32(total))
        if deep:
            _store(types.int32(place + 2 * step), types.int32(total >> 32))

    @scalar
    def publish(
        area: int, thread: int, part: Any, sizes: Any, starts: Any, a_side: Any, b_side: Any, settings: Any
    ) -> None:
        if thread < rows:
            row = min(part[0] + thread, sizes[0] - 1)
            point, total, values = row_at(a_side[0], a_side[1], starts[0], starts[1], row, settings)
            place = types.int32(area + thread * 4)
            keep_sum(point, total, place, row_step)
            keep(values, types.int32(place + OWN_WORDS * row_step), row_step)
        if thread < columns:
            column = min(part[1] + thread, sizes[1] - 1)
            point, total, own = column_at(b_side[0], b_side[1], starts[2], starts[3], column)
            place = types.int32(area + PARAMETER_WORDS * row_step + thread * 4)
            keep_sum(point, total, place, column_step)
            keep_column(own, types.int32(place + OWN_WORDS * column_step), column_step)

    return publish


@functools.cache
def make_row_of(tile: Tile, finish: Finish, deep: bool) -> Callable[..., Any]:
    """`row_of(area, row)`: zero point, sum and parameters of a row of the tile."""
    step, kept = tile.rows * 4, finish.kept

    @scalar
    def row_of(area: int, row: int) -> Any:
        place = types.int32(area + row * 4)
        low = _load(types.int32(place + step))
        total = join_words(low, _load(types.int32(place + 2 * step))) if deep else low
        return _load(place), total, kept(types.int32(place + OWN_WORDS * step), step)

    return row_of


@functools.cache
def make_columns_of(tile: Tile, finish: Finish, deep: bool) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """`load_columns(area, column, words)`: the words of four columns of the tile; `column_of(words, j)`: zero point,
    sum and parameters of one of them.
    """
    start, step, of_words = PARAMETER_WORDS * tile.rows * 4, tile.columns * 4, finish.column_of
    count = OWN_WORDS + len(finish.columns)

    @scalar
    def load_columns(area: int, column: int, words: Any) -> None:
        for word in range(count):
            if word == OWN_WORDS - 1 and not deep:
                continue
            ptx.load16_shared(types.int32(area + start + word * step + column * 4), words, word * 4)

    @scalar
    def column_of(words: Any, j: int) -> Any:
        low = types.int32(words[4 + j])
        total = join_words(low, types.int32(words[8 + j])) if deep else low
        return types.int32(words[j]), total, of_words(words, OWN_WORDS * 4, j)

    return load_columns, column_of


@scalar
def join_words(low: int, high: int) -> Any:
    """Two words as an int64."""
    return types.int64(types.uint32(low)) | types.int64(types.int32(high)) << 32
