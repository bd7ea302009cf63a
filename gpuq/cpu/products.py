"""The CPU's side of the matrix products: codes and checked parameters in, packed, multiplied, finished.

Parameters come as vectors per row or per column of shape (…, 1 or length); layout.py says which belongs to which
product of the batch. Workspace: b packed, where it was not prepacked, and for each thread a strip of a and the sums
of a block.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np
import numpy.typing as npt

from gpuq.arithmetic import FLOAT32
from gpuq.cpu.blocking import choose_blocks, count_blocks
from gpuq.cpu.gemm import gemm_kernel
from gpuq.cpu.isa import INSTRUCTION_SETS
from gpuq.cpu.operators import HALF_CODES
from gpuq.cpu.pack import Packed, pack_b
from gpuq.cpu.spread import find_crew
from gpuq.cpu.threads import num_threads
from gpuq.cpu.tiles import EXACT_DEPTH
from gpuq.dtypes import QuantizedType
from gpuq.layout import Shape, batch_map, expand_together, read_only
from gpuq.operands import Operands

Array = npt.NDArray[Any]


def pack_columns(b: Array, zero_point: Array, isa: str) -> tuple[Packed, Array]:
    """Pack b of shape (…, k, n) or (k,) for an instruction set; its zero points as they are to be kept with it."""
    return _pack(b, isa), zero_point


def _pack(b: Array, isa: str) -> Packed:
    return pack_b(_matrices(b.reshape(-1, 1) if b.ndim == 1 else b), INSTRUCTION_SETS[isa])


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
    _multiply("quantized", operands, [a_scale, y_scale, y_zero_point], [b_scale, bias], settings, result.view(np.uint8))


def _multiply(
    finish: str,
    operands: Operands,
    rows: list[Array],
    columns: list[Array],
    settings: tuple[Any, ...],
    result: Array,
) -> bool:
    shape, deep = operands.shape, operands.shape.k > EXACT_DEPTH
    b = operands.b if isinstance(operands.b, Packed) else _pack(operands.b, operands.isa)
    isa = INSTRUCTION_SETS[b.isa]
    codes = np.ascontiguousarray(_matrices(np.atleast_2d(operands.a)))
    shift = 0 if codes.dtype == np.int8 else 128
    a_points, b_points = operands.a_zero_point - shift, operands.b_zero_point - b.shift
    (a_points, *rows), row_batch = expand_together([a_points, *rows], shape.m)
    (b_points, *columns), column_batch = expand_together([b_points, *columns], shape.n)
    maps = _maps((shape.a_batch, shape.b_batch, row_batch, column_batch), shape.batch)
    staged = result if result.flags.c_contiguous and result.flags.aligned else np.empty(result.shape, result.dtype)
    whole = staged.reshape(maps.shape[1], shape.m, shape.n)
    blocks = choose_blocks(shape.m, shape.k, shape.n, isa, maps.shape[1], num_threads())
    overflow = np.zeros(1, np.uint8)
    a = read_only(codes.view(np.uint8)), np.uint8(shift), a_points
    parameters = (tuple(rows), tuple(columns), settings, tuple(blocks))
    arguments = (a, (b.panels, b.sums, b_points), maps, *parameters, whole, overflow)
    count = count_blocks(whole.shape, blocks)
    gemm_kernel(finish, b.isa, deep)(find_crew(count, 1), arguments, count, 1)
    if staged is not result:
        result[...] = staged
    return bool(overflow[0])


@functools.lru_cache(32)
def _maps(sources: tuple[Shape, ...], batch: Shape) -> Array:
    """For each product of a batch which matrix a and b, and which row and column parameters it takes: (4, products)."""
    return read_only(np.stack([batch_map(source, batch) for source in sources]))


def _matrices(codes: Array) -> Array:
    """Batch dimensions as one."""
    return codes.reshape(math.prod(codes.shape[:-2]), *codes.shape[-2:])
