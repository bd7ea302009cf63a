"""Operands of the GEMM: rows of codes along k, signed, in whole chunks of 16 bytes, with the sum of each row.

    a  (…, m, k)                            row i of a
    b  (…, k, n), seen as (…, n, k)         column j of b          both: "rows of codes", of any strides

    rows as they are ── 16-byte aligned, k a multiple of 16 ──► read in place, the sign bits of unsigned codes flipped
                     ├─ rows as neighbours, k a multiple of 16 ──► transposed by tiles, then the same
                     └─ else ──► packed: a copy (…, rows, depth), k filled up with zeros

Flipping the sign bit of unsigned codes makes them signed and 128 less: `shift` says so, and zero points and sums move
with them. For kernels that multiply unsigned codes as they are ("native") nothing is flipped.

The kernel: a block takes 32 rows, 128 codes of each at a time, until the row's end or, where rows are too few to fill
the device, of every so many; a thread a chunk of 16 codes of a row, which is one access where the codes are neighbours
and aligned, four if they are aligned as words, else 16 of a byte. Threads beside each other take chunks of one row, or,
where the rows are neighbours, one chunk of 32 rows. What they add up meets in the sum of its row.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from gpuq.arithmetic import scalar
from gpuq.cuda import ptx
from gpuq.cuda.compile import Kernel
from gpuq.cuda.indexing import DIVISOR, divide, divisor
from gpuq.cuda.launch import Work
from gpuq.cuda.numba_cuda import cuda, types
from gpuq.cuda.row_sums import sum_rows
from gpuq.cuda.strided import contiguous
from gpuq.cuda.tiles import CHUNK, EVERYBODY, ONES, PACK_BLOCKS, PACK_CHUNKS, PACK_CODES, PACK_ROWS, THREADS
from gpuq.device_array import DeviceArray, address_of

Array = npt.NDArray[Any]
Shape = tuple[int, ...]
CHUNK_BITS, ROW_BITS = PACK_CHUNKS.bit_length() - 1, PACK_ROWS.bit_length() - 1
SIGN_MASK = -0x7F7F7F80  # the sign bits of four codes, as an int32


@dataclass(frozen=True)
class Rows:
    """Rows of codes as the GEMM reads them.

    `depth` codes per row, a multiple of 16, `stride` bytes from row to row and `batch_strides` from matrix to matrix
    along each batch axis; `mask` is what makes each word signed, so that it is 0 for signed codes; `sums` (batch shape
    and rows) are those of code − `shift`, and may be missing where nobody asks for them. `memory` keeps the codes
    alive.
    """

    address: int
    depth: int
    stride: int
    batch_shape: Shape
    batch_strides: tuple[int, ...]
    mask: int
    shift: int
    sums: DeviceArray | None
    memory: DeviceArray

    def sums_from(self, row: int) -> int:
        """The address of the sum of a row, counted through all matrices; 0 where there are no sums."""
        return 0 if self.sums is None else address_of(self.sums) + row * self.sums.dtype.itemsize


def shift_of(codes: Array) -> int:
    """What signed codes lack of these."""
    return 128 if codes.dtype == np.uint8 else 0


def rows_of(work: Work, codes: Array, with_sums: bool, native: bool) -> Rows:
    """Rows of an array (…, rows, k), in place where they can be read so; `native`: unsigned codes stay so."""
    source = work.input(codes)
    *batch, rows, k = source.shape
    if k % CHUNK == 0 and source.size and source.strides[-2] == 1 < min(rows, source.strides[-1]):
        source = contiguous(work, source)
    steps = [address_of(source), k, *source.strides[:-1]]
    if source.size == 0 or (source.strides[-1] == 1 and all(step % CHUNK == 0 for step in steps)):
        sums = work.empty((*batch, rows), np.int64) if with_sums else None
        if sums is not None and sums.size:
            _sum(work, source, sums, native)
        *strides, stride, _ = source.strides
        mask, shift = SIGN_MASK if shift_of(source) else 0, 0 if native else shift_of(source)
        return Rows(address_of(source), k, stride, tuple(batch), tuple(strides), mask, shift, sums, source)
    depth = -(-k // CHUNK) * CHUNK
    packed, sums = work.empty((*batch, rows, depth), np.int8), work.empty((*batch, rows), np.int64)
    return _packed_rows(work, source, packed, sums, native)


def pack_rows(work: Work, codes: Array) -> Rows:
    """Rows of an array (…, rows, k), packed to memory that outlives the work."""
    source = work.input(codes)
    *batch, rows, k = source.shape
    depth = -(-k // CHUNK) * CHUNK
    packed, sums = work.keep((*batch, rows, depth), np.int8), work.keep((*batch, rows), np.int64)
    return _packed_rows(work, source, packed, sums, False)


def _packed_rows(work: Work, source: DeviceArray, packed: DeviceArray, sums: DeviceArray, native: bool) -> Rows:
    _pack(work, source, packed, sums, native)
    *batch, _, depth = packed.shape
    *strides, stride, _ = packed.strides
    mask, shift = (SIGN_MASK if shift_of(source) else 0, 0) if native else (0, shift_of(source))
    return Rows(address_of(packed), depth, stride, tuple(batch), tuple(strides), mask, shift, sums, packed)


def _sum(work: Work, source: DeviceArray, sums: DeviceArray, native: bool) -> None:
    """Sums of rows that stay where they are: of code − shift."""
    stride = _joined_stride(source)
    if stride is None:
        source = contiguous(work, source)
        stride = _joined_stride(source)
    signs = shift_of(source), _signs(source, native)[1]
    sum_rows(work, source, stride or 0, math.prod(source.shape[:-2]), signs, sums)


def _pack(work: Work, source: DeviceArray, packed: DeviceArray, sums: DeviceArray, native: bool) -> None:
    """Launch the kernel."""
    *batch, rows, k = source.shape
    count = math.prod(batch)
    if count * rows == 0:
        return
    work.fill(sums)
    if _joined_stride(source) is None:
        source = contiguous(work, source)
    row_step, k_step = source.strides[-2:]
    blocks, slabs = -(-rows // PACK_ROWS), -(-packed.shape[-1] // PACK_CODES)
    splits = max(1, min(slabs, work.device.multiprocessors * PACK_BLOCKS // (blocks * count)))
    work.launch(
        pack_kernel(),
        blocks * count * splits,
        source,
        (_joined_stride(source) or 0, row_step, k_step),
        int(abs(row_step) < abs(k_step) and rows > 1),
        (divisor(blocks * splits), divisor(splits), splits),
        (rows, k, packed.shape[-1]),
        _signs(source, native),
        packed,
        sums,
    )


def _signs(source: DeviceArray, native: bool) -> tuple[int, int]:
    """By what codes are flipped, and 128 where they stay unsigned, which only their sums notice."""
    return (0, shift_of(source)) if native else (shift_of(source), 0)


def _joined_stride(source: DeviceArray) -> int | None:
    """The bytes from one matrix of a batch to the next, where that is one number."""
    stride, reach = 0, 1
    for extent, step in zip(reversed(source.shape[:-2]), reversed(source.strides[:-2]), strict=True):
        if extent == 1:
            continue
        if reach > 1 and step != stride * reach:
            return None
        stride = step if reach == 1 else stride
        reach *= extent
    return stride


# ---- the kernel ----


@functools.cache
def pack_kernel() -> Kernel:
    """The kernel (source, steps, along_rows, blocks, extents, signs, packed, sums)."""
    steps, signs = types.UniTuple(types.int64, 3), types.UniTuple(types.int32, 2)
    blocks = types.Tuple((DIVISOR, DIVISOR, types.int32))  # of a matrix, of its rows; how many share the codes of rows
    arguments = (types.int64, steps, types.int32, blocks, steps, signs, types.int64, types.int64)
    return Kernel("pack", "pack", _make_pack(), arguments, THREADS, (PACK_ROWS, PACK_CODES))


def _make_pack() -> Callable[..., Any]:
    load, load_word, store16, dp4a = ptx.load[types.uint8], ptx.load[types.uint32], ptx.store16, ptx.dp4a

    @scalar
    def load_chunk(address: int, step: int, count: int, flip: int, words: Any) -> None:
        """Up to 16 codes, at least one, signed, the rest zeros; the last one is read in the place of those."""
        if step == 1 and count >= CHUNK and address & (CHUNK - 1) == 0:
            ptx.load16(address, words, 0)
            for word in range(4):
                words[word] = types.uint32(words[word] ^ types.uint32(flip * ONES))
        elif step == 1 and count >= CHUNK and address & 3 == 0:
            for word in range(4):
                words[word] = types.uint32(load_word(address + word * 4) ^ types.uint32(flip * ONES))
        else:
            for word in range(4):
                words[word] = 0
            for i in range(CHUNK):
                code = types.uint32(load(address + min(i, count - 1) * step) ^ types.uint8(flip))
                code = code if i < count else types.uint32(0)
                words[i // 4] = types.uint32(words[i // 4] | code << (8 * (i % 4)))

    def pack(
        source: int, steps: Any, along_rows: int, blocks: Any, extents: Any, signs: Any, packed: int, sums: int
    ) -> None:
        rows, k, depth = extents
        flip, raised = signs
        thread = types.int32(cuda.threadIdx.x)
        matrix, own = divide(types.int32(cuda.blockIdx.x), blocks[0])
        block, split = divide(own, blocks[1])
        first = types.int64(block) * PACK_ROWS
        row, chunk = thread >> CHUNK_BITS, thread & (PACK_CHUNKS - 1)
        if along_rows:
            row, chunk = thread & (PACK_ROWS - 1), thread >> ROW_BITS
        place = matrix * rows + first + row
        base = source + matrix * steps[0] + (first + row) * steps[1]
        words = cuda.local.array(4, types.uint32)
        total = types.int64(0)
        start = types.int64(split * PACK_CODES + chunk * CHUNK)
        while first + row < rows and start < depth:
            load_chunk(base + start * steps[2], steps[2], k - start, flip, words)
            store16(packed + place * depth + start, words, 0)
            partial = types.int32(raised * CHUNK)
            for word in range(4):
                partial = dp4a(types.uint32(words[word] ^ types.uint32(raised * ONES)), ONES, partial)
            total += partial
            start += types.int64(blocks[2]) * PACK_CODES
        if not along_rows:  # the row's chunks are in neighbouring lanes
            for bits in range(CHUNK_BITS):
                total += cuda.shfl_xor_sync(EVERYBODY, total, 1 << bits)
        if first + row < rows and (along_rows or chunk == 0):
            ptx.atomic_add(sums + place * 8, total)

    return pack


def kernels() -> list[Kernel]:
    """All kernels of this module."""
    return [pack_kernel()]
