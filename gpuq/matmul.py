"""The matrix products: validate, pick the device, call it, return the caller's kind of array."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from gpuq import arithmetic, arrays, dispatch, validate
from gpuq.arrays import View
from gpuq.calls import allocate, finish, start
from gpuq.cpu import products as cpu
from gpuq.cpu.pack import Packed
from gpuq.dtypes import QUANTIZED
from gpuq.layout import Shape
from gpuq.ops import ACTIVATIONS, ROUNDINGS
from gpuq.validate import INT8_TYPES, Array

SCALED_TYPES = ("float32", "float16", "bfloat16")
PRODUCT_ROUNDINGS = {name: code for name, code in ROUNDINGS.items() if name != "torch"}
PRODUCT_ACTIVATIONS: dict[str | None, int] = {**ACTIVATIONS, "gelu": arithmetic.GELU, "silu": arithmetic.SILU}


@dataclass(frozen=True, eq=False)
class PackedMatrix:
    """A matrix b (or a batch of them) in the layout of the GEMM kernel, with its column sums and zero point.

    `prepack` makes it; every matrix product takes it as `b`. It holds a copy: later changes of b do not reach it.

    Attributes
    ----------
    shape : tuple of int
        The shape of b.
    dtype : numpy.dtype
        int8 or uint8.
    """

    shape: Shape
    dtype: np.dtype[Any]
    _packed: Packed
    _zero_point: Array

    @property
    def ndim(self) -> int:
        """Dimensions of b."""
        return len(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of the packed form."""
        return self._packed.panels.nbytes + self._packed.sums.nbytes

    def __repr__(self) -> str:
        return f"PackedMatrix(shape={self.shape}, dtype={self.dtype.name})"


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
    chosen = start(device, stream, b=b, zero_point=zero_point)
    view = validate.array("b", b, INT8_TYPES)
    shape = validate.matmul(view.shape[-2:-1] if len(view.shape) > 1 else view.shape, view.shape)
    points = validate.zero_point("zero_point", zero_point, QUANTIZED[view.type])
    vector = validate.column_vector("zero_point", points, shape, len(view.shape))
    isa = dispatch.instruction_set()
    dispatch.record_path(chosen, "prepack", isa)
    return PackedMatrix(view.shape, np.dtype(view.type), cpu.pack_columns(arrays.readable(view), isa), vector)


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
    chosen = start(device, stream, a=a, b=b, a_zero_point=a_zero_point, b_zero_point=b_zero_point, out=out)
    view, operands = _operands(a, b, a_zero_point, b_zero_point)
    inputs = {"a": a, "b": b, "a_zero_point": a_zero_point, "b_zero_point": b_zero_point}
    target = allocate(out, view, operands.shape.result, "int32", inputs)
    dispatch.record_path(chosen, "matmul_integer", operands.b.isa)
    if cpu.matmul_int32(operands, target):
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
    chosen = start(device, stream, out=out, **values)
    view, operands = _operands(a, b, a_zero_point, b_zero_point)
    code, real = (
        validate.choice("activation", activation, PRODUCT_ACTIVATIONS),
        validate.dtype("dtype", dtype, SCALED_TYPES),
    )
    rows, columns = _scales(operands, a_scale, b_scale)
    biases = _column_bias(operands, validate.real_numbers("bias", 0.0 if bias is None else bias))
    validate.scale_products(rows, columns)
    target = allocate(out, view, operands.shape.result, real, values)
    dispatch.record_path(chosen, "scaled_matmul", operands.b.isa)
    cpu.matmul_scaled(operands, rows, columns, biases, code, real, target)
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
    chosen = start(device, stream, out=out, **values)
    view, operands = _operands(a, b, a_zero_point, b_zero_point)
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
    target = allocate(out, view, operands.shape.result, kind.name, values)
    dispatch.record_path(chosen, "qlinear_matmul", operands.b.isa)
    lowest = kind.lowest(narrow_range)
    cpu.matmul_quantized(operands, (rows, columns, y_scales), points, biases, kind, lowest, code, ties, target)
    return finish(out, view, target, kind.name)


def _operands(a: Any, b: Any, a_zero_point: Any, b_zero_point: Any) -> tuple[View, cpu.Operands]:
    """The codes and zero points of a product, checked, b packed."""
    view = validate.array("a", a, INT8_TYPES)
    other = None if isinstance(b, PackedMatrix) else validate.array("b", b, INT8_TYPES)
    b_shape = b.shape if other is None else other.shape
    shape = validate.matmul(view.shape, b_shape)
    a_points = validate.zero_point("a_zero_point", a_zero_point, QUANTIZED[view.type])
    a_points = validate.row_vector("a_zero_point", a_points, shape, len(view.shape))
    if other is None:
        validate.absent("b_zero_point", b_zero_point, "None, as b is packed with its own")
        packed, b_points = b._packed, b._zero_point
    else:
        b_points = validate.zero_point("b_zero_point", b_zero_point, QUANTIZED[other.type])
        b_points = validate.column_vector("b_zero_point", b_points, shape, len(b_shape))
        packed = cpu.pack_columns(arrays.readable(other), dispatch.instruction_set())
    return view, cpu.Operands(arrays.readable(view), packed, shape, a_points, b_points, len(b_shape))


def _column_bias(operands: cpu.Operands, values: Array) -> Array:
    """A bias as a vector per column."""
    return validate.column_vector("bias", values, operands.shape, operands.b_ndim)


def _scales(operands: cpu.Operands, a_scale: Any, b_scale: Any) -> tuple[Array, Array]:
    """The scales of both operands as vectors per row and per column."""
    rows = validate.row_vector("a_scale", validate.scale("a_scale", a_scale), operands.shape, operands.a.ndim)
    columns = validate.column_vector("b_scale", validate.scale("b_scale", b_scale), operands.shape, operands.b_ndim)
    return rows, columns
