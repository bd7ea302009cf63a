"""What every matrix product multiplies, as every device's backend takes it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy.typing as npt

from gpuq.layout import MatmulShape

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Operands:
    """Codes of a and b, their shapes, and zero points as vectors per row and column.

    `b` holds codes of shape (…, k, n) or (k,), or what the backend that multiplies has packed; `isa` is the
    instruction set to multiply with.
    """

    a: Array
    b: Any
    shape: MatmulShape
    a_zero_point: Array
    b_zero_point: Array
    b_ndim: int
    isa: str
