"""The matrix products: validate, pick the device, call it, return the caller's kind of array."""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np

from gpuq import arithmetic, arrays, validate
from gpuq.arrays import View, seen
from gpuq.calls import Call, finish, repeatable, start
from gpuq.dtypes import QUANTIZED, QuantizedType
from gpuq.layout import Shape, one_element
from gpuq.operands import Operands
from gpuq.ops import ACTIVATIONS, ROUNDINGS
from gpuq.packed import PackedMatrix
from gpuq.remembered import remembered
from gpuq.validate import INT8_TYPES, Array, Integers, Reals

SCALED_TYPES = ("float32", "float16", "bfloat16")
ZERO, ZERO_BIAS = one_element(0), one_element(0.0)
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
    inputs = {"b": seen(b), "zero_point": seen(zero_point)}
    call = start("prepack", device, stream, inputs)
    view = validate.array("b", inputs["b"], INT8_TYPES)
    shape = validate.matmul(view.shape[-2:-1] if len(view.shape) > 1 else view.shape, view.shape)
    kind = QUANTIZED[view.type]
    points = validate.zero_point("zero_point", inputs["zero_point"], kind, kind.qmin)
    vector = validate.column_vector("zero_point", points, shape, len(view.shape))
    call.record("prepack")
    packed, own_vector = call.run("pack_columns", arrays.readable(view), vector, call.isa)
    return PackedMatrix(view.shape, np.dtype(view.type), packed, own_vector, call.device)


@repeatable
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
    inputs, out = _operand_inputs(a, b, a_zero_point, b_zero_point), seen(out)
    call = start("matmul_integer", device, stream, inputs, out, *_amount(inputs))
    view, operands = _operands(call, inputs)
    target = call.allocate(out, view, operands.shape.result, "int32", inputs)
    call.record("matmul_integer", operands.isa)
    if call.run("matmul_int32", operands, target):
        raise OverflowError(f"matmul_integer: a result does not fit int32 (k = {operands.shape.k})")
    return finish(out, view, target, "int32")


@repeatable
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
    inputs, out = _operand_inputs(a, b, a_zero_point, b_zero_point), seen(out)
    inputs["a_scale"], inputs["b_scale"], inputs["bias"] = seen(a_scale), seen(b_scale), seen(bias)
    call = start("scaled_matmul", device, stream, inputs, out, *_amount(inputs))
    view, operands = _operands(call, inputs)
    code, real = _scaling(activation, dtype)
    rows, columns = _scales(operands, inputs)
    biases = ZERO_BIAS if bias is None else _bias(operands, validate.real_numbers("bias", inputs["bias"]))
    validate.scale_products(rows, columns)
    target = call.allocate(out, view, operands.shape.result, real, inputs)
    call.record("scaled_matmul", operands.isa)
    call.run("matmul_scaled", operands, rows, columns, biases, code, real, target)
    return finish(out, view, target, real)


@repeatable
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
    inputs, out = _operand_inputs(a, b, a_zero_point, b_zero_point), seen(out)
    inputs["a_scale"], inputs["b_scale"], inputs["bias"] = seen(a_scale), seen(b_scale), seen(bias)
    inputs["y_scale"], inputs["y_zero_point"] = seen(y_scale), seen(y_zero_point)
    call = start("qlinear_matmul", device, stream, inputs, out, *_amount(inputs))
    view, operands = _operands(call, inputs)
    code, ties, kind, lowest = _requantization(
        activation, rounding, validate.type_carried(inputs["y_zero_point"]), narrow_range
    )
    rows, columns = _scales(operands, inputs)
    y_scales = validate.row_vector(
        "y_scale", validate.scale("y_scale", inputs["y_scale"]), operands.shape, operands.a.ndim
    )
    points = validate.zero_point("y_zero_point", inputs["y_zero_point"], kind, lowest)
    point_rows = validate.row_vector("y_zero_point", points, operands.shape, operands.a.ndim)
    biases = ZERO if bias is None else _bias(operands, validate.int32_numbers("bias", inputs["bias"]))
    validate.scale_products(rows, columns, y_scales)
    target = call.allocate(out, view, operands.shape.result, kind.name, inputs)
    call.record("qlinear_matmul", operands.isa)
    settings = (point_rows, biases, kind, lowest, code, ties)
    call.run("matmul_quantized", operands, (rows, columns, y_scales), *settings, target)
    return finish(out, view, target, kind.name)


def _operand_inputs(a: Any, b: Any, a_zero_point: Any, b_zero_point: Any) -> dict[str, Any]:
    return {"a": seen(a), "b": seen(b), "a_zero_point": seen(a_zero_point), "b_zero_point": seen(b_zero_point)}


def _operands(call: Call, inputs: dict[str, Any]) -> tuple[View, Operands]:
    """The codes and zero points of a product, checked."""
    view, b = validate.array("a", inputs["a"], INT8_TYPES), inputs["b"]
    if isinstance(b, PackedMatrix):
        b_points = _own_points(b)
        shape, b_ndim, codes, isa = validate.matmul(view.array.shape, b.shape), len(b.shape), b._packed, b._packed.isa
        validate.absent("b_zero_point", inputs["b_zero_point"], "None, as b is packed with its own")
    else:
        other = validate.array("b", b, INT8_TYPES)
        shape, b_ndim, codes = validate.matmul(view.array.shape, other.shape), other.array.ndim, other.array
        isa, b_points = call.isa, ZERO
        if inputs["b_zero_point"] is not None:
            kind = QUANTIZED[other.type]
            points = validate.zero_point("b_zero_point", inputs["b_zero_point"], kind, kind.qmin)
            b_points = validate.column_vector("b_zero_point", points, shape, b_ndim)
    a_points = ZERO
    if inputs["a_zero_point"] is not None:
        kind = QUANTIZED[view.type]
        points = validate.zero_point("a_zero_point", inputs["a_zero_point"], kind, kind.qmin)
        a_points = validate.row_vector("a_zero_point", points, shape, view.array.ndim)
    return view, Operands(view.array, codes, shape, a_points, b_points, b_ndim, isa)


def _own_points(b: PackedMatrix) -> Array:
    if b._zero_point is None:
        raise TypeError("b: got the blocks of a packed QTensor; accepted: an array, or what gpuq.prepack gives")
    return b._zero_point


def _amount(inputs: dict[str, Any]) -> tuple[int, int]:
    """How many multiply-adds a product will compute and the result's bytes, roughly: shapes are not checked yet."""
    a, b = inputs["a"], inputs["b"]
    if not (isinstance(a, View) and isinstance(b, (View, PackedMatrix))):
        return 0, 0
    return _amount_of(a.array.shape, b.shape)


@functools.lru_cache
def _amount_of(a_shape: Shape, b_shape: Shape) -> tuple[int, int]:
    if not (a_shape and b_shape):
        return 0, 0
    *a_rows, k = a_shape
    *b_batch, _, n = b_shape if len(b_shape) > 1 else (*b_shape, 1)
    elements = max(math.prod(a_rows), math.prod(a_rows[-1:]) * math.prod(b_batch)) * n
    return elements * k, elements * 4


@remembered
def _scaling(activation: str | None, dtype: Any) -> tuple[int, str]:
    """The activation and the result's type of scaled_matmul."""
    code = validate.choice("activation", activation, PRODUCT_ACTIVATIONS)
    return code, validate.dtype("dtype", dtype, SCALED_TYPES)


@remembered
def _requantization(
    activation: str | None, rounding: str, carried: str | None, narrow_range: bool
) -> tuple[int, int, QuantizedType, int]:
    """The activation, the rounding, the type of codes and the lowest in use; `carried` is y_zero_point's type."""
    code = validate.choice("activation", activation, ACTIVATIONS)
    ties = validate.choice("rounding", rounding, PRODUCT_ROUNDINGS)
    kind = validate.zero_point_type("y_zero_point", carried, INT8_TYPES)
    return code, ties, kind, kind.lowest(validate.flag("narrow_range", narrow_range))


def _bias(operands: Operands, values: Reals | Integers) -> Array:
    """A bias as a vector per column."""
    return validate.column_vector("bias", values, operands.shape, operands.b_ndim)


def _scales(operands: Operands, inputs: dict[str, Any]) -> tuple[Array, Array]:
    """The scales of both operands as vectors per row and per column."""
    a_scales, b_scales = validate.scale("a_scale", inputs["a_scale"]), validate.scale("b_scale", inputs["b_scale"])
    rows = validate.row_vector("a_scale", a_scales, operands.shape, operands.a.ndim)
    return rows, validate.column_vector("b_scale", b_scales, operands.shape, operands.b_ndim)
