"""Observers against their definitions in NumPy, and the promise that how the data came does not matter."""

from __future__ import annotations

import copy
import math
import pickle
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, strategies

import gpuq
from compare import assert_all_same, assert_same
from gpuq import calibration, validate
from gpuq import reference_calibration as definition
from gpuq.cpu import threads
from gpuq.dtypes import REAL, numpy_dtype
from gpuq.observations import Observation, observe
from layouts import INPUT_LAYOUTS
from refusals import assert_says

Array = npt.NDArray[Any]
MAKERS: dict[str, Callable[..., Any]] = {
    "MinMax": calibration.MinMax,
    "Percentile": calibration.Percentile,
    "Percentile 90": lambda **options: calibration.Percentile(90, **options),
    "Percentile 100": lambda **options: calibration.Percentile(100.0, **options),
    "MSE": calibration.MSE,
    "Entropy": calibration.Entropy,
}
NAN, INF = math.nan, math.inf


def _data() -> dict[str, Array]:
    """Numbers of every sort as float64: some do not fit the smaller types, where they become infinite."""
    rng = np.random.default_rng(0)
    normal = rng.normal(0.3, 1, 5000)
    powers = 2.0 ** rng.integers(-10, 11, 500)  # on the edges of bins
    return {
        "normal": normal,
        "relu": np.maximum(normal, 0),
        "negative": -np.abs(normal),
        "heavy tails": rng.standard_t(1.5, 5000),
        "many magnitudes": np.exp(rng.normal(0, 8, 3000)) * rng.choice([-1.0, 1.0], 3000),
        "edges": np.concatenate([powers, -powers, np.nextafter(powers, 0), -np.nextafter(powers, 0)]),
        "zeros": np.array([0.0, -0.0] * 10),
        "one value": np.full(40, 3.7),
        "one negative value": np.full(3, -1e-3),
        "one number": np.array([5.5]),
        "huge": rng.normal(size=300) * 1e38,
        "beyond float32": rng.normal(size=300) * 1e300,
        "tiny": rng.normal(size=300) * 1e-37,
        "denormal": rng.normal(size=300) * 1e-41,
        "an outlier": np.append(normal, 1e30),
        "with NaN and infinities": np.concatenate([normal, [NAN, INF, -INF, NAN]]),
        "nothing finite": np.array([NAN, INF, -INF]),
        "nothing": np.empty(0),
    }


DATA = _data()


def values(name: str, real: str = "float32") -> Array:
    with np.errstate(over="ignore", under="ignore"):
        return DATA[name].astype(numpy_dtype(real))


@pytest.fixture(params=[1, 3])
def number_of_threads(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(threads, "_limit", request.param)
    return request.param


# ---- the definitions ----


@pytest.mark.parametrize("real", REAL)
@pytest.mark.parametrize("name", DATA)
def test_extremes_and_histogram(name: str, real: str) -> None:
    x = values(name, real)
    view = validate.array("x", x, REAL)
    seen = observe(view, None, True)
    exponent, counts = definition.histogram(x)
    assert seen.exponents.tolist() == [exponent]
    assert seen.counts is not None
    assert_same(seen.counts[0, :-1], counts)
    assert seen.ignored == seen.counts[0, -1] == x.size - definition.finite(x).size
    observer = calibration.MinMax().observe(x)
    assert observer.range() == definition.extremes(x)
    assert all(isinstance(bound, np.float64) for bound in observer.range())
    assert observer.ignored == seen.ignored


@pytest.mark.parametrize("real", REAL)
@pytest.mark.parametrize("name", DATA)
def test_percentiles(name: str, real: str) -> None:
    """As defined, bit for bit, and no more than a bin from NumPy's."""
    x = values(name, real)
    finite = definition.finite(x)
    for p in (100, 99.9, 99.0, 50.0, 0.001):
        low, high = calibration.Percentile(p).observe(x).range()
        assert_all_same((low, high), tuple(map(np.float64, definition.percentile(x, p))), f"{p}")
        if finite.size:
            bin = np.ldexp(1.0, definition.histogram(x)[0]) * (1 + 1e-12)
            exact = np.percentile(finite / 4, [(100 - p) / 2, (100 + p) / 2]) * 4  # NumPy's differences overflow
            assert abs(low - exact[0]) <= bin
            assert abs(high - exact[1]) <= bin
    assert calibration.Percentile(100).observe(x).range() == definition.extremes(x)


@pytest.mark.parametrize(
    ("dtype", "symmetric", "narrow_range"),
    [
        ("int8", False, False),
        ("int8", True, True),
        ("uint8", False, True),
        ("uint4", False, False),
        ("int4", True, False),
    ],
)
@pytest.mark.parametrize("name", DATA)
def test_squared_error(name: str, dtype: str, symmetric: bool, narrow_range: bool) -> None:
    x, options = values(name, "float64"), {"symmetric": symmetric, "narrow_range": narrow_range}
    observer = calibration.MSE().observe(x)
    low, high = definition.mse(x, dtype, **options)
    expected = gpuq.choose_qparams(low, high, dtype, **options)
    assert_all_same(tuple(observer.qparams(dtype, **options)), tuple(expected))
    if dtype == "int8" and not symmetric:
        assert observer.range() == (low, high)


@pytest.mark.parametrize(("dtype", "symmetric"), [("int8", False), ("int8", True), ("uint4", False)])
@pytest.mark.parametrize("name", DATA)
def test_entropy(name: str, dtype: str, symmetric: bool) -> None:
    """The threshold chosen diverges no more than any other, to the rounding of the sums."""
    x, levels = values(name), 16 if dtype == "uint4" else 256
    observer = calibration.Entropy().observe(x)
    found = observer.qparams(dtype, symmetric=symmetric)
    exponent, counts = definition.histogram(x)
    low, high = definition.extremes(x)
    filled = np.flatnonzero(counts)
    widest = int(max(definition.BINS - filled[0], filled[-1] + 1 - definition.BINS)) if filled.size else 1
    own = [kept for kept in range(widest, 0, -1) if found == _kept(kept, exponent, low, high, dtype, symmetric)]
    assert own, "no number of bins gives these parameters"
    least = min(definition.divergence(x, kept, levels, symmetric) for kept in own) if filled.size else INF
    if least == INF:
        assert widest in own
        return
    for kept in range(1, widest + 1, 37):
        assert least <= definition.divergence(x, kept, levels, symmetric) + 1e-9, f"{kept} bins diverge less"


def _kept(kept: int, exponent: int, low: float, high: float, dtype: str, symmetric: bool) -> Any:
    bounds = max(low, -kept * 2.0**exponent), min(high, kept * 2.0**exponent)
    if bounds[0] > bounds[1]:
        return None
    return gpuq.choose_qparams(*bounds, dtype, symmetric=symmetric)


def test_outliers_are_cut_off() -> None:
    """What the searches are for: 10,000 normal numbers and a single one ten times as large as they are."""
    x = np.append(np.random.default_rng(1).normal(size=10_000), 40.0).astype(np.float32)
    assert calibration.MinMax().observe(x).range()[1] == 40.0
    for name in ("Percentile", "MSE", "Entropy"):
        observer = MAKERS[name]().observe(x)
        low, high = observer.range()
        assert -5 < low < -2
        assert 2 < high <= 40
        assert observer.qparams("int4").scale < 0.5 * 44 / 15, name


# ---- how the data came does not matter ----


def assert_same_state(one: Any, other: Any) -> None:
    """Two observers hold the same, bit for bit."""
    seen: Observation = one._seen
    expected: Observation = other._seen
    assert_same(seen.low, expected.low)
    assert_same(seen.high, expected.high)
    assert_same(seen.exponents, expected.exponents)
    assert seen.ignored == expected.ignored
    assert (seen.counts is None) == (expected.counts is None)
    if seen.counts is not None:
        assert_same(seen.counts, expected.counts)


@pytest.mark.parametrize("real", REAL)
@pytest.mark.parametrize("maker", ["MinMax", "Percentile"])
def test_merging_in_any_order_is_observing_the_whole(maker: str, real: str) -> None:
    rng = np.random.default_rng(2)
    for name in DATA:
        x = values(name, real)
        whole = MAKERS[maker]().observe(x)
        for _ in range(3):
            parts = np.split(x[rng.permutation(x.size)], np.sort(rng.integers(0, x.size + 1, 4)))
            observers = [MAKERS[maker]().observe(part) for part in parts]
            while len(observers) > 1:
                one, other = (observers.pop(rng.integers(len(observers))) for _ in range(2))
                observers.append(one.merge(other))
            assert_same_state(observers[0], whole)
            assert observers[0].range() == whole.range()
        streamed = MAKERS[maker]()
        for part in parts:
            streamed.observe(part)
        assert_same_state(streamed, whole)


@given(
    batches=strategies.lists(strategies.lists(strategies.floats(width=32), max_size=5), min_size=1, max_size=6),
    order=strategies.randoms(use_true_random=False),
)
def test_any_batches(batches: list[list[float]], order: Any) -> None:
    """Numbers of every magnitude, so that bins are widened by every power of two."""
    whole = calibration.Percentile().observe(np.array([v for batch in batches for v in batch], np.float32))
    order.shuffle(batches)
    parts = [calibration.Percentile().observe(np.array(batch, np.float32)) for batch in batches]
    for part in parts[1:]:
        parts[0].merge(part)
    assert_same_state(parts[0], whole)


@pytest.mark.parametrize("maker", MAKERS)
def test_merging_with_one_that_has_seen_nothing(maker: str) -> None:
    x = values("normal")
    whole = MAKERS[maker]().observe(x)
    assert_same_state(MAKERS[maker]().merge(whole), whole)
    assert_same_state(MAKERS[maker]().observe(x).merge(MAKERS[maker]()), whole)
    assert MAKERS[maker]().merge(MAKERS[maker]()).ignored == 0


def test_merging_leaves_the_other_as_it_was() -> None:
    one, other = (calibration.Percentile().observe(np.float32(v)) for v in ([1, 2], [1e6, NAN]))
    before = copy.deepcopy(other)
    one.merge(other)
    assert_same_state(other, before)
    one.observe(np.float32([1e9]))
    assert_same_state(other, before)


@pytest.mark.parametrize("shape", [(300_001, 2), (700, 1000), (3, 1000, 200), (600_000,), (1, 600_000, 1)])
def test_threads(number_of_threads: int, shape: tuple[int, ...]) -> None:
    """As many threads as there may be: the same counts, per tensor and along every axis."""
    x = np.random.default_rng(3).normal(size=shape).astype(np.float32)
    x.reshape(-1)[::997] = NAN
    seen = observe(validate.array("x", x, REAL), None, True)
    assert seen.counts is not None
    assert_same(seen.counts[0, :-1], definition.histogram(x)[1])
    for axis, channels in enumerate(shape):
        if channels <= 1000:  # each has a histogram
            _check_each_channel(x, axis, range(0, channels, max(1, channels // 3)))


def _check_each_channel(x: Array, axis: int, channels: Any) -> None:
    seen = observe(validate.array("x", x, REAL), axis, True)
    assert seen.counts is not None
    for channel in channels:
        own = np.take(x, channel, axis)
        exponent, counts = definition.histogram(own)
        low, high = definition.extremes(own)
        assert (seen.low[channel], seen.high[channel], seen.exponents[channel]) == (low, high, exponent)
        assert_same(seen.counts[channel, :-1], counts)


@pytest.mark.parametrize("layout", INPUT_LAYOUTS)
@pytest.mark.parametrize("real", REAL)
def test_layouts(real: str, layout: str) -> None:
    rng = np.random.default_rng(4)
    for shape in ((), (19,), (5, 7), (3, 4, 5), (3, 1, 2), (3, 0, 2)):
        x = INPUT_LAYOUTS[layout](rng.normal(size=shape).astype(numpy_dtype(real)))
        before = x.copy()
        assert calibration.MinMax().observe(x).range() == definition.extremes(x)
        assert calibration.Percentile(90).observe(x).range() == definition.percentile(x, 90)
        for axis in range(len(shape)):
            if x.size:
                _check_each_channel(x, axis, range(shape[axis]))
        assert_same(x, before, "x changed")


@pytest.mark.parametrize("maker", MAKERS)
def test_per_axis(maker: str) -> None:
    """Each index along the axis as if it were alone; the other axes may differ from batch to batch."""
    rng = np.random.default_rng(5)
    batches = [rng.normal(size=shape).astype(np.float32) for shape in ((4, 3, 5), (1, 3, 9), (7, 3, 1), (0, 3, 2))]
    batches[0][:, 1] *= 1e6
    batches[1][:, 2] = NAN
    together, last = MAKERS[maker](axis=1), MAKERS[maker](axis=-1)
    for batch in batches:
        together.observe(batch)
        last.observe(np.moveaxis(batch, 1, -1))
    assert_same_state(together, last)
    alone = [MAKERS[maker]() for _ in range(3)]
    for channel, observer in enumerate(alone):
        for batch in batches:
            observer.observe(batch[:, channel])
    low, high = together.range()
    assert_same(low, np.array([observer.range()[0] for observer in alone]))
    assert_same(high, np.array([observer.range()[1] for observer in alone]))
    found = together.qparams("uint8")
    assert_same(found.scale, np.array([observer.qparams("uint8").scale for observer in alone]))
    assert_same(found.zero_point, np.array([observer.qparams("uint8").zero_point for observer in alone]))
    assert together.ignored == sum(observer.ignored for observer in alone)


# ---- moving averages ----


def test_moving_average() -> None:
    observer = calibration.MovingAverageMinMax()
    observer.observe(np.float32([-1, 3]))
    assert observer.range() == (-1.0, 3.0)
    observer.observe(np.float32([-2, 1, NAN]))
    assert observer.range() == (0.9 * -1.0 + (1 - 0.9) * -2.0, 0.9 * 3.0 + (1 - 0.9) * 1.0)
    assert observer.ignored == 1
    before = observer.range()
    observer.observe(np.float32([NAN, INF]))
    observer.observe(np.empty(0, np.float32))
    assert observer.range() == before
    assert observer.ignored == 3
    assert not hasattr(observer, "merge")


def test_moving_average_per_axis() -> None:
    observer = calibration.MovingAverageMinMax(0.5, axis=0)
    observer.observe(np.float32([[1, 2], [NAN, NAN]])).observe(np.float32([[3, 4], [5, 6]]))
    low, high = observer.range()
    assert_same(low, np.array([2.0, 5.0]))
    assert_same(high, np.array([3.0, 6.0]))
    observer = calibration.MovingAverageMinMax(0, axis=0).observe(np.float32([1])).observe(np.float32([2]))
    assert observer.range()[0].tolist() == [2.0]


# ---- parameters are always good ones ----


@pytest.mark.parametrize("maker", [*MAKERS, "MovingAverageMinMax"])
def test_no_data_gives_a_bad_scale(maker: str) -> None:
    for step, name in enumerate(DATA):
        x = values(name, list(REAL)[step % len(REAL)])
        observer = MAKERS.get(maker, calibration.MovingAverageMinMax)().observe(x)
        low, high = observer.range()
        assert low <= high
        for dtype in ("int8", "uint8", "int4", "uint16"):
            for symmetric in (False, True):
                found = observer.qparams(dtype, symmetric=symmetric)
                assert np.float32(2.0**-126) <= found.scale < np.inf
                codes = gpuq.quantize_linear(x, found.scale, found.zero_point)
                assert codes.dtype == numpy_dtype(dtype)
        if name in ("zeros", "nothing", "nothing finite"):
            assert (low, high) == (0.0, 0.0)
            assert observer.qparams().scale == 1


def test_one_value_is_represented_well() -> None:
    """A positive number alone gets the whole range 0 … v, a negative one v … 0."""
    for maker in MAKERS:
        assert MAKERS[maker]().observe(np.full(7, 3.7, np.float32)).qparams().scale == np.float32(np.float32(3.7) / 255)
        assert MAKERS[maker]().observe(np.float32([-3.7])).qparams().scale == np.float32(np.float32(3.7) / 255)


# ---- around it ----


def test_tensors() -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    x = torch.linspace(-3, 3, 48).reshape(6, 8)
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        expected = calibration.Percentile(axis=1).observe(x.to(dtype).float().numpy())
        assert_same_state(calibration.Percentile(axis=1).observe(x.to(dtype).t().contiguous().t()), expected)


@pytest.mark.parametrize("maker", [*MAKERS, "MovingAverageMinMax"])
def test_pickles(maker: str) -> None:
    observer = MAKERS.get(maker, calibration.MovingAverageMinMax)(axis=1).observe(values("normal").reshape(-1, 5))
    again = pickle.loads(pickle.dumps(observer))
    assert_same_state(again, observer)
    assert_same_state(again.observe(np.ones((1, 5), np.float32)), observer.observe(np.ones((1, 5), np.float32)))


def test_observing_from_several_threads_at_once() -> None:
    """No batch is lost."""
    observer, x = calibration.Percentile(), values("many magnitudes")
    parts = np.array_split(x, 40)

    def work(start: int) -> None:
        for part in parts[start::4]:
            observer.observe(part)

    workers = [threading.Thread(target=work, args=(start,)) for start in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert_same_state(observer, calibration.Percentile().observe(x))


# ---- refusals ----


@pytest.mark.parametrize("value", [0, -1, 100.1, NAN])
def test_percentiles_that_are_none(value: float) -> None:
    with pytest.raises(ValueError, match="percentile: got") as caught:
        calibration.Percentile(value)
    assert_says(str(caught.value), "percentile", str(value), "above 0")


@pytest.mark.parametrize("value", [1.0, -0.1, NAN])
def test_momenta_that_are_none(value: float) -> None:
    with pytest.raises(ValueError, match="momentum") as caught:
        calibration.MovingAverageMinMax(value)
    assert_says(str(caught.value), "momentum", str(value), "below 1")


@pytest.mark.parametrize("make", [lambda value: calibration.Percentile(value), calibration.MovingAverageMinMax])
@pytest.mark.parametrize("value", ["1", None, True, [1.0]])
def test_settings_of_another_type(make: Any, value: Any) -> None:
    with pytest.raises(TypeError) as caught:
        make(value)
    assert_says(str(caught.value), str(caught.value).split(":")[0], type(value).__name__, "")


def test_batches_that_do_not_fit() -> None:
    for x, error in (([1.0], TypeError), (np.arange(3), TypeError), (1.0, TypeError), (None, TypeError)):
        with pytest.raises(error, match="x: got"):
            calibration.MinMax().observe(x)
    with pytest.raises(TypeError, match="axis: got"):
        calibration.MinMax(axis=1.5)  # type: ignore[arg-type]
    observer = calibration.MinMax(axis=1)
    with pytest.raises(ValueError, match=r"x: got an array of 1 dimensions; accepted: one that has axis 1"):
        observer.observe(np.zeros(3, np.float32))
    observer.observe(np.zeros((2, 3), np.float32))
    with pytest.raises(ValueError, match=r"x: got length 4 along axis 1; accepted: 3"):
        observer.observe(np.zeros((2, 4), np.float32))


def test_observers_that_do_not_merge() -> None:
    one = calibration.MinMax(axis=0).observe(np.zeros(3, np.float32))
    for other, error in (
        (calibration.MSE(axis=0), TypeError),
        (None, TypeError),
        (calibration.MinMax(), ValueError),
        (calibration.MinMax(axis=0).observe(np.zeros(4, np.float32)), ValueError),
    ):
        with pytest.raises(error, match="other: got"):
            one.merge(other)
    with pytest.raises(ValueError, match="other: got"):
        calibration.Percentile(99).merge(calibration.Percentile(98))


@pytest.mark.parametrize("maker", [*MAKERS, "MovingAverageMinMax"])
def test_nothing_observed(maker: str) -> None:
    observer = MAKERS.get(maker, calibration.MovingAverageMinMax)()
    assert observer.ignored == 0
    for ask in (observer.range, observer.qparams):
        with pytest.raises(ValueError, match="range: got no batch"):
            ask()
    with pytest.raises(TypeError, match="dtype"):
        observer.qparams("float32")
