"""How real numbers become codes: the checked parameters of one quantization, as every device's backend takes them."""

from __future__ import annotations

from typing import NamedTuple

from gpuq.dtypes import QuantizedType
from gpuq.layout import Granularity
from gpuq.validate import Integers, Reals


class Quantizer(NamedTuple):
    """saturate(round(x / scale) + zero_point) to the codes lowest … kind.qmax.

    `scale` is a number that float32 holds or an array of float32, `zero_point` an int or an array of int64; arrays have
    one element or the granularity's shape. `rounding` is one of arithmetic.py's.
    """

    kind: QuantizedType
    lowest: int
    scale: Reals
    zero_point: Integers
    grain: Granularity
    rounding: int
