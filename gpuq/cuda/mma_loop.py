"""The main loop of the tensor-core GEMM: slabs of k come to shared memory ahead of time, fragments to registers one
step ahead, and the tensor cores never wait for either.

    global memory ── cp.async, `stages` − 1 slabs ahead ──► shared memory ── ldmatrix, a step ahead ──► registers ─► mma
                     (7.5: through registers, 1 ahead)

A slab is `depth` codes along k of the tile's rows of a, then of its columns of b. In shared memory a row's chunks of 16
codes change places with the row number, so that the 8 chunks of any ldmatrix, and those of 8 threads that copy, lie in
different banks. With depth 64, two rows share 128 bytes:

    bytes    0       16       32       48       64       80       96      112
           ┌ 0.0 ──┬ 0.1 ──┬ 0.2 ──┬ 0.3 ──┬ 1.0 ──┬ 1.1 ──┬ 1.2 ──┬ 1.3 ──┐
           │ 2.1   │ 2.0   │ 2.3   │ 2.2   │ 3.1   │ 3.0   │ 3.3   │ 3.2   │     row.chunk
           │ 4.2   │ 4.3   │ 4.0   │ 4.1   │ 5.2   │ 5.3   │ 5.0   │ 5.1   │
           └ 6.3 ──┴ 6.2 ──┴ 6.1 ──┴ 6.0 ──┴ 7.3 ──┴ 7.2 ──┴ 7.1 ──┴ 7.0 ──┘

A thread copies the same chunk of every so many rows. Rows beyond the last are rows of the other operand's, chunks
beyond the last zeros. A step is 32 codes along k: 16 × 32 of a and 32 × 8 of b are an mma (on 7.5 four). Of a slab's
steps a warp makes those of its slice.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from gpuq.arithmetic import scalar
from gpuq.cuda import ptx
from gpuq.cuda.numba_cuda import Capability, cuda, types
from gpuq.cuda.ptx_tensor import (
    cp_async16,
    cp_async_commit,
    cp_async_wait,
    ldmatrix_x4,
    load16_or_zeros,
    mma_m8n8k16,
    mma_m16n8k32,
)
from gpuq.cuda.tiles import CHUNK, EXACT_DEPTH, ONES, Tile

MMA_ROWS, MMA_COLUMNS, STEP = 16, 8, 32  # of an mma, and codes along k
LINE = 128  # bytes of all banks
TURING: Capability = (7, 5)
AMPERE: Capability = (8, 0)  # the first that copies to shared memory without registers, and has the larger mma


def rows_of_pass(tile: Tile) -> int:
    """How many rows the threads of a block copy a chunk of at a time."""
    return tile.threads * CHUNK // tile.depth


def steps_of(tile: Tile) -> int:
    """How many steps of a slab a warp makes: an even number, as fragments have two places."""
    return tile.depth // STEP // tile.slices


@functools.cache
def make_swizzle(tile: Tile) -> Callable[..., Any]:
    """`swizzle(row, chunk)`: where a chunk lies in a slab's operand, in bytes."""
    depth, chunks = tile.depth, min(tile.depth, LINE) // CHUNK  # of a row in one line
    shift = (LINE // CHUNK // chunks).bit_length() - 1  # rows of one line are told apart by their place in it

    @scalar
    def swizzle(row: int, chunk: int) -> Any:
        return types.int32(row * depth + ((chunk ^ ((row >> shift) & (chunks - 1))) << 4))

    return swizzle


@functools.cache
def _make_load_fragments(tile: Tile) -> Callable[..., Any]:
    """`load_fragments(a_address, b_address, step, a, b, buffer)`: a warp's fragments of one step."""
    a_count, b_count, depth = tile.warp_rows // MMA_ROWS, tile.warp_columns // MMA_COLUMNS, tile.depth
    b_pairs = b_count // 2

    @scalar
    def load_fragments(a_address: int, b_address: int, step: int, a: Any, b: Any, buffer: int) -> None:
        for i in range(a_count):
            place = types.int32((a_address ^ (step * STEP)) + i * MMA_ROWS * depth)
            ldmatrix_x4(place, a, (buffer * a_count + i) * 4)
        for j in range(b_pairs):
            place = types.int32((b_address ^ (step * STEP)) + j * 2 * MMA_COLUMNS * depth)
            ldmatrix_x4(place, b, (buffer * b_pairs + j) * 4)

    return load_fragments


def _make_multiply(tile: Tile, since: Capability, kinds: tuple[str, str], with_rows: bool) -> Callable[..., Any]:
    """`multiply(a, b, ones, buffer, sums)`: sums += a · b of one step; back and forth: neighbours share an operand.
    `with_rows` more sums += a · ones.
    """
    sums_count = tile.sums
    a_count, b_count = tile.warp_rows // MMA_ROWS, tile.warp_columns // MMA_COLUMNS
    whole, quarter = mma_m16n8k32[kinds], mma_m8n8k16[kinds]

    @scalar
    def in_quarters(sums: Any, i: int, a: Any, j: int, b: Any, k: int) -> None:
        for half in range(2):  # of the codes along k; then of the rows
            quarter(sums, i, a, j + 2 * half, b, k + half)
            quarter(sums, i + 2, a, j + 2 * half + 1, b, k + half)

    product = whole if since >= AMPERE else in_quarters

    @scalar
    def multiply(a: Any, b: Any, ones: Any, buffer: int, sums: Any) -> None:
        for i in range(a_count):
            if with_rows:
                product(sums, sums_count + i * 4, a, (buffer * a_count + i) * 4, ones, 0)
            for step in range(b_count):
                j = step if i % 2 == 0 else b_count - 1 - step
                own, left, right = (i * b_count + j) * 4, (buffer * a_count + i) * 4, (buffer * b_count + j) * 2
                product(sums, own, a, left, b, right)

    return multiply


@functools.cache
def _make_flush(sums_count: int) -> Callable[..., Any]:
    """`flush(sums, totals)`: bring sums that int32 has just held to the int64 totals."""

    @scalar
    def flush(sums: Any, totals: Any) -> None:
        for i in range(sums_count):
            totals[i] += sums[i]
            sums[i] = 0

    return flush


@functools.cache
def _make_following(tile: Tile) -> Callable[..., Any]:
    """`following(place)`: the stage behind one, in a ring."""
    stage, last = tile.shared_bytes // tile.stages, tile.shared_bytes // tile.stages * (tile.stages - 1)

    @scalar
    def following(place: int) -> Any:
        return types.int32(place + stage) if place != last else types.int32(0)

    return following


@functools.cache
def make_sums(tile: Tile, since: Capability, kinds: tuple[str, str], deep: bool) -> Callable[..., Any]:
    """`sum_products(places, sources, flying, chunks, sums, totals)`: a thread's sums of the tile's products.

    places          in shared memory: the chunk that the thread copies first, what it gives ldmatrix for a and for b
    sources         addresses of the thread's chunks of a and of b that come next, and the chunks left from the first on
    flying          see `fill`
    chunks          of a row
    sums, totals    see `flush`; without `deep` totals are not used. `sums` has four of each 16 rows more in a tile that
                    adds rows up
    """
    chunks_per_slab, steps = tile.depth // CHUNK, steps_of(tile)
    slab_bits, slice_mask = chunks_per_slab.bit_length() - 1, EXACT_DEPTH // tile.depth - 1
    stage, ahead = tile.shared_bytes // tile.stages, tile.stages - 1
    last, following = ahead * stage, _make_following(tile)
    a_words, b_words = tile.warp_rows // MMA_ROWS * 8, tile.warp_columns // MMA_COLUMNS * 4
    load_fragments, multiply = _make_load_fragments(tile), _make_multiply(tile, since, kinds, tile.sums_rows(deep))
    start, land, end = _make_copies(tile, since)
    flush = _make_flush(tile.sums)

    @scalar
    def sum_products(places: Any, sources: Any, flying: Any, chunks: int, sums: Any, totals: Any) -> None:
        to, a_place, b_place = places
        a_source, b_source, left = sources
        a, b = cuda.local.array(a_words, types.uint32), cuda.local.array(b_words, types.uint32)
        ones = cuda.local.array(2, types.uint32)
        ones[0], ones[1] = ONES, ONES
        land(to, flying)
        cuda.syncthreads()
        load_fragments(a_place, b_place, 0, a, b, 0)
        read, write = types.int32(0), types.int32(last)
        slabs = types.int32((chunks + (chunks_per_slab - 1)) >> slab_bits)
        while slabs > 0:
            for step in range(steps):
                if step == steps - 1:  # the next slab's first fragments, once it is there for all threads
                    land(types.int32(to + write), flying)
                    cuda.syncthreads()
                    read, write = following(read), following(write)
                a_slab, b_slab = types.int32(a_place + read), types.int32(b_place + read)
                load_fragments(a_slab, b_slab, (step + 1) % steps, a, b, (step + 1) & 1)
                if step == 0:
                    start(types.int32(to + write), a_source, b_source, left, flying)
                    left = types.int32(left - chunks_per_slab)
                multiply(a, b, ones, step & 1, sums)
            slabs = types.int32(slabs - 1)
            if deep and slabs & slice_mask == 0:
                flush(sums, totals)
        end()

    return sum_products


@functools.cache
def make_fill(tile: Tile, since: Capability) -> Callable[..., Any]:
    """`fill(to, a_source, b_source, left, flying)`: the first slabs on their way, all but one of those that there is
    room for; the chunks left. On 7.5 they fly to the registers `flying`, of `words_flying` words.
    """
    stage, ahead, chunks_per_slab = tile.shared_bytes // tile.stages, tile.stages - 1, tile.depth // CHUNK
    start, _, _ = _make_copies(tile, since)

    @scalar
    def fill(to: int, a_source: Any, b_source: Any, left: int, flying: Any) -> Any:
        for slab in range(ahead):
            start(types.int32(to + slab * stage), a_source, b_source, left, flying)
            left = types.int32(left - chunks_per_slab)
        return left

    return fill


def words_flying(tile: Tile) -> int:
    """Words of a thread's part of a slab."""
    return (tile.rows + tile.columns) // rows_of_pass(tile) * 4


def _make_copies(tile: Tile, since: Capability) -> tuple[Callable[..., Any], ...]:
    return (_make_asynchronous if since >= AMPERE else _make_through_registers)(tile)


@functools.cache
def _make_asynchronous(tile: Tile) -> tuple[Callable[..., Any], ...]:
    """`start`, `land` and `end` of copies that need no registers: a slab is a group of them."""
    a_passes, b_passes = tile.rows // rows_of_pass(tile), tile.columns // rows_of_pass(tile)
    depth, pass_bytes = tile.depth, tile.threads * CHUNK
    wait_for_next, wait_for_all = cp_async_wait[tile.stages - 2], cp_async_wait[0]

    @scalar
    def start(to: int, a_source: Any, b_source: Any, left: int, flying: Any) -> None:
        ignored = types.int32(left <= 0)
        for i in range(a_passes):
            cp_async16(types.int32(to + i * pass_bytes), a_source[i], ignored)
            a_source[i] += depth
        for i in range(b_passes):
            cp_async16(types.int32(to + (a_passes + i) * pass_bytes), b_source[i], ignored)
            b_source[i] += depth
        cp_async_commit()

    @scalar
    def land(to: int, flying: Any) -> None:
        wait_for_next()

    @scalar
    def end() -> None:
        wait_for_all()

    return start, land, end


@functools.cache
def _make_through_registers(tile: Tile) -> tuple[Callable[..., Any], ...]:
    """The same of loads that fly to registers."""
    a_passes, b_passes = tile.rows // rows_of_pass(tile), tile.columns // rows_of_pass(tile)
    depth, pass_bytes = tile.depth, tile.threads * CHUNK
    passes, store16_shared = a_passes + b_passes, ptx.store16_shared

    @scalar
    def start(to: int, a_source: Any, b_source: Any, left: int, flying: Any) -> None:
        ignored = types.int32(left <= 0)
        for i in range(a_passes):
            load16_or_zeros(a_source[i], ignored, flying, i * 4)
            a_source[i] += depth
        for i in range(b_passes):
            load16_or_zeros(b_source[i], ignored, flying, (a_passes + i) * 4)
            b_source[i] += depth

    @scalar
    def land(to: int, flying: Any) -> None:
        for i in range(passes):
            store16_shared(types.int32(to + i * pass_bytes), flying, i * 4)

    @scalar
    def end() -> None:
        pass

    return start, land, end
