"""The elementwise operators: validate, pick the device, call it, return the caller's kind of array."""

from __future__ import annotations

from typing import Any

import numpy as np

from gpuq import arithmetic, arrays, validate
from gpuq.arrays import View, seen
from gpuq.calls import finish, repeatable, start
from gpuq.dtypes import QUANTIZED, REAL, QuantizedType
from gpuq.layout import Granularity, Shape
from gpuq.quantizer import Quantizer
from gpuq.remembered import remembered
from gpuq.validate import Integers, Reals

ROUNDINGS: dict[str | None, int] = {
    "half_even": arithmetic.HALF_EVEN,
    "half_away": arithmetic.HALF_AWAY,
    "half_up": arithmetic.HALF_UP,
    "torch": arithmetic.TORCH_PER_TENSOR,
}
ACTIVATIONS: dict[str | None, int] = {
    None: arithmetic.NO_ACTIVATION,
    "relu": arithmetic.RELU,
    "relu6": arithmetic.RELU6,
}
REQUANTIZED_TYPES = ("int8", "uint8", "int16", "uint16")
REQUANTIZE_MODES: dict[str | None, str] = {
    mode: mode for mode in ("float", "float64", "fixed_point", "fixed_point_half_up")
}


@repeatable
def quantize_linear(
    x: Any,
    scale: Any,
    zero_point: Any = None,
    *,
    axis: int = 1,
    block_size: int = 0,
    dtype: Any = None,
    narrow_range: bool = False,
    rounding: str = "half_even",
    out: Any = None,
    device: str | None = None,
    stream: Any = None,
) -> Any:
    """Quantize real numbers: q = saturate(round(x / scale) + zero_point).

    Parameters
    ----------
    x : array of float32, float16, bfloat16 or float64, any shape
    scale : float or array of a real type
        Above 0 and finite; used as float32. One element (per tensor), length ``x.shape[axis]`` (per axis), or x's
        shape with `axis` divided by `block_size`, rounded up (per block).
    zero_point : int or array of the quantized type, optional
        The code of real 0.0; one element, or of the granularity's shape. Default 0.
    axis : int
        The axis of per-axis and per-block parameters.
    block_size : int
        Elements along `axis` that share a parameter; the last block may be short. 0: no blocks.
    dtype : type or str, optional
        int8, uint8, int16, uint16, int32, uint32, int4 or uint4. Default: the zero point's, else uint8.
    narrow_range : bool
        Leave out the lowest code.
    rounding : {"half_even", "half_away", "half_up", "torch"}
        How a tie is rounded. "torch" multiplies by float32(1/scale) and adds the zero point before rounding, as
        torch.quantize_per_tensor and quantize_per_channel do: in float32, to which float64 values, and zero points
        beyond 2^24, are rounded first.
    out : array of the result's type and shape, optional
    device : {None, "cpu", "cuda", "cuda:N"}, optional
    stream : optional
        CUDA only.

    Returns
    -------
    array of the quantized type, of x's shape and kind. NaN becomes the zero point, infinities saturate.

    Raises
    ------
    TypeError, ValueError
        Naming the argument, what came and what is accepted.
    DeviceError
        The forced device is absent.

    Notes
    -----
    ONNX QuantizeLinear, version 25.
    """
    inputs, out = {"x": seen(x), "scale": seen(scale), "zero_point": seen(zero_point)}, seen(out)
    call = start("quantize_linear", device, stream, inputs, out)
    view, quantizer = _quantizer(inputs, axis, block_size, dtype, narrow_range, rounding)
    kind = quantizer.kind.name
    target = call.allocate(out, view, view.array.shape, kind, inputs)
    call.record("quantize_linear")
    call.run("quantize", arrays.readable(view), view.type, target, quantizer)
    return finish(out, view, target, kind)


@repeatable
def fake_quantize(
    x: Any,
    scale: Any,
    zero_point: Any = None,
    *,
    axis: int = 1,
    block_size: int = 0,
    dtype: Any = None,
    narrow_range: bool = False,
    rounding: str = "half_even",
    out: Any = None,
    device: str | None = None,
    stream: Any = None,
) -> Any:
    """Quantize and dequantize in one pass: what x looks like after quantization, in x's own type.

    Parameters are those of `quantize_linear`; `out` may be x itself. With "torch" the code is rint(float32(x ·
    inverse)) + zero_point, as torch.fake_quantize_per_tensor_affine computes it.

    Returns
    -------
    array of x's type, shape and kind: scale · (q − zero_point).

    Raises
    ------
    TypeError, ValueError, DeviceError
        As `quantize_linear`.

    Notes
    -----
    ONNX QuantizeLinear followed by DequantizeLinear, version 25.
    """
    inputs, out = {"x": seen(x), "scale": seen(scale), "zero_point": seen(zero_point)}, seen(out)
    call = start("fake_quantize", device, stream, inputs, out)
    view, quantizer = _quantizer(inputs, axis, block_size, dtype, narrow_range, rounding)
    if rounding == "torch":
        quantizer = quantizer._replace(rounding=arithmetic.TORCH_FAKE)
    target = call.allocate(out, view, view.array.shape, view.type, inputs, in_place="x")
    call.record("fake_quantize")
    call.run("fake_quantize", arrays.readable(view), view.type, target, quantizer)
    return finish(out, view, target, view.type)


@repeatable
def dequantize_linear(
    q: Any,
    scale: Any,
    zero_point: Any = None,
    *,
    axis: int = 1,
    block_size: int = 0,
    dtype: Any = np.float32,
    out: Any = None,
    device: str | None = None,
    stream: Any = None,
) -> Any:
    """Real numbers of codes: r = scale · (q − zero_point).

    Parameters
    ----------
    q : array of a quantized type, any shape
    scale, zero_point, axis, block_size, out, device, stream
        As in `quantize_linear`; the zero point has q's type.
    dtype : type or str
        float32, float16, bfloat16 or float64.

    Returns
    -------
    array of `dtype`, of q's shape and kind: f32(f32(q − z)·S) rounded once to `dtype`; for float64 in float64.

    Raises
    ------
    TypeError, ValueError, DeviceError
        As `quantize_linear`.

    Notes
    -----
    ONNX DequantizeLinear, version 25.
    """
    inputs, out = {"q": seen(q), "scale": seen(scale), "zero_point": seen(zero_point)}, seen(out)
    call = start("dequantize_linear", device, stream, inputs, out)
    view = validate.array("q", inputs["q"], QUANTIZED)
    kind, real = QUANTIZED[view.type], _real_type(dtype)
    scale, zero_point = inputs["scale"], inputs["zero_point"]
    if validate.are_numbers(scale, zero_point):
        scales, points, grain = _uniform_parameters(view.type, scale, zero_point, axis, block_size)
    else:
        scales, points, grain = _parameters(view.array.shape, kind, scale, zero_point, axis, block_size)
    target = call.allocate(out, view, view.array.shape, real, inputs)
    call.record("dequantize_linear")
    call.run("dequantize", arrays.readable(view), kind, target, real, scales, points, grain)
    return finish(out, view, target, real)


@repeatable
def dynamic_quantize_linear(x: Any, *, device: str | None = None, stream: Any = None) -> tuple[Any, Any, Any]:
    """Quantize to uint8 with the scale and zero point of x's own range.

    Parameters
    ----------
    x : array of float32, float16, bfloat16 or float64, any shape
        The range is that of its finite values as float32, widened to hold 0.
    device, stream
        As in `quantize_linear`.

    Returns
    -------
    y : array of uint8, of x's shape and kind
    scale : array of float32, shape ()
        (max − min) / 255, at least 2^-126; 1 for an empty or all-zero range.
    zero_point : array of uint8, shape ()

    Raises
    ------
    TypeError, ValueError, DeviceError
        As `quantize_linear`.

    Notes
    -----
    ONNX DynamicQuantizeLinear, version 11; there a range without width gives scale 0.
    """
    inputs = {"x": seen(x)}
    call = start("dynamic_quantize_linear", device, stream, inputs)
    view = validate.array("x", inputs["x"], REAL)
    results = ((view.shape, "uint8"), ((), "float32"), ((), "uint8"))
    targets = [call.allocate(None, view, shape, kind, {}) for shape, kind in results]
    call.record("dynamic_quantize_linear")
    call.run("dynamic_quantize", arrays.readable(view), view.type, *targets)
    y, scale, zero_point = (
        finish(None, view, target, kind) for target, (_, kind) in zip(targets, results, strict=True)
    )
    return y, scale, zero_point


@repeatable
def requantize(
    acc: Any,
    multiplier: Any,
    zero_point: Any,
    *,
    bias: Any = None,
    activation: str | None = None,
    y_scale: Any = None,
    axis: int = -1,
    dtype: Any = "int8",
    narrow_range: bool = False,
    mode: str = "float",
    out: Any = None,
    device: str | None = None,
    stream: Any = None,
) -> Any:
    """Bring int32 accumulators to 8 or 16 bit: q = saturate(round((acc + bias) · multiplier) + zero_point).

    Parameters
    ----------
    acc : array of int32, any shape
    multiplier : float or array of a real type; in the fixed-point modes a pair (multiplier, shift) of int32
        As `quantize_multiplier` gives it: one element, or length ``acc.shape[axis]``.
    zero_point : int or array of `dtype`, one element or length ``acc.shape[axis]``
    bias : int or array of int32, optional
        Added first, exactly; one element or length ``acc.shape[axis]``.
    activation : {None, "relu", "relu6"}
        Clamps the codes; "relu6" needs `y_scale`.
    y_scale : float or array of a real type, optional
        The result's scale, one element or length ``acc.shape[axis]``.
    axis : int
    dtype : type or str
        int8, uint8, int16 or uint16.
    narrow_range : bool
    mode : {"float", "float64", "fixed_point", "fixed_point_half_up"}
        "float": rint(f32(f32(t)·f32(m))), as ONNX and XNNPACK. "float64": half away of float64(t)·m, as LiteRT's
        reference FULLY_CONNECTED. "fixed_point": gemmlowp's saturating rounding doubling high product, as LiteRT's
        reference QUANTIZE and CONV_2D. "fixed_point_half_up": halves rounded up in both steps, as ruy on x86.
    out, device, stream
        As in `quantize_linear`.

    Returns
    -------
    array of `dtype`, of acc's shape and kind.

    Raises
    ------
    TypeError, ValueError, DeviceError
        As `quantize_linear`.

    Notes
    -----
    ONNX QLinearMatMul, version 21; LiteRT's QUANTIZE and FULLY_CONNECTED; gemmlowp, doc/quantization.md;
    ruy/apply_multiplier.cc.
    """
    pair = isinstance(multiplier, (tuple, list)) and len(multiplier) == 2
    factor, shift = multiplier if pair else (multiplier, None)
    given = {"acc": acc, "multiplier": factor, "shift": shift, "zero_point": zero_point, "bias": bias}
    inputs, out = {name: seen(value) for name, value in {**given, "y_scale": y_scale}.items()}, seen(out)
    call = start("requantize", device, stream, inputs, out)
    view = validate.array("acc", inputs["acc"], ("int32",))
    kind, lowest, mode, code = _requantization(dtype, narrow_range, mode, activation)
    factors, shifts = validate.multiplier_and_shift(multiplier if pair else inputs["multiplier"], mode)
    named = {
        "multiplier": factors,
        "shift": shifts,
        "bias": 0 if bias is None else validate.int32_numbers("bias", inputs["bias"]),
        "zero_point": validate.zero_point("zero_point", inputs["zero_point"], kind, lowest),
        "y_scale": validate.y_scale(inputs["y_scale"], activation),
    }
    grain = validate.granularity(view.array.shape, named, axis, 0)
    target = call.allocate(out, view, view.array.shape, kind.name, inputs)
    call.record(f"requantize {mode}")
    settings = (kind, lowest, tuple(named.values()), grain, mode, code)
    call.run("requantize", arrays.readable(view), target, *settings)
    return finish(out, view, target, kind.name)


def _quantizer(inputs: dict[str, Any], *options: Any) -> tuple[View, Quantizer]:
    """What quantize_linear and fake_quantize share, all checked; options: axis, block_size, dtype, narrow_range and
    rounding.
    """
    view, scale, zero_point = validate.array("x", inputs["x"], REAL), inputs["scale"], inputs["zero_point"]
    if validate.are_numbers(scale, zero_point):
        return view, _uniform_quantizer(scale, zero_point, *options)
    return view, _make_quantizer(view.array.shape, scale, zero_point, *options)


@remembered
def _uniform_quantizer(scale: Any, zero_point: Any, *options: Any) -> Quantizer:
    """The quantizer of one scale and one zero point, whatever x's shape."""
    return _make_quantizer((), scale, zero_point, *options)


def _make_quantizer(
    shape: Shape, scale: Any, zero_point: Any, axis: int, block_size: int, dtype: Any, narrow_range: bool, rounding: str
) -> Quantizer:
    kind, lowest, code = _codes(validate.type_carried(zero_point), dtype, narrow_range, rounding)
    scales, points = validate.scale("scale", scale), validate.zero_point("zero_point", zero_point, kind, lowest)
    grain = validate.granularity(shape, {"scale": scales, "zero_point": points}, axis, block_size)
    if code == arithmetic.TORCH_PER_TENSOR and grain.kind != "tensor":
        code = arithmetic.TORCH_PER_AXIS
    return Quantizer(kind, lowest, scales, points, grain, code)


@remembered
def _codes(carried: str | None, dtype: Any, narrow_range: bool, rounding: str) -> tuple[QuantizedType, int, int]:
    """The type of codes, the lowest in use and the rounding; `carried` is the zero point's type."""
    code = validate.choice("rounding", rounding, ROUNDINGS)
    kind = validate.quantized_type(carried, dtype)
    return kind, kind.lowest(validate.flag("narrow_range", narrow_range)), code


@remembered
def _uniform_parameters(kind: str, *parameters: Any) -> tuple[Reals, Integers, Granularity]:
    """One scale and one zero point of codes of that type, whatever their array's shape."""
    return _parameters((), QUANTIZED[kind], *parameters)


def _parameters(
    shape: Shape, kind: QuantizedType, scale: Any, zero_point: Any, axis: int, block_size: int
) -> tuple[Reals, Integers, Granularity]:
    """The scales and zero points of codes, and which belong to which."""
    scales, points = validate.scale("scale", scale), validate.zero_point("zero_point", zero_point, kind, kind.qmin)
    return scales, points, validate.granularity(shape, {"scale": scales, "zero_point": points}, axis, block_size)


@remembered
def _real_type(dtype: Any) -> str:
    return validate.dtype("dtype", dtype, REAL)


@remembered
def _requantization(
    dtype: Any, narrow_range: bool, mode: str, activation: str | None
) -> tuple[QuantizedType, int, str, int]:
    """The type of codes, the lowest in use, the mode and the activation."""
    kind = QUANTIZED[validate.dtype("dtype", dtype, REQUANTIZED_TYPES)]
    mode = validate.choice("mode", mode, REQUANTIZE_MODES)
    code = validate.choice("activation", activation, ACTIVATIONS)
    return kind, kind.lowest(validate.flag("narrow_range", narrow_range)), mode, code
