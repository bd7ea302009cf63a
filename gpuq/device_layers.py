"""The parts of `linear` and of products of tensors on a GPU: operators of their own, which come again as others do, but
no public ones.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from gpuq import arrays, validate
from gpuq.arithmetic import FLOAT32
from gpuq.arrays import View, seen
from gpuq.calls import finish, repeatable, start
from gpuq.cpu.operators import HALF_CODES
from gpuq.device_array import DeviceArray
from gpuq.dtypes import type_name
from gpuq.packed import PackedMatrix
from gpuq.qtensor import QTensor
from gpuq.transfer import to_host

LONGEST_BLOCK = 65_536  # codes, less any zero point, whose products with int8 codes int32 holds …
LONGEST_WITH_POINTS = 33_025  # … and with codes less zero points


@repeatable
def quantize_rows(x: Any) -> tuple[Any, Any]:
    """int8 codes of x (…, k), which lies on a GPU, and the float32 scales of its rows (…, 1), as arrays of its kind."""
    inputs = {"x": seen(x)}
    call, view = start("linear", None, None, inputs), inputs["x"]
    results = ((view.shape, "int8"), ((*view.shape[:-1], 1), "float32"))
    codes, scales = (call.allocate(None, view, shape, kind, {}) for shape, kind in results)
    call.record("linear")
    call.run("quantize_rows", arrays.readable(view), view.type, codes, scales)
    return finish(None, view, codes, "int8"), finish(None, view, scales, "float32")


@repeatable
def multiply(
    x: Any, row_scales: Any, row_points: Any, codes: Any, scale: Any, zero_point: Any, bias: Any, length: int,
    bits: int, activation: int, real: str,
) -> Any:  # fmt: skip
    """act(x · weight + bias) of type `real`, for x (…, k) on a GPU: codes with scales and zero points, if any, of their
    rows, blocks, or all; real numbers where there are no scales. The weight's codes (k, n) are as they are, or packed;
    blocks have `length` codes along k.
    """
    inputs = {"x": seen(x), "row_scales": seen(row_scales), "weight": seen(codes), "scale": seen(scale)}
    inputs |= {"zero_point": seen(zero_point), "bias": seen(bias), "row_points": seen(row_points)}
    call, view = start("linear", None, None, inputs), inputs["x"]
    biases = validate.real_numbers("bias", inputs["bias"])
    shape = tuple(codes.shape)
    y = call.allocate(None, view, (*view.shape[:-1], shape[1]), real, {})
    call.record("linear")
    scales, points = _readable(inputs["scale"]), _readable(inputs["zero_point"])
    rows = None if row_scales is None else (_readable(inputs["row_scales"]), _readable(inputs["row_points"]))
    own = arrays.readable(inputs["weight"]) if type(inputs["weight"]) is View else codes._packed
    if isinstance(codes, PackedMatrix) and isinstance(codes._zero_point, DeviceArray):
        points = codes._zero_point  # as kernels take them
    weight = (own, shape, scales, points, length, bits)
    call.run(
        "multiply_layer", arrays.readable(view), rows, weight, biases, activation, HALF_CODES.get(real, FLOAT32), y
    )
    return finish(None, view, y, real)


@repeatable
def sum_of(first: Any, second: Any) -> Any:
    """The sum of two float32 arrays of one shape on a GPU, in C order: what scaled_matmul gives."""
    inputs = {"first": seen(first), "second": seen(second)}
    call, view = start("scaled_matmul", None, None, inputs), inputs["first"]
    total = call.allocate(None, view, view.shape, "float32", {})
    call.record("scaled_matmul")
    call.run("add_reals", *(arrays.readable(each) for each in inputs.values()), total)
    return finish(None, view, total, "float32")


def _readable(view: View | None) -> Any:
    return None if view is None else arrays.readable(view)


def prepack(weight: QTensor, scale: Any, zero_point: Any, length: int) -> PackedMatrix:
    """A weight on a GPU with blocks of `length` along k, packed for `multiply`, with its parameters as they broadcast
    to (blocks, n); 4-bit codes stay in 4 bits.
    """
    inputs = {"data": seen(weight.data), "scale": seen(scale), "zero_point": seen(zero_point)}
    call = start("prepack", None, None, inputs)
    points = to_host(weight.zero_point)
    call.record("prepack")
    data, scales, own_points = (arrays.readable(view) for view in inputs.values())
    bits = bits_of(weight)
    middle = 1 << bits - 1 if data.dtype == np.uint8 else 0  # what unsigned codes lose to be signed
    own = own_points if np.any(points.astype(np.int32) != middle) else None
    packed = call.run("pack_layer", data, scales, own, length, bits)
    return PackedMatrix(weight.shape, np.dtype(data.dtype), packed, None, call.device)


def bits_of(weight: QTensor) -> int:
    """Bits of a code as a GPU's layers read it."""
    return 4 if type_name(weight.dtype) in ("int4", "uint4") else 8


def takes(weight: QTensor, length: int, longest: int) -> bool:
    """Whether a GPU's kernels take a weight: there is one, and int32 holds the sums of blocks of `length` along k, 0
    where nobody adds integers up.
    """
    return math.prod(weight.shape) > 0 and length <= longest
