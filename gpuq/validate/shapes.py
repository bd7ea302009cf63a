"""Which parameter belongs to which element, which matrices meet, and whether products of scales are numbers."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping

import numpy as np

from gpuq.arithmetic import FLOAT32_MAX, SMALLEST_NORMAL
from gpuq.device_array import DeviceArray
from gpuq.layout import PER_TENSOR, Granularity, MatmulShape, Shape, matmul_shape, one_element
from gpuq.validate.numbers import Array, Integers, Reals
from gpuq.validate.options import integer
from gpuq.validate.refusal import refuse

ONE = one_element(1.0)


def granularity(
    shape: Shape, parameters: Mapping[str, Reals | Integers], axis: object, block_size: object
) -> Granularity:
    """Per tensor if every parameter has one element; else per block if a block size is given; else per axis."""
    if type(axis) is not int or type(block_size) is not int or block_size < 0:
        axis, block_size = integer("axis", axis), integer("block_size", block_size, 0)
    for values in parameters.values():
        if isinstance(values, np.ndarray) and values.size != 1:
            return _shared_along(shape, parameters, axis, block_size)
    return PER_TENSOR


def _shared_along(shape: Shape, parameters: Mapping[str, Reals | Integers], axis: int, block_size: int) -> Granularity:
    if not shape:
        refuse(ValueError, "axis", f"{axis} for an array of 0 dimensions", "none: its parameters have one element")
    if not -len(shape) <= axis < len(shape):
        refuse(
            ValueError, "axis", f"{axis} for an array of {len(shape)} dimensions", f"{-len(shape)} … {len(shape) - 1}"
        )
    axis %= len(shape)
    grain = Granularity("block" if block_size else "axis", axis, min(block_size, max(1, shape[axis])))
    for argument, values in parameters.items():
        if isinstance(values, np.ndarray) and values.size != 1 and values.shape != grain.parameter_shape(shape):
            wanted = (
                f"one element or shape {grain.parameter_shape(shape)} (per {grain.kind}, axis {axis} of shape {shape})"
            )
            refuse(ValueError, argument, f"shape {values.shape}", wanted)
    return grain


@functools.lru_cache
def matmul(a: Shape, b: Shape) -> MatmulShape:
    """Shapes that multiply after NumPy's rules."""
    for argument, shape in (("b", b), ("a", a)):
        if not shape:
            refuse(ValueError, argument, "an array of 0 dimensions", "at least 1 dimension")
    try:
        return matmul_shape(a, b)
    except ValueError:
        refuse(
            ValueError,
            "b",
            f"shape {b} with a of shape {a}",
            "shapes that multiply: k equal, batch dimensions broadcast",
        )


def row_vector(argument: str, values: Reals | Integers, shape: MatmulShape, a_ndim: int) -> Array:
    """A parameter per row of a as (…, 1 or m): one element, (m,), or (…, m, 1) that does not enlarge the result's
    batch.
    """
    if isinstance(values, (float, int)):
        return one_element(values)
    if values.size == 1:
        return values.reshape(1)
    column = values[:, np.newaxis] if values.ndim == 1 else values
    vector = column[..., 0] if column.shape[-1:] == (1,) and a_ndim > 1 else None
    accepted = f"one element, ({shape.m},) or (…, {shape.m}, 1)" if a_ndim > 1 else "one element, as a has 1 dimension"
    return _vector(argument, values, vector, shape.m, shape.batch, accepted)


def column_vector(argument: str, values: Reals | Integers, shape: MatmulShape, b_ndim: int) -> Array:
    """A parameter per column of b as (…, 1 or n): one element, (n,), or (…, 1, n) that does not enlarge the result's
    batch.
    """
    if isinstance(values, (float, int)):
        return one_element(values)
    if values.size == 1:
        return values.reshape(1)
    row = values[np.newaxis, :] if values.ndim == 1 else values
    vector = row[..., 0, :] if row.shape[-2:-1] == (1,) and b_ndim > 1 else None
    accepted = f"one element, ({shape.n},) or (…, 1, {shape.n})" if b_ndim > 1 else "one element, as b has 1 dimension"
    return _vector(argument, values, vector, shape.n, shape.batch, accepted)


def _vector(argument: str, values: Array, vector: Array | None, length: int, batch: Shape, accepted: str) -> Array:
    if vector is None or vector.shape[-1] not in (1, length) or not _fits(vector.shape[:-1], batch):
        refuse(ValueError, argument, f"shape {values.shape}", f"{accepted}, broadcasting to the batch {batch}")
    return vector


def _fits(shape: Shape, batch: Shape) -> bool:
    """Whether a shape broadcasts to the batch without enlarging it."""
    try:
        return np.broadcast_shapes(shape, batch) == batch
    except ValueError:
        return False


def scale_products(a_scale: Array, b_scale: Array, y_scale: Array | None = None) -> None:
    """Every f32(a_scale·b_scale), and its quotient by y_scale, is a normal float32; all as row_vector gives them. What
    lies on a GPU is not looked at.
    """
    if any(isinstance(scale, DeviceArray) for scale in (a_scale, b_scale, y_scale)):
        return
    if 0 in (a_scale.size, b_scale.size) or (y_scale is not None and y_scale.size == 0):
        return
    if _far_from_the_limits(a_scale, b_scale, ONE if y_scale is None else y_scale):
        return
    with np.errstate(over="ignore", under="ignore"):
        least, most = a_scale * b_scale.min(-1, keepdims=True), a_scale * b_scale.max(-1, keepdims=True)
        _require_normal("a_scale, b_scale", "a product", least, most)
        if y_scale is not None:  # per row, as a_scale is
            what = "a multiplier a_scale·b_scale/y_scale"
            _require_normal("a_scale, b_scale, y_scale", what, least / y_scale, most / y_scale)


def _far_from_the_limits(a_scale: Array, b_scale: Array, y_scale: Array) -> bool:
    """Whether even the extremes of all scales, whichever meet, give normal numbers: in float64, which needs no care."""
    (a_low, a_high), (b_low, b_high), (y_low, y_high) = map(_extremes, (a_scale, b_scale, y_scale))
    low, high = a_low * b_low, a_high * b_high
    return min(low, low / y_high) >= 2 * SMALLEST_NORMAL and max(high, high / y_low) <= FLOAT32_MAX / 2


def _extremes(values: Array) -> tuple[float, float]:
    if values.size == 1:
        return (one := values.item()), one
    return float(values.min()), float(values.max())


def _require_normal(argument: str, what: str, least: Array, most: Array) -> None:
    if not (least.min() >= SMALLEST_NORMAL and most.max() < math.inf):
        bad = least.min() if least.min() < SMALLEST_NORMAL else most.max()
        refuse(ValueError, argument, f"{what} of {bad}", "normal float32 numbers")
