"""Calibration on emulated GPUs: a batch is looked at where it lies, and tells what it would have told on the host."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from compare import assert_same
from gpuq import calibration
from gpuq.dtypes import numpy_dtype

pytest.importorskip("numba_cuda", reason="needs the package numba-cuda")

from emulated import DlpackArray, InterfaceArray, upload  # noqa: E402
from gpuq.cuda import observations, observe  # noqa: E402
from gpuq.cuda.tiles import TILE  # noqa: E402

Array = npt.NDArray[Any]
Emulate = Callable[..., Any]
REALS = ("float32", "float16", "bfloat16", "float64")
CAPABILITIES = [(7, 5), (8, 0), (9, 0), (12, 0)]


def there(emulated: Any, array: Array) -> Any:
    return upload(emulated, array, kind=DlpackArray if array.dtype.name == "bfloat16" else InterfaceArray)


def values(shape: tuple[int, ...], real: str, seed: int = 0) -> Array:
    """Normal numbers of several magnitudes, zeros of both signs, and what is not finite."""
    rng = np.random.default_rng(seed)
    x: Array = np.asarray(rng.normal(0.2, 1, shape) * np.exp(rng.normal(0, 2, shape)), numpy_dtype(real))
    flat = x.reshape(-1)
    for special in (0.0, -0.0, np.nan, np.inf, -np.inf, 1e-7, -1e-7):
        flat[rng.integers(0, flat.size)] = special
    return x


def assert_sees_the_same(emulated: Any, x: Array, axis: int | None, what: str = "") -> None:
    given = there(emulated, x)
    for histogram in (False, True):
        maker = calibration.Percentile if histogram else calibration.MinMax
        seen, expected = maker(axis=axis).observe(given)._seen, maker(axis=axis).observe(x)._seen
        assert seen is not None
        assert expected is not None
        assert seen.ignored == expected.ignored, what
        for name in ("low", "high", "exponents", "counts"):
            one, other = getattr(seen, name), getattr(expected, name)
            if one is None:
                assert other is None, what
            else:
                assert_same(one, other, f"{what} {name}")


@pytest.mark.parametrize("real", REALS)
@pytest.mark.parametrize("capability", CAPABILITIES, ids=str)
def test_types(emulate: Emulate, real: str, capability: tuple[int, int]) -> None:
    """Whole tiles and ragged ones, runs counted in shared memory and directly, channels that start anywhere."""
    emulated = emulate(capability)
    for shape, axis in (
        ((2 * TILE + 77,), None),
        ((3, 5, 7), None),
        ((3, observe.DIRECT + 1), 0),
        ((2, TILE + 4), 0),
        ((5, 9), 1),
        ((2, 3, 11), 1),
        ((1,), 0),
    ):
        assert_sees_the_same(emulated, values(shape, real), axis, f"{shape} {axis}")


def test_layouts(emulate: Emulate) -> None:
    """Columns, rows apart, back to front, not aligned, one number again and again."""
    emulated, x = emulate(), values((12, 10, 6), "float32")
    for key in ((slice(None, None, 2),), (slice(None), slice(None, None, -1)), (slice(3, 9), slice(1, 4), slice(1, 5))):
        for axis in (None, 0, 1, 2, -1):
            assert_sees_the_same(emulated, x[key], axis, f"{key} {axis}")
    for axis in (None, 0, 2):
        assert_sees_the_same(emulated, np.asfortranarray(x), axis)
    memory = np.zeros(4 * 60 + 1, np.uint8)
    memory[1:].view(np.float32)[...] = values((60,), "float32")
    assert_sees_the_same(emulated, memory[1:].view(np.float32).reshape(6, 10), 0)
    assert_sees_the_same(emulated, np.broadcast_to(np.float32([[1.5], [-2]]), (2, 9)), 0)


def test_nothing_finite_and_nothing_at_all(emulate: Emulate) -> None:
    emulated = emulate()
    for real in REALS:
        nothing = np.full((2, 3), np.nan, numpy_dtype(real))
        nothing[0, 1] = -np.inf
        for axis in (None, 0, 1):
            assert_sees_the_same(emulated, nothing, axis, real)
        assert_sees_the_same(emulated, np.zeros((0, 3), numpy_dtype(real)), 1, real)
        assert_sees_the_same(emulated, np.asarray(2.5, numpy_dtype(real)), None, real)


@pytest.mark.parametrize("real", REALS)
def test_ends_of_the_type(emulate: Emulate, real: str) -> None:
    """The largest magnitude and the smallest: bins as wide as they get, and as narrow."""
    emulated, limits = emulate(), np.finfo("float32" if real == "bfloat16" else real)
    smallest = {"bfloat16": 2.0**-133}.get(real, limits.smallest_subnormal)
    largest = {"bfloat16": 2.0**127}.get(real, limits.max)
    for numbers in ([largest, -largest, 1.0], [smallest, -smallest, 0.0], [smallest * 5, smallest], [-largest]):
        assert_sees_the_same(emulated, np.asarray(numbers).astype(numpy_dtype(real)), None, f"{numbers}")


@pytest.mark.parametrize("axis", [None, 0, 1, 2])
def test_in_parts(emulate: Emulate, axis: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Longer runs than one launch counts, more channels than it takes, slabs that are copied."""
    emulated, x = emulate(), values((7, 9, 5), "float32")
    for name, value in (("MOST_ELEMENTS", 20), ("SLAB", 50), ("MOST_CHANNELS", 2)):
        monkeypatch.setattr(observations, name, value)
    assert_sees_the_same(emulated, x, axis)
    assert_sees_the_same(emulated, x[::2, :, ::-1], axis)


def test_the_batch_stays_where_it_is(emulate: Emulate, monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches on a GPU were brought to the host."""
    emulated = emulate()
    monkeypatch.setattr("gpuq.cuda.readback.to_host", lambda *_: pytest.fail("brought to the host"))
    x = values((2, 3 * TILE), "float32")
    for axis in (None, 0, 1):
        calibration.MSE(axis=axis).observe(there(emulated, x))
