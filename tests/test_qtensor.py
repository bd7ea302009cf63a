"""QTensor: its invariants, what makes one, what one gives, and products whose parameters vary along k."""

from __future__ import annotations

import pickle
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import pytest

import gpuq
from compare import assert_same
from gpuq import reference
from gpuq.calibration import MSE, Entropy, MinMax, Percentile
from gpuq.dtypes import QUANTIZED, numpy_dtype
from gpuq.transfer import to_host
from refusals import assert_says

Array = npt.NDArray[Any]
RNG = np.random.default_rng(0)
X = RNG.normal(0.3, 1, (6, 40)).astype(np.float32)
GRAINS: list[tuple[int | None, int]] = [(None, 0), (0, 0), (1, 0), (1, 16), (0, 4), (-1, 7), (1, 100), (1, 1)]


def expanded(values: Any, q: Any) -> Array:
    """A parameter for every element, by the invariant (1)."""
    values = np.asarray(values)
    if q.axis is None:
        return np.broadcast_to(values, q.shape)
    index = np.arange(q.shape[q.axis]) // max(1, q.block_size)
    if q.block_size:
        return np.take(values, index, q.axis)
    shape = [1] * q.ndim
    shape[q.axis] = -1
    return np.broadcast_to(values[index].reshape(shape), q.shape)


# ---- quantize ----


@pytest.mark.parametrize("dtype", QUANTIZED)
@pytest.mark.parametrize(("axis", "block_size"), GRAINS)
def test_quantize(axis: int | None, block_size: int, dtype: str) -> None:
    """Parameters of the range of each group, codes of quantize_linear; everything in its shape and type."""
    for options in ({}, {"symmetric": True}, {"symmetric": True, "narrow_range": True}):
        q = gpuq.quantize(X, dtype, axis=axis, block_size=block_size, **options)
        assert q.dtype == numpy_dtype(dtype) == q.data.dtype == q.zero_point.dtype
        assert q.scale.dtype == np.float32
        assert q.scale.shape == q.zero_point.shape
        scale, points = expanded(q.scale, q), expanded(q.zero_point, q)
        for place in ((0, 0), (3, 15), (5, 39)):
            group = (scale == scale[place]) & (points == points[place])
            own = gpuq.choose_qparams(X[group].min(), X[group].max(), dtype, **options)
            assert (own.scale, own.zero_point) == (scale[place], points[place])
        narrow = options.get("narrow_range", False)
        expected = reference.quantize_linear(
            X, q.scale, q.zero_point, axis=q.axis or 0, block_size=q.block_size, narrow_range=narrow
        )
        assert_same(q.data, expected)
        expected = reference.dequantize_linear(q.data, q.scale, q.zero_point, axis=q.axis or 0, block_size=q.block_size)
        assert_same(q.dequantize(), expected)


@pytest.mark.parametrize(("name", "observer"), {"mse": MSE, "entropy": Entropy, "percentile": Percentile}.items())
def test_calibrations(name: str, observer: type[MinMax]) -> None:
    x = np.append(RNG.normal(size=(499, 8)), np.full((1, 8), 30.0), axis=0).astype(np.float32)
    q = gpuq.quantize(x, calibration=name)
    assert (q.scale, q.zero_point) == observer().observe(x).qparams()[:2]
    q = gpuq.quantize(x, "uint8", axis=1, calibration=name)
    assert_same(q.scale, observer(axis=1).observe(x).qparams("uint8").scale)
    q = gpuq.quantize(x, axis=0, block_size=250, calibration=name)
    assert_same(q.scale[1], observer(axis=1).observe(x[250:]).qparams().scale)


def test_more_blocks_than_are_chosen_at_once() -> None:
    x = RNG.normal(size=(90, 100)).astype(np.float32)
    q = gpuq.quantize(x, axis=1, block_size=1, symmetric=True)
    assert_same(q.scale, np.maximum(np.abs(x) / np.float64(127), 2.0**-126).astype(np.float32))


@pytest.mark.parametrize("real", ["float16", "bfloat16", "float32", "float64"])
def test_real_types_and_what_is_not_finite(real: str) -> None:
    x = X.astype(numpy_dtype(real))
    x[0, :3] = np.nan, np.inf, -np.inf
    for axis, block_size in GRAINS:
        q = gpuq.quantize(x, axis=axis, block_size=block_size)
        points = expanded(q.zero_point, q)
        assert (q.data[0, 0], q.data[0, 1], q.data[0, 2]) == (points[0, 0], 127, -128)
        error = np.abs(q.dequantize(np.float64) - x.astype(np.float64))[np.isfinite(x)]
        assert np.all(error <= 0.51 * expanded(q.scale, q)[np.isfinite(x)])


@pytest.mark.parametrize("shape", [(), (0,), (1,), (0, 3), (3, 0)])
def test_small_and_empty(shape: tuple[int, ...]) -> None:
    x = np.ones(shape, np.float32)
    assert gpuq.quantize(x).shape == shape
    for axis in range(len(shape)):
        for block_size in (0, 2):
            q = gpuq.quantize(x, axis=axis, block_size=block_size)
            assert_same(q.dequantize(), x)
            assert q.T.shape == shape[::-1]
            assert "shape" in repr(q)


# ---- the class ----


def test_parameters_take_their_shape_and_type() -> None:
    data = np.zeros((2, 3), np.int8)
    q = gpuq.QTensor(data, 0.5)
    assert_same(q.scale, np.array(0.5, np.float32))
    assert_same(q.zero_point, np.array(0, np.int8))
    q = gpuq.QTensor(data, [0.5, 1, 2], 7, axis=-1)
    assert (q.axis, q.block_size) == (1, 0)
    assert_same(q.scale, np.float32([0.5, 1, 2]))
    assert_same(q.zero_point, np.int8([7, 7, 7]))
    q = gpuq.QTensor(data, np.ones((2, 1), np.float64), axis=1, block_size=50)
    assert_same(q.zero_point, np.zeros((2, 1), np.int8))
    assert q.block_size == 3
    assert q.data is data
    assert (q.shape, q.ndim, q.nbytes, q.device) == ((2, 3), 2, 6 + 2 * 4 + 2, "cpu")


def test_repr() -> None:
    q = gpuq.QTensor(np.zeros((2, 3), np.int8), 0.5)
    assert repr(q) == "QTensor(shape=(2, 3), dtype=int8, per tensor, scale=0.5)"
    q = gpuq.QTensor(np.zeros((2, 3), np.uint8), [0.25, 0.5], axis=0)
    assert repr(q) == "QTensor(shape=(2, 3), dtype=uint8, per axis 0, scale=0.25 … 0.5)"
    q = gpuq.QTensor(np.zeros((2, 3), ml_dtypes.int4), [[0.25, 0.5], [1, 2]], axis=1, block_size=2)
    assert repr(q) == "QTensor(shape=(2, 3), dtype=int4, per block of 2 along axis 1, scale=0.25 … 2)"


@pytest.mark.parametrize(("axis", "block_size"), GRAINS)
def test_transposing(axis: int | None, block_size: int) -> None:
    q = gpuq.quantize(X, axis=axis, block_size=block_size)
    assert_same(q.T.dequantize(), q.dequantize().T)
    assert_same(q.T.T.data, q.data)
    assert q.T.shape == X.shape[::-1]
    assert np.shares_memory(q.T.data, q.data)


@pytest.mark.parametrize(("axis", "block_size"), GRAINS)
def test_pickles(axis: int | None, block_size: int) -> None:
    for dtype in ("int8", "uint4"):
        q = gpuq.quantize(X, dtype, axis=axis, block_size=block_size)
        again = pickle.loads(pickle.dumps(q))
        assert_same(again.dequantize(), q.dequantize())
        assert repr(again) == repr(q)


def test_requantizing() -> None:
    q = gpuq.quantize(X, axis=1)
    once = q.requantize(0.1, 3)
    assert_same(once.data, reference.quantize_linear(q.dequantize(), 0.1, np.int8(3)))
    assert (once.scale, once.zero_point, once.dtype, once.axis) == (np.float32(0.1), 3, np.int8, None)
    scale = np.full((6, 3), 0.2, np.float32)
    again = q.requantize(scale, np.full((6, 3), 9, np.uint8), axis=1, block_size=16, dtype="uint8")
    expected = reference.quantize_linear(q.dequantize(), scale, np.full((6, 3), 9, np.uint8), axis=1, block_size=16)
    assert_same(again.data, expected)


# ---- products ----


def block_product(a: Any, b: Any) -> Array:
    """Σ f32(f32(acc)·f32(sa·sb)) over the largest blocks of k without a change of parameters, in float32."""
    (sa, za), (sb, zb) = ((expanded(q.scale, q), expanded(q.zero_point, q).astype(np.int64)) for q in (a, b))
    left, right = a.data.astype(np.int64) - za, b.data.astype(np.int64) - zb

    def cuts_of(q: Any, along: int) -> set[int]:
        if q.axis is None or (q.axis != along and not q.block_size):
            return set()
        return set(range(0, q.shape[along], max(1, q.block_size) if q.axis == along else 1))

    k = a.shape[-1]
    cuts = sorted({0, k} | cuts_of(a, a.ndim - 1) | cuts_of(b, b.ndim - 2))
    total = np.zeros((*a.shape[:-1], b.shape[-1]), np.float32)
    for first, last in zip(cuts[:-1], cuts[1:], strict=True):
        accumulator = left[..., first:last] @ right[..., first:last, :]
        total = total + accumulator.astype(np.float32) * (sa[..., first, None] * sb[..., first, None, :])
    return total


B_GRAINS: list[tuple[int | None, int]] = [(None, 0), (1, 0), (0, 0), (0, 16), (0, 7), (1, 2), (0, 100)]


@pytest.mark.parametrize(("b_axis", "b_block"), B_GRAINS)
@pytest.mark.parametrize(("a_axis", "a_block"), GRAINS)
def test_products(a_axis: int | None, a_block: int, b_axis: int | None, b_block: int) -> None:
    b_values = np.random.default_rng(1).normal(size=(40, 5)).astype(np.float32)
    for a_type, b_type in (("int8", "int8"), ("uint8", "int4"), ("uint4", "uint8")):
        a = gpuq.quantize(X, a_type, axis=a_axis, block_size=a_block)
        b = gpuq.quantize(b_values, b_type, axis=b_axis, block_size=b_block)
        expected = block_product(a, b)
        assert_same(a @ b, expected, f"{a_type} {b_type}")
        assert_same(a @ b.prepack(), expected, f"{a_type} {b_type}, packed")
        assert_same(a @ b.T.T, expected)
        scale = np.abs(expected).max()
        assert np.abs(a.dequantize() @ b.dequantize() - expected).max() <= 1e-5 * scale


def test_products_of_batches_and_vectors() -> None:
    rng = np.random.default_rng(2)
    a_values, b_values = rng.normal(size=(3, 4, 10)).astype(np.float32), rng.normal(size=(3, 10, 6)).astype(np.float32)
    for a_axis in (None, 0, 1, 2):
        for b_axis in (None, 0, 1, 2):
            a, b = gpuq.quantize(a_values, axis=a_axis), gpuq.quantize(b_values, axis=b_axis)
            assert_same(a @ b, block_product(a, b), f"{a_axis} {b_axis}")
            assert_same(a @ b.prepack(), block_product(a, b), f"{a_axis} {b_axis}")
    for axis in (None, 0):
        vector, matrix = gpuq.quantize(a_values[0, 0], axis=axis), gpuq.quantize(b_values[0], axis=axis)
        row = gpuq.quantize(a_values[0, :1], axis=None if axis is None else 1)
        assert_same(vector @ matrix, (row @ matrix)[0])
        assert_same(matrix.T @ vector, (row @ matrix)[0])
        assert_same(vector @ vector, (row @ row.T)[0, 0])
    empty = gpuq.quantize(np.zeros((3, 0), np.float32), axis=1) @ gpuq.quantize(np.zeros((0, 2), np.float32), axis=0)
    assert_same(empty, np.zeros((3, 2), np.float32))


def test_what_does_not_multiply() -> None:
    q = gpuq.quantize(X)
    for other in (q.data, 1.0, None):
        with pytest.raises(TypeError):
            q @ other
    with pytest.raises(ValueError, match="b: got shape"):
        q @ q
    wide = gpuq.quantize(X, "int16")
    with pytest.raises(TypeError, match="int16"):
        wide @ wide.T


# ---- kinds of arrays, devices ----


def test_tensors() -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    x = torch.from_numpy(X)
    for dtype in ("int8", "uint8", "int4", "uint4", "int16"):
        for axis, block_size in GRAINS:
            q = gpuq.quantize(x, dtype, axis=axis, block_size=block_size)
            expected = gpuq.quantize(X, dtype, axis=axis, block_size=block_size)
            assert all(isinstance(part, torch.Tensor) for part in (q.data, q.scale, q.zero_point, q.dequantize()))
            assert q.dtype == expected.dtype
            assert repr(q) == repr(expected)
            assert_same(q.dequantize().numpy(), expected.dequantize())
            assert_same(q.T.dequantize().numpy(), expected.dequantize().T)
            if dtype != "int16":
                product = q @ q.T
                assert isinstance(product, torch.Tensor)
                assert_same(product.numpy(), expected @ expected.T)
                assert_same((q @ q.T.prepack()).numpy(), expected @ expected.T)
    assert q.to("cpu") is q


def test_jax_arrays() -> None:
    jax = pytest.importorskip("jax", reason="jax is not installed")
    x = jax.numpy.asarray(X)
    q, expected = gpuq.quantize(x, axis=1), gpuq.quantize(X, axis=1)
    assert isinstance(q.data, jax.Array)
    assert isinstance(q.scale, jax.Array)
    assert_same(np.asarray(q.dequantize()), expected.dequantize())
    assert_same(np.asarray(q @ q.T), expected @ expected.T)


def test_on_a_gpu() -> None:
    """There and back; parameters that vary along k and those that do not; what is read there is as it was here."""
    pytest.importorskip("numba_cuda", reason="needs the package numba-cuda")
    from devices import runner_on

    with runner_on((8, 0)):
        for dtype, axis, block_size in (("int8", 0, 0), ("uint4", 1, 16)):
            q = gpuq.quantize(X, dtype, axis=axis, block_size=block_size)
            there = q.to("cuda")
            assert there.device == "cuda:0"
            assert "cuda:0" in repr(there)
            assert_same(there.to("cpu").data, q.data)
            assert_same(to_host(there @ q.T.to("cuda")), q @ q.T)
            assert_same(to_host(there.dequantize()), q.dequantize())


# ---- refusals ----


@pytest.mark.parametrize(
    ("changes", "error", "argument"),
    [
        ({"data": np.zeros((2, 3), np.float32)}, TypeError, "data"),
        ({"data": [1, 2]}, TypeError, "data"),
        ({"scale": 0.0}, ValueError, "scale"),
        ({"scale": [1.0, np.nan, 1.0], "axis": 1}, ValueError, "scale"),
        ({"scale": [1.0, 2.0], "axis": 1}, ValueError, "scale"),
        ({"scale": [1.0, 2.0, 3.0]}, ValueError, "axis"),
        ({"scale": [1.0, 2.0, 3.0], "axis": 2}, ValueError, "axis"),
        ({"scale": [1.0, 2.0, 3.0], "axis": 1.0}, TypeError, "axis"),
        ({"zero_point": 200}, ValueError, "zero_point"),
        ({"zero_point": np.uint8(1)}, TypeError, "zero_point"),
        ({"zero_point": [1, 2], "axis": 1}, ValueError, "zero_point"),
        ({"block_size": 2}, ValueError, "block_size"),
        ({"block_size": -1, "axis": 0}, ValueError, "block_size"),
        ({"dtype": "int16"}, TypeError, "dtype"),
        ({"dtype": "float32"}, TypeError, "dtype"),
        ({"data": np.full((2, 3), 8, np.int8), "dtype": "int4"}, ValueError, "data"),
    ],
)
def test_tensors_that_are_none(changes: dict[str, Any], error: type[Exception], argument: str) -> None:
    valid: dict[str, Any] = {"data": np.zeros((2, 3), np.int8), "scale": 0.5}
    with pytest.raises(error) as caught:
        gpuq.QTensor(**{**valid, **changes})
    assert_says(str(caught.value), argument, "", "")


@pytest.mark.parametrize(
    ("changes", "error", "argument"),
    [
        ({"x": np.zeros(3, np.int8)}, TypeError, "x"),
        ({"dtype": "float32"}, TypeError, "dtype"),
        ({"calibration": "best"}, ValueError, "calibration"),
        ({"calibration": 1}, TypeError, "calibration"),
        ({"block_size": 4}, ValueError, "block_size"),
        ({"block_size": 4, "axis": 2}, ValueError, "axis"),
        ({"axis": 2}, ValueError, "x"),
        ({"axis": "0"}, TypeError, "axis"),
        ({"symmetric": 1}, TypeError, "symmetric"),
        ({"narrow_range": None}, TypeError, "narrow_range"),
    ],
)
def test_what_cannot_be_quantized(changes: dict[str, Any], error: type[Exception], argument: str) -> None:
    with pytest.raises(error) as caught:
        gpuq.quantize(**{"x": X, **changes})
    assert_says(str(caught.value), argument, "", "")


# ---- error ----


def test_error_in_words() -> None:
    x, r = np.float32([3, 4, np.nan, np.inf]), np.float32([3, 3, 7, 7])
    found = gpuq.error(x, r)
    assert (found.max_abs, found.mean_abs) == (1.0, 0.5)
    assert found.rmse == pytest.approx(0.5**0.5)
    assert found.sqnr_db == pytest.approx(10 * np.log10(25))
    assert found.cosine == pytest.approx(21 / (5 * 18**0.5))
    assert gpuq.error(x[:2], x[:2])[:4] == (0, 0, 0, np.inf)
    assert gpuq.error(x[:0], x[:0]).cosine == 1
    assert gpuq.error(np.zeros(2), np.zeros(2)).cosine == 1
    assert gpuq.error(np.ones(2), np.zeros(2)).cosine == 0
    assert gpuq.error(np.zeros(2), np.ones(2)).sqnr_db == -np.inf


def test_error_of_huge_and_tiny_numbers() -> None:
    for size in (1e300, 1e-300):
        found = gpuq.error(np.array([3.0, 4.0]) * size, np.array([3.0, 3.0]) * size)
        assert found.sqnr_db == pytest.approx(10 * np.log10(25))
        assert found.cosine == pytest.approx(21 / (5 * 18**0.5))
        assert found.max_abs == pytest.approx(size)


def test_error_of_a_tensor() -> None:
    q = gpuq.quantize(X, axis=1)
    assert gpuq.error(X, q) == gpuq.error(X, q.dequantize(np.float64))
    assert gpuq.error(X, q).cosine > 0.999
    coarse = gpuq.error(X, gpuq.quantize(X, "int4", axis=1))
    assert coarse.sqnr_db < gpuq.error(X, q).sqnr_db - 15
    with pytest.raises(ValueError, match="qx: got shape"):
        gpuq.error(X, q.T)
    with pytest.raises(TypeError, match="qx: got an array of int8"):
        gpuq.error(X, q.data)
