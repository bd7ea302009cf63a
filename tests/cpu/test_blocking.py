"""How products are cut: every block and pass within its bounds, none empty, work for every thread."""

from __future__ import annotations

import itertools

import pytest
from instruction_sets import ALL_SETS

from gpuq.cpu.blocking import (
    BLOCK_CODES,
    MOST_COLUMNS,
    MOST_ROWS,
    MOST_ROWS_AT_ONCE,
    SHORT_CODES,
    SMALLEST,
    WHOLE_CODES,
    choose_blocks,
    count_blocks,
)
from gpuq.cpu.isa import InstructionSet
from gpuq.cpu.tiles import DEPTH, EXACT_DEPTH, group_length

SIZES = (1, 5, 16, 100, 777, 4096, 50_000)
by_set = pytest.mark.parametrize("isa", ALL_SETS, ids=lambda isa: isa.name)


@by_set
def test_blocks_and_passes_keep_their_bounds(isa: InstructionSet) -> None:
    for m, k, n, threads in itertools.product(SIZES, (0, *SIZES), SIZES, (1, 2, 64)):
        blocks, group = choose_blocks(m, k, n, isa, 1, threads), group_length(isa, k)
        assert blocks.rows % isa.rows == blocks.columns % isa.columns == 0
        assert 0 < blocks.rows <= (MOST_ROWS_AT_ONCE if blocks.steps * group >= k else MOST_ROWS)
        assert 0 < blocks.columns <= max(isa.columns, MOST_COLUMNS)
        assert 0 < blocks.steps * group <= max(DEPTH, group)
        most = BLOCK_CODES if k * n > WHOLE_CODES else WHOLE_CODES
        assert blocks.columns * blocks.steps * group <= max(most, isa.columns * DEPTH)


@by_set
def test_pieces_are_nearly_equal(isa: InstructionSet) -> None:
    """No block or pass at the end is a small rest, which would cost as much as a whole one in places."""
    for length, threads in itertools.product(range(200, 5_000, 301), (1, 2)):
        blocks, group = choose_blocks(length, length, length, isa, 1, threads), group_length(isa, length)
        for whole, piece, unit in (
            (length, blocks.rows, isa.rows),
            (length, blocks.columns, isa.columns),
            (length, blocks.steps * group, group * isa.steps),
        ):
            pieces = -(-whole // piece)
            assert piece - whole / pieces < 2 * unit + pieces * unit / 2, (length, whole, piece)


def test_all_threads_get_work() -> None:
    for isa, threads in itertools.product(ALL_SETS, (2, 8, 64)):
        for m, k, n in ((4096, 4096, 4096), (1, 4096, 16_384), (20_000, 64, 3), (200, 16_384, 200)):
            blocks = choose_blocks(m, k, n, isa, 1, threads)
            most = -(-m // isa.rows) * -(-n // isa.columns)
            work = min(threads, most, m * k * n // SMALLEST)
            assert count_blocks((1, m, n), blocks) >= work * 3 // 4, (isa, threads, m)


def test_threads_have_equal_shares() -> None:
    """128 x 768 x 3072 in ten blocks, the last one small, kept one of two threads waiting for a sixth of the time."""
    for isa, threads in itertools.product(ALL_SETS, (2, 3, 8, 16)):
        for m, k, n in ((128, 768, 3072), (33, 1000, 777), (256, 256, 256), (197, 768, 768), (1024, 1024, 1024)):
            blocks = choose_blocks(m, k, n, isa, 1, threads)
            rounds = -(-count_blocks((1, m, n), blocks) // threads)
            tiles = -(-m // isa.rows) * -(-n // isa.columns)
            most = rounds * (blocks.rows // isa.rows) * (blocks.columns // isa.columns)
            assert most * threads < 1.5 * tiles, (isa.name, threads, m, k, n)


def test_long_products_have_blocks_to_hand_out() -> None:
    """In two halves of a millisecond each, a product would wait for a core that has something else to do."""
    for isa, n in itertools.product(ALL_SETS, (1024, 1500, 2048)):
        blocks = choose_blocks(n, n, n, isa, 1, 2)
        assert count_blocks((1, n, n), blocks) >= 8
        assert blocks.rows * blocks.columns * n < 6 * SHORT_CODES


def test_small_products_are_one_block() -> None:
    for isa in ALL_SETS:
        assert count_blocks((1, 64, 64), choose_blocks(64, 64, 64, isa, 1, 64)) == 1


def test_int32_holds_what_is_not_deep() -> None:
    """Unsigned codes times signed ones, at their ends."""
    assert EXACT_DEPTH * 255 * 128 < 2**31
