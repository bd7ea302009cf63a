"""How real numbers become codes: the checked parameters of one quantization, as every device's backend takes them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy.typing as npt

from gpuq.dtypes import QuantizedType
from gpuq.layout import Granularity


@dataclass(frozen=True)
class Quantizer:
    """saturate(round(x / scale) + zero_point) to the codes lowest … kind.qmax.

    `scale` (float32) and `zero_point` (int64) have one element or the granularity's shape; `rounding` is one of
    arithmetic.py's.
    """

    kind: QuantizedType
    lowest: int
    scale: npt.NDArray[Any]
    zero_point: npt.NDArray[Any]
    grain: Granularity
    rounding: int
