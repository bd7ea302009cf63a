"""What the GEMM kernels share: their arguments, where a matrix of a batch has what, and how sums become results.

The arguments, after a kernel's own first one:

    (long, short | a, b)    operands: address, bytes from row to row, mask of a word, 0 if signed (pack.py)
    sizes                   m, n, k
    chunks                  of 16 codes along k
    axes                    of the batch, joined
    a_points, b_points      zero points, shift, sums of the rows
    rows, columns, settings the epilogue's (epilogue.py)
    result, overflow        addresses; the second of a flag, or 0
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from gpuq.arithmetic import correct, scalar
from gpuq.cuda import ptx
from gpuq.cuda.epilogue import Finish, leaves_int32
from gpuq.cuda.indexing import DIVISOR, divide
from gpuq.cuda.numba_cuda import cuda, types
from gpuq.cuda.tiles import BATCH_AXES
from gpuq.cuda.vectors import make_fetch, vector_type

OPERAND = types.Tuple((types.int64, types.int64, types.int32))
POINTS = types.Tuple((vector_type(types.int32), types.int32, types.int64))
AXIS = types.Tuple((DIVISOR, types.UniTuple(types.int64, 6)))  # extent; steps of a, b, their sums, row and column sets
SIZES = types.UniTuple(types.int64, 3)

_fetch_point = make_fetch(types.int32)
_load_sum = ptx.load[types.int64]


def arguments(finish: Finish) -> tuple[Any, ...]:
    """The types of a kernel's arguments after its own first ones."""
    return (
        OPERAND,
        OPERAND,
        SIZES,
        types.int32,
        types.UniTuple(AXIS, BATCH_AXES),
        POINTS,
        POINTS,
        types.Tuple(finish.rows),
        types.Tuple(finish.columns),
        types.Tuple(finish.settings),
        types.int64,
        types.int64,
    )


@scalar
def matrix_offsets(index: int, axes: Any) -> Any:
    """Where matrix `index` of the batch has its operands (bytes), their sums, and its row and column parameters
    (counts of sets).
    """
    a = b = a_set = b_set = row_set = column_set = types.int64(0)
    rest = index
    for axis in range(BATCH_AXES - 1, -1, -1):
        rest, position = divide(rest, axes[axis][0])
        steps = axes[axis][1]
        a, b = a + position * steps[0], b + position * steps[1]
        a_set, b_set = a_set + position * steps[2], b_set + position * steps[3]
        row_set, column_set = row_set + position * steps[4], column_set + position * steps[5]
    return a, b, a_set, b_set, row_set, column_set


@scalar
def _sum_at(sums: int, index: int) -> Any:
    return _load_sum(sums + index * 8) if sums != 0 else types.int64(0)


def make_row(finish: Finish, deep: bool) -> Callable[..., Any]:
    """`row_at(a_points, rows, sums_start, start, index, settings)`: zero point, sum and parameters of a row of a, whose
    sums and parameters begin at those counts.
    """
    row_of, sum_type = finish.row, types.int64 if deep else types.int32  # which holds it

    @scalar
    def row_at(a_points: Any, rows: Any, sums_start: int, start: int, index: int, settings: Any) -> Any:
        point = types.int32(_fetch_point(a_points[0], start + index) - a_points[1])
        return point, sum_type(_sum_at(a_points[2], sums_start + index)), row_of(rows, start + index, settings)

    return row_at


def make_column(finish: Finish, deep: bool) -> Callable[..., Any]:
    """`column_at(b_points, columns, sums_start, start, index)`: the same of a column of b, with its sum."""
    column_of, sum_type = finish.column, types.int64 if deep else types.int32

    @scalar
    def column_at(b_points: Any, columns: Any, sums_start: int, start: int, index: int) -> Any:
        point = types.int32(_fetch_point(b_points[0], start + index) - b_points[1])
        return point, sum_type(_sum_at(b_points[2], sums_start + index)), column_of(columns, start + index)

    return column_at


def make_finish(finish: Finish, deep: bool) -> Callable[..., Any]:
    """`finish_one(total, row, column, k, settings, overflow)`: equation (3), the epilogue, and the bits to store."""
    total_type, value_of, bits_of_value = types.int64 if deep else types.int32, finish.value, finish.bits
    checked = deep and finish.name == "int32"

    @scalar
    def finish_one(total: int, row: Any, column: Any, k: int, settings: Any, overflow: int) -> Any:
        a_point, row_sum, own_row = row
        b_point, column_sum, own_column = column
        exact = total_type(correct(total, row_sum, column_sum, a_point, b_point, k))  # int32 where that holds it
        if checked and leaves_int32(exact):
            ptx.atomic_max(overflow, 1)
        return bits_of_value(value_of(exact, own_row, own_column, settings), settings)

    return finish_one


def make_finish_row(finish: Finish, deep: bool) -> Callable[..., Any]:
    """`finish_row(four, own, where, sizes, first, columns, given)`: finishes and stores four sums of neighbouring
    columns of a row, where the result has them.

    own         what `make_row` gives for the row
    where       the row, and the first of the columns
    first       the matrix's first row in the result
    columns     what `make_column` gives for the four
    given       the kernel's settings, result, overflow
    """
    finish_one, store_row = make_finish(finish, deep), _make_store(finish)

    @scalar
    def finish_row(four: Any, own: Any, where: Any, sizes: Any, first: int, columns: Any, given: Any) -> None:
        _, n, k = sizes
        row, column = where
        settings, result, overflow = given
        bits = cuda.local.array(4, types.uint32)
        bits[0] = finish_one(four[0], own, columns[0], k, settings, overflow)
        bits[1] = finish_one(four[1], own, columns[1], k, settings, overflow)
        bits[2] = finish_one(four[2], own, columns[2], k, settings, overflow)
        bits[3] = finish_one(four[3], own, columns[3], k, settings, overflow)
        store_row(result, (first + row) * n + column, n - column, bits)

    return finish_row


def _make_store(finish: Finish) -> Callable[..., Any]:
    """`store(result, place, left, bits)`: up to four neighbours of a row, in one access where all are and aligned."""
    size = finish.size
    if size == 4:
        return _store_words
    store_one = ptx.store[types.uint16 if size == 2 else types.uint8]
    kind = types.uint16 if size == 2 else types.uint8

    @scalar
    def store(result: int, place: int, left: int, bits: Any) -> None:
        address = result + place * size
        if left >= 4 and address & (4 * size - 1) == 0:
            if size == 1:
                _store_uint32(address, bits[0] | bits[1] << 8 | bits[2] << 16 | bits[3] << 24)
            else:
                ptx.store8(address, types.uint32(bits[0] | bits[1] << 16), types.uint32(bits[2] | bits[3] << 16))
        else:
            for j in range(4):
                if j < left:
                    store_one(address + j * size, kind(bits[j]))

    return store


_store_uint32 = ptx.store[types.uint32]


@scalar
def _store_words(result: int, place: int, left: int, bits: Any) -> None:
    address = result + place * 4
    if left >= 4 and address & 15 == 0:
        ptx.store16(address, bits, 0)
    else:
        for j in range(4):
            if j < left:
                _store_uint32(address + j * 4, bits[j])
