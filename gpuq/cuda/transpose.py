"""Copies between arrays of which one has neighbours where the other has rows: tiles through shared memory.

    source: lines of elements i, one for each j          target: lines of elements j, one for each i

A block takes a tile of 128 elements j by 128 bytes of elements i, and both sides move whole lines of 128 bytes by
accesses of 16. A thread loads 16 bytes of four lines; of elements of 1 and 2 bytes it makes words of 4 and 2 neighbours
along j, which is what the target takes. A word is then known by its line J of words along j, and by i = (elements of an
access) · part + m:

    shared memory:   J · (words of a line) + 8 · (m xor (J mod 4)) + (part xor (J / 4 mod 8))

A warp writes words of eight parts and four J, and reads words of eight J, four apart, and four m: either lie in 32
banks. What is not aligned to 16 bytes, and tiles at the ends, go one element after the other, by their addresses.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

from gpuq.arithmetic import scalar
from gpuq.cuda import ptx
from gpuq.cuda.compile import Kernel
from gpuq.cuda.indexing import DIVISOR, divide, divisor
from gpuq.cuda.launch import Work
from gpuq.cuda.numba_cuda import cuda, types
from gpuq.cuda.tiles import COPY_AXES, MOST_ELEMENTS, THREADS, TRANSPOSED_BYTES, TRANSPOSED_LINES

Axis = tuple[int, int, int]  # extent, and the bytes from one index to the next in source and target
OTHER_AXES = COPY_AXES - 2
WORDS = TRANSPOSED_BYTES * TRANSPOSED_LINES // 4
LANE_WORDS = WORDS // THREADS
ACCESSES = LANE_WORDS // 4  # of a thread
SIZES = (1, 2, 4)  # bytes of an element
SECTOR = 32


def crossing(axes: list[Axis], size: int, addresses: int) -> list[Axis] | None:
    """The axes, those two last along which elements of that size are neighbours in the source and in the target; None
    where there are none or too few of them, or where elements are not aligned. `addresses`: those of both, by or.
    """
    across = next((axis for axis in axes[:-1] if axis[1] == size), None)
    if size not in SIZES or across is None or axes[-1][2] != size:
        return None
    few = min(across[0], axes[-1][0]) * size < SECTOR
    if few or axes[-1][0] > MOST_ELEMENTS // 2 or any(each % size for each in (addresses, *_steps(axes))):
        return None
    return [*(axis for axis in axes[:-1] if axis is not across), across, axes[-1]]


def _steps(axes: list[Axis]) -> list[int]:
    return [step for axis in axes for step in axis[1:]]


def launch_tiles(work: Work, source: int, target: int, axes: list[Axis], size: int) -> None:
    """Copy by tiles of the last two axes, which `crossing` found."""
    others, (across, _, target_step), (down, source_step, _) = axes[:-2], axes[-2], axes[-1]
    full = [(1, 0, 0)] * (OTHER_AXES - len(others)) + others
    tiles = -(-across * size // TRANSPOSED_BYTES), -(-down // TRANSPOSED_LINES)
    count = math.prod((*tiles, *(extent for extent, _, _ in others)))
    apart = [[source, source_step, *(step for _, step, _ in others)]]
    apart += [[target, target_step, *(step for _, _, step in others)]]
    load_wide, store_wide = (all(each % ptx.VECTOR_BYTES == 0 for each in numbers) for numbers in apart)
    work.launch(
        transpose_kernel(size),
        count,
        source,
        target,
        (across, down),
        (source_step, target_step),
        (divisor(tiles[0]), divisor(tiles[1])),
        tuple(divisor(extent) for extent, _, _ in full),
        tuple(step for _, step, _ in full),
        tuple(step for _, _, step in full),
        int(load_wide),
        int(store_wide),
    )


# ---- kernels ----


def _make_transpose(size: int) -> Callable[..., Any]:
    lines, words = 4 // size, 16 // size  # of a word, of an access
    line_words, width = 8 * words, TRANSPOSED_BYTES // size
    height, fours = TRANSPOSED_LINES, width // 4
    element = {1: types.uint8, 2: types.uint16, 4: types.uint32}[size]
    load_element, store_element = ptx.load[element], ptx.store[element]
    load_part, store_part = ptx.load_shared[element], ptx.store_shared[element]
    load_word, store_word = ptx.load_shared[types.uint32], ptx.store_shared[types.uint32]
    word_bits, line_bits, width_bits, height_bits = (each.bit_length() - 1 for each in (words, lines, width, height))
    load16, store16, cross = ptx.load16, ptx.store16, {1: _cross_bytes, 2: _cross_halves, 4: _keep}[size]

    @scalar
    def place(line: int, m: int, part: int) -> Any:
        """Where the word of line J lies in the tile, in bytes."""
        return types.int32(line * (4 * line_words) + (m ^ (line & 3)) * 32 + (part ^ ((line >> 2) & 7)) * 4)

    @scalar
    def load_tile(tile: int, source: int, step: int) -> None:
        thread = types.int32(cuda.threadIdx.x)
        part, first = types.int32(thread & 7), types.int32(thread >> 3)
        loaded = cuda.local.array(LANE_WORDS, types.uint32)
        for access in range(ACCESSES):
            line = types.int32((first + access // lines * (THREADS // 8)) * lines + access % lines)
            load16(source + types.int64(line) * step + part * 16, loaded, access * 4)
        for turn in range(size):
            cross(loaded, turn * words)
            for m in range(words):
                line = types.int32(first + turn * (THREADS // 8))
                store_word(types.int32(tile + place(line, m, part)), loaded[turn * words + m // lines + m % lines * 4])

    @scalar
    def store_tile(tile: int, target: int, step: int) -> None:
        thread = types.int32(cuda.threadIdx.x)
        made = cuda.local.array(4, types.uint32)
        for access in range(ACCESSES):
            warp = types.int32((thread >> 5) + access * (THREADS // 32))
            i = types.int32((warp & (fours - 1)) * 4 + ((thread >> 3) & 3))
            chunk = types.int32((warp >> (width_bits - 2)) * 8 + (thread & 7))
            for k in range(4):
                made[k] = load_word(types.int32(tile + place(chunk * 4 + k, i & (words - 1), i >> word_bits)))
            store16(target + types.int64(i) * step + chunk * 16, made, 0)

    @scalar
    def place_of_one(i: int, j: int) -> Any:
        return types.int32(place(j >> line_bits, i & (words - 1), i >> word_bits) + (j & (lines - 1)) * size)

    @scalar
    def load_ones(tile: int, source: int, step: int, across: int, down: int) -> None:
        i, j = types.int32(cuda.threadIdx.x & (width - 1)), types.int32(cuda.threadIdx.x >> width_bits)
        address, end = source + j * step + i * size, types.int32(min(down, height)) if i < across else types.int32(0)
        while j < end:
            store_part(types.int32(tile + place_of_one(i, j)), load_element(address))
            address, j = address + (THREADS // width) * step, types.int32(j + THREADS // width)

    @scalar
    def store_ones(tile: int, target: int, step: int, across: int, down: int) -> None:
        j, i = types.int32(cuda.threadIdx.x & (height - 1)), types.int32(cuda.threadIdx.x >> height_bits)
        address, end = target + i * step + j * size, types.int32(min(across, width)) if j < down else types.int32(0)
        while i < end:
            store_element(address, load_part(types.int32(tile + place_of_one(i, j))))
            address, i = address + (THREADS // height) * step, types.int32(i + THREADS // height)

    def transpose(
        source: int, target: int, extents: Any, steps: Any, tiles: Any, others: Any, source_steps: Any,
        target_steps: Any, load_wide: int, store_wide: int,
    ) -> None:  # fmt: skip
        tile = ptx.shared_address(cuda.shared.array(WORDS, types.uint32))
        rest, tile_i = divide(types.int32(cuda.blockIdx.x), tiles[0])
        rest, tile_j = divide(rest, tiles[1])
        for axis in range(OTHER_AXES - 1, -1, -1):
            rest, position = divide(rest, others[axis])
            source += position * source_steps[axis]
            target += position * target_steps[axis]
        i, j = types.int32(tile_i * width), types.int32(tile_j * height)
        source += i * size + j * steps[0]
        target += j * size + i * steps[1]
        across, down = types.int32(extents[0] - i), types.int32(extents[1] - j)
        whole = across >= width and down >= height
        if load_wide and whole:
            load_tile(tile, source, steps[0])
        else:
            load_ones(tile, source, steps[0], across, down)
        cuda.syncthreads()
        if store_wide and whole:
            store_tile(tile, target, steps[1])
        else:
            store_ones(tile, target, steps[1], across, down)

    return transpose


@scalar
def _cross_bytes(words: Any, first: int) -> None:
    """Sixteen bytes of each of four lines, to words of the four lines' bytes: word b + 4 · … has byte b of a word."""
    prmt = ptx.permute_bytes
    for q in range(4):
        a, b, c, d = words[first + q], words[first + 4 + q], words[first + 8 + q], words[first + 12 + q]
        low_ab, high_ab, low_cd, high_cd = (
            prmt(a, b, 0x5140),
            prmt(a, b, 0x7362),
            prmt(c, d, 0x5140),
            prmt(c, d, 0x7362),
        )
        words[first + q], words[first + 4 + q] = prmt(low_ab, low_cd, 0x5410), prmt(low_ab, low_cd, 0x7632)
        words[first + 8 + q], words[first + 12 + q] = prmt(high_ab, high_cd, 0x5410), prmt(high_ab, high_cd, 0x7632)


@scalar
def _cross_halves(words: Any, first: int) -> None:
    """The same for the eight halves of each of two lines."""
    prmt = ptx.permute_bytes
    for q in range(4):
        a, b = words[first + q], words[first + 4 + q]
        words[first + q], words[first + 4 + q] = prmt(a, b, 0x5410), prmt(a, b, 0x7632)


@scalar
def _keep(words: Any, first: int) -> None:
    pass


@functools.cache
def transpose_kernel(size: int) -> Kernel:
    """The kernel for elements of that size."""
    steps = types.UniTuple(types.int64, OTHER_AXES)
    arguments = (
        types.int64, types.int64, types.UniTuple(types.int32, 2), types.UniTuple(types.int64, 2),
        types.UniTuple(DIVISOR, 2), types.UniTuple(DIVISOR, OTHER_AXES), steps, steps, types.int32, types.int32,
    )  # fmt: skip
    shape = (TRANSPOSED_LINES, TRANSPOSED_BYTES // size)
    return Kernel(f"transpose_{size}", "copy", _make_transpose(size), arguments, THREADS, shape)


def kernels() -> list[Kernel]:
    """All kernels of this module."""
    return [transpose_kernel(size) for size in SIZES]
