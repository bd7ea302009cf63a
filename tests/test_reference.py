"""The reference's elementwise operators and parameter choices against fractions, on adversarial values."""
from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import exact
from compare import assert_all_same, assert_same
from gpuq import reference
from gpuq.dtypes import QUANTIZED, REAL, QuantizedType, numpy_dtype
from shapes import BLOCKED

Array = npt.NDArray[Any]
ENOUGH = 10_000  # adversarial values for every operator
ROUNDINGS = ("half_even", "half_away", "half_up")
# powers of two (whose ties are exact), others, subnormals (whose inverse is infinite or nearly), the ends of float32
SCALES = [float(np.float32(scale)) for scale in (
    1, 0.5, 2**-9, 64, 0.1, 1 / 3, 7.843137255, 0.0123, 1 / 255, 3e-5, 1e30, 3.4028234e38, 2**127, 2**-126,
    1.1754942e-38, 3e-42, 2**-149, 3 * 2**-149,
)]


@dataclass(frozen=True)
class Parameters:
    """Parameters of one call, per tensor."""

    kind: QuantizedType
    narrow: bool
    scale: float
    zero_point: int

    @property
    def low(self) -> int:
        return self.kind.lowest(self.narrow)

    def ties(self) -> list[Fraction]:
        """Multiples of scale/2 about zero, both bounds and a few places between: every second one is a tie."""
        ends = (self.low - self.zero_point, self.kind.qmax - self.zero_point)
        centres = (0, *ends, ends[0] // 2, ends[1] // 3, ends[1] // 7)
        halves = [Fraction(2 * centre + offset, 2) for centre in centres for offset in range(-4, 5)]
        return [half * Fraction(self.scale) for half in halves]

    def code(self, v: float, rounding: str) -> int:
        return exact.code(v, self.zero_point, self.low, self.kind.qmax, rounding)


def real_array(values: list[float], name: str) -> Array:
    """Values that a real type holds exactly, as an array of that type."""
    return np.array(values, np.float64).astype(numpy_dtype(name))


def python_floats(values: Array) -> list[float]:
    """Real numbers as Python floats, exactly; widening a signalling NaN would warn."""
    with np.errstate(invalid="ignore"):
        return [float(value) for value in values.astype(np.float64)]


def with_neighbours(values: Array) -> Array:
    """Real numbers together with the next ones on either side (of 0.0 a NaN and the smallest subnormal)."""
    bits = values.view(f"u{values.dtype.itemsize}")
    return np.concatenate([bits - 1, bits, bits + 1]).view(values.dtype)


def special_values(name: str) -> list[float]:
    bits, lowest, largest = exact.FORMATS[name]
    positive = [0.0, 2.0**lowest, 2.0 ** (lowest + bits - 1), 0.5, 1.0, 1e-3, float(largest), math.inf]
    return [math.nan, *(exact.convert(sign * value, name) for value in positive for sign in (1, -1))]


def all_parameters(seed: int) -> Iterator[Parameters]:
    """Every scale with every type, narrow range and zero point cycling through the ends, zero and the inside."""
    rng = np.random.default_rng(seed)
    for position, scale in enumerate(SCALES):
        for step, kind in enumerate(QUANTIZED.values()):
            narrow = (position + step) % 3 == 0
            low = kind.lowest(narrow)
            choices = (exact.clamp(0, low, kind.qmax), low, kind.qmax, int(rng.integers(low, kind.qmax + 1)))
            yield Parameters(kind, narrow, scale, choices[(position + step // 2) % 4])


def adversarial(parameters: Parameters, name: str, rng: np.random.Generator) -> Array:
    """About 90 numbers of a real type: ties ± 1 ulp, special values, random bits."""
    ties = real_array([exact.nearest(tie, name) for tie in parameters.ties()], name)
    chosen = rng.permutation(with_neighbours(ties))[:50]
    size = numpy_dtype(name).itemsize
    noise = np.frombuffer(rng.bytes(20 * size), f"u{size}").view(numpy_dtype(name))
    return np.concatenate([chosen, real_array(special_values(name), name), noise])


def quotient(x: float, parameters: Parameters, name: str) -> float:
    return exact.divided(x, parameters.scale, "float64" if name == "float64" else "float32")


def torch_value(x: float, parameters: Parameters, fused: bool) -> float:
    """What torch rounds, the zero point already added; NaN for 0·inf."""
    x, inverse = exact.convert(x, "float32"), exact.divided(1.0, parameters.scale)
    shift = exact.nearest(parameters.zero_point)
    return exact.multiply_add(x, inverse, shift) if fused else exact.plus(exact.times(x, inverse), shift)


def dequantized(q: int, parameters: Parameters, name: str) -> float:
    difference = q - parameters.zero_point
    if name == "float64":
        return exact.nearest(difference * Fraction(parameters.scale), "float64")
    return exact.convert(exact.times(exact.nearest(difference), parameters.scale), name)


@pytest.mark.parametrize("name", REAL)
def test_nearest_agrees_with_the_processor(name: str) -> None:
    """The oracle's own rounding, where NumPy and ml_dtypes have one to compare with."""
    rng = np.random.default_rng(1)
    values = np.frombuffer(rng.bytes(8 * 3000), np.float64)
    scaled = rng.normal(size=2000) * 2.0 ** rng.integers(-150, 128, 2000)
    values = np.concatenate([values[np.isfinite(values)], scaled])
    with np.errstate(all="ignore"):
        values = values.astype(np.float32).astype(np.float64) if name == "bfloat16" else values
        values = values[np.isfinite(values)]
        converted = real_array([exact.convert(v, name) for v in values.tolist()], name)
        assert_same(converted, values.astype(numpy_dtype(name)))


@pytest.mark.parametrize("rounding", ROUNDINGS)
@pytest.mark.parametrize("name", REAL)
def test_quantize_and_fake_quantize(name: str, rounding: str) -> None:
    rng, count = np.random.default_rng(2), 0
    for parameters in all_parameters(3):
        x = adversarial(parameters, name, rng)
        codes = [parameters.code(quotient(v, parameters, name), rounding) for v in python_floats(x)]
        dtype, options = parameters.kind.name, {"narrow_range": parameters.narrow, "rounding": rounding}
        q = reference.quantize_linear(x, parameters.scale, parameters.zero_point, dtype=dtype, **options)
        assert_same(q, np.array(codes).astype(numpy_dtype(dtype)), str(parameters))
        fake = reference.fake_quantize(x, parameters.scale, parameters.zero_point, dtype=dtype, **options)
        expected = [dequantized(value, parameters, name) for value in codes]
        assert_same(fake, real_array(expected, name), f"fake {parameters}")
        count += x.size
    assert count >= ENOUGH


@pytest.mark.parametrize("name", REAL)
def test_torch_rounding(name: str) -> None:
    """The three formulas: per tensor (fused), per axis (two roundings), fake (the zero point added after rounding)."""
    rng, count = np.random.default_rng(4), 0
    for parameters in all_parameters(5):
        x = adversarial(parameters, name, rng)
        dtype = parameters.kind.name
        options: dict[str, Any] = {"dtype": dtype, "narrow_range": parameters.narrow, "rounding": "torch"}
        low, high, z = parameters.low, parameters.kind.qmax, parameters.zero_point
        per_tensor, per_axis, fake = [], [], []
        for value in python_floats(x):
            moved = [torch_value(value, parameters, fused) for fused in (True, False)]
            codes = [z if math.isnan(v) else exact.code(v, 0, low, high, "half_even") for v in moved]
            per_tensor.append(codes[0])
            per_axis.append(codes[1])
            product = exact.times(exact.convert(value, "float32"), exact.divided(1.0, parameters.scale))
            fake.append(dequantized(parameters.code(product, "half_even"), parameters, name))
        integers, both = numpy_dtype(dtype), np.stack([x, x])
        scale, zero_point = np.full(2, parameters.scale, np.float32), np.full(2, z).astype(integers)
        assert_same(reference.quantize_linear(x, parameters.scale, z, **options), np.array(per_tensor).astype(integers))
        assert_same(reference.quantize_linear(both, scale, zero_point, axis=0, **options),
                    np.array([per_axis, per_axis]).astype(integers), str(parameters))
        faked = real_array(fake, name)
        assert_same(reference.fake_quantize(x, parameters.scale, z, **options), faked)
        assert_same(reference.fake_quantize(both, scale, zero_point, axis=0, **options), np.stack([faked, faked]))
        count += x.size
    assert count >= ENOUGH


def test_torch_rounds_the_fused_sum_once() -> None:
    """Products a hair above half a unit of the sum: rounding to float64 first makes ties of them: another code."""
    rng, shift = np.random.default_rng(6), 2**31
    pairs = []
    while len(pairs) < 50:
        scale = np.float32(rng.uniform(0.5, 1))
        inverse = float(np.float32(1) / scale)
        x = float(np.float32(128 / inverse))
        if 0 < Fraction(x) * Fraction(inverse) - 128 < Fraction(1, 2**22):
            pairs.append((x, float(scale)))
    for x, scale in pairs:
        parameters = Parameters(QUANTIZED["uint32"], False, scale, shift)
        once = parameters.kind.qmin + int(torch_value(x, parameters, True))
        inverse = float(np.float32(1) / np.float32(scale))
        assert once != int(np.float32(x * inverse + shift)), "the pair shows no double rounding"
        actual = reference.quantize_linear(np.float32(x), scale, shift, dtype="uint32", rounding="torch")
        assert_same(actual, np.uint32(once))


@pytest.mark.parametrize("name", REAL)
def test_dequantize(name: str) -> None:
    rng, count = np.random.default_rng(7), 0
    for parameters in all_parameters(8):
        kind, z = parameters.kind, parameters.zero_point
        near = [exact.clamp(centre + offset, kind.qmin, kind.qmax)
                for centre in (kind.qmin, kind.qmax, z, 0, z + 2**24) for offset in range(-4, 5)]
        q = near + rng.integers(kind.qmin, kind.qmax + 1, 40).tolist()
        integers = np.array(q).astype(numpy_dtype(kind.name))
        actual = reference.dequantize_linear(integers, parameters.scale, z, dtype=name)
        assert_same(actual, real_array([dequantized(value, parameters, name) for value in q], name), str(parameters))
        count += len(q)
    assert count >= ENOUGH


@pytest.mark.parametrize("rounding", [*ROUNDINGS, "torch"])
@pytest.mark.parametrize(("shape", "axis", "block_size"), BLOCKED)
def test_granularity(shape: tuple[int, ...], axis: int, block_size: int, rounding: str) -> None:
    """Per axis and per block: every element is treated with the parameters that plain index arithmetic finds."""
    rng = np.random.default_rng(9)
    x = rng.normal(size=shape).astype(np.float32) * 30
    blocks = list(shape)
    blocks[axis] = -(-shape[axis] // block_size)
    for size, parameter_shape in ((0, (shape[axis],)), (block_size, tuple(blocks))):
        scale = rng.uniform(0.1, 1, parameter_shape).astype(np.float32)
        zero_point = rng.integers(-128, 128, parameter_shape).astype(np.int8)
        q = reference.quantize_linear(x, scale, zero_point, axis=axis, block_size=size, rounding=rounding)
        back = reference.dequantize_linear(q, scale, zero_point, axis=axis, block_size=size)
        fake = reference.fake_quantize(x, scale, zero_point, axis=axis, block_size=size, rounding=rounding)
        assert (q.shape, q.dtype, fake.shape) == (shape, np.int8, shape)
        for index in np.ndindex(shape):
            place = list(index)
            place[axis] //= max(size, 1)
            where = tuple(place) if size else index[axis]
            parameters = Parameters(QUANTIZED["int8"], False, float(scale[where]), int(zero_point[where]))
            value, plain = float(x[index]), "half_even" if rounding == "torch" else rounding
            if rounding == "torch":
                moved = torch_value(value, parameters, scale.size == 1)
                assert int(q[index]) == exact.code(moved, 0, -128, 127, plain), (index, size)
                product = exact.times(value, exact.divided(1.0, parameters.scale))
            else:
                product = exact.divided(value, parameters.scale)
                assert int(q[index]) == parameters.code(product, plain), (index, size)
            assert float(back[index]) == dequantized(int(q[index]), parameters, "float32"), (index, size)
            faked = dequantized(parameters.code(product, plain), parameters, "float32")
            assert float(fake[index]) == faked, (index, size)


def test_scale_types_and_default_dtypes() -> None:
    """Scales are converted to float32; the codes' type is dtype, else the zero point's, else uint8; 0-d stays 0-d."""
    x = np.linspace(-3, 3, 101, dtype=np.float64)
    for scale in (0.1, np.float64(0.1), np.float16(0.1), real_array([0.1], "bfloat16"), np.full((1, 1, 1), 0.1)):
        single = np.float32(np.asarray(scale).reshape(()).astype(np.float32))
        expected = [exact.code(exact.divided(v, float(single), "float64"), 7, 0, 255, "half_even") for v in x.tolist()]
        assert_same(reference.quantize_linear(x, scale, 7), np.array(expected, np.uint8))
    assert reference.quantize_linear(x, 0.1).dtype == np.uint8
    assert reference.quantize_linear(x, 0.1, np.int16(3)).dtype == np.int16
    assert reference.quantize_linear(x, 0.1, 3, dtype=np.int8).dtype == np.int8
    assert_same(reference.quantize_linear(np.float32(1), 0.5, 1), np.uint8(3))
    assert_same(reference.dequantize_linear(np.uint8(3), 0.5, np.uint8(1)), np.float32(1))


def test_worked_example() -> None:
    """Range -1000 … 1000 in uint8; -1000 is a tie that the rules place at 0 or 1; 255 maps back to 996.08."""
    x = np.array([39.215686275, 0, 1000, -1000], np.float32)
    codes = {rule: reference.quantize_linear(x, 7.843137255, 128, rounding=rule).tolist() for rule in ROUNDINGS}
    assert codes == {"half_even": [133, 128, 255, 0], "half_away": [133, 128, 255, 0], "half_up": [133, 128, 255, 1]}
    assert float(reference.dequantize_linear(np.uint8(255), 7.843137255, 128)) == pytest.approx(996.078, abs=1e-3)
    narrow = reference.quantize_linear(x[2:], 2000 / 254, 128, narrow_range=True)
    assert_same(narrow, np.array([255, 1], np.uint8))
    assert_same(reference.dequantize_linear(narrow, 2000 / 254, 128), x[2:])


def dynamic_expected(x: list[float], name: str) -> tuple[list[int], float, int]:
    """Codes, scale and zero point of one array, by exact arithmetic."""
    finite = [v for v in (exact.convert(value, "float32") for value in x) if math.isfinite(v)]
    low, high = min([0.0, *finite]), max([0.0, *finite])
    span = exact.plus(high, -low)
    if low == high:
        scale = 1.0
    elif math.isinf(span):
        scale = exact.plus(exact.divided(high, 255.0), -exact.divided(low, 255.0))
    else:
        scale = max(exact.divided(span, 255.0), 2.0**-126)
    zero_point = exact.code(exact.divided(-low, scale), 0, 0, 255, "half_even")
    parameters = Parameters(QUANTIZED["uint8"], False, scale, zero_point)
    return [parameters.code(quotient(v, parameters, name), "half_even") for v in x], scale, zero_point


@pytest.mark.parametrize("name", REAL)
def test_dynamic_quantize(name: str) -> None:
    rng, arrays = np.random.default_rng(10), [real_array([], name), real_array([0.0, -0.0, math.nan, math.inf], name)]
    limit = float(exact.FORMATS[name][2])
    for step in range(600):
        middle = 10.0 ** rng.uniform(-45, 38) if step % 2 else 1.0
        values = [exact.convert(float(v) * middle, name) for v in rng.normal(size=16)]
        if step % 5 == 0:
            values = [abs(v) * (-1) ** step for v in values]  # one sign only
        if step % 7 == 0:
            values += [limit, -limit * (step % 3) / 2]
        if step % 3 == 0:
            values += [math.nan, -math.inf, math.inf, -0.0]
        arrays.append(real_array([exact.convert(v, name) for v in values], name))
    for x in arrays:
        codes, scale, zero_point = dynamic_expected(python_floats(x), name)
        expected = (np.array(codes, np.uint8), np.float32(scale), np.uint8(zero_point))
        assert_all_same(reference.dynamic_quantize_linear(x), expected, f"{x}")
    assert sum(x.size for x in arrays) >= ENOUGH


def qparams_expected(rmin: float, rmax: float, kind: QuantizedType, symmetric: bool, narrow: bool) -> tuple[float, int]:
    low, high, qmin, qmax = min(rmin, 0.0), max(rmax, 0.0), kind.lowest(narrow), kind.qmax
    z = 0 if kind.signed else 1 << (kind.bits - 1)
    if symmetric:
        span, steps = max(high, -low), min(qmax - z, z - qmin)
    else:
        span, steps = exact.plus(high, -low, "float64"), qmax - qmin
    scale = 1.0 if span == 0 else exact.divided(span, float(steps), "float64")
    scale = min(max(scale, 2.0**-126), float(exact.FORMATS["float32"][2]))
    if not symmetric:
        real_zero = exact.plus(float(qmin), -exact.divided(low, scale, "float64"), "float64")
        z = exact.code(real_zero, 0, qmin, qmax, "half_even")
    return exact.convert(scale, "float32"), z


@pytest.mark.parametrize("symmetric", [False, True])
def test_choose_qparams(symmetric: bool) -> None:
    rng, count = np.random.default_rng(11), 0
    sizes = 10.0 ** rng.uniform(-60, 45, (700, 2))
    sizes[::4] = rng.integers(0, 1000, (175, 2)) / 8
    sizes[1::9] = sizes[1::9, :1]  # both ends the same: ties of the zero point
    rmin, rmax = -sizes[:, 0], sizes[:, 1]
    rmin[:3], rmax[:3] = (0, -0.0, -1.5e308), (0, 0, 1.5e308)
    rmin[3:80], rmax[3:80] = rmax[3:80], rmax[3:80] * 2  # 0 outside
    for kind in QUANTIZED.values():
        for narrow in (False, True):
            options = {"symmetric": symmetric, "narrow_range": narrow}
            ranges = zip(rmin.tolist(), rmax.tolist(), strict=True)
            expected = [qparams_expected(*ends, kind, symmetric, narrow) for ends in ranges]
            scale, zero_point, qmin, qmax = reference.choose_qparams(rmin, rmax, kind.name, **options)
            assert_same(scale, np.array([one for one, _ in expected], np.float32), f"{kind} {options}")
            assert_same(zero_point, np.array([z for _, z in expected]).astype(numpy_dtype(kind.name)), f"{kind}")
            assert (qmin, qmax) == (kind.lowest(narrow), kind.qmax)
            count += rmin.size
            one = reference.choose_qparams(float(rmin[5]), float(rmax[5]), kind.name, **options)
            assert one == (scale[5], zero_point[5], qmin, qmax)
            assert np.ndim(one[0]) == np.ndim(one[1]) == 0
    assert count >= ENOUGH
