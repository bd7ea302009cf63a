"""`linear` against its definition, bit for bit, in every granularity of the weight, type of x and activation."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import gpuq
from compare import assert_same, assert_within_ulp
from gpuq import reference
from gpuq.cpu import threads
from gpuq.cpu.isa import available
from gpuq.dtypes import numpy_dtype
from layouts import INPUT_LAYOUTS
from refusals import assert_says

Array = npt.NDArray[Any]
GRAINS: list[tuple[int | None, int]] = [(None, 0), (1, 0), (0, 32), (0, 7), (0, 1), (0, 500)]
TYPES = ("int8", "uint8", "int4", "uint4")


def activations_of(rng: np.random.Generator, shape: tuple[int, ...], real: str = "float32") -> Array:
    """Rows of every magnitude; among them zeros, and what is not finite."""
    x = rng.normal(size=shape) * np.exp(rng.normal(0, 2, (*shape[:-1], 1)))
    flat = x.reshape(-1, shape[-1])
    if len(flat) > 3 and shape[-1] > 3:
        flat[1] = 0
        flat[2, :3] = np.nan, np.inf, -np.inf
        flat[3] = np.round(flat[3])  # exact ties where the scale is a power of two
        flat[3, 0] = 127
    return x.astype(numpy_dtype(real))


def weight_of(rng: np.random.Generator, dtype: str, axis: int | None, block_size: int, k: int = 70, n: int = 33) -> Any:
    return gpuq.quantize(rng.normal(0.1, 1, (k, n)).astype(np.float32), dtype, axis=axis, block_size=block_size)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize(("axis", "block_size"), GRAINS)
def test_every_granularity_and_type(axis: int | None, block_size: int, dtype: str) -> None:
    rng = np.random.default_rng(1)
    weight = weight_of(rng, dtype, axis, block_size)
    bias = rng.normal(size=33).astype(np.float32)
    for step, real in enumerate(("float32", "float16", "bfloat16")):
        x, activation = activations_of(rng, (17, 70), real), (None, "relu", "relu6")[step]
        for given in (weight, weight.prepack()):
            actual = gpuq.linear(x, given, bias, activation=activation)
            assert_same(actual, reference.linear(x, weight, bias, activation=activation), f"{real} {given!r}")
    assert_same(gpuq.linear(x, weight), reference.linear(x, weight))


@pytest.mark.parametrize("activation", ["gelu", "silu"])
def test_curved_activations(activation: str) -> None:
    rng = np.random.default_rng(2)
    for axis, block_size in GRAINS[:3]:
        weight, x = weight_of(rng, "int8", axis, block_size), activations_of(rng, (9, 70))
        expected = reference.linear(x, weight, 0.5, activation=activation)
        assert_within_ulp(gpuq.linear(x, weight, 0.5, activation=activation), expected, 4)


@pytest.mark.parametrize("shape", [(70,), (1, 70), (2, 3, 70), (0, 70), (2, 0, 70), (1, 1, 1, 70)])
def test_leading_axes(shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(3)
    for axis, block_size in GRAINS[:3]:
        weight, x = weight_of(rng, "uint8", axis, block_size), activations_of(rng, shape)
        assert_same(gpuq.linear(x, weight), reference.linear(x, weight))
        assert gpuq.linear(x, weight, activations="float").shape == (*shape[:-1], 33)


def test_sizes_of_nothing() -> None:
    for k, n in ((0, 4), (4, 0), (1, 1)):
        for axis, block_size in GRAINS[:3]:
            weight = weight_of(np.random.default_rng(4), "int8", axis, block_size, k, n)
            x = np.ones((3, k), np.float32)
            for given in (weight, weight.prepack()):
                assert_same(gpuq.linear(x, given, 2.0), reference.linear(x, weight, 2.0))
                assert gpuq.linear(x, given, 2.0, activations="float").shape == (3, n)


def test_rows_in_words() -> None:
    """The scale of a row is absmax / 127; −inf takes the lowest code, +inf the highest, NaN none."""
    identity = gpuq.QTensor(np.eye(4, dtype=np.int8), 1.0)
    x = np.float32([[127, -63.5, 0.5, 1.5], [np.inf, -np.inf, np.nan, 254], [0, -0.0, 0, 0]])
    assert_same(gpuq.linear(x, identity), np.float32([[127, -64, 0, 2], [254, -256, 0, 254], [0, 0, 0, 0]]))


@pytest.mark.parametrize("layout", INPUT_LAYOUTS)
def test_layouts(layout: str) -> None:
    rng = np.random.default_rng(5)
    for real in ("float32", "bfloat16"):
        x = INPUT_LAYOUTS[layout](activations_of(rng, (5, 70), real))
        for axis, block_size in GRAINS[:3]:
            weight = weight_of(rng, "int8", axis, block_size)
            assert_same(gpuq.linear(x, weight), reference.linear(x, weight))
            other = gpuq.QTensor(np.asfortranarray(weight.data), weight.scale, weight.zero_point, axis, block_size)
            assert_same(gpuq.linear(x, other), reference.linear(x, weight))


def test_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut into pieces, in both ways: the same bits."""
    rng = np.random.default_rng(6)
    x, weight = activations_of(rng, (900, 400)), weight_of(rng, "int4", 0, 64, 400, 64)
    expected = reference.linear(x, weight)
    for number in (1, 3):
        monkeypatch.setattr(threads, "_limit", number)
        assert_same(gpuq.linear(x, weight), expected)


# ---- activations="float" ----


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize(("axis", "block_size"), GRAINS)
def test_real_activations(axis: int | None, block_size: int, dtype: str) -> None:
    """x times the dequantized weight within the bound of float32 sums, for few rows and for many."""
    rng = np.random.default_rng(7)
    weight = weight_of(rng, dtype, axis, block_size, 300, 70)
    wide = weight.dequantize(np.float64)
    for rows in (1, 3, 8, 9, 40):
        x = rng.normal(size=(rows, 300)).astype(np.float32)
        bound = 300 * 2.0**-23 * (np.abs(x).astype(np.float64) @ np.abs(wide)) + 1e-6
        for given in (weight, weight.prepack()):
            y = gpuq.linear(x, given, 0.25, activations="float")
            assert y.dtype == np.float32
            assert np.all(np.abs(y - (x.astype(np.float64) @ wide + 0.25)) <= bound)
        assert np.all(gpuq.linear(x, weight, activation="relu", activations="float") >= 0)


def test_what_ran_is_told() -> None:
    """That of an unpacked weight was its packing."""
    weight = gpuq.quantize(np.eye(8, dtype=np.float32), "int8", axis=1)
    for given in (weight, weight.prepack()):
        gpuq.linear(np.ones((2, 8), np.float32), given, activations="float")
        path = gpuq.last_path()
        assert path is not None
        assert path.device == "cpu"
        assert available() == ("portable",) or path.kernel == "linear"


def test_real_activations_on_several_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(8)
    x, weight = rng.normal(size=(2, 500)).astype(np.float32), weight_of(rng, "int8", 0, 32, 500, 3000)
    results = []
    for number in (1, 3):
        monkeypatch.setattr(threads, "_limit", number)
        results.append(gpuq.linear(x, weight, activations="float"))
    assert_same(results[0], results[1])


# ---- kinds of arrays, devices ----


def test_tensors() -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    rng = np.random.default_rng(9)
    x = activations_of(rng, (2, 5, 70))
    for axis, block_size in GRAINS[:3]:
        weight = weight_of(rng, "uint4", axis, block_size)
        own = gpuq.QTensor(
            torch.from_numpy(weight.data.astype(np.uint8)), weight.scale, weight.zero_point.astype(np.uint8), axis,
            block_size, "uint4",
        )
        for dtype in (torch.float32, torch.bfloat16):
            given = torch.from_numpy(x).to(dtype)
            expected = reference.linear(given.float().numpy(), weight)
            packed = own.prepack()
            assert available() == ("portable",) or len(packed.parts) == 1
            for each in (weight, own, packed):
                y = gpuq.linear(given, each, torch.zeros(33))
                assert isinstance(y, torch.Tensor)
                assert y.dtype == dtype
                assert_same(y.float().numpy(), torch.from_numpy(expected).to(dtype).float().numpy())
                assert gpuq.linear(given, each, activations="float").dtype == dtype


def test_on_a_gpu() -> None:
    """With the weight there or here, by columns and by blocks."""
    pytest.importorskip("numba_cuda", reason="needs the package numba-cuda")
    from devices import runner_on
    from emulated import Call
    from gpuq.transfer import to_host

    rng = np.random.default_rng(10)
    x, bias = activations_of(rng, (2, 3, 70)), rng.normal(size=33).astype(np.float32)
    with runner_on((8, 0)) as runner:
        there = Call(runner.driver, (x, bias), {}).arguments  # type: ignore[attr-defined]
        for axis, block_size in GRAINS[:3]:
            weight = weight_of(rng, "int8", axis, block_size)
            expected = reference.linear(x, weight, bias, activation="relu")
            for each in (weight, weight.to("cuda"), weight.to("cuda").prepack()):
                y = gpuq.linear(*there[:1], each, there[1], activation="relu")
                assert not isinstance(y, np.ndarray)
                assert_same(to_host(y), expected)
        assert_same(gpuq.linear(x, weight.to("cuda"), bias, activation="relu"), expected)
        halves = activations_of(rng, (5, 64), "bfloat16")
        weight = weight_of(rng, "int8", 1, 0, 64)
        (given,) = Call(runner.driver, (halves,), {}).arguments  # type: ignore[attr-defined]
        assert_same(to_host(gpuq.linear(given, weight.to("cuda"))), reference.linear(halves, weight))


def test_rows_on_a_gpu_in_any_layout() -> None:
    """Backwards, strided, transposed, one row for all, a vector, and rows of nothing, of one number and of a quad."""
    pytest.importorskip("numba_cuda", reason="needs the package numba-cuda")
    from devices import runner_on
    from emulated import upload
    from gpuq.transfer import to_host

    rng = np.random.default_rng(12)
    x = activations_of(rng, (6, 64))
    layouts = [x[::-1], x[:, ::-1], np.repeat(x, 2, 1)[:, ::2], np.asfortranarray(x), np.broadcast_to(x[:1], x.shape)]
    with runner_on((8, 0)) as runner:
        for given in (*layouts, x[0], *(x[:, :k] for k in (0, 1, 4))):
            weight = gpuq.quantize(rng.normal(0, 1, (given.shape[-1], 5)).astype(np.float32), "int8")
            there = upload(runner.driver, given)  # type: ignore[attr-defined]
            expected = reference.linear(given, weight, 1.5)
            assert_same(to_host(gpuq.linear(there, weight.to("cuda"), 1.5)), expected, f"{given.shape} {given.strides}")


@pytest.mark.parametrize("real", ["float32", "float16"])
def test_rows_are_quantized_on_the_gpu(real: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """x was read back for the scales of its rows: a layer waited for the GPU twice, and moved x twice. Two kernels do,
    three where rows are no whole chunks and have to be packed, and where x is strided one more.
    """
    pytest.importorskip("numba_cuda", reason="needs the package numba-cuda")
    from devices import runner_on
    from emulated import upload
    from gpuq.transfer import to_host

    rng = np.random.default_rng(11)
    with runner_on((8, 0)) as runner:
        emulated = runner.driver  # type: ignore[attr-defined]
        for k, strided, launches in ((96, False, 2), (70, False, 3), (64, True, 3), (1, False, 3), (2052, False, 3)):
            weight = weight_of(rng, "int8", 1, 0, k)
            packed = weight.to("cuda").prepack()
            x = activations_of(rng, (2, 9, k), real)
            x = x[:, ::2] if strided else x
            there, before = upload(emulated, x), len(emulated.launches)
            with monkeypatch.context() as patch:
                patch.setattr(emulated, "cuStreamSynchronize", lambda number: pytest.fail("waits"))
                y = gpuq.linear(there, packed, 0.5, activation="relu")
            assert len(emulated.launches) - before == launches, k
            assert_same(to_host(y), reference.linear(x, weight, 0.5, activation="relu"), f"{real} {k}")
        scale = weight.to("cuda").scale  # it was waited for: no call that a graph captures has to wait for it again
        assert scale.__cuda_array_interface__["stream"] is None
        empty = upload(emulated, np.ones((0, 96), np.float32))
        assert gpuq.linear(empty, weight_of(rng, "int8", None, 0, 96).to("cuda")).shape == (0, 33)


# ---- refusals ----

WEIGHT = gpuq.QTensor(np.ones((4, 3), np.int8), 0.5)


@pytest.mark.parametrize(
    ("changes", "error", "argument"),
    [
        ({"x": np.zeros((2, 4))}, TypeError, "x"),
        ({"x": [[1.0] * 4]}, TypeError, "x"),
        ({"x": np.zeros((2, 3), np.float32)}, ValueError, "x"),
        ({"x": np.float32(1)}, ValueError, "x"),
        ({"x": np.full((2, 4), 1e-37, np.float32), "weight": gpuq.QTensor(WEIGHT.data, 1e-3)}, ValueError, "x"),
        ({"weight": WEIGHT.data}, TypeError, "weight"),
        ({"weight": gpuq.prepack(WEIGHT.data)}, TypeError, "weight"),
        ({"weight": gpuq.QTensor(np.ones((4, 3), np.int16), 0.5)}, TypeError, "weight"),
        ({"weight": gpuq.QTensor(np.ones(4, np.int8), 0.5)}, ValueError, "weight"),
        ({"weight": gpuq.QTensor(WEIGHT.data, [1.0] * 4, axis=0)}, ValueError, "weight"),
        ({"weight": gpuq.QTensor(WEIGHT.data, np.ones((4, 2)), axis=1, block_size=2)}, ValueError, "weight"),
        ({"bias": np.zeros(4, np.float32)}, ValueError, "bias"),
        ({"bias": np.zeros(3, np.int32)}, TypeError, "bias"),
        ({"activation": "tanh"}, ValueError, "activation"),
        ({"activations": "int4"}, ValueError, "activations"),
        ({"activations": None}, ValueError, "activations"),
    ],
)
def test_refusals(changes: dict[str, Any], error: type[Exception], argument: str) -> None:
    valid = {"x": np.ones((2, 4), np.float32), "weight": WEIGHT}
    with pytest.raises(error) as caught:
        gpuq.linear(**{**valid, **changes})
    assert_says(str(caught.value), argument, "", "")
