"""Division of x that is first brought between S · low and S · high (gpuq/division.py)."""

from __future__ import annotations

from typing import Any

import numpy as np

from gpuq.arithmetic import scalar
from gpuq.cuda.ptx import larger, smaller
from gpuq.division import corrected


@scalar
def divide_bounded(x: Any, divisor: Any) -> Any:
    """x / S, saturated to what rounds to low or high; for NaN any of them."""
    power, scale, reciprocal, least, largest = divisor
    near = smaller(larger(np.float32(x * power), least), largest)
    return corrected(np.float32(near * reciprocal), near, scale, reciprocal)
