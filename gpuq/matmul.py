"""The matrix products: validate, pick the device, call it, return the caller's kind of array."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from gpuq import arithmetic, arrays, validate
from gpuq.arrays import View
from gpuq.calls import Call, finish, start
from gpuq.dtypes import QUANTIZED
from gpuq.operands import Operands
from gpuq.ops import ACTIVATIONS, ROUNDINGS
from gpuq.packed import PackedMatrix
from gpuq.validate import INT8_TYPES, Array

SCALED_TYPES = ("float32", "float16", "bfloat16")
PRODUCT_ROUNDINGS = {name: code for name, code in ROUNDINGS.items() if name != "torch"}
PRODUCT_ACTIVATIONS: dict[str | None, int] = {**ACTIVATIONS, "gelu": arithmetic.GELU, "silu": arithmetic.SILU}


def prepack(b: Any, *, zero_point: Any = None, device: str | None = None, stream: Any = None) -> PackedMatrix:
    """Pack b once for many products.

    Parameters
    ----------
    b : array of int8 or uint8, shape (…, k, n) or (k,)
    zero_point : int or array of b's type, optional
        One element, (n,) or (…, 1, n); the products then take no `b_zero_point`.
    device : {None, "cpu", "cuda", "cuda:N"}, optional
    stream : optional
        CUDA only.

    Returns
    -------
    PackedMatrix

    Raises
    ------
    TypeError, ValueError
        Naming the argument, what came and what is accepted.
    DeviceError
        The forced device is absent.
    """
    call = start("prepack", device, stream, b=b, zero_point=zero_point)
    view = validate.array("b", b, INT8_TYPES)
    shape = validate.matmul(view.shape[-2:-1] if len(view.shape) > 1 else view.shape, view.shape)
    points = validate.zero_point("zero_point", zero_point, QUANTIZED[view.type])
    vector = validate.column_vector("zero_point", points, shape, len(view.shape))
    call.record("prepack")
    packed, own_vector = call.run("pack_columns", arrays.readable(view), vector, call.isa)
    return PackedMatrix(view.shape, np.dtype(view.type), packed, own_vector, call.device)


def matmul_integer(
    a: Any,
    b: Any,
    a_zero_point: Any = None,
    b_zero_point: Any = None,
    *,
    out: Any = None,
    device: str | None = None,
    stream: Any = None,
) -> Any:
    """Exact integer product (a − a_zero_point) @ (b − b_zero_point).

    Parameters
    ----------
    a : array of int8 or uint8, shape (…, m, k) or (k,)
    b : array of int8 or uint8, shape (…, k, n) or (k,), or PackedMatrix
        NumPy's matmul rules: batch dimensions broadcast.
    a_zero_point : int or array of a's type, optional
        One element, (m,) or (…, m, 1).
    b_zero_point : int or array of b's type, optional
        One element, (n,) or (…, 1, n). None where b is packed.
    out : array of int32, optional
    device : {None, "cpu", "cuda", "cuda:N"}, optional
    stream : optional
        CUDA only.

    Returns
    -------
    array of int32, of a's kind.

    Raises
    ------
    OverflowError
        A result does not fit int32, which takes k > 33,025; `out` is then unspecified.
    TypeError, ValueError
        Naming the argument, what came and what is accepted.
    DeviceError
        The forced device is absent.

    Notes
    -----
    ONNX MatMulInteger, version 10, with a_zero_point per row too.
    """
    inputs = {"a": a, "b": b, "a_zero_point": a_zero_point, "b_zero_point": b_zero_point}
    call = start("matmul_integer", device, stream, *_amount(a, b), out=out, **inputs)
    view, operands = _operands(call, a, b, a_zero_point, b_zero_point)
    target = call.allocate(out, view, operands.shape.result, "int32", inputs)
    call.record("matmul_integer", operands.isa)
    if call.run("matmul_int32", operands, target):
        raise OverflowError(f"matmul_integer: a result does not fit int32 (k = {operands.shape.k})")
    return finish(out, view, target, "int32")


def scaled_matmul(
    a: Any,
    b: Any,
    a_scale: Any,
    b_scale: Any,
    a_zero_point: Any = None,
    b_zero_point: Any = None,
    *,
    bias: Any = None,
    activation: str | None = None,
    dtype: Any = np.float32,
    out: Any = None,
    device: str | None = None,
    stream: Any = None,
) -> Any:
    """Real product of quantized matrices: activation(acc · (a_scale · b_scale) + bias), acc being the exact integer
    product.

    Parameters
    ----------
    a, b, a_zero_point, b_zero_point, device, stream
        As in `matmul_integer`.
    a_scale : float or array of a real type
        One element, (m,) or (…, m, 1). The products a_scale · b_scale must be normal float32 numbers.
    b_scale : float or array of a real type
        One element, (n,) or (…, 1, n).
    bias : float or array of a real type, optional
        One element, (n,) or (…, 1, n).
    activation : {None, "relu", "relu6", "gelu", "silu"}
    dtype : type or str
        float32, float16 or bfloat16.
    out : array of `dtype`, optional

    Returns
    -------
    array of `dtype`, of a's kind: act(f32(f32(f32(acc)·f32(a_scale·b_scale)) + f32(bias))), rounded once to `dtype`.

    Raises
    ------
    TypeError, ValueError, DeviceError
        As `matmul_integer`. It never overflows: accumulators are exact.
    """
    values = {"a": a, "b": b, "a_scale": a_scale, "b_scale": b_scale, "a_zero_point": a_zero_point}
    values |= {"b_zero_point": b_zero_point, "bias": bias}
    call = start("scaled_matmul", device, stream, *_amount(a, b), out=out, **values)
    view, operands = _operands(call, a, b, a_zero_point, b_zero_point)
    code, real = (
        validate.choice("activation", activation, PRODUCT_ACTIVATIONS),
        validate.dtype("dtype", dtype, SCALED_TYPES),
    )
    rows, columns = _scales(operands, a_scale, b_scale)
    biases = _column_bias(operands, validate.real_numbers("bias", 0.0 if bias is None else bias))
    validate.scale_products(rows, columns)
    target = call.allocate(out, view, operands.shape.result, real, values)
    call.record("scaled_matmul", operands.isa)
    call.run("matmul_scaled", operands, rows, columns, biases, code, real, target)
    return finish(out, view, target, real)


def qlinear_matmul(
    a: Any,
    a_scale: Any,
    a_zero_point: Any,
    b: Any,
    b_scale: Any,
    b_zero_point: Any,
    y_scale: Any,
    y_zero_point: Any,
    *,
    bias: Any = None,
    activation: str | None = None,
    narrow_range: bool = False,
    rounding: str = "half_even",
    out: Any = None,
    device: str | None = None,
    stream: Any = None,
) -> Any:
    """Product of quantized matrices, quantized again: saturate(round((acc + bias) · a_scale·b_scale/y_scale) +
    y_zero_point).

    Parameters
    ----------
    a, a_zero_point, b, b_zero_point, a_scale, b_scale, device, stream
        As in `scaled_matmul`.
    y_scale : float or array of a real type
        One element, (m,) or (…, m, 1).
    y_zero_point : int or array of int8 or uint8
        Shaped like y_scale; its type is the result's, uint8 for a Python int.
    bias : int or array of int32, optional
        In units of a_scale · b_scale; one element, (n,) or (…, 1, n).
    activation : {None, "relu", "relu6"}
        Clamps the codes to those of 0 … or 0 … 6.
    narrow_range : bool
        Leave out the lowest code.
    rounding : {"half_even", "half_away", "half_up"}
    out : array of y_zero_point's type, optional

    Returns
    -------
    array of y_zero_point's type, of a's kind, with m = f32(f32(a_scale·b_scale) / y_scale) applied to f32(acc + bias).

    Raises
    ------
    TypeError, ValueError, DeviceError
        As `matmul_integer`. It never overflows: accumulators are exact.

    Notes
    -----
    ONNX QLinearMatMul, version 21, with bias and activation.
    """
    values = {"a": a, "b": b, "a_scale": a_scale, "b_scale": b_scale, "a_zero_point": a_zero_point}
    values |= {"b_zero_point": b_zero_point, "y_scale": y_scale, "y_zero_point": y_zero_point, "bias": bias}
    call = start("qlinear_matmul", device, stream, *_amount(a, b), out=out, **values)
    view, operands = _operands(call, a, b, a_zero_point, b_zero_point)
    code, ties = (
        validate.choice("activation", activation, ACTIVATIONS),
        validate.choice("rounding", rounding, PRODUCT_ROUNDINGS),
    )
    kind = validate.zero_point_type("y_zero_point", y_zero_point, INT8_TYPES)
    rows, columns = _scales(operands, a_scale, b_scale)
    y_scales = validate.row_vector("y_scale", validate.scale("y_scale", y_scale), operands.shape, operands.a.ndim)
    points = validate.zero_point("y_zero_point", y_zero_point, kind, validate.flag("narrow_range", narrow_range))
    points = validate.row_vector("y_zero_point", points, operands.shape, operands.a.ndim)
    biases = _column_bias(operands, validate.int32_numbers("bias", 0 if bias is None else bias))
    validate.scale_products(rows, columns, y_scales)
    target = call.allocate(out, view, operands.shape.result, kind.name, values)
    call.record("qlinear_matmul", operands.isa)
    settings = (points, biases, kind, kind.lowest(narrow_range), code, ties)
    call.run("matmul_quantized", operands, (rows, columns, y_scales), *settings, target)
    return finish(out, view, target, kind.name)


def _operands(call: Call, a: Any, b: Any, a_zero_point: Any, b_zero_point: Any) -> tuple[View, Operands]:
    """The codes and zero points of a product, checked."""
    view = validate.array("a", a, INT8_TYPES)
    other = None if isinstance(b, PackedMatrix) else validate.array("b", b, INT8_TYPES)
    b_shape = b.shape if other is None else other.shape
    shape = validate.matmul(view.shape, b_shape)
    a_points = validate.zero_point("a_zero_point", a_zero_point, QUANTIZED[view.type])
    a_points = validate.row_vector("a_zero_point", a_points, shape, len(view.shape))
    if other is None:
        validate.absent("b_zero_point", b_zero_point, "None, as b is packed with its own")
        codes, b_points = b._packed, b._zero_point
    else:
        b_points = validate.zero_point("b_zero_point", b_zero_point, QUANTIZED[other.type])
        b_points = validate.column_vector("b_zero_point", b_points, shape, len(b_shape))
        codes = arrays.readable(other)
    isa = call.isa if other is not None else codes.isa
    return view, Operands(arrays.readable(view), codes, shape, a_points, b_points, len(b_shape), isa)


def _amount(a: Any, b: Any) -> tuple[int, int]:
    """How many multiply-adds a product will compute and the result's bytes, roughly: shapes are not checked yet."""
    views = [value if isinstance(value, PackedMatrix) else arrays.view(value) for value in (a, b)]
    shapes = [view.shape for view in views if view is not None]
    if len(shapes) < 2 or not all(shapes):
        return 0, 0
    (*a_rows, k), b_shape = shapes
    *b_batch, _, n = b_shape if len(b_shape) > 1 else (*b_shape, 1)
    elements = max(math.prod(a_rows), math.prod(a_rows[-1:]) * math.prod(b_batch)) * n
    return elements * k, elements * 4


def _column_bias(operands: Operands, values: Array) -> Array:
    """A bias as a vector per column."""
    return validate.column_vector("bias", values, operands.shape, operands.b_ndim)


def _scales(operands: Operands, a_scale: Any, b_scale: Any) -> tuple[Array, Array]:
    """The scales of both operands as vectors per row and per column."""
    rows = validate.row_vector("a_scale", validate.scale("a_scale", a_scale), operands.shape, operands.a.ndim)
    columns = validate.column_vector("b_scale", validate.scale("b_scale", b_scale), operands.shape, operands.b_ndim)
    return rows, columns
