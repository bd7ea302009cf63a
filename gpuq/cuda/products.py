"""CUDA's side of the matrix products: codes and checked parameters in, rows of codes prepared, multiplied, finished.

Parameters come as vectors per row or per column of shape (…, 1 or length). Workspace: rows that cannot be read in
place, packed (pack.py); sums of rows where the other side has zero points; parameters widened; the result where it is
strided.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from gpuq.arithmetic import BFLOAT16, FLOAT16, GELU, NEVER_OVERFLOWS
from gpuq.cuda.blocking import Problem, choose_tile
from gpuq.cuda.compile import Kernel
from gpuq.cuda.driver import Device
from gpuq.cuda.gemm_dots import WARPS, dot_kernel
from gpuq.cuda.gemm_mma import tile_kernel
from gpuq.cuda.indexing import divisor
from gpuq.cuda.launch import Work
from gpuq.cuda.mma_loop import AMPERE, TURING
from gpuq.cuda.mma_places import blocks_of
from gpuq.cuda.pack import Rows, pack_rows, rows_of, shift_of
from gpuq.cuda.strided import convert, copy
from gpuq.cuda.tiles import (
    BATCH_AXES,
    CHUNK,
    DOT_ROWS,
    EXACT_DEPTH,
    MOST_BLOCKS,
    Tile,
)
from gpuq.cuda.vectors import Vector, vector
from gpuq.device_array import DeviceArray, address_of
from gpuq.dtypes import QuantizedType
from gpuq.layout import MatmulShape, Shape
from gpuq.operands import Operands

Array = npt.NDArray[Any]
Given = tuple[Array, Any]  # a parameter and the type that its kernel takes it in
Steps = tuple[int, ...]
Axis = tuple[int, Steps]  # extent and steps of a batch's axis
Launch = tuple[int, int, Steps, tuple[Any, ...]]
NOWHERE: Steps = (0,) * 6


@dataclass(frozen=True)
class Packed:
    """What `prepack` keeps of b: the columns as rows of codes."""

    rows: Rows
    isa: str

    @property
    def nbytes(self) -> int:
        """Bytes of the codes and their sums."""
        sums = 0 if self.rows.sums is None else self.rows.sums.nbytes
        return int(self.rows.memory.nbytes + sums)


def pack_columns(work: Work, b: Array, zero_point: Array, isa: str) -> tuple[Packed, Array]:
    """Pack b of shape (…, k, n) or (k,), and what is to be kept of its zero points with it. Waits, as products on any
    stream will read it.
    """
    work.refuse_capture("prepack, which waits")
    if isinstance(zero_point, DeviceArray):
        zero_point = _kept_points(work, zero_point)
    packed = Packed(pack_rows(work, _columns(b)), isa)
    work.wait()
    return packed, zero_point


def _kept_points(work: Work, points: DeviceArray) -> Array:
    """Zero points on the device as the int32 that kernels take; a single one on the host where all are 0, so that no
    product adds up the rows of a for them.
    """
    kept = work.keep(points.shape, np.int32)
    copy(work, convert(work, points, np.int32, points.shape), kept)
    return kept if work.read(kept).any() else np.zeros(1, np.int32)


def matmul_int32(work: Work, operands: Operands, result: Array) -> bool:
    """The accumulators as int32; whether one did not fit."""
    if operands.shape.k <= NEVER_OVERFLOWS:
        _multiply(work, "int32", operands, [], [], (), result, 0)
        return False
    work.refuse_capture(f"matmul_integer with k = {operands.shape.k}, whose overflow is read back")
    flag = work.empty(1, np.int32)
    work.fill(flag)
    _multiply(work, "int32", operands, [], [], (), result, address_of(flag))
    return bool(work.read(flag)[0])


def matmul_scaled(
    work: Work, operands: Operands, a_scale: Array, b_scale: Array, bias: Array, activation: int, real: str,
    result: Array,
) -> None:  # fmt: skip
    """Accumulators times scales, plus a float32 bias, activated, in the real type."""
    finish = ("curved_" if activation >= GELU else "") + ("float32" if real == "float32" else "half")
    settings = (activation, BFLOAT16 if real == "bfloat16" else FLOAT16)
    columns = [(b_scale, np.float32), (bias, np.float32)]
    _multiply(work, finish, operands, [(a_scale, np.float32)], columns, settings, result, 0)


def matmul_quantized(
    work: Work, operands: Operands, scales: tuple[Array, Array, Array], y_zero_point: Array, bias: Array,
    kind: QuantizedType, lowest: int, activation: int, rounding: int, result: Array,
) -> None:  # fmt: skip
    """Accumulators plus an int32 bias requantized to 8 bit; scales: of a, b and y."""
    a_scale, b_scale, y_scale = scales
    rows = [(a_scale, np.float32), (y_scale, np.float32), (y_zero_point, np.int32)]
    columns = [(b_scale, np.float32), (bias, np.int32)]
    _multiply(work, "quantized", operands, rows, columns, (lowest, kind.qmax, activation, rounding), result, 0)


def _multiply(
    work: Work, finish: str, operands: Operands, rows: list[Given], columns: list[Given], settings: tuple[Any, ...],
    result: Array, overflow: int,
) -> None:  # fmt: skip
    shape = operands.shape
    if math.prod(shape.batch) * shape.m * shape.n == 0:
        return
    plan = _plan(finish, shape, work.device, _matter(operands.b_zero_point, 0))
    a, b = _prepared(work, operands, plan)
    row_sets, (a_points, *row_vectors) = _vectors(work, [(operands.a_zero_point, np.int32), *rows], shape.m)
    column_sets, (b_points, *column_vectors) = _vectors(work, [(operands.b_zero_point, np.int32), *columns], shape.n)
    target = work.result(result)
    staged = target if target.flags.c_contiguous and target.flags.aligned else work.empty(target.shape, target.dtype)
    for first, count, offsets, axes in _launches(_batch_axes(shape, a, b, row_sets, column_sets), plan.blocks):
        a_start, b_start, a_set, b_set, row, column = offsets
        a_operand, b_operand = (a.address + a_start, a.stride, a.mask), (b.address + b_start, b.stride, b.mask)
        work.launch(
            plan.kernel,
            plan.blocks * count,
            plan.tiles,
            *((b_operand, a_operand) if plan.b_first else (a_operand, b_operand)),
            (shape.m, shape.n, shape.k),
            max(a.depth, b.depth) // CHUNK,
            axes,
            (a_points.advanced(row * shape.m), a.shift, a.sums_from(a_set * shape.m)),
            (b_points.advanced(column * shape.n), b.shift, b.sums_from(b_set * shape.n)),
            tuple(each.advanced(row * shape.m) for each in row_vectors),
            tuple(each.advanced(column * shape.n) for each in column_vectors),
            settings,
            address_of(staged) + first * shape.m * shape.n * staged.dtype.itemsize,
            overflow,
        )
    if staged is not target:
        copy(work, staged, target)


class Plan(NamedTuple):
    """The kernel of a product, the blocks of one matrix, its first argument, whether b comes before a, whether it
    multiplies unsigned codes as they are, and whether it adds the rows of a up.
    """

    kernel: Kernel
    blocks: int
    tiles: tuple[Any, ...]
    b_first: bool
    native: bool
    sums_rows: bool


def _plan(finish: str, shape: MatmulShape, device: Device, sums: bool) -> Plan:
    """Tiles, or dot products where a product has few rows or few columns and those cost less; with the `sums` of rows
    or without.
    """
    deep, tile = shape.k > EXACT_DEPTH, _tile(shape, device, sums)
    if tile is not None:
        since = AMPERE if device.capability >= AMPERE else TURING
        blocks, first = blocks_of(tile, shape.m, shape.n)
        return Plan(tile_kernel(tile, finish, since, deep), blocks, first, False, True, tile.sums_rows(deep))
    swapped = shape.n < shape.m
    length, height = (shape.m, shape.n) if swapped else (shape.n, shape.m)
    along, sets = -(-length // WARPS), -(-height // DOT_ROWS)
    tiles = (divisor(along * sets), divisor(along), int(swapped))
    return Plan(dot_kernel(finish, deep), along * sets, tiles, not swapped, False, False)


def _tile(shape: MatmulShape, device: Device, sums: bool) -> Tile | None:
    """The tile that costs least on the device; None for dot products."""
    problem = Problem(shape.m, shape.k, shape.n, math.prod(shape.batch), sums)
    return choose_tile(problem, device.capability, device.hardware)


def _prepared(work: Work, operands: Operands, plan: Plan) -> tuple[Rows, Rows]:
    """a and b as rows of codes, with their sums where the other's zero points ask for them and the kernel does not add
    them up.
    """
    native = plan.native
    a_codes = operands.a.reshape(1, -1) if operands.a.ndim == 1 else operands.a
    a_shift = 0 if native else shift_of(a_codes)
    if isinstance(operands.b, Packed):
        b = operands.b.rows
    else:
        b = rows_of(work, _columns(operands.b), _matter(operands.a_zero_point, a_shift), native)
    with_sums = not plan.sums_rows and _matter(operands.b_zero_point, b.shift)
    return rows_of(work, a_codes, with_sums, native), b


def _columns(b: Array) -> Array:
    """b as rows of codes."""
    return b.reshape(1, -1) if b.ndim == 1 else np.swapaxes(b, -1, -2)


def _matter(points: Array, shift: int) -> bool:
    """Whether zero points of codes moved by `shift` may differ from 0."""
    return isinstance(points, DeviceArray) or points.size != 1 or points.item() != shift


def _vectors(work: Work, given: list[Given], length: int) -> tuple[Shape, list[Vector]]:
    """Parameters of shape (…, 1 or length) as vectors of all sets that their batch axes make, and the shape of those;
    single numbers are of every set.
    """
    batches = [values.shape[:-1] for values, _ in given if values.size != 1]
    sets = np.broadcast_shapes(*batches)
    return sets, [vector(work, values, kind, (*sets, length)) for values, kind in given]


# ---- batches ----


def _batch_axes(shape: MatmulShape, a: Rows, b: Rows, row_sets: Shape, column_sets: Shape) -> list[Axis]:
    """The batch's axes, joined where they can be; their steps in a and b (bytes), in the sums of both and in row and
    column parameters (sets).
    """
    sources = [
        (a.batch_shape, a.batch_strides),
        (b.batch_shape, b.batch_strides),
        *((sets, _order(sets)) for sets in (a.batch_shape, b.batch_shape, row_sets, column_sets)),
    ]
    axes: list[Axis] = []
    for place, extent in enumerate(shape.batch, start=-len(shape.batch)):
        if extent == 1:
            continue
        steps = tuple(strides[place] if -place <= len(own) and own[place] != 1 else 0 for own, strides in sources)
        if axes and axes[-1][1] == tuple(extent * step for step in steps):
            axes[-1] = (axes[-1][0] * extent, steps)
        else:
            axes.append((extent, steps))
    return axes


def _order(shape: Shape) -> tuple[int, ...]:
    """How many elements lie from index to index along each axis, in C order."""
    return tuple(math.prod(shape[place + 1 :]) for place in range(len(shape)))


def _launches(axes: list[Axis], blocks: int, first: int = 0, offsets: Steps = NOWHERE) -> Iterator[Launch]:
    """A batch in parts of at most BATCH_AXES axes and MOST_BLOCKS blocks: first matrix, count, offsets, axes."""
    count = math.prod(extent for extent, _ in axes)
    if len(axes) <= BATCH_AXES and (count * blocks <= MOST_BLOCKS or not axes):
        full = [(1, NOWHERE)] * (BATCH_AXES - len(axes)) + axes
        yield first, count, offsets, tuple((divisor(extent), steps) for extent, steps in full)
        return
    (extent, steps), inner = axes[0], axes[1:]
    within = count // extent
    most = max(1, MOST_BLOCKS // (blocks * within)) if len(axes) <= BATCH_AXES else 1
    for index in range(0, extent, most):
        part = [(min(most, extent - index), steps)] if most > 1 else []
        start = tuple(offset + index * step for offset, step in zip(offsets, steps, strict=True))
        yield from _launches([*part, *inner], blocks, first + index * within, start)
