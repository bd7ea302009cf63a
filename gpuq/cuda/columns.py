"""Weights of layers on a GPU: columns of codes in whole chunks, as the kernels of layer_blocks.py and layer_reals.py
read them.

    weight (k, n)    block 0 │ block 1 │ …       along k; those of a block share their column's scale and zero point
    a column of it   ├ chunk ┤├ chunk ┤ …        16 bytes: 16 codes of 8 bits, or 32 of 4; a block's last one filled up
    memory           [block][chunk][column]      a warp reads neighbouring columns: whole sectors

    a word of 4-bit codes    c16 c0 │ c17 c1 │ c18 c2 │ c19 c3      high and low half of each byte, lowest byte first:
                             four neighbours each, as dp4a takes them, 16 apart, as a lane of tensor cores has them

Codes are signed: unsigned ones lose half their range, which their zero points lose as well (`signed_code`).

The kernel: a thread makes one chunk of one column; a warp those of 32 neighbouring columns.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from gpuq.arithmetic import scalar
from gpuq.cuda import ptx
from gpuq.cuda.compile import Kernel
from gpuq.cuda.indexing import DIVISOR, divide, divisor
from gpuq.cuda.launch import Work
from gpuq.cuda.numba_cuda import cuda, types
from gpuq.cuda.pack import Rows
from gpuq.cuda.strided import convert, copy
from gpuq.cuda.tiles import CHUNK, THREADS, WARP
from gpuq.device_array import DeviceArray, address_of

Array = npt.NDArray[Any]
WIDTHS = (4, 8)  # bits of a code
WARPS, WARP_BITS = THREADS // WARP, WARP.bit_length() - 1


@dataclass(frozen=True)
class Blocks:
    """How a weight's parameters lie along k: blocks of `length` codes, which take `chunks` chunks of codes of `bits`
    bits each; a single one where they do not vary.
    """

    k: int
    length: int
    bits: int

    @property
    def count(self) -> int:
        """Blocks."""
        return -(-self.k // self.length)

    @property
    def chunks(self) -> int:
        """Chunks of a block."""
        return -(-self.length * self.bits // (8 * CHUNK))

    @property
    def depth(self) -> int:
        """Codes of a block, filled up to whole chunks."""
        return self.chunks * (8 * CHUNK // self.bits)


@dataclass(frozen=True)
class Columns:
    """A weight of n columns on a device: where the chunks are, and the bytes from chunk to chunk and column to column;
    scales, float32 (blocks, n); zero points, int32 (blocks, n), less `shift`, or none where all are 0.
    """

    address: int
    steps: tuple[int, int]
    blocks: Blocks
    n: int
    scale: DeviceArray
    points: DeviceArray | None
    shift: int
    memory: DeviceArray

    @property
    def nbytes(self) -> int:
        """Bytes of codes and parameters."""
        return int(self.memory.nbytes + self.scale.nbytes + (0 if self.points is None else self.points.nbytes))


def pack_layer(work: Work, data: Array, scale: Array, points: Array | None, length: int, bits: int) -> Columns:
    """A weight (k, n) packed to memory that outlives the work. Waits, as products on any stream will read it."""
    work.refuse_capture("prepack, which waits")
    packed = _packed(work, data, scale, points, Blocks(data.shape[0], length, bits), work.keep)
    own_points = None if packed.points is None else _kept(work, packed.points)
    packed = replace(packed, scale=_kept(work, packed.scale), points=own_points)
    work.wait()
    return packed


def _kept(work: Work, array: DeviceArray) -> DeviceArray:
    """A copy that outlives the work."""
    own = work.keep(array.shape, array.dtype)
    copy(work, array, own)
    return own


def columns_of(work: Work, data: Array, scale: Array, points: Array | None, length: int, bits: int) -> Columns:
    """A weight (k, n) of int8 or uint8, packed to workspace."""
    return _packed(work, data, scale, points, Blocks(data.shape[0], length, bits), work.empty)


def _packed(
    work: Work, data: Array, scale: Array, points: Array | None, blocks: Blocks, allocate: Callable[..., DeviceArray]
) -> Columns:
    """Launch the kernel; neither k nor n is 0."""
    source = work.input(data)
    n, unsigned = source.shape[1], source.dtype == np.uint8
    memory = allocate((blocks.count, blocks.chunks, n, CHUNK), np.uint8)
    chunks, shift = blocks.count * blocks.chunks, 1 << blocks.bits - 1 if unsigned else 0
    across = -(-n // WARP)
    work.launch(
        columns_kernel(blocks.bits),
        -(-chunks // WARPS) * across,
        divisor(across),
        source,
        source.strides,
        (blocks.k, n, blocks.length),
        (chunks, divisor(blocks.chunks)),
        shift,
        memory,
    )
    steps = n * CHUNK, CHUNK
    own_scale, own_points = _parameters(work, scale, points, blocks, n)
    return Columns(address_of(memory), steps, blocks, n, own_scale, own_points, shift, memory)


def columns_in(work: Work, rows: Rows, shape: tuple[int, int], scale: Array, points: Array | None) -> Columns:
    """A weight (k, n) of one block, whose columns are rows of codes."""
    k, n = shape
    blocks = Blocks(k, k, 8)
    own_scale, own_points = _parameters(work, scale, points, blocks, n)
    return Columns(rows.address, (CHUNK, rows.stride), blocks, n, own_scale, own_points, rows.shift, rows.memory)


def _parameters(
    work: Work, scale: Array, points: Array | None, blocks: Blocks, n: int
) -> tuple[DeviceArray, DeviceArray | None]:
    """Scales and zero points of each column in each block."""
    shape = blocks.count, n
    own = None if points is None else convert(work, _as_blocks(work.input(points), shape), np.int32, shape)
    return convert(work, _as_blocks(work.input(scale), shape), np.float32, shape), own


def _as_blocks(array: DeviceArray, shape: tuple[int, int]) -> DeviceArray:
    """A number for each column as those of a single block."""
    same: Any = array.reshape(shape) if array.shape == shape[1:] and shape[0] == 1 else array
    return same


@scalar
def signed_code(code: int, shift: int) -> Any:
    """A code as the kernels have it."""
    return types.int32(types.int32(code) - types.int32(shift))


@functools.cache
def columns_kernel(bits: int) -> Kernel:
    """The kernel (across, source, steps, sizes, chunks, shift, packed): warps side by side, the weight and its strides,
    k, n and the length of a block, chunks of a column and of a block.
    """
    steps, sizes = types.UniTuple(types.int64, 2), types.UniTuple(types.int64, 3)
    chunks = types.Tuple((types.int32, DIVISOR))
    arguments = (DIVISOR, types.int64, steps, sizes, chunks, types.int32, types.int64)
    tile = (WARPS * CHUNK * 8 // bits, WARP)
    return Kernel(f"columns_{bits}bit", "pack", _make_columns(bits), arguments, THREADS, tile)


def _make_columns(bits: int) -> Callable[..., Any]:
    load, codes, mask = ptx.load[types.uint8], 8 * CHUNK // bits, types.uint32((1 << bits) - 1)
    halves = 8 // bits

    @scalar
    def gather(address: int, step: int, count: int, shift: int, words: Any) -> None:
        """`count` codes, at least one, as words, the rest zeros; the last one is read in the place of those."""
        for half in range(halves):
            for word in range(4):
                for byte in range(4):
                    i = half * CHUNK + word * 4 + byte
                    code = types.uint32(signed_code(load(address + min(i, count - 1) * step), shift)) & mask
                    code = code if i < count else types.uint32(0)
                    words[word] = types.uint32(words[word] | code << types.uint32(8 * byte + 4 * half))

    def columns(across: Any, source: int, steps: Any, sizes: Any, chunks: Any, shift: int, packed: int) -> None:
        k, n, length = sizes
        thread = types.int32(cuda.threadIdx.x)
        down, place = divide(types.int32(cuda.blockIdx.x), across)
        chunk = types.int32(down * WARPS + (thread >> WARP_BITS))
        column = types.int64(place) * WARP + (thread & (WARP - 1))
        if chunk >= chunks[0] or column >= n:
            return
        block, within = divide(chunk, chunks[1])
        start = types.int64(within) * codes
        count = min(length, k - block * length) - start  # of the block, from here on
        words = cuda.local.array(4, types.uint32)
        for word in range(4):
            words[word] = 0
        if count > 0:
            gather(source + (block * length + start) * steps[0] + column * steps[1], steps[0], count, shift, words)
        ptx.store16(packed + (types.int64(chunk) * n + column) * CHUNK, words, 0)

    return columns


def kernels() -> list[Kernel]:
    """All kernels of this module."""
    return [columns_kernel(bits) for bits in WIDTHS]
