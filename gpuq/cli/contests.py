"""What is timed against what: operations of gpuq, and NumPy's float32 way to the same end, on the same data.

`place(array)` says where gpuq's arrays lie: it gives an array on the device that is timed, NumPy's own on the CPU.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

import gpuq

SEED = 0
SCALE, ZERO_POINT = np.float32(0.05), np.uint8(128)
MULTIPLIER = np.float32(0.001)

Place = Callable[[np.ndarray[Any, Any]], Any]

# operation: bytes of an element read and written; those named "fresh" give a new array, the others write into one
ELEMENTWISE = {
    "quantize_linear": (4, 1),
    "quantize_linear fresh": (4, 1),
    "dequantize_linear": (1, 4),
    "dequantize_linear fresh": (1, 4),
    "fake_quantize": (4, 4),
    "requantize": (4, 1),
    "dynamic_quantize_linear": (4, 1),
}
# b is packed in every call, or beforehand as the weights of a layer would be
PRODUCTS = ("matmul_integer", "matmul_integer packed", "qlinear_matmul packed", "scaled_matmul packed")


@dataclass(frozen=True)
class Contest:
    """One operation on one shape, (elements,) or (m, k, n): `amount` (bytes moved or operations) over seconds is in
    `unit`.
    """

    operation: str
    shape: tuple[int, ...]

    @property
    def amount(self) -> int:
        """Bytes read and written, or 2·m·k·n."""
        if self.operation in ELEMENTWISE:
            return math.prod(self.shape) * sum(ELEMENTWISE[self.operation])
        return 2 * math.prod(self.shape)

    @property
    def unit(self) -> str:
        """Of amount / seconds / 1e9."""
        return "GB/s" if self.operation in ELEMENTWISE else "GOPS"


def ways_of(contest: Contest) -> dict[str, Callable[[], Any]]:
    """The calls of both contenders, ready to be timed."""
    return {"gpuq": gpuq_way(contest), "numpy": numpy_way(contest)}


@functools.lru_cache(maxsize=1)
def vector(elements: int) -> tuple[Any, Any, Any]:
    """Real numbers, their codes, and int32 accumulators."""
    generator = np.random.default_rng(SEED)
    x = generator.standard_normal(elements, np.float32) * np.float32(2)
    accumulators = generator.integers(-100_000, 100_000, elements, dtype=np.int32)
    return x, gpuq.quantize_linear(x, SCALE, ZERO_POINT, device="cpu"), accumulators


@functools.lru_cache(maxsize=1)
def matrices(m: int, k: int, n: int) -> tuple[Any, Any, Any, Any]:
    """uint8 a, int8 b, and a zero point and a scale for each column of b."""
    generator = np.random.default_rng(SEED)
    a = generator.integers(0, 256, (m, k), dtype=np.uint8)
    b = generator.integers(-128, 128, (k, n), dtype=np.int8)
    return a, b, generator.integers(-20, 20, n).astype(np.int8), generator.uniform(0.01, 0.02, n).astype(np.float32)


def gpuq_way(contest: Contest, place: Place = np.asarray, **options: Any) -> Callable[[], Any]:
    """gpuq's call with these options beside its own; products are written into arrays that exist."""
    if contest.operation in ELEMENTWISE:
        return _gpuq_elementwise(contest, place, options)
    m, k, n = contest.shape
    a, b, columns, scales = map(place, matrices(m, k, n))
    name, _, packed = contest.operation.partition(" ")
    if packed:
        b, columns = gpuq.prepack(b, zero_point=columns), None
    kind = {"matmul_integer": np.int32, "scaled_matmul": np.float32, "qlinear_matmul": np.uint8}[name]
    options, y_scale = options | {"out": place(np.empty((m, n), kind))}, np.float32(np.sqrt(k))
    return {
        "matmul_integer": lambda: gpuq.matmul_integer(a, b, ZERO_POINT, columns, **options),
        "scaled_matmul": lambda: gpuq.scaled_matmul(a, b, SCALE, scales, ZERO_POINT, columns, **options),
        "qlinear_matmul": lambda: gpuq.qlinear_matmul(
            a, SCALE, ZERO_POINT, b, scales, columns, y_scale, ZERO_POINT, **options
        ),
    }[name]


def _gpuq_elementwise(contest: Contest, place: Place, options: dict[str, Any]) -> Callable[[], Any]:
    x, q, accumulators = map(place, vector(*contest.shape))
    name, _, fresh = contest.operation.partition(" ")
    codes, reals = (None, None) if fresh else (place(np.empty(contest.shape, kind)) for kind in (np.uint8, np.float32))
    to_codes, to_reals = options | {"out": codes}, options | {"out": reals}
    return {
        "quantize_linear": lambda: gpuq.quantize_linear(x, SCALE, ZERO_POINT, **to_codes),
        "dequantize_linear": lambda: gpuq.dequantize_linear(q, SCALE, ZERO_POINT, **to_reals),
        "fake_quantize": lambda: gpuq.fake_quantize(x, SCALE, ZERO_POINT, **to_reals),
        "requantize": lambda: gpuq.requantize(accumulators, MULTIPLIER, ZERO_POINT, dtype="uint8", **to_codes),
        "dynamic_quantize_linear": lambda: gpuq.dynamic_quantize_linear(x, **options),
    }[name]


def numpy_way(contest: Contest, library: Any = np) -> Callable[[], Any]:
    """The way of NumPy, or of a library with its functions: float32 products of the dequantized matrices; the formulas,
    a function at a time.
    """
    if contest.operation not in ELEMENTWISE:
        a, b, columns, scales = matrices(*contest.shape)
        a_real = library.asarray(gpuq.dequantize_linear(a, SCALE, ZERO_POINT, device="cpu"))
        b_real = library.asarray(gpuq.dequantize_linear(b, scales, columns, axis=1, device="cpu"))
        product = library.empty(a_real.shape[:1] + b_real.shape[1:], np.float32)
        return lambda: library.matmul(a_real, b_real, out=product)
    x, q, accumulators = map(library.asarray, vector(*contest.shape))
    codes, reals = library.empty_like(q), library.empty_like(x)
    zero = np.float32(ZERO_POINT)

    def codes_of(real: Any, divisor: Any, zero_point: Any) -> Any:
        return library.clip(library.rint(real / divisor) + zero_point, 0, 255)

    def dequantize(q: Any, out: Any) -> Any:
        return library.multiply(library.subtract(q, zero, out=out), SCALE, out=out)

    def dynamic_quantize() -> Any:
        low, high = library.minimum(x.min(), np.float32(0)), library.maximum(x.max(), np.float32(0))
        scale = (high - low) / np.float32(255)
        return codes_of(x, scale, library.rint(-low / scale)).astype(np.uint8)

    return {
        "quantize_linear": lambda: library.copyto(codes, codes_of(x, SCALE, zero), casting="unsafe"),
        "quantize_linear fresh": lambda: codes_of(x, SCALE, zero).astype(np.uint8),
        "dequantize_linear": lambda: dequantize(q, reals),
        "dequantize_linear fresh": lambda: dequantize(q, None),
        "fake_quantize": lambda: dequantize(codes_of(x, SCALE, zero), reals),
        "requantize": lambda: library.copyto(codes, codes_of(accumulators, 1 / MULTIPLIER, zero), casting="unsafe"),
        "dynamic_quantize_linear": dynamic_quantize,
    }[contest.operation]
