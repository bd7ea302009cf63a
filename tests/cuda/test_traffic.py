"""What the kernels move on their main paths: whole sectors of global memory, 16 bytes at a time, no bank conflict."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import gpuq
from gpuq import calibration
from gpuq.dtypes import QUANTIZED, REAL, numpy_dtype

pytest.importorskip("numba_cuda", reason="needs the package numba-cuda")

from emulated import DlpackArray, InterfaceArray, download, upload  # noqa: E402
from gpuq.cuda import products  # noqa: E402
from gpuq.cuda.lanes import SECTOR  # noqa: E402
from gpuq.cuda.tiles import AMPERE_TILES, THREADS, TILE, TURING_TILES, WARP, Tile  # noqa: E402

COUNT = 3 * TILE
HALVES_AND_SINGLES = ("float32", "float16", "bfloat16")
Emulate = Callable[..., Any]


def there(emulated: Any, array: Any) -> Any:
    """The array on the device, aligned to 256 bytes as allocators align."""
    memory = np.empty(array.nbytes + 256, np.uint8)
    start = -memory.ctypes.data % 256
    aligned = memory[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    aligned[...] = array
    return upload(emulated, aligned, kind=DlpackArray if array.dtype.name == "bfloat16" else InterfaceArray)


def last_cost(emulated: Any, *results: Any) -> Any:
    """The counters of the last kernel, once it has run."""
    for result in results:
        download(emulated, result)
    return emulated.costs[-1][1]


def accesses(counters: Any) -> set[str]:
    """The instructions that touched global memory."""
    return {name for name in counters.opcodes if name.startswith(("ld.global", "st.global"))}


def assert_whole_sectors(counters: Any, what: str) -> None:
    assert counters.loads.needed > 0, what
    assert counters.stores.needed > 0, what
    assert counters.loads.ratio == 1, what
    assert counters.stores.ratio == 1, what


@pytest.mark.parametrize("real", [*HALVES_AND_SINGLES, "float64"])
def test_calibration(emulate: Emulate, real: str) -> None:
    """Both kernels read whole sectors of aligned channels, 16 bytes at a time; a warp one more for its bins' width."""
    emulated = emulate(counting=True)
    x = np.linspace(-9, 9, COUNT).astype(numpy_dtype(real)).reshape(3, -1)
    calibration.Percentile(axis=0).observe(there(emulated, x))
    extremes, counts = (cost for _, cost in emulated.costs)
    warps = x.shape[0] * THREADS // WARP
    assert extremes.loads.needed == extremes.loads.moved == x.nbytes
    assert counts.loads.moved == x.nbytes + warps * SECTOR
    for cost in (extremes, counts):
        assert {name for name in accesses(cost) if name.startswith("ld.global.v")}


@pytest.mark.parametrize("real", HALVES_AND_SINGLES)
def test_one_parameter_for_all(emulate: Emulate, real: str) -> None:
    emulated = emulate(counting=True)
    x = there(emulated, np.linspace(-9, 9, COUNT).astype(numpy_dtype(real)))
    q = gpuq.quantize_linear(x, 0.1, np.int8(3))
    y = gpuq.fake_quantize(x, 0.1, np.int8(3))
    r = gpuq.dequantize_linear(q, 0.1, np.int8(3), dtype=real)
    for name, result in (("quantize", q), ("fake_quantize", y), ("dequantize", r)):
        counters = last_cost(emulated, result)
        emulated.costs.pop()
        assert_whole_sectors(counters, name)
        assert all(".v4." in each for each in accesses(counters)), accesses(counters)


def test_requantizing(emulate: Emulate) -> None:
    """Sums of 33 bits take no conversion of 64 bits, which is a fraction as fast as any other instruction."""
    emulated = emulate((9, 0), counting=True)
    acc = there(emulated, np.arange(COUNT, dtype=np.int32).reshape(-1, 512))
    multiplier, bias = np.full(512, 0.01, np.float32), np.full(512, 7, np.int32)
    for given in ((0.01, 7), (there(emulated, multiplier), there(emulated, bias))):
        q = gpuq.requantize(acc, given[0], np.uint8(3), dtype="uint8", bias=given[1])
        counters = last_cost(emulated, q)
        assert_whole_sectors(counters, str(given))
        assert not any(name.startswith("cvt") and "f" in name and "64" in name for name in counters.opcodes)


@pytest.mark.parametrize("real", REAL)
@pytest.mark.parametrize("kind", [name for name in QUANTIZED if "4" not in name])
def test_every_type_moves_whole_sectors(emulate: Emulate, kind: str, real: str) -> None:
    """float64 alone takes a sector by two accesses, of 16 bytes each."""
    emulated = emulate(counting=True)
    x = there(emulated, np.linspace(-9, 9, COUNT).astype(numpy_dtype(real)))
    counters = last_cost(emulated, gpuq.quantize_linear(x, 0.1, dtype=kind, rounding="half_up"))
    assert counters.loads.ratio == (2 if real == "float64" else 1)
    assert counters.stores.ratio == 1
    q = there(emulated, np.arange(COUNT).astype(kind))
    counters = last_cost(emulated, gpuq.dequantize_linear(q, 0.1, dtype=real))
    assert counters.loads.ratio == 1
    assert counters.stores.ratio == (2 if real == "float64" else 1)


@pytest.mark.parametrize("real", HALVES_AND_SINGLES)
def test_a_parameter_per_column(emulate: Emulate, real: str) -> None:
    """Neighbouring elements with neighbouring parameters: four of them by one access of 16 bytes, for four rows."""
    emulated = emulate(counting=True)
    x = there(emulated, np.linspace(-9, 9, COUNT).astype(numpy_dtype(real)).reshape(-1, 512))
    scale = there(emulated, np.full(512, 0.1, np.float32))
    zero_point = there(emulated, np.full(512, 3, np.int8))
    for call in (
        lambda: gpuq.quantize_linear(x, scale, zero_point, axis=1),
        lambda: gpuq.fake_quantize(x, scale, zero_point, axis=1),
        lambda: gpuq.quantize_linear(x, scale, zero_point, axis=1, rounding="half_up"),
    ):
        counters = last_cost(emulated, call())
        assert_whole_sectors(counters, real)
        parameters = COUNT // 4 * 12  # scale, reciprocal, zero point
        assert counters.loads.needed == COUNT * numpy_dtype(real).itemsize + parameters


@pytest.mark.parametrize("block_size", [0, 32, 128])
@pytest.mark.parametrize("real", HALVES_AND_SINGLES)
def test_a_parameter_per_row_or_block(emulate: Emulate, real: str, block_size: int) -> None:
    """A lane of 16 elements fetches its parameters once, and all of a warp's lie within few sectors."""
    emulated = emulate(counting=True)
    x = there(emulated, np.linspace(-9, 9, COUNT).astype(numpy_dtype(real)).reshape(-1, 512))
    shape = (COUNT // 512, 512 // block_size) if block_size else (COUNT // 512,)
    scale, zero_point = there(emulated, np.full(shape, 0.1, np.float32)), there(emulated, np.full(shape, 3, np.int8))
    options = {"axis": 1, "block_size": block_size} if block_size else {"axis": 0}
    counters = last_cost(emulated, gpuq.quantize_linear(x, scale, zero_point, **options))
    assert counters.stores.ratio == 1
    narrow = {
        name: count for name, count in counters.opcodes.items() if name in accesses(counters) and "v4" not in name
    }
    assert sum(narrow.values()) == 3 * COUNT // 512  # warps


@pytest.mark.parametrize("kind", ["uint8", "float16", "float32"])
def test_a_transposed_array(emulate: Emulate, kind: str) -> None:
    """Tiles move whole sectors on both sides, 16 bytes at a time, and no two lanes meet in a bank between them."""
    emulated = emulate(counting=True)
    x = _Transposed(there(emulated, np.zeros((256, 384), kind)))
    if kind == "uint8":
        result = gpuq.dequantize_linear(x, 0.1, out=there(emulated, np.zeros((384, 256), np.float32)))
    else:
        result = gpuq.quantize_linear(x, 0.1, out=there(emulated, np.zeros((384, 256), np.uint8)))
    download(emulated, result)
    (counters,) = (cost for name, cost in emulated.costs if "transpose" in name)
    assert_whole_sectors(counters, kind)
    assert counters.shared.needed > 0
    assert counters.shared.ratio == 1
    assert all(".v4." in each for each in accesses(counters)), accesses(counters)


def test_the_range_of_an_array(emulate: Emulate) -> None:
    emulated = emulate(counting=True)
    result = gpuq.dynamic_quantize_linear(there(emulated, np.linspace(-9, 9, COUNT, dtype=np.float32)))
    last_cost(emulated, *result)
    (counters,) = (cost for name, cost in emulated.costs if "range" in name)
    assert counters.loads.ratio == 1
    assert counters.shared.ratio == 1


@pytest.mark.parametrize(
    ("capability", "tile"),
    [*(((8, 0), tile) for tile in AMPERE_TILES), *(((7, 5), tile) for tile in TURING_TILES)],
    ids=str,
)
def test_tiles_of_a_product(
    emulate: Emulate, capability: tuple[int, int], tile: Tile, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each operand's row is read once per tile beside it, whole sectors at a time; stores fill theirs; no two lanes
    meet in a bank, on the way to tensor cores and back; each slab costs one barrier.
    """
    monkeypatch.setattr(products, "_tile", lambda *_: tile)
    emulated = emulate(capability, counting=True)
    rng = np.random.default_rng(0)
    m, n = 2 * tile.rows, tile.columns
    a, b = (rng.integers(-128, 128, (rows, 5 * tile.depth)).astype(np.int8) for rows in (m, n))
    left, right = there(emulated, a), there(emulated, b)
    transposed = _Transposed(right)
    for call in (
        lambda: gpuq.matmul_integer(left, transposed),
        lambda: gpuq.scaled_matmul(left, transposed, 0.5, 0.5),
        lambda: gpuq.scaled_matmul(left, transposed, 0.5, 0.5, dtype="float16"),
        lambda: gpuq.qlinear_matmul(left, 0.5, 0, transposed, 0.5, 0, 9.0, np.int8(0)),
    ):
        counters = last_cost(emulated, call())
        assert_whole_sectors(counters, str(emulated.costs[-1][0]))
        assert counters.shared.ratio == 1
        warps, steps = 2 * tile.threads // 32, 5 * tile.depth // 32 // tile.slices
        assert counters.opcodes["bar.sync"] == warps * (1 + 5 + 1 + (tile.slices > 1))
        assert counters.loads.needed == 2 * (tile.rows + tile.columns) * 5 * tile.depth
        loads = sum(count for name, count in counters.opcodes.items() if name.startswith("ldmatrix"))
        assert loads == warps * (steps + 1) * (tile.warp_rows + tile.warp_columns) // 16
        products_made = sum(count for name, count in counters.opcodes.items() if name.startswith("mma.sync"))
        per_step = tile.warp_rows // 16 * (tile.warp_columns // 8 + tile.sums_rows(False))
        per_step *= 1 if capability >= (8, 0) else 4
        assert products_made == warps * steps * per_step


class _Transposed:
    """The transposed view of an array on a device."""

    def __init__(self, array: Any) -> None:
        known = array.__cuda_array_interface__
        self.array = array
        changed = {"shape": known["shape"][::-1], "strides": known["strides"][::-1]}
        self.__cuda_array_interface__ = {**known, **changed}


def test_few_rows_read_the_long_operand_once(emulate: Emulate, monkeypatch: pytest.MonkeyPatch) -> None:
    """Up to 4 rows of a: every byte of b is loaded by one access; a comes from the caches."""
    monkeypatch.setattr(products, "_tile", lambda *_: None)
    emulated = emulate(counting=True)
    rng = np.random.default_rng(0)
    a, b = (rng.integers(-128, 128, shape).astype(np.int8) for shape in ((4, 1024), (256, 1024)))
    counters = last_cost(emulated, gpuq.matmul_integer(there(emulated, a), _Transposed(there(emulated, b))))
    assert counters.loads.ratio == 1
    assert counters.loads.needed == b.nbytes + 256 * a.nbytes
