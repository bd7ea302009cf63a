"""The choice of a product's kernel: what is legal, what costs what, and what `gpuq info --tiles` prints of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from gpuq.cli import main
from gpuq.cli.tiles import PARTS
from gpuq.cuda import driver
from gpuq.cuda.blocking import Candidate, Problem, candidates, choose_tile, resident_blocks
from gpuq.cuda.hardware import REPRESENTATIVES, Hardware, memory_rate, representative
from gpuq.cuda.tiles import AMPERE_TILES, EXACT_DEPTH, FEW, TURING_TILES, Tile
from shapes import MATMUL

CAPABILITIES = list(REPRESENTATIVES)
SQUARES = [64, 256, 1024, 4096, 8192]
A100 = REPRESENTATIVES[8, 0]


def listed(m: int, k: int, n: int, capability: tuple[int, int], **changes: Any) -> list[Candidate]:
    return candidates(Problem(m, k, n), capability, representative(capability)._replace(**changes))


def chosen(m: int, k: int, n: int, capability: tuple[int, int], batch: int = 1) -> Candidate:
    problem, card = Problem(m, k, n, batch), representative(capability)
    return min(candidates(problem, capability, card), key=lambda each: each.cycles)


# ---- what is legal ----


@pytest.mark.parametrize("capability", CAPABILITIES)
def test_every_product_has_a_kernel(capability: tuple[int, int]) -> None:
    for m, k, n in [(1, 1, 1), (17, 1, 17), (1, 10**6, 1), (100, 10**6, 100), (10**6, 33, 17), (17, 10**9, 17)]:
        assert chosen(m, k, n, capability) in listed(m, k, n, capability)


def test_tiles_are_those_of_the_capability() -> None:
    assert {each.tile for each in listed(500, 512, 500, (7, 5))} == set(TURING_TILES)
    assert {each.tile for each in listed(500, 512, 500, (8, 0))} == set(AMPERE_TILES)


def test_a_tile_that_a_block_has_no_memory_for_is_left_out() -> None:
    """(128 + 256) · (128 · 3 + 32) bytes are 156 KiB: more than the 99 KiB of 8.6, 8.9 and 12.0; so are the 104 and
    the 102 of two others.
    """
    large = Tile(128, 256, 128, 3, 64, 64)
    wide = {large, Tile(128, 128, 128, 3, 64, 64), Tile(128, 64, 128, 4, 64, 32)}
    assert wide < set(AMPERE_TILES)
    assert {each.tile for each in listed(500, 512, 500, (8, 6))} == set(AMPERE_TILES) - wide
    assert {each.tile for each in listed(500, 512, 500, (8, 0), shared_bytes=156 << 10)} == set(AMPERE_TILES)
    assert large not in {each.tile for each in listed(500, 512, 500, (8, 0), shared_bytes=(156 << 10) - 1)}


def test_dot_products_are_for_few_rows_or_columns() -> None:
    """They are beside the tiles; alone before 8.0, whose tiles are all large, and where sums leave int32."""
    for m, n in ((1, 999), (FEW, 999), (999, FEW)):
        assert {each.tile for each in listed(m, 512, n, (8, 0))} == {None, *AMPERE_TILES}
        assert [each.tile for each in listed(m, 512, n, (7, 5))] == [None]
        assert [each.tile for each in listed(m, EXACT_DEPTH + 1, n, (8, 0))] == [None]
    assert None not in {each.tile for each in listed(FEW + 1, 512, FEW + 1, (8, 0))}


def test_deep_products_are_for_one_tile() -> None:
    """int32 sums hold EXACT_DEPTH products of any codes; one tile has registers for int64 sums beside them."""
    assert {each.tile for each in listed(100, EXACT_DEPTH, 100, (8, 0))} == set(AMPERE_TILES)
    assert {each.tile for each in listed(100, EXACT_DEPTH + 1, 100, (8, 0))} == {AMPERE_TILES[-1]}


# ---- what costs what ----


def test_costs_of_a_tile_by_hand() -> None:
    """512 × 512 × 512 in 64 × 64 × 128 on an A100: 64 blocks, each on its own, of 4 slabs of 524,288 products and
    16 KiB, three of which are on their way. A warp's 32 rows and 32 columns of a slab are 8 KiB of fragments.
    """
    (found,) = (each for each in listed(512, 512, 512, (8, 0)) if str(each) == "64x64x128")
    assert found.blocks == 64
    assert found.start == pytest.approx(2e-6 * 1.41e9)
    assert found.fill == 3000
    assert found.tensor == 4 * 64 * 64 * 128 / 2048
    assert found.shared == 4 * (4 * 8192 + 16384) / 160
    assert found.cache == (4 * 16384 + 64 * 64 * 4) / 48
    assert found.latency == 4 * 1200 / 3
    assert found.memory == pytest.approx((2 * 512 * 512 + 4 * 512 * 512) / (1555 / 1.41))
    slowest = found.cache
    others = found.tensor + found.shared + found.memory + found.latency
    assert found.cycles == pytest.approx(found.start + found.fill + slowest + 0.2 * others)


def test_a_multiprocessor_with_one_block_more_decides() -> None:
    """108 tiles are one for each multiprocessor of an A100, 109 two for one of them."""
    one, two = (
        next(each for each in listed(64 * count, 512, 64, (8, 0)) if str(each) == "64x64x128") for count in (108, 109)
    )
    assert (one.blocks, two.blocks) == (108, 109)
    assert two.tensor == 2 * one.tensor


def test_a_kernel_that_adds_rows_up_costs_what_a_kernel_costs() -> None:
    """1024³ with zero points took 10.2 µs by a tile that needs one, and 7.1 without them: it cost nothing then."""
    problem, card = Problem(1024, 1024, 1024), representative((9, 0))
    plain, with_sums = (candidates(problem._replace(sums=sums), (9, 0), card) for sums in (False, True))
    for one, other in zip(plain, with_sums, strict=True):
        assert one.tile is not None
        more = (other.cycles - one.cycles) / card.gigahertz / 1e3
        assert more == pytest.approx(0 if one.tile.rows * one.tile.columns <= 128 * 64 else 3.71, abs=0.01)


def test_b_is_read_again_where_the_cache_cannot_keep_it() -> None:
    def memory_of(cache_bytes: int) -> float:
        found = listed(4096, 1024, 4096, (8, 0), cache_bytes=cache_bytes)
        return next(each.memory for each in found if str(each) == "128x256x64")

    bands = 4096 // 128 // 8
    assert memory_of(1 << 20) - memory_of(1 << 30) == pytest.approx((bands - 1) * 1024 * 4096 / A100.memory_bytes)


def test_blocks_on_a_multiprocessor() -> None:
    """156 KiB of the A100's 163: one block, as 82 do; two of 64 KiB, by their registers too."""
    assert [resident_blocks(tile, A100) for tile in AMPERE_TILES] == [1, 1, 1, 2, 1, 2, 1, 2, 2]


# ---- what is chosen ----


@pytest.mark.parametrize("capability", CAPABILITIES)
def test_large_squares_get_large_tiles(capability: tuple[int, int]) -> None:
    tiles = [chosen(size, size, size, capability).tile for size in SQUARES]
    areas = [tile.rows * tile.columns for tile in tiles if tile is not None]
    assert len(areas) == len(SQUARES)
    assert areas[0] <= 64 * 64
    assert areas[-1] == 128 * 256


@pytest.mark.parametrize("capability", CAPABILITIES)
def test_the_tile_that_is_chosen_is_the_cheapest(capability: tuple[int, int]) -> None:
    for size in (17, *SQUARES):
        problem = Problem(size, size, size)
        assert choose_tile(problem, capability, representative(capability)) == chosen(*problem[:3], capability).tile


@pytest.mark.parametrize("capability", CAPABILITIES)
def test_one_row_gets_what_wastes_few(capability: tuple[int, int]) -> None:
    """Dot products, or a tile of few rows or columns, of which a slab has many codes."""
    for m, n in ((1, 4096), (4096, 1)):
        tile = chosen(m, 4096, n, capability).tile
        assert tile is None or min(tile.rows, tile.columns) <= 64


@pytest.mark.parametrize("capability", CAPABILITIES)
def test_estimates_grow_with_the_product(capability: tuple[int, int]) -> None:
    costs = [chosen(size, size, size, capability).cycles for size in SQUARES]
    assert costs == sorted(costs)


def test_unknown_capabilities_are_taken_for_the_one_before() -> None:
    assert representative((8, 7)) is REPRESENTATIVES[8, 6]
    assert representative((12, 1)) is REPRESENTATIVES[12, 0]


def test_a_device_says_how_fast_its_memory_is(emulate: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """An H200 was taken for an H100, whose memory gives two thirds: 64 × 11008 × 4096 had a tile 19 % slower."""
    assert memory_rate(3_201_000, 6144) == pytest.approx(4917, abs=1)
    emulate((9, 0))
    assert driver.device(0).hardware.gigabytes_per_second == REPRESENTATIVES[9, 0].gigabytes_per_second
    emulated = emulate((9, 0))
    monkeypatch.setattr(emulated, "memory_clock", 3_201_000, raising=False)
    assert driver.device(0).hardware.gigabytes_per_second == memory_rate(3_201_000, 256)
    h200 = REPRESENTATIVES[9, 0]._replace(gigabytes_per_second=memory_rate(3_201_000, 6144))
    assert str(choose_tile(Problem(64, 11008, 4096), (9, 0), h200)) == "32x32x256"


def test_every_shape_of_the_tests_has_a_choice() -> None:
    for m, k, n in MATMUL:
        if m * k * n:
            assert chosen(m, k, n, (8, 0)).cycles > 0


# ---- the command ----


def test_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", "--tiles", "128x4096x64", "--cc", "8.0"]) == 0
    head, note, empty, titles, *rows = capsys.readouterr().out.splitlines()
    assert head.startswith("128x4096x64 on A100, compute capability 8.0: 108 multiprocessors, 163 KiB ")
    assert "the first kernel is chosen" in note
    assert empty == ""
    assert titles.split() == ["kernel", "blocks", *PARTS, "total"]
    assert len({len(line) for line in (titles, *rows)}) == 1
    assert rows[0].startswith(str(chosen(128, 4096, 64, (8, 0))) + " ")
    totals = [float(row.split()[-1]) for row in rows]
    assert totals == sorted(totals)


def test_the_command_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", "--tiles", "1x4096x4096", "--cc", "9.0", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["problem"] == {"m": 1, "k": 4096, "n": 4096, "batch": 1, "sums": False}
    assert found["compute_capability"] == "9.0"
    assert Hardware(**found["hardware"]) == REPRESENTATIVES[9, 0]
    assert found["candidates"][0]["kernel"] == "16x32x256"
    assert len(found["candidates"]) == len(listed(1, 4096, 4096, (9, 0)))


def test_without_a_capability_the_device_is_asked(
    emulate: Callable[..., Any], capsys: pytest.CaptureFixture[str]
) -> None:
    emulate((8, 9))
    assert main(["info", "--tiles", "500x500x500"]) == 0
    assert capsys.readouterr().out.startswith("500x500x500 on Emulated 8.9, compute capability 8.9: 4 multiprocessors")


@pytest.mark.parametrize("text", ["128", "128x128", "0x1x1", "1x1x1x1", "1x-1x1", "axbxc"])
def test_what_is_no_shape(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["info", "--tiles", text, "--cc", "8.0"])
    assert caught.value.code == 2
    assert f"got '{text}'; accepted: sizes m, k, n" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["7.0", "8", "x"])
def test_what_is_no_capability(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["info", "--tiles", "1x1x1", "--cc", text])
    assert f"got '{text}'; accepted: 7.5, 8.0" in capsys.readouterr().err
