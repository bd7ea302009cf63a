"""How a warp moves elements: 16 per lane, by 16-byte accesses, every one of which uses all bytes of its sectors.

A sector of global memory is 32 bytes, two accesses of 16. So two neighbouring lanes, a pair, take a run of 32 elements
together; in every access the even lane has the first half of a sector and the odd lane the second. With elements of
4, 2 and 1 bytes the pair's eight quads of elements, Q0 … Q7, lie thus (| ends an access):

                  even lane             odd lane
    4 bytes    Q0 | Q2 | Q4 | Q6     Q1 | Q3 | Q5 | Q7
    2 bytes    Q0 Q1 | Q4 Q5         Q2 Q3 | Q6 Q7
    1 byte     Q0 Q1 Q2 Q3           Q4 Q5 Q6 Q7

Where an operator reads elements of one size and writes another, it works in the order of the larger one, and the pair
exchanges half of its smaller elements: two words for a quad of one word each.

Where nothing is to be exchanged and no parameter belongs to a place, a whole warp shares a run in the same manner: each
access of the warp is 512 bytes in a row.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from gpuq.arithmetic import BFLOAT16, bits_of, float_of, narrow_half, scalar, widen_half
from gpuq.cuda import ptx
from gpuq.cuda.numba_cuda import cuda, types
from gpuq.cuda.tiles import QUAD, QUADS

SECTOR, HALF_SECTOR = 32, 16  # bytes


def quads_per_access(size: int) -> int:
    """How many quads of elements of that size an access takes; a quad of float64 takes two accesses."""
    return max(1, HALF_SECTOR // (QUAD * size))


def quad_of(position: int, odd: int, per_access: int) -> int:
    """Which of the pair's quads a lane holds at a position 0 … 3; `per_access` is a constant of the kernel."""
    return position // per_access * (2 * per_access) + odd * per_access + position % per_access


quad_in_kernel = scalar(quad_of)


def make_move(size: int, lanes: int = 2) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """`load(address, lane, words)` and `store(address, lane, words)`: a lane's 16 elements of that size, of the run at
    an address that so many lanes share, as words. Of a pair, the lane is 0 or 1.
    """
    accesses, step, apart = size, lanes * HALF_SECTOR, HALF_SECTOR  # 16 · size bytes in accesses of 16
    side_by_side = size == 8 and lanes == 2  # a lane's two accesses of a quad
    load16, store16 = ptx.load16, ptx.store16

    @scalar
    def offset_of(access: int, lane: int) -> int:
        if side_by_side:
            return (access >> 1) * (2 * SECTOR) + (access & 1) * HALF_SECTOR + lane * SECTOR
        return access * step + lane * apart

    @scalar
    def load(address: int, lane: int, words: Any) -> None:
        for access in range(accesses):
            load16(address + offset_of(access, lane), words, access * 4)

    @scalar
    def store(address: int, lane: int, words: Any) -> None:
        for access in range(accesses):
            store16(address + offset_of(access, lane), words, access * 4)

    return load, store


def make_move_quad(size: int) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """`load(address, words, i)` and `store(address, words, i)`: a quad of elements of that size, from word i on."""
    per_access = min(size, ptx.VECTOR_BYTES // 4)  # words
    accesses = size // per_access
    load_words, store_words = ptx.load_words[per_access], ptx.store_words[per_access]

    @scalar
    def load(address: int, words: Any, i: int) -> None:
        for access in range(accesses):
            load_words(address + access * (4 * per_access), words, i + access * per_access)

    @scalar
    def store(address: int, words: Any, i: int) -> None:
        for access in range(accesses):
            store_words(address + access * (4 * per_access), words, i + access * per_access)

    return load, store


def make_exchange(size: int, before: int, after: int) -> Callable[..., Any]:
    """`exchange(words, odd)`: elements of that size in the order that elements of `before` bytes have, brought to the
    order of `after` bytes.
    """
    if quads_per_access(before) == quads_per_access(after):
        return _keep
    held = [[quad_of(position, odd, quads_per_access(before)) for position in range(QUADS)] for odd in range(2)]
    wanted = [[quad_of(position, odd, quads_per_access(after)) for position in range(QUADS)] for odd in range(2)]
    sent = [[quad for quad in held[odd] if quad not in wanted[odd]] for odd in range(2)]
    per_quad = size * QUAD // 4  # words
    give_even, give_odd = (tuple(held[odd].index(quad) for quad in sent[odd]) for odd in range(2))
    # the new quads: 0 … 3 of the lane's own, 4 and 5 of what it gets
    take_even, take_odd = (
        tuple(held[odd].index(quad) if quad in held[odd] else QUADS + sent[1 - odd].index(quad) for quad in wanted[odd])
        for odd in range(2)
    )
    room = (QUADS + 2) * per_quad
    swap = ptx.swap_with_neighbour

    @scalar
    def exchange(words: Any, odd: int) -> None:
        known = cuda.local.array(room, types.uint32)
        for word in range(QUADS * per_quad):
            known[word] = words[word]
        for given in range(2):
            for word in range(per_quad):
                own = words[give_odd[given] * per_quad + word] if odd else words[give_even[given] * per_quad + word]
                known[(QUADS + given) * per_quad + word] = swap(own)
        for position in range(QUADS):
            for word in range(per_quad):
                from_odd, from_even = take_odd[position] * per_quad + word, take_even[position] * per_quad + word
                words[position * per_quad + word] = known[from_odd] if odd else known[from_even]

    return exchange


@scalar
def _keep(words: Any, odd: int) -> None:
    pass


# ---- elements and words ----


def make_unpack(name: str) -> Callable[..., Any]:
    """`unpack(words, i)`: element i of a lane's, as elements.py takes it; halves are widened, which is exact."""
    return {
        "float32": _unpack_float32,
        "float64": _unpack_float64,
        "float16": _unpack_float16,
        "bfloat16": _unpack_bfloat16,
        "uint8": _unpack_uint8,
        "uint16": _unpack_uint16,
        "uint32": _unpack_uint32,
        "int32": _unpack_int32,
    }[name]


def make_pack(name: str) -> Callable[..., Any]:
    """`pack(words, i, value)`: put element i; `words` starts as zeros."""
    return {
        "float32": _pack_float32,
        "float64": _pack_float64,
        "float16": _pack_float16,
        "bfloat16": _pack_bfloat16,
        "uint8": _pack_uint8,
        "uint16": _pack_uint16,
        "uint32": _pack_uint32,
    }[name]


@scalar
def _unpack_float32(words: Any, i: int) -> Any:
    return float_of(words[i])


@scalar
def _unpack_float64(words: Any, i: int) -> Any:
    return ptx.float64_of(words[2 * i], words[2 * i + 1])


@scalar
def _unpack_float16(words: Any, i: int) -> Any:
    return ptx.float32_of_half(_unpack_uint16(words, i))


@scalar
def _unpack_bfloat16(words: Any, i: int) -> Any:
    return widen_half(_unpack_uint16(words, i), BFLOAT16)


@scalar
def _unpack_uint8(words: Any, i: int) -> Any:
    return np.uint8(words[i // 4] >> np.uint32(8 * (i % 4)))


@scalar
def _unpack_uint16(words: Any, i: int) -> Any:
    return np.uint16(words[i // 2] >> np.uint32(16 * (i % 2)))


@scalar
def _unpack_uint32(words: Any, i: int) -> Any:
    return words[i]


@scalar
def _unpack_int32(words: Any, i: int) -> Any:
    return np.int32(words[i])


@scalar
def _pack_float32(words: Any, i: int, value: Any) -> None:
    words[i] = bits_of(value)


@scalar
def _pack_float64(words: Any, i: int, value: Any) -> None:
    words[2 * i], words[2 * i + 1] = ptx.words_of(value)


@scalar
def _pack_float16(words: Any, i: int, value: Any) -> None:
    _pack_uint16(words, i, ptx.half_of_float32(value))


@scalar
def _pack_bfloat16(words: Any, i: int, value: Any) -> None:
    _pack_uint16(words, i, np.uint16(narrow_half(value, BFLOAT16)))


@scalar
def _pack_uint8(words: Any, i: int, value: Any) -> None:
    words[i // 4] |= np.uint32(value) << np.uint32(8 * (i % 4))


@scalar
def _pack_uint16(words: Any, i: int, value: Any) -> None:
    words[i // 2] |= np.uint32(value) << np.uint32(16 * (i % 2))


@scalar
def _pack_uint32(words: Any, i: int, value: Any) -> None:
    words[i] = value
