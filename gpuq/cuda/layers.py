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
from gpuq.cuda.layer_mma import LARGE, SMALL, STEP, mma_kernel
from gpuq.cuda.layer_reals import reals_kernel
from gpuq.cuda.layer_tiles import FOUR_ROWS, ONE_ROW
from gpuq.cuda.mma_loop import AMPERE
from gpuq.cuda.products import Packed
from gpuq.cuda.ptx import VECTOR_BYTES
from gpuq.cuda.strided import contiguous, convert, copy
from gpuq.cuda.vectors import vector
from gpuq.device_array import DeviceArray, address_of

Array = npt.NDArray[Any]
MOST_DOT_ROWS = 8  # from where on tensor cores, which take 16 at a time, take less
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
    source = contiguous(work, work.input(x))
    if row_parameters is None:
        source = convert(work, source, np.float32, source.shape)
    rows: Any = source.reshape(m, k)
    rows, kernel = _in_blocks(work, rows, columns.blocks), _kernel(work.device, m, columns, row_parameters)
    down, across = -(-m // kernel.tile[0]), -(-n // kernel.tile[1])
    points = 0 if columns.points is None else address_of(columns.points)
    own_bias = vector(work, bias, np.float32, (n,))
    target = work.result(y)
    ends = (own_bias, activation, real, target)
    first = (divisor(down), (rows, rows.strides[0] if m > 1 else 0), (columns.address, *columns.steps), (m, n))
    last = ((columns.scale, points), ends)
    count, chunks = columns.blocks.count, columns.blocks.chunks
    if row_parameters is None:
        extents = (count * chunks, divisor(chunks), columns.shift)
        work.launch(kernel, down * across, *first, extents, *last)
    else:
        length, row_shift = columns.blocks.length, MIDDLE if rows.dtype == np.uint8 else 0
        own = (count, chunks, length, k - (count - 1) * length, columns.shift, row_shift)
        given = _of_rows(work, *row_parameters)
        work.launch(kernel, down * across, *first, own, given, *last)


def _kernel(device: Device, m: int, columns: Columns, row_parameters: RowParameters | None) -> Kernel:
    """That of real numbers, that of tensor cores where rows are many and blocks are whole steps of it, or of dp4a."""
    own, blocks = ONE_ROW if m == 1 else FOUR_ROWS, columns.blocks
    if row_parameters is None:
        return reals_kernel(blocks.bits, own)
    if m <= MOST_DOT_ROWS or device.capability < AMPERE or blocks.depth % STEP:
        return blocks_kernel(blocks.bits, own)
    tiles, points = -(-m // LARGE.rows) * -(-columns.n // LARGE.columns), columns.points is not None
    tile = SMALL if tiles < device.multiprocessors * FILLED else LARGE
    return mma_kernel(blocks.bits, tile, points or row_parameters[1] is not None)


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
