"""What is timed against what: an operator of gpuq and NumPy's float32 way to the same end, on the same data.

`place(array)` says where gpuq's arrays lie: it gives an array on the device that is timed, NumPy's own on the CPU.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

import gpuq

SCALE, ZERO_POINT = np.float32(0.05), np.uint8(128)
Place = Callable[[np.ndarray[Any, Any]], Any]


@dataclass(frozen=True)
class Contest:
    """One operation on one shape: `amount` (bytes moved or operations) over seconds is in `unit`."""

    operation: str
    shape: tuple[int, ...]
    amount: float
    unit: str
    contenders: dict[str, Callable[[], Any]]


def elementwise(elements: int, generator: np.random.Generator, place: Place = np.asarray) -> list[Contest]:
    """float32 to uint8 and back, per tensor, into arrays that exist; counted in bytes read and written."""
    x = generator.normal(0, 2, elements).astype(np.float32)
    q = gpuq.quantize_linear(x, SCALE, ZERO_POINT, device="cpu")
    real, codes = np.empty_like(x), np.empty_like(q)
    placed_x, placed_q, placed_real, placed_codes = (place(each) for each in (x, q, real, codes))
    moved = x.nbytes + q.nbytes

    def numpy_quantize() -> None:
        codes[...] = np.clip(np.rint(x / SCALE) + np.float32(ZERO_POINT), 0, 255)

    def numpy_dequantize() -> None:
        np.subtract(q, np.float32(ZERO_POINT), out=real)
        np.multiply(real, SCALE, out=real)

    return [
        Contest(
            "quantize_linear",
            x.shape,
            moved,
            "GB/s",
            {
                "gpuq": lambda: gpuq.quantize_linear(placed_x, SCALE, ZERO_POINT, out=placed_codes),
                "numpy": numpy_quantize,
            },
        ),
        Contest(
            "dequantize_linear",
            x.shape,
            moved,
            "GB/s",
            {
                "gpuq": lambda: gpuq.dequantize_linear(placed_q, SCALE, ZERO_POINT, out=placed_real),
                "numpy": numpy_dequantize,
            },
        ),
    ]


def products(m: int, k: int, n: int, generator: np.random.Generator, place: Place = np.asarray) -> list[Contest]:
    """Products of uint8 (m, k) by int8 (k, n), zero points everywhere, beside NumPy's float32 `a @ b`, into arrays that
    exist.

    b is packed in every call first, then beforehand, as the weights of a layer would be.
    """
    a = generator.integers(0, 256, (m, k), dtype=np.uint8)
    b = generator.integers(-128, 128, (k, n), dtype=np.int8)
    columns = generator.integers(-20, 20, n).astype(np.int8)
    scales = generator.uniform(0.01, 0.02, n).astype(np.float32)
    y_scale = np.float32(np.sqrt(k))
    a_real = gpuq.dequantize_linear(a, SCALE, ZERO_POINT, device="cpu")
    b_real = gpuq.dequantize_linear(b, scales, columns, axis=1, device="cpu")
    product = np.empty((m, n), np.float32)
    sums, codes, real = (place(np.empty((m, n), kind)) for kind in (np.int32, np.uint8, np.float32))
    a, b, columns, scales = (place(each) for each in (a, b, columns, scales))
    packed = gpuq.prepack(b, zero_point=columns)
    calls: dict[str, Callable[[], Any]] = {
        "matmul_integer": lambda: gpuq.matmul_integer(a, b, ZERO_POINT, columns, out=sums),
        "matmul_integer packed": lambda: gpuq.matmul_integer(a, packed, ZERO_POINT, out=sums),
        "qlinear_matmul packed": lambda: gpuq.qlinear_matmul(
            a, SCALE, ZERO_POINT, packed, scales, None, y_scale, ZERO_POINT, out=codes
        ),
        "scaled_matmul packed": lambda: gpuq.scaled_matmul(a, packed, SCALE, scales, ZERO_POINT, out=real),
    }
    return [
        Contest(
            name,
            (m, k, n),
            2 * m * k * n,
            "GOPS",
            {"gpuq": call, "numpy": lambda: np.matmul(a_real, b_real, out=product)},
        )
        for name, call in calls.items()
    ]
