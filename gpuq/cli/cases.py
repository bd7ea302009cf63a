"""The calls that `gpuq selftest` makes: for each operator, all types, granularities and modes on a few shapes."""

from __future__ import annotations

import importlib.util
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from gpuq.dtypes import NEEDS_ML_DTYPES, QUANTIZED, REAL, numpy_dtype

ROUNDINGS = ("half_even", "half_away", "half_up", "torch")
MODES = ("float", "float64", "fixed_point", "fixed_point_half_up")
GRANULARITIES = ("tensor", "axis", "block")
PAIRS = tuple(itertools.product(("uint8", "int8"), repeat=2))
SHAPES = ((0,), (1,), (7,), (3, 5), (16, 33), (2, 9, 17))
PRODUCT_SHAPES = (  # of a and b
    ((1, 1), (1, 1)),
    ((3, 5), (5, 7)),
    ((16, 64), (64, 32)),
    ((17, 33), (33, 9)),
    ((1, 300), (300, 40)),
    ((0, 4), (4, 3)),
    ((3, 0), (0, 2)),
    ((5,), (5, 3)),
    ((3, 5), (5,)),
    ((5,), (5,)),
    ((2, 1, 3, 5), (4, 5, 6)),
)
AXIS, BLOCK_SIZE = -1, 4
SPECIAL = (np.nan, np.inf, -np.inf, 0.0, -0.0, 1e-40, -1e-40, 3e38, -3e38)


@dataclass(frozen=True)
class Case:
    """One call."""

    arguments: tuple[Any, ...]
    keywords: dict[str, Any] = field(default_factory=dict)

    def describe(self) -> str:
        """The arguments in short: arrays as type and shape."""
        texts = [_describe(value) for value in self.arguments]
        return ", ".join([*texts, *(f"{name}={_describe(value)}" for name, value in self.keywords.items())])


def _describe(value: Any) -> str:
    if isinstance(value, np.ndarray) and value.size > 1:
        return f"{value.dtype}{list(value.shape)}"
    return repr(value)


def available(names: Any) -> list[str]:
    """The types among `names` that NumPy arrays can have here."""
    has_ml_dtypes = importlib.util.find_spec("ml_dtypes") is not None
    return [name for name in names if has_ml_dtypes or name not in NEEDS_ML_DTYPES]


# ---- values ----


def _reals(generator: np.random.Generator, shape: tuple[int, ...], real: str) -> Any:
    """Multiples of 1/8 near zero, so that with the scales below many quotients are ties, and some special values."""
    values = generator.integers(-2000, 2000, shape) / 8
    special = generator.random(shape) < 0.1
    values = np.where(special, generator.choice(SPECIAL, shape), values)
    with np.errstate(over="ignore"):
        return values.astype(numpy_dtype(real))


def _scales(generator: np.random.Generator, shape: tuple[int, ...]) -> Any:
    """Powers of two and others."""
    return np.where(
        generator.random(shape) < 0.5, np.exp2(generator.integers(-4, 3, shape)), generator.uniform(0.01, 4, shape)
    ).astype(np.float32)


def _codes(generator: np.random.Generator, shape: tuple[int, ...], dtype: str, lowest: int | None = None) -> Any:
    """Codes of the whole range, its ends included."""
    kind = QUANTIZED[dtype]
    low = kind.qmin if lowest is None else lowest
    values = generator.integers(low, kind.qmax, shape, endpoint=True)
    ends = generator.random(shape) < 0.1
    return np.where(ends, generator.choice([low, kind.qmax], shape), values).astype(numpy_dtype(dtype))


def _parameter_shape(shape: tuple[int, ...], granularity: str) -> tuple[int, ...]:
    if granularity == "tensor":
        return ()
    if granularity == "axis":
        return shape[AXIS:]
    return (*shape[:-1], -(-shape[AXIS] // BLOCK_SIZE))


def _layout(granularity: str) -> dict[str, int]:
    return {"axis": AXIS, "block_size": BLOCK_SIZE if granularity == "block" else 0}


# ---- one element at a time ----


def quantize_linear(seed: int) -> Iterator[Case]:
    """Every real and quantized type, granularity and range; every rounding with the types up to 8 bit.

    The wide types take one rounding, because each pair of them is a kernel of its own to compile.
    """
    generator = np.random.default_rng(seed)
    shapes = itertools.cycle(SHAPES)
    kinds = itertools.product(available(REAL), available(QUANTIZED), GRANULARITIES, ROUNDINGS, (False, True))
    for real, dtype, granularity, rounding, narrow_range in kinds:
        if QUANTIZED[dtype].bits > 8 and rounding != ROUNDINGS[0]:
            continue
        shape = next(shapes)
        parameters = _parameter_shape(shape, granularity)
        zero_point = _codes(generator, parameters, dtype, QUANTIZED[dtype].lowest(narrow_range))
        yield Case(
            (_reals(generator, shape, real), _scales(generator, parameters), zero_point),
            {**_layout(granularity), "narrow_range": narrow_range, "rounding": rounding},
        )


def dequantize_linear(seed: int) -> Iterator[Case]:
    """Every quantized and real type and granularity on every shape."""
    generator = np.random.default_rng(seed)
    kinds = itertools.product(available(REAL), available(QUANTIZED), GRANULARITIES, SHAPES)
    for real, dtype, granularity, shape in kinds:
        parameters = _parameter_shape(shape, granularity)
        zero_point = _codes(generator, parameters, dtype)
        yield Case(
            (_codes(generator, shape, dtype), _scales(generator, parameters), zero_point),
            {**_layout(granularity), "dtype": real},
        )


def dynamic_quantize_linear(seed: int) -> Iterator[Case]:
    """Every real type on every shape."""
    generator = np.random.default_rng(seed)
    for real, shape in itertools.product(available(REAL), SHAPES):
        yield Case((_reals(generator, shape, real),))


def requantize(seed: int) -> Iterator[Case]:
    """Every output type, mode and activation, per tensor and per axis, with and without a bias."""
    generator = np.random.default_rng(seed)
    types, activations = ("int8", "uint8", "int16", "uint16"), (None, "relu", "relu6")
    kinds = itertools.product(types, MODES, activations, (False, True), SHAPES)
    for dtype, mode, activation, per_axis, shape in kinds:
        parameters = shape[AXIS:] if per_axis else ()
        accumulator = generator.integers(-(2**31), 2**31, shape) >> generator.integers(0, 31, shape)
        multiplier = _multiplier(generator, parameters, mode)
        yield Case(
            (accumulator.astype(np.int32), multiplier, _codes(generator, parameters, dtype)),
            {
                "bias": generator.integers(-(2**31), 2**31, parameters).astype(np.int32) if per_axis else None,
                "activation": activation,
                "y_scale": np.float32(0.05),
                "dtype": dtype,
                "mode": mode,
            },
        )


def _multiplier(generator: np.random.Generator, shape: tuple[int, ...], mode: str) -> Any:
    real = np.exp2(generator.uniform(-20, 2, shape))
    if mode.startswith("fixed_point"):
        fraction, exponent = np.frexp(real)
        return np.int32(fraction * 2.0**31), np.int32(exponent)
    return np.float32(real) if mode == "float" else np.float64(real)


def quantize_multiplier(seed: int) -> Iterator[Case]:
    """Scalars and arrays over the whole range of exponents, and values just below a power of two."""
    generator = np.random.default_rng(seed)
    for shape in ((), *SHAPES):
        yield Case((np.exp2(generator.uniform(-40, 30, shape)),))
        yield Case((np.nextafter(np.exp2(generator.integers(-33, 30, shape)), 0.0),))
    yield Case((0.0,))


# ---- products ----


def _product_parameters(generator: np.random.Generator, a: Any, b: Any, per_row: bool, per_column: bool) -> list[Any]:
    """Scale and zero point of a and of b: one, or one a row of a 2-D a, one a column of b."""
    rows = a.shape[-2:-1] if per_row and a.ndim > 1 else ()
    columns = b.shape[-1:] if per_column and b.ndim > 1 else ()
    return [
        _scales(generator, rows),
        _codes(generator, rows, a.dtype.name),
        _scales(generator, columns),
        _codes(generator, columns, b.dtype.name),
    ]


def _products(generator: np.random.Generator) -> Iterator[tuple[Any, Any, list[Any], Any]]:
    """a, b, their parameters and a bias, for every mix of types, shape and granularity."""
    for (a_type, b_type), (a_shape, b_shape), per_row, per_column in itertools.product(
        PAIRS, PRODUCT_SHAPES, (False, True), (False, True)
    ):
        a, b = _codes(generator, a_shape, a_type), _codes(generator, b_shape, b_type)
        columns = b_shape[-1:] if per_column and len(b_shape) > 1 else ()
        yield a, b, _product_parameters(generator, a, b, per_row, per_column), columns


def matmul_integer(seed: int) -> Iterator[Case]:
    """Every mix of types, per-row and per-column zero points, on every shape."""
    generator = np.random.default_rng(seed)
    for a, b, (_, a_zero_point, _, b_zero_point), _ in _products(generator):
        yield Case((a, b, a_zero_point, b_zero_point))


def qlinear_matmul(seed: int) -> Iterator[Case]:
    """The same with both output types, roundings, activations and ranges in turn."""
    generator = np.random.default_rng(seed)
    turns = itertools.cycle(itertools.product(("uint8", "int8"), ROUNDINGS[:3], (None, "relu", "relu6"), (False, True)))
    for a, b, (a_scale, a_zero_point, b_scale, b_zero_point), columns in _products(generator):
        for y_type, rounding, activation, narrow_range in itertools.islice(turns, 3):
            y_scale = np.float32(generator.uniform(0.5, 2) * 100 * np.sqrt(a.shape[-1] + 1))
            y_zero_point = _codes(generator, (), y_type, QUANTIZED[y_type].lowest(narrow_range))
            bias = generator.integers(-(2**20), 2**20, columns).astype(np.int32)
            yield Case(
                (a, a_scale, a_zero_point, b, b_scale, b_zero_point, y_scale, y_zero_point),
                {"bias": bias, "activation": activation, "narrow_range": narrow_range, "rounding": rounding},
            )


def scaled_matmul(seed: int) -> Iterator[Case]:
    """The same with every output type and activation in turn."""
    generator = np.random.default_rng(seed)
    reals = [name for name in available(REAL) if name != "float64"]
    turns = itertools.cycle(itertools.product(reals, (None, "relu", "relu6", "gelu", "silu")))
    for a, b, (a_scale, a_zero_point, b_scale, b_zero_point), columns in _products(generator):
        for real, activation in itertools.islice(turns, 2):
            bias = generator.normal(0, 4, columns).astype(np.float32)
            yield Case(
                (a, b, a_scale / 256, b_scale / 256, a_zero_point, b_zero_point),
                {"bias": bias, "activation": activation, "dtype": real},
            )


GENERATORS: dict[str, Callable[[int], Iterator[Case]]] = {
    "quantize_linear": quantize_linear,
    "dequantize_linear": dequantize_linear,
    "dynamic_quantize_linear": dynamic_quantize_linear,
    "fake_quantize": quantize_linear,  # takes the same arguments
    "matmul_integer": matmul_integer,
    "qlinear_matmul": qlinear_matmul,
    "scaled_matmul": scaled_matmul,
    "requantize": requantize,
    "quantize_multiplier": quantize_multiplier,
}
