"""What only a real GPU tells: each operator on arrays that lie there, at sizes that fill it, has the CPU's bits.

Emulated GPUs prove kernels on small arrays, instruction by instruction; here many blocks run at once, tiles of all
kinds are chosen, and the driver is NVIDIA's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import gpuq
from compare import assert_all_same, assert_same, assert_within_ulp
from gpuq import calibration
from gpuq.cuda import driver
from gpuq.cuda.tiles import AMPERE_TILES
from gpuq.dtypes import numpy_dtype
from gpuq.transfer import to_device, to_host

pytest.importorskip("numba_cuda", reason="needs the package numba-cuda")

from gpuq.cuda import products  # noqa: E402

Array = npt.NDArray[Any]
TILES = (*AMPERE_TILES, None)
pytestmark = pytest.mark.skipif(driver.unavailable_reason() is not None, reason="needs a GPU")
REALS = ("float32", "float16", "bfloat16")
ELEMENTS = 1 << 20
PRODUCTS = (  # m, k, n
    (1, 4096, 4096),
    (16, 1000, 3001),
    (24, 4096, 4096),
    (33, 1000, 777),
    (64, 11008, 1024),
    (197, 768, 768),
    (256, 4096, 1024),
    (512, 2048, 2048),
    (1024, 1024, 1024),
    (2048, 512, 2048),
    (2049, 100, 2047),
    (128, 40_000, 96),
)
WEIGHTS = (("int8", 1, 0), ("int4", 0, 32), ("uint8", 0, 128), ("uint4", 0, 7))
LAYERS = ((1, 4096, 1024), (5, 1000, 333), (64, 2048, 512), (900, 512, 800))  # rows, in, out; the last has large tiles


def there(*values: Array) -> list[Any]:
    return [to_device(value, "cuda:0") for value in values]


def normal(shape: tuple[int, ...], real: str = "float32", seed: int = 0) -> Array:
    rng = np.random.default_rng(seed)
    x: Array = (rng.normal(0.1, 1, shape) * np.exp(rng.normal(0, 1, (*shape[:-1], 1)))).astype(numpy_dtype(real))
    return x


def codes(shape: tuple[int, ...], kind: str, seed: int = 0) -> Array:
    limits = np.iinfo(kind)
    return np.random.default_rng(seed).integers(limits.min, limits.max + 1, shape, kind)


def assert_does_the_same(operator: Callable[..., Any], *arguments: Any, **options: Any) -> None:
    """On arrays of the GPU as on those of the CPU; where calls come again they take another path."""
    expected = operator(*arguments, **options)
    given = [to_device(each, "cuda:0") if isinstance(each, np.ndarray) and each.ndim else each for each in arguments]
    for _ in range(3):
        found = operator(*given, **options)
        path = gpuq.last_path()
        assert path is not None
        assert path.device == "cuda:0"
        if isinstance(expected, tuple):
            assert_all_same(tuple(map(to_host, found)), expected)
        else:
            assert_same(to_host(found), expected, operator.__name__)


@pytest.mark.parametrize("real", REALS)
def test_quantizers(real: str) -> None:
    x, scale = normal((512, ELEMENTS // 512), real), np.float32([0.02] * 512) * np.arange(1, 513, dtype=np.float32)
    for kind in ("int8", "uint8"):
        assert_does_the_same(gpuq.quantize_linear, x, 0.03, np.dtype(kind).type(3))
        assert_does_the_same(gpuq.quantize_linear, x, scale, np.arange(512, dtype=np.uint8).astype(kind) // 4, axis=0)
        assert_does_the_same(gpuq.fake_quantize, x, 0.03, np.dtype(kind).type(3))
    assert_does_the_same(gpuq.dynamic_quantize_linear, x)


@pytest.mark.parametrize("real", REALS)
def test_dequantize(real: str) -> None:
    q, scale = codes((512, ELEMENTS // 512), "uint8"), np.linspace(0.01, 1, 512, dtype=np.float32)
    assert_does_the_same(gpuq.dequantize_linear, q, 0.03, np.uint8(3), dtype=real)
    assert_does_the_same(gpuq.dequantize_linear, q, scale, codes((512,), "uint8"), axis=0, dtype=real)


@pytest.mark.parametrize("mode", ["float", "fixed_point"])
def test_requantize(mode: str) -> None:
    sums = np.random.default_rng(0).integers(-(2**20), 2**20, (512, 2048), np.int32)
    multiplier = 0.0003 if mode == "float" else gpuq.quantize_multiplier(0.0003)
    assert_does_the_same(gpuq.requantize, sums, multiplier, np.uint8(7), dtype="uint8", mode=mode)


@pytest.mark.parametrize("shape", PRODUCTS, ids=str)
def test_products(shape: tuple[int, int, int]) -> None:
    m, k, n = shape
    for a_kind, b_kind in (("uint8", "int8"), ("int8", "uint8")):
        a, b = codes((m, k), a_kind), codes((k, n), b_kind, 1)
        assert_does_the_same(gpuq.matmul_integer, a, b, 5, codes((n,), b_kind, 2))
        expected = gpuq.matmul_integer(a, b, 5, 9)
        (on_gpu_a, on_gpu_b), columns = there(a, b), np.linspace(0.01, 0.02, n, dtype=np.float32)
        packed = gpuq.prepack(on_gpu_b, zero_point=9)
        assert_same(to_host(gpuq.matmul_integer(on_gpu_a, packed, 5)), expected)
        scaled = gpuq.scaled_matmul(on_gpu_a, packed, 0.1, *there(columns), 5, dtype="float16", activation="relu")
        assert_same(to_host(scaled), gpuq.scaled_matmul(a, b, 0.1, columns, 5, 9, dtype="float16", activation="relu"))


@pytest.mark.parametrize("place", range(len(TILES)), ids=lambda place: str(TILES[place] or "dots"))
def test_products_by_each_tile(place: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the cost model prefers: of the shapes above it gives none to three tiles, nor to dot products. Depths
    differ, as a call that comes again takes the tile of the one before.
    """
    device, tile = driver.device(0), TILES[place]
    if device.capability < (8, 0) or tile is not None and tile.block_bytes > device.hardware.shared_bytes:
        pytest.skip("this GPU has no such tile")
    monkeypatch.setattr(products, "_tile", lambda *_: tile)
    a, b = codes((700, 900 + place), "uint8"), codes((900 + place, 1100), "int8", 1)
    assert_does_the_same(gpuq.matmul_integer, a, b, 5, codes((1100,), "int8", 2))


@pytest.mark.parametrize("shape", LAYERS, ids=str)
@pytest.mark.parametrize(("dtype", "axis", "block_size"), WEIGHTS)
def test_layers(shape: tuple[int, int, int], dtype: str, axis: int, block_size: int) -> None:
    rows, k, n = shape
    weight = gpuq.quantize(normal((k, n), seed=1), dtype, axis=axis, block_size=block_size)
    on_gpu, bias = weight.to("cuda"), normal((n,), seed=2)
    for real in REALS:
        x = normal((rows, k), real)
        expected = gpuq.linear(x, weight, bias, activation="relu")
        exact = x.astype(np.float64) @ weight.dequantize(np.float64) + bias
        bound = k * 2.0**-23 * (np.abs(x.astype(np.float64)) @ np.abs(weight.dequantize(np.float64)) + np.abs(bias))
        unit = {"float32": 2.0**-24, "float16": 2.0**-11, "bfloat16": 2.0**-8}[real]
        for given in (on_gpu, on_gpu.prepack()):
            (there_x, there_bias) = there(x, bias)
            for _ in range(3):
                y = gpuq.linear(there_x, given, there_bias, activation="relu")
                assert_same(to_host(y), expected, f"{real} {given!r}")
            y = to_host(gpuq.linear(there_x, given, there_bias, activations="float")).astype(np.float64)
            assert np.all(np.abs(y - exact) <= bound + 2 * unit * np.abs(exact)), f"{real} {given!r}"


@pytest.mark.parametrize("activation", ["gelu", "silu"])
def test_curves(activation: str) -> None:
    weight, x = gpuq.quantize(normal((256, 512), seed=1), axis=1), normal((99, 256))
    y = gpuq.linear(there(x)[0], weight.to("cuda"), activation=activation)
    assert_within_ulp(to_host(y), gpuq.linear(x, weight, activation=activation), 8)


@pytest.mark.parametrize("a_grain", [(None, 0), (0, 0), (1, 0), (1, 16), (1, 7)], ids=str)
@pytest.mark.parametrize("b_grain", [(None, 0), (1, 0), (0, 0), (0, 16), (0, 7)], ids=str)
def test_products_of_tensors(a_grain: tuple[int | None, int], b_grain: tuple[int | None, int]) -> None:
    for a_kind, b_kind in (("int8", "int8"), ("uint8", "int4"), ("uint4", "uint8")):
        a = gpuq.quantize(normal((70, 400)), a_kind, axis=a_grain[0], block_size=a_grain[1])
        b = gpuq.quantize(normal((400, 130), seed=1), b_kind, axis=b_grain[0], block_size=b_grain[1])
        expected, right = a @ b, b.to("cuda")
        for given in (right, right.prepack()):
            assert_same(to_host(a.to("cuda") @ given), expected, f"{a_kind} {b_kind} {given!r}")


@pytest.mark.parametrize("axis", [None, 0, 1])
@pytest.mark.parametrize("real", [*REALS, "float64"])
def test_calibration(real: str, axis: int | None) -> None:
    x = normal((300, 5000), real)
    x[7, :3] = np.inf, -np.inf, np.nan
    for maker in (calibration.MinMax, calibration.Percentile):
        seen, expected = maker(axis=axis).observe(there(x)[0])._seen, maker(axis=axis).observe(x)._seen
        assert seen is not None
        assert expected is not None
        assert seen.ignored == expected.ignored
        for name in ("low", "high", "exponents", "counts"):
            if getattr(expected, name) is not None:
                assert_same(getattr(seen, name), getattr(expected, name), name)


def test_layers_in_a_graph_of_torch() -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    if not torch.cuda.is_available():
        pytest.skip("needs torch for a GPU")
    x = torch.randn(8, 512, device="cuda", dtype=torch.float16)
    for options, kind in ({"axis": 1}, "int8"), ({"axis": 0, "block_size": 32}, "float"):
        layer = gpuq.quantize(torch.randn(512, 256, device="cuda"), symmetric=True, **options).prepack()
        expected = [gpuq.linear(x, layer, activations=kind) for _ in range(3)][-1]
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            y = gpuq.linear(x, layer, activations=kind)
        for _ in range(3):
            y.zero_()
            graph.replay()
            assert torch.equal(y, expected)
