"""CUDA's side of `linear`, and of products of tensors, where a product of matrices is not all of it: blocks along k,
and real activations.

x (…, k) ─ in_blocks ─► rows of whole chunks of each block ─┬─ layer_blocks: codes, parameters of rows ─► y
weight ─ columns.py ─► columns, where it is not packed yet ─┼─ layer_mma: the same, of many rows ───────► y
                                                            └─ layer_reals: float32 ──────────────────► y
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from gpuq.cuda.columns import Blocks, Columns, columns_in, columns_of
from gpuq.cuda.columns import pack_layer as pack_layer
from gpuq.cuda.compile import Kernel
from gpuq.cuda.driver import Device
from gpuq.cuda.indexing import divisor
from gpuq.cuda.launch import Work
from gpuq.cuda.layer_blocks import blocks_kernel
from gpuq.cuda.layer_mma import LARGE, SMALL, mma_kernel
from gpuq.cuda.layer_reals import reals_kernel
from gpuq.cuda.layer_slabs import MmaTile
from gpuq.cuda.layer_tiles import FOUR_ROWS, ONE_ROW
from gpuq.cuda.mma_loop import AMPERE, STEP
from gpuq.cuda.products import Packed
from gpuq.cuda.ptx import VECTOR_BYTES
from gpuq.cuda.strided import contiguous, convert, copy
from gpuq.cuda.vectors import vector
from gpuq.device_array import DeviceArray, address_of

Array = npt.NDArray[Any]
MOST_DOT_ROWS = 16  # as many as tensor cores take at once: for fewer dp4a was faster on an H200
FILLED = 0.75  # of the multiprocessors, which large tiles are to keep busy
MIDDLE = 128  # of unsigned codes: what the kernels have as 0
# codes (k, n) of int8 or uint8, or what `prepack` keeps of them; (k, n); scales; zero points; the length of the blocks
# along k, and the bits of a code
Weight = tuple[Any, tuple[int, int], Any, Any, int, int]
RowParameters = tuple[Array, Array | None]  # scales and zero points (m or 1, blocks or 1)


def multiply_layer(
    work: Work, x: Array, row_parameters: RowParameters | None, weight: Weight, bias: Any, activation: int, real: int,
    y: Array,
) -> None:  # fmt: skip
    """y (…, n) = act(x · weight + bias), for x (…, k): codes of 8 bits with parameters of rows, or real numbers."""
    (k, n), m = weight[1], math.prod(x.shape[:-1])
    if m * n == 0:
        return
    columns = _columns(work, *weight)
    source: Any = contiguous(work, work.input(x))
    if row_parameters is None:
        source = convert(work, source, np.float32, source.shape)
    rows = _in_blocks(work, source.reshape(m, k), columns.blocks)
    points = 0 if columns.points is None else address_of(columns.points)
    ends = (vector(work, bias, np.float32, (n,)), activation, real, work.result(y))
    operands = (rows, rows.strides[0] if m > 1 else 0), (columns.address, *columns.steps), (m, n)
    kernel, own = _kernel(work, k, rows, columns, row_parameters)
    down, across = -(-m // kernel.tile[0]), -(-n // kernel.tile[1])
    work.launch(kernel, down * across, divisor(down), *operands, *own, (columns.scale, points), ends)


def _kernel(
    work: Work, k: int, rows: DeviceArray, columns: Columns, row_parameters: RowParameters | None
) -> tuple[Kernel, tuple[Any, ...]]:
    """That of real numbers, that of tensor cores where rows are many and blocks are whole steps of it, or of dp4a; and
    its arguments between the sizes and the weight's parameters.
    """
    m, blocks = rows.shape[0], columns.blocks
    tile, count, chunks = ONE_ROW if m == 1 else FOUR_ROWS, blocks.count, blocks.chunks
    if row_parameters is None:
        return reals_kernel(blocks.bits, tile), ((count * chunks, divisor(chunks), columns.shift),)
    row_shift = MIDDLE if rows.dtype == np.uint8 else 0
    extents = (count, chunks, blocks.length, k - (count - 1) * blocks.length, columns.shift, row_shift)
    given = _of_rows(work, *row_parameters)
    if m <= MOST_DOT_ROWS or work.device.capability < AMPERE or blocks.depth % STEP:
        return blocks_kernel(blocks.bits, tile), (extents, given)
    points = columns.points is not None or row_parameters[1] is not None
    kernel = mma_kernel(blocks.bits, _mma_tile(work.device, m, columns.n), points)
    return kernel, ((extents, divisor(blocks.depth // STEP)), given)


def _mma_tile(device: Device, m: int, n: int) -> MmaTile:
    """Large ones where they keep the device busy."""
    return SMALL if -(-m // LARGE.rows) * -(-n // LARGE.columns) < device.multiprocessors * FILLED else LARGE


def _columns(
    work: Work, codes: Any, shape: tuple[int, int], scale: Any, points: Any, length: int, bits: int
) -> Columns:
    if isinstance(codes, Columns):
        return codes
    if isinstance(codes, Packed):
        return columns_in(work, codes.rows, shape, scale, points)
    return columns_of(work, codes, scale, points, length, bits)


def _of_rows(work: Work, scales: Array, points: Array | None) -> tuple[DeviceArray, Any, int, int]:
    """Scales and zero points as the kernel takes them, and the numbers from row to row and from block to block."""
    own: Any = work.input(scales)
    own = own.reshape(-1, own.shape[-1] if own.ndim else 1)
    down, across = (int(extent > 1) for extent in own.shape)
    own_points = 0 if points is None else convert(work, work.input(points).reshape(own.shape), np.int32, own.shape)
    return convert(work, own, np.float32, own.shape), own_points, down * own.shape[1], across


def _in_blocks(work: Work, rows: DeviceArray, blocks: Blocks) -> DeviceArray:
    """Rows (m, k) with each block filled up to whole chunks with the zeros of the kernels, and aligned to them."""
    count, length, depth = blocks.count, blocks.length, blocks.depth
    m, k = rows.shape
    if count * depth == k:
        return contiguous(work, rows, VECTOR_BYTES)
    target: Any = work.empty((m, count, depth), rows.dtype)
    work.fill(target, MIDDLE if rows.dtype == np.uint8 else 0)
    source: Any = rows
    whole = k // length
    if whole:
        copy(work, source[:, : whole * length].reshape(m, whole, length), target[:, :whole, :length])
    if whole < count:
        copy(work, source[:, whole * length :], target[:, whole, : k - whole * length])
    joined: DeviceArray = target.reshape(m, count * depth)
    return joined
