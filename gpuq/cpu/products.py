"""The CPU's side of the matrix products: codes and checked parameters in, packed, multiplied, finished.

Parameters come as vectors per row or per column of shape (…, 1 or length); layout.py says which belongs to which
product of the batch. Workspace: b packed, where it was not prepacked, and for each thread a strip of a and the sums
of a block.
"""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from gpuq.arithmetic import FLOAT32
from gpuq.cpu.blocking import SMALLEST, choose_blocks, choose_fused_blocks, count_blocks
from gpuq.cpu.fused import pack_and_multiply
from gpuq.cpu.gemm import gemm_kernel
from gpuq.cpu.isa import INSTRUCTION_SETS
from gpuq.cpu.kept import Kept, run_again
from gpuq.cpu.operators import HALF_CODES
from gpuq.cpu.pack import Packed, Packing, pack_b, stored_shift
from gpuq.cpu.spread import find_crew
from gpuq.cpu.steps import take
from gpuq.cpu.threads import num_threads
from gpuq.cpu.tiles import EXACT_DEPTH
from gpuq.dtypes import QuantizedType
from gpuq.layout import Shape, batch_map, expand_together, read_only
from gpuq.operands import Operands

Array = npt.NDArray[Any]
Matrices = tuple[Array, Array, Array, Array]  # a, panels of b, their sums, the result
NO_OVERFLOW = np.zeros(1, np.uint8)  # of products in which no sum can leave int32: never written


def pack_columns(b: Array, zero_point: Array, isa: str) -> tuple[Packed, Array]:
    """Pack b of shape (…, k, n) or (k,) for an instruction set; its zero points as they are to be kept with it."""
    return pack_b(_matrix(b), INSTRUCTION_SETS[isa]), zero_point


def matmul_int32(operands: Operands, result: Array) -> bool:
    """The accumulators as int32; whether one did not fit."""
    return _multiply("int32", operands, [], [], (), result)


def matmul_scaled(
    operands: Operands, a_scale: Array, b_scale: Array, bias: Array, activation: int, real: str, result: Array
) -> None:
    """Accumulators times scales, plus a float32 bias, activated, in the real type."""
    settings = (activation, HALF_CODES.get(real, FLOAT32))
    _multiply("scaled", operands, [a_scale], [b_scale, bias], settings, result)


def matmul_quantized(
    operands: Operands,
    scales: tuple[Array, Array, Array],
    y_zero_point: Array,
    bias: Array,
    kind: QuantizedType,
    lowest: int,
    activation: int,
    rounding: int,
    result: Array,
) -> None:
    """Accumulators plus an int32 bias requantized to 8 bit; scales: of a, b and y."""
    a_scale, b_scale, y_scale = scales
    settings = (lowest, kind.qmax, activation, rounding)
    _multiply("quantized", operands, [a_scale, y_scale, y_zero_point], [b_scale, bias], settings, result)


def _multiply(
    finish: str,
    operands: Operands,
    rows: list[Array],
    columns: list[Array],
    settings: tuple[Any, ...],
    result: Array,
) -> bool:
    overflow: bool = take(Product(finish, operands, rows, columns, settings, result), operands.a, operands.b, result)
    return overflow


class Product:
    """The step of a product: all but its matrices."""

    def __init__(
        self,
        finish: str,
        operands: Operands,
        rows: list[Array],
        columns: list[Array],
        settings: tuple[Any, ...],
        result: Array,
    ) -> None:
        shape, packed = operands.shape, isinstance(operands.b, Packed)
        isa = INSTRUCTION_SETS[operands.b.isa if packed else operands.isa]
        b_shift = operands.b.shift if packed else stored_shift(operands.b.dtype, isa)
        a_shift = 0 if operands.a.dtype == np.int8 else 128
        (a_points, *rows), row_batch = expand_together([operands.a_zero_point - a_shift, *rows], shape.m)
        (b_points, *columns), column_batch = expand_together([operands.b_zero_point - b_shift, *columns], shape.n)
        maps = _maps((shape.a_batch, shape.b_batch, row_batch, column_batch), shape.batch)
        deep = shape.k > EXACT_DEPTH
        self._kernel = gemm_kernel(finish, isa.name, deep)
        self._packing = None if packed else Packing(_matrix(operands.b), isa)
        self._a_shape = math.prod(shape.a_batch), shape.m, shape.k
        self._result_shape = maps.shape[1], shape.m, shape.n
        self._numbers, self._overflows = (np.uint8(a_shift), a_points, b_points), deep and finish == "int32"
        self._maps, self._rows, self._columns = maps, tuple(rows), (tuple(columns), settings)
        products, volume = maps.shape[1], maps.shape[1] * shape.m * shape.k * shape.n
        self._size = products, shape.m, shape.k, shape.n, isa.name
        self._threads = 1 if volume < 2 * SMALLEST else 0  # all that there are
        self.nbytes = sum(array.nbytes for array in (a_points, b_points, *rows, *columns, maps))
        self._kept: dict[int, Kept] = {}  # by how many threads may take part
        self._fused: dict[int, tuple[Kept, Kept]] = {}
        self._copied = not operands.a.flags.c_contiguous
        self._as_codes = finish == "quantized" and result.dtype == np.int8
        self._staged = not (result.flags.c_contiguous and result.flags.aligned)

    def __call__(self, a: Array, b: Any, result: Array, rows: tuple[Array, ...] | None = None) -> bool:
        """Multiply; whether a sum did not fit. `rows` replace the epilogue's parameters per row."""
        codes = np.ascontiguousarray(a) if self._copied else a
        staged = np.empty(result.shape, result.dtype) if self._staged else result
        threads, overflowed = self._threads or num_threads(), False
        if self._packing is not None and rows is None and self._cut(threads).fused:
            self._pack_and_multiply(self._packing, codes, _matrix(b), staged, threads)
        else:
            panels, sums = (b.panels, b.sums) if self._packing is None else self._packing(_matrix(b))
            if rows is not None or self._overflows:
                overflowed = self._multiply_once((codes, panels, sums, staged), rows, threads)
            else:
                kept = self._kept.get(threads)
                if kept is None:
                    kept = self._kept[threads] = self._keep((codes, panels, sums, staged), threads)
                run_again(kept.address, *find_crew(kept.units, 1), id(codes), id(panels), id(sums), id(staged))
        if self._staged:
            result[...] = staged
        return overflowed

    def _pack_and_multiply(self, packing: Packing, codes: Array, b: Array, result: Array, threads: int) -> None:
        """Multiply, each part of b as it is packed (fused.py)."""
        source, sums = packing.source(b), packing.no_sums()
        if threads not in self._fused:
            room = packing.room()  # of the panels' shape: nothing is written there, so the system gives it no pages
            self._fused[threads] = packing.kept(source, room, sums), self._keep((codes, room, sums, result), threads)
        pack, multiply = self._fused[threads]
        (rows, columns, _), *_ = self._cut(threads)
        panels, down = columns // packing.columns, -(-self._size[1] // rows)
        units = multiply.units // down
        matrices, numbers = tuple(map(id, (source, sums, codes, result))), (panels, packing.panel_bytes, down)
        pack_and_multiply(find_crew(units, 1), (matrices, (pack.address, multiply.address), numbers), units, 1)

    def _multiply_once(self, matrices: Matrices, rows: Any, threads: int) -> bool:
        """Multiply with parameters, or a flag, of this call alone."""
        overflow = np.zeros(1, np.uint8)
        arguments, count = self._arguments(matrices, threads, rows, overflow)
        self._kernel(find_crew(count, 1), arguments, count, 1)
        return bool(overflow[0])

    def _keep(self, matrices: Matrices, threads: int) -> Kept:
        """The call, as it can be run again, for matrices like these and so many threads."""
        arguments, count = self._arguments(matrices, threads, None, NO_OVERFLOW)
        return Kept(self._kernel, arguments, count, 1)

    def _cut(self, threads: int) -> Cut:
        """The blocks for so many threads."""
        return _cut(*self._size, threads, self._packing is not None and not self._overflows)

    def _arguments(
        self, matrices: Matrices, threads: int, rows: Any, overflow: Array
    ) -> tuple[tuple[Any, ...], int]:
        """What the kernel takes, and how many blocks there are."""
        codes, panels, sums, result = matrices
        blocks, count, _ = self._cut(threads)
        a, whole = codes.reshape(self._a_shape).view(np.uint8), result.reshape(self._result_shape)
        whole = whole.view(np.uint8) if self._as_codes else whole
        panels = panels if self._packing is None else self._packing.shaped(panels)
        parameters = self._rows if rows is None else rows
        shaped = read_only(a), panels, sums, whole
        return (shaped, self._numbers, self._maps, parameters, *self._columns, blocks, overflow), count


class Cut(NamedTuple):
    """The blocks of products, how many there are, and whether b is packed as it is multiplied (fused.py)."""

    blocks: tuple[int, ...]
    number: int
    fused: bool


@functools.lru_cache(1024)
def _cut(products: int, m: int, k: int, n: int, isa: str, threads: int, loose: bool) -> Cut:
    """How products are cut for so many threads; `loose`: b is not packed yet."""
    kind = INSTRUCTION_SETS[isa]
    fused = choose_fused_blocks(m, k, n, kind, threads) if loose and products == 1 else None
    blocks = fused or choose_blocks(m, k, n, kind, products, threads)
    return Cut(tuple(blocks), count_blocks((products, m, n), blocks), fused is not None)


@functools.lru_cache(32)
def _maps(sources: tuple[Shape, ...], batch: Shape) -> Array:
    """For each product of a batch which matrix a and b, and which row and column parameters it takes: (4, products)."""
    return read_only(np.stack([batch_map(source, batch) for source in sources]))


def _matrix(codes: Array) -> Array:
    """A vector b as a matrix of one column."""
    return codes if codes.ndim > 1 else codes[:, np.newaxis]
