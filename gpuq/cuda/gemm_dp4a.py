"""The int8 GEMM by dp4a: a block of 16 × 16 threads makes 64 × 64 sums, a thread 4 × 4 of them, which an epilogue
finishes in registers.

              64 columns of b                     a step: 64 codes along k of 64 rows and 64 columns, 16 words each,
             ┌─┬─┬─┬─ … ─┐                        through shared memory, two steps in turn:
             │ 4 of x   │
     64 rows ├─┼─┼─┼─ … ─┤  thread (x, y)             tile[word of k][row ^ 8 · (word / 4)]
     of a    │4│#│ │     │  has rows 4·y … 4·y+3
             │ of y      │  and columns 4·x …         thread 4·r + c brings chunk c of row r: word 4·c + i goes to bank
             └─┴─┴─┴─ … ─┘                            r ^ 8·c, another one for each lane; 4 rows of a word are an access

Rows beyond the last are read as the last one, chunks beyond the last as zeros, which add nothing. Products deeper than
int32 holds add slices of EXACT_DEPTH codes to int64 sums ("deep").
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from gpuq.arithmetic import scalar
from gpuq.cuda import ptx
from gpuq.cuda.compile import Kernel
from gpuq.cuda.epilogue import FINISHES, Finish
from gpuq.cuda.gemm import arguments, make_column, make_finish, make_row, matrix_offsets
from gpuq.cuda.indexing import DIVISOR, divide
from gpuq.cuda.numba_cuda import cuda, types
from gpuq.cuda.tiles import CHUNK, EXACT_DEPTH, GEMM_COLUMNS, GEMM_DEPTH, GEMM_ROWS, THREADS

STEP_CHUNKS, STEP_WORDS = GEMM_DEPTH // CHUNK, GEMM_DEPTH // 4
TILE_WORDS = STEP_WORDS * GEMM_ROWS  # of one step of one operand
STAGES_WORDS = 2 * TILE_WORDS
SUMS = 16  # of a thread, 4 × 4
SLICE_STEPS = EXACT_DEPTH // GEMM_DEPTH
TILES = types.Tuple((DIVISOR, DIVISOR))  # of a matrix, and down its columns


@functools.cache
def tile_kernel(finish: str, deep: bool) -> Kernel:
    """The kernel (tiles, a, b, …), the rest as in gemm.py."""
    chosen = FINISHES[finish]
    name = f"gemm_dp4a_{finish}{'_deep' * deep}"
    tile = (GEMM_ROWS, GEMM_COLUMNS, GEMM_DEPTH)
    return Kernel(name, "gemm", _make_gemm(chosen, deep), (TILES, *arguments(chosen)), THREADS, tile)


def kernels() -> list[Kernel]:
    """All kernels of this module."""
    return [tile_kernel(finish, deep) for finish in FINISHES for deep in (False, True)]


# ---- the main loop ----


@scalar
def _load_chunk(address: int, chunk: int, chunks: int, mask: int, words: Any) -> None:
    """A chunk of a row's codes, signed; zeros beyond the last one."""
    for word in range(4):
        words[word] = 0
    if chunk < chunks:
        ptx.load16(address + types.int64(chunk) * CHUNK, words, 0)
        for word in range(4):
            words[word] = types.uint32(words[word] ^ types.uint32(mask))


_store_word = ptx.store_shared[types.uint32]


@scalar
def _store_chunk(tile: int, row: int, chunk: int, words: Any) -> None:
    """A chunk to its four words of k in a tile."""
    for word in range(4):
        place = (chunk * 4 + word) * GEMM_ROWS + (row ^ (chunk << 3))
        _store_word(types.int32(tile + place * 4), words[word])


@scalar
def _multiply_step(a_tile: int, b_tile: int, x: int, y: int, sums: Any) -> None:
    """sums += a · bᵀ over one step."""
    a_words, b_words = cuda.local.array(4, types.uint32), cuda.local.array(4, types.uint32)
    for word in range(STEP_WORDS):
        line, flip = word * GEMM_ROWS, word // 4 << 3
        ptx.load16_shared(types.int32(a_tile + (line + ((y * 4) ^ flip)) * 4), a_words, 0)
        ptx.load16_shared(types.int32(b_tile + (line + ((x * 4) ^ flip)) * 4), b_words, 0)
        for i in range(4):
            for j in range(4):
                sums[i * 4 + j] = ptx.dp4a(a_words[i], b_words[j], sums[i * 4 + j])


def _make_sums(deep: bool) -> Callable[..., Any]:
    """`sum_products(a, b, chunks, totals)`: all sums of a thread, int32 or (deep) int64; a and b: the address of the
    thread's row, and the mask.
    """
    total_type = types.int64 if deep else types.int32

    @scalar
    def sum_products(a_row: int, a_mask: int, b_row: int, b_mask: int, chunks: int, totals: Any) -> None:
        thread = types.int32(cuda.threadIdx.x)
        x, y, row, own_chunk = thread & 15, thread >> 4, thread >> 2, thread & 3
        a_tiles = ptx.shared_address(cuda.shared.array(STAGES_WORDS, types.uint32, alignment=16))
        b_tiles = ptx.shared_address(cuda.shared.array(STAGES_WORDS, types.uint32, alignment=16))
        a_words, b_words = cuda.local.array(4, types.uint32), cuda.local.array(4, types.uint32)
        sums = cuda.local.array(SUMS, types.int32)
        for i in range(SUMS):
            sums[i], totals[i] = 0, 0
        _load_chunk(a_row, own_chunk, chunks, a_mask, a_words)
        _load_chunk(b_row, own_chunk, chunks, b_mask, b_words)
        _store_chunk(a_tiles, row, own_chunk, a_words)
        _store_chunk(b_tiles, row, own_chunk, b_words)
        cuda.syncthreads()
        stage, step, chunk = types.int32(0), types.int32(0), types.int32(0)
        while chunk < chunks:
            chunk = types.int32(chunk + STEP_CHUNKS)
            following = types.int32(TILE_WORDS * 4 - stage)
            _load_chunk(a_row, types.int32(chunk + own_chunk), chunks, a_mask, a_words)
            _load_chunk(b_row, types.int32(chunk + own_chunk), chunks, b_mask, b_words)
            _multiply_step(types.int32(a_tiles + stage), types.int32(b_tiles + stage), x, y, sums)
            _store_chunk(types.int32(a_tiles + following), row, own_chunk, a_words)
            _store_chunk(types.int32(b_tiles + following), row, own_chunk, b_words)
            cuda.syncthreads()
            stage, step = following, types.int32(step + 1)
            if deep and step & (SLICE_STEPS - 1) == 0:
                for i in range(SUMS):
                    totals[i] += sums[i]
                    sums[i] = 0
        for i in range(SUMS):
            totals[i] = total_type(totals[i] + sums[i])

    return sum_products


# ---- the kernel ----


def _make_gemm(finish: Finish, deep: bool) -> Callable[..., Any]:
    total_type, sum_products = types.int64 if deep else types.int32, _make_sums(deep)
    column_at, finish_row = make_column(finish), _make_finish_row(finish, deep)

    def gemm(
        tiles: Any, a: Any, b: Any, sizes: Any, chunks: int, axes: Any, a_points: Any, b_points: Any, rows: Any,
        columns: Any, settings: Any, result: int, overflow: int,
    ) -> None:  # fmt: skip
        m, n, k = sizes
        thread = types.int32(cuda.threadIdx.x)
        matrix, tile = divide(types.int32(cuda.blockIdx.x), tiles[0])
        across, down = divide(tile, tiles[1])
        first_row, first_column = types.int64(down) * GEMM_ROWS, types.int64(across) * GEMM_COLUMNS
        a_offset, b_offset, a_set, b_set, row_set, column_set = matrix_offsets(matrix, axes)
        a_row = a[0] + a_offset + min(first_row + (thread >> 2), m - 1) * a[1]
        b_row = b[0] + b_offset + min(first_column + (thread >> 2), n - 1) * b[1]
        totals = cuda.local.array(SUMS, total_type)
        sum_products(a_row, a[2], b_row, b[2], chunks, totals)
        row, column = first_row + (thread >> 4) * 4, first_column + (thread & 15) * 4
        own0 = column_at(b_points, columns, b_set * n, column_set * n, min(column, n - 1))
        own1 = column_at(b_points, columns, b_set * n, column_set * n, min(column + 1, n - 1))
        own2 = column_at(b_points, columns, b_set * n, column_set * n, min(column + 2, n - 1))
        own3 = column_at(b_points, columns, b_set * n, column_set * n, min(column + 3, n - 1))
        own = (own0, own1, own2, own3)
        sets = (a_set * m, row_set * m)
        place = (types.int64(matrix) * m + row) * n + column
        # one call after the other: NVVM leaves a loop of this size rolled, and `totals` in memory
        finish_row(totals, 0, row, sizes, a_points, rows, sets, own, settings, result, place, column, overflow)
        finish_row(totals, 1, row, sizes, a_points, rows, sets, own, settings, result, place, column, overflow)
        finish_row(totals, 2, row, sizes, a_points, rows, sets, own, settings, result, place, column, overflow)
        finish_row(totals, 3, row, sizes, a_points, rows, sets, own, settings, result, place, column, overflow)

    return gemm


def _make_finish_row(finish: Finish, deep: bool) -> Callable[..., Any]:
    """`finish_row(totals, i, …)`: finishes and stores a thread's four sums of one row."""
    row_at, finish_one, store_row = make_row(finish), make_finish(finish, deep), _make_store(finish)

    @scalar
    def finish_row(
        totals: Any, i: int, first: int, sizes: Any, a_points: Any, rows: Any, sets: Any, own: Any, settings: Any,
        result: int, place: int, column: int, overflow: int,
    ) -> None:  # fmt: skip
        m, n, k = sizes
        index = first + i
        if index < m:
            row = row_at(a_points, rows, sets[0], sets[1], index, settings)
            bits = cuda.local.array(4, types.uint32)
            bits[0] = finish_one(totals[i * 4], row, own[0], k, settings, overflow)
            bits[1] = finish_one(totals[i * 4 + 1], row, own[1], k, settings, overflow)
            bits[2] = finish_one(totals[i * 4 + 2], row, own[2], k, settings, overflow)
            bits[3] = finish_one(totals[i * 4 + 3], row, own[3], k, settings, overflow)
            store_row(result, place + i * n, n - column, bits)

    return finish_row


def _make_store(finish: Finish) -> Callable[..., Any]:
    """`store(result, place, left, bits)`: up to four neighbours of a row, in one access where all are and aligned."""
    size = finish.size
    if size == 4:
        return _store_words
    store_one = ptx.store[types.uint16 if size == 2 else types.uint8]
    kind = types.uint16 if size == 2 else types.uint8

    @scalar
    def store(result: int, place: int, left: int, bits: Any) -> None:
        address = result + place * size
        if left >= 4 and address & (4 * size - 1) == 0:
            if size == 1:
                _store_uint32(address, bits[0] | bits[1] << 8 | bits[2] << 16 | bits[3] << 24)
            else:
                ptx.store8(address, types.uint32(bits[0] | bits[1] << 16), types.uint32(bits[2] | bits[3] << 16))
        else:
            for j in range(4):
                if j < left:
                    store_one(address + j * size, kind(bits[j]))

    return store


_store_uint32 = ptx.store[types.uint32]


@scalar
def _store_words(result: int, place: int, left: int, bits: Any) -> None:
    address = result + place * 4
    if left >= 4 and address & 15 == 0:
        ptx.store16(address, bits, 0)
    else:
        for j in range(4):
            if j < left:
                _store_uint32(address + j * 4, bits[j])
