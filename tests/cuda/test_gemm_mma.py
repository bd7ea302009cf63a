"""The tensor-core GEMM on emulated devices: every tile, mix of signs and finish, exact whatever the shape."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from compare import assert_same
from devices import CAPABILITIES
from gpuq import reference
from products import MIXES, arguments, operands
from runner import Runner
from values import codes

pytest.importorskip("numba_cuda", reason="needs the package numba-cuda")

from emulated import download, upload  # noqa: E402
from gpuq.cuda import driver, products  # noqa: E402
from gpuq.cuda.gemm_mma import tile_kernel  # noqa: E402
from gpuq.cuda.mma_loop import AMPERE, TURING  # noqa: E402
from gpuq.cuda.mma_places import blocks_of, place_of  # noqa: E402
from gpuq.cuda.tiles import AMPERE_TILES, BAND, TURING_TILES, Tile  # noqa: E402
from gpuq.errors import DeviceError  # noqa: E402

Emulate = Callable[..., Any]
MOST_SHARED = {(7, 5): 64 << 10, (8, 0): 163 << 10, (9, 0): 227 << 10, (12, 0): 99 << 10}
LAST, LARGE = AMPERE_TILES[-1], Tile(128, 256, 64, 3, 64, 64)
TILES = [  # 9.0 has the PTX of 8.0
    (capability, tile)
    for capability in CAPABILITIES
    for tile in (AMPERE_TILES if capability >= AMPERE else TURING_TILES)
    if tile.block_bytes <= MOST_SHARED[capability] and (capability != (9, 0) or tile in (LAST, LARGE))
]


def of_tile(monkeypatch: pytest.MonkeyPatch, tile: Tile) -> None:
    """Let all products go by this tile, and by nothing else."""
    monkeypatch.setattr(products, "_tile", lambda *_: tile)


# ---- results ----


@pytest.mark.parametrize(("capability", "tile"), TILES, ids=str)
def test_ragged_shapes(emulate: Emulate, capability: Any, tile: Tile, monkeypatch: pytest.MonkeyPatch) -> None:
    """A whole tile, a row and a column more or less, few; k of no slab, one and more than the stages, ragged."""
    emulate(capability)
    of_tile(monkeypatch, tile)
    rng = np.random.default_rng(0)
    shapes = [
        (tile.rows, 5 * tile.depth, tile.columns),
        (tile.rows + 1, tile.depth + 16, tile.columns + 1),
        (tile.rows - 1, 1, tile.columns - 1),
        (17, 3 * tile.depth - 5, 18),
        (1, 32, 20),
        (20, 0, 3),
        *((18, 6 * tile.depth + 16, 20),) * 2,
    ]
    for number, (m, k, n) in enumerate(shapes):
        mix = MIXES[number % len(MIXES)]
        a, b = operands(rng, mix, (m, k), (k, n))
        points = codes(rng, mix[0], (m,)), codes(rng, mix[1], (n,))
        Runner("cuda").check("matmul_integer", a, np.asfortranarray(b), *points, what=f"{mix} {m} {k} {n}")


@pytest.mark.parametrize("capability", [(7, 5), (8, 0)], ids=str)
def test_extreme_codes(emulate: Emulate, capability: Any) -> None:
    """The largest and the smallest sums, in every mix of signs; to the depth that int32 just holds and beyond, which
    take the emulator longest, in two of them.
    """
    emulate(capability)
    for mix, k in zip(MIXES, (2_048, 33_025, 32_769, 2_048), strict=True):
        a, b = (np.full((20, k), np.iinfo(kind).max, kind) for kind in mix)
        a[::2], b[::3] = np.iinfo(mix[0]).min, np.iinfo(mix[1]).min
        Runner("cuda").check("matmul_integer", a, b.T, a[::-1, 0], b[:, 0], what=f"{mix} {k}")


@pytest.mark.parametrize(
    ("tile", "name"), [(LAST, "scaled_matmul"), (LAST, "qlinear_matmul"), (LARGE, "qlinear_matmul")], ids=str
)
def test_finishes(emulate: Emulate, tile: Tile, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Scaled and requantized results of whole and ragged tiles, rows aligned for whole accesses and not."""
    emulate()
    of_tile(monkeypatch, tile)
    rng = np.random.default_rng(1)
    for m, k, n in ((tile.rows, 64, tile.columns), (tile.rows + 3, 96, tile.columns + 7), (33, 20, 36)):
        for rows, columns in (((m,), (n,)), ((), ())):
            a, b = operands(rng, ("uint8", "int8"), (m, k), (k, n))
            given = arguments(rng, name, a, b, rows, columns)
            Runner("cuda").check(name, **given)
            if name == "scaled_matmul":
                bias = rng.normal(0, 9, n).astype(np.float32)
                Runner("cuda").check(name, **given, bias=bias, activation="relu", dtype="float16")
            else:
                bias = rng.integers(-1000, 1000, n).astype(np.int32)
                Runner("cuda").check(name, **given, bias=bias, activation="relu6", rounding="half_away")


@pytest.mark.parametrize("mix", MIXES, ids="-".join)
def test_unsigned_codes_stay_as_they_are(emulate: Emulate, mix: tuple[str, str]) -> None:
    """Without zero points nobody asks for sums: rows that can be read in place are multiplied by one kernel."""
    emulated = emulate()
    rng = np.random.default_rng(2)
    a, b = operands(rng, mix, (40, 64), (64, 32))
    there = [upload(emulated, each) for each in (a, np.asfortranarray(b))]
    Runner("cuda")("matmul_integer", *there)
    assert len(emulated.launches) == 1


def test_rows_of_b_are_crossed_by_tiles(emulate: Emulate) -> None:
    """Packing takes a byte at a time there: 4096 x 4096 codes took longer than a product with 32 rows."""
    emulated = emulate()
    rng = np.random.default_rng(2)
    a, b = operands(rng, ("uint8", "int8"), (40, 64), (64, 48))
    result = Runner("cuda")("matmul_integer", upload(emulated, a), upload(emulated, b), 3, -2)
    assert_same(download(emulated, result), reference.matmul_integer(a, b, 3, -2))
    transposed, *others = emulated.launches
    assert "transpose" in transposed
    assert not any("pack" in name for name in others)


# ---- tiles and blocks ----


@pytest.mark.parametrize("down", [1, 2, 7, 8, 9, 16, 21])
def test_every_tile_has_a_block(down: int) -> None:
    """One in each matrix; blocks go down a band of BAND tiles before they go across."""
    tile = LAST
    for across in (1, 2, 5):
        count, blocks = blocks_of(tile, down * tile.rows - 3, across * tile.columns - 3)
        assert count == down * across
        places = [tuple(int(each) for each in place_of(np.int32(block), blocks)) for block in range(2 * count)]
        expected = {(matrix, i, j) for matrix in range(2) for i in range(down) for j in range(across)}
        assert set(places) == expected
        height = min(down, BAND)
        assert [place[1] for place in places[:height]] == list(range(height))
        assert {place[2] for place in places[:height]} == {0}


def test_shared_memory_holds_what_is_staged() -> None:
    """16 rows of each warp's sums with 8 words between them, twice if deep: it was more than the slabs of the deep
    kernel of 7.5 take, and two warps would have met.
    """
    for since, tiles in ((AMPERE, AMPERE_TILES), (TURING, TURING_TILES)):
        for tile in tiles:
            for deep in {False, tile == tiles[-1]}:
                kernel = tile_kernel(tile, "int32", since, deep)
                assert kernel.shared_bytes >= tile.block_bytes
                warps = kernel.threads // 32 // tile.slices
                staged = warps * 16 * (tile.warp_columns + 8) * 4 * (1 + deep)
                joined = (tile.slices - 1) * warps * tile.warp_rows * tile.warp_columns * 4
                assert kernel.shared_bytes >= staged + joined + tile.parameter_bytes


def test_more_shared_memory_is_asked_for(emulate: Emulate, monkeypatch: pytest.MonkeyPatch) -> None:
    """A function gets 48 KB unless it was told otherwise; it may be told what a block of the device can have."""
    emulated = emulate()
    of_tile(monkeypatch, LARGE)
    assert LARGE.shared_bytes > 48 << 10
    asked: list[int] = []
    ask = emulated.cuFuncSetAttribute
    monkeypatch.setattr(emulated, "cuFuncSetAttribute", lambda *given: (asked.append(given[2]), ask(*given))[1])
    a, b = operands(np.random.default_rng(3), ("int8", "int8"), (20, 16), (16, 20))
    Runner("cuda").check("matmul_integer", a, b)
    Runner("cuda").check("matmul_integer", a, b)
    assert asked == [LARGE.block_bytes]
    function, limit = next(iter(driver.device(0)._functions.values())), driver.device(0).most_shared
    attribute = emulated.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
    assert ask(function, attribute, limit) == (emulated.CUresult.CUDA_SUCCESS,)
    assert ask(function, attribute, limit + 1) == (emulated.CUresult.CUDA_ERROR_INVALID_VALUE,)


def test_without_it_the_launch_is_refused(emulate: Emulate, monkeypatch: pytest.MonkeyPatch) -> None:
    emulated = emulate()
    of_tile(monkeypatch, LARGE)
    monkeypatch.setattr(emulated, "cuFuncSetAttribute", lambda *_: (emulated.CUresult.CUDA_SUCCESS,))
    a, b = operands(np.random.default_rng(3), ("int8", "int8"), (20, 16), (16, 20))
    with pytest.raises(DeviceError, match="cuLaunchKernel: CUDA_ERROR_INVALID_VALUE"):
        Runner("cuda")("matmul_integer", a, b)


def test_a_tile_that_does_not_fit_is_refused_by_name(emulate: Emulate, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before anything is compiled; the plan chooses none such."""
    emulate((8, 6))
    of_tile(monkeypatch, AMPERE_TILES[0])
    a, b = operands(np.random.default_rng(3), ("int8", "int8"), (20, 16), (16, 20))
    with pytest.raises(DeviceError, match=r"gemm_mma_int32_128x256x128 needs 159744 bytes .* has 101376"):
        Runner("cuda")("matmul_integer", a, b)
