"""What every matrix product multiplies, as every device's backend takes it."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy.typing as npt

from gpuq.layout import MatmulShape

Array = npt.NDArray[Any]


class Operands(NamedTuple):
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
