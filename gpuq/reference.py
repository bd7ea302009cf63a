"""Every operator in a few lines of NumPy: what the library computes, bit for bit, on every device.

Written to be read beside the contract, not to be fast. Valid input is taken for granted: nothing is checked here but
the int32 overflow of `matmul_integer`, which depends on the values. Sums are int64, float32 operations are done in
float32 and each is rounded by itself. f32(…) is rounding to float32, half even. M, K, N are the sizes of a product,
"…" its batch axes.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from gpuq.dtypes import QUANTIZED, QuantizedType, numpy_dtype, type_name

Array = npt.NDArray[Any]
INT32_MIN, INT32_MAX = -(1 << 31), (1 << 31) - 1
SMALLEST_SCALE, LARGEST_SCALE = 2.0**-126, float(np.finfo(np.float32).max)  # the normal float32 numbers


# -------------------------------------------------------------------------------------------- helpers: types and shapes
def _quantized_type(dtype: Any, zero_point: Any) -> QuantizedType:
    """The type of the codes: `dtype`, else that of the zero point, else uint8 (so for None and for a Python int)."""
    return QUANTIZED[type_name(dtype) or type_name(getattr(zero_point, "dtype", None)) or "uint8"]


def _widen(x: Any) -> Array:
    """float16, bfloat16 and float32 as float32; float64 as it is."""
    x = np.asarray(x)
    with np.errstate(invalid="ignore"):  # a signalling NaN
        return x.astype(np.float64 if (x.dtype.kind, x.dtype.itemsize) == ("f", 8) else np.float32)


def _cast(values: Array, dtype: Any) -> Array:
    """Real values rounded once, half even, to a real type."""
    return np.asarray(values).astype(numpy_dtype(str(type_name(dtype))))


def _expand(parameter: Any, x: Array, axis: int, block_size: int, dtype: Any) -> Array:
    """A parameter as an array of `dtype` that broadcasts against x.

    One element, of whatever shape, becomes 0-d (per tensor). Per block, index i along `axis` takes the parameter at
    i // block_size, so the last block may be short. Per axis, a vector of length x.shape[axis] is laid along `axis`.
    """
    values = np.asarray(0 if parameter is None else parameter).astype(dtype)
    if values.size == 1:
        return values.reshape(())
    if block_size:
        return np.take(values, np.arange(x.shape[axis]) // block_size, axis)
    shape = [1] * x.ndim
    shape[axis] = values.size
    return values.reshape(shape)


def _rows(parameter: Any, dtype: Any) -> Array:
    """A parameter of the rows of a: one element of any shape as (), (M,) as (M, 1), (…, M, 1) as it is."""
    values = np.asarray(0 if parameter is None else parameter).astype(dtype)
    if values.size == 1:
        return values.reshape(())
    return values[:, np.newaxis] if values.ndim == 1 else values


def _columns(parameter: Any, dtype: Any) -> Array:
    """A parameter of the columns of b: one element of any shape as (), (N,) and (…, 1, N) as they are."""
    values = np.asarray(0 if parameter is None else parameter).astype(dtype)
    return values.reshape(()) if values.size == 1 else values


# ---------------------------------------------------------------------------------------------------- helpers: rounding
def _round(v: Array, rounding: str) -> Array:
    """The nearest integer to every v, as int64; NaN gives 0, beyond ±2^40 (every code is far inside) gives ±2^40.

    A tie goes to the even integer ("half_even"), away from zero ("half_away") or upward ("half_up"). v - trunc(v) is
    exact; v - floor(v) is exact up to 1/2 and never rounds to 1/2 or less from above, so both comparisons are right.
    """
    wide = np.asarray(v).astype(np.float64)  # exact
    wide = np.clip(np.where(np.isnan(wide), 0.0, wide), -(2.0**40), 2.0**40)
    if rounding == "half_even":
        return np.rint(wide).astype(np.int64)
    if rounding == "half_away":
        whole = np.trunc(wide)
        return np.where(np.abs(wide - whole) >= 0.5, whole + np.copysign(1.0, wide), whole).astype(np.int64)
    below = np.floor(wide)  # half_up
    return np.where(wide - below >= 0.5, below + 1.0, below).astype(np.int64)


def _fma(x: Array, y: Array, z: Array) -> Array:
    """f32(x·y + z) with one rounding, for float32 x, y, z (Boldo and Melquiond, "Emulation of FMA…", 2008).

    (1) p = x·y               exact in float64: 24 + 24 bits
    (2) s + error = p + z     s rounded, the error exact (TwoSum)
    (3) where s is inexact with an even last bit, its neighbour on the side of the error: s rounded to odd
    (4) f32(s)                right, because rounding to odd at 53 >= 24 + 2 bits hides no tie
    """
    product, addend = x.astype(np.float64) * y.astype(np.float64), z.astype(np.float64)  # (1)
    total = np.asarray(product + addend)
    part = total - product
    error = (product - (total - part)) + (addend - part)  # (2); NaN where an operand is infinite
    even = total.view(np.int64) & 1 == 0
    neighbour = np.nextafter(total, np.where(error > 0, np.inf, -np.inf))
    return np.where((np.abs(error) > 0) & even, neighbour, total).astype(np.float32)  # (3), (4)


def _saturate(
    codes: Array,
    kind: QuantizedType,
    narrow_range: bool,
    zero_point: Any = 0,
    activation: str | None = None,
    y_scale: Any = 1,
) -> Array:
    """int64 codes clamped to [low, high], as the NumPy type of `kind`.

    (1) low = qmin, with "relu" and "relu6" max(qmin, z)
    (2) high = qmax, with "relu6" min(qmax, z + half_away(f32(6 / S_y)))
    """
    low: Any = kind.lowest(narrow_range)
    high: Any = kind.qmax
    if activation in ("relu", "relu6"):
        low = np.maximum(low, zero_point)
    if activation == "relu6":
        high = np.minimum(high, zero_point + _round(np.float32(6) / np.asarray(y_scale, np.float32), "half_away"))
    return np.asarray(np.clip(codes, low, high)).astype(numpy_dtype(kind.name))


def _activate(v: Array, activation: str | None) -> Array:
    """An activation of float32 values, in float32.

    gelu and silu are computed in float64 and rounded once; at -inf both have their limit, -0.0.

    (1) relu(v) = v if v > 0 or NaN, else 0; (2) relu6(v) = min(relu(v), 6), NaN stays;
    (3) gelu(v) = v/2 · erfc(-v/√2); (4) silu(v) = v / (1 + e^-v).
    """
    if activation is None:
        return v
    if activation in ("relu", "relu6"):
        positive = np.where((v > 0) | np.isnan(v), v, np.float32(0))  # (1)
        return np.where(positive > 6, np.float32(6), positive) if activation == "relu6" else positive  # (2)
    wide = v.astype(np.float64)
    if activation == "gelu":
        result = wide / 2 * np.vectorize(math.erfc, otypes=[np.float64])(-wide / math.sqrt(2))  # (3)
    else:
        result = wide / (1 + np.exp(-wide))  # (4)
    return np.where(np.isneginf(wide), -0.0, result).astype(np.float32)


# ---------------------------------------------------------------------------------------- quantize, dequantize and both
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
) -> Array:
    """Codes of real numbers (ONNX QuantizeLinear 25; "torch": torch.quantize_per_tensor, quantize_per_channel).

    (1) q = saturate(round(v) + z), v = f32(x / S); for float64 x, v = x / float64(S)
    (2) torch, scale and zero point of one element each: q = saturate(rint(fma(f32(x), inv, f32(z)))), inv = f32(1 / S)
    (3) torch otherwise: q = saturate(rint(f32(f32(f32(x)·inv) + f32(z))))
    NaN for v (x is NaN, or 0·inf in (2) and (3)) gives z; infinities saturate.
    """
    x, kind = _widen(x), _quantized_type(dtype, zero_point)
    s = _expand(scale, x, axis, block_size, np.float32)
    z = _expand(zero_point, x, axis, block_size, np.int64)
    with np.errstate(all="ignore"):
        if rounding != "torch":
            return _saturate(_round(x / s.astype(x.dtype), rounding) + z, kind, narrow_range)  # (1)
        x, inverse, shift = x.astype(np.float32), np.asarray(np.float32(1) / s), z.astype(np.float32)
        per_tensor = s.ndim == z.ndim == 0
        moved = _fma(x, inverse, shift) if per_tensor else x * inverse + shift  # (2), (3)
        return _saturate(np.where(np.isnan(moved), z, _round(moved, "half_even")), kind, narrow_range)


def dequantize_linear(
    q: Any,
    scale: Any,
    zero_point: Any = None,
    *,
    axis: int = 1,
    block_size: int = 0,
    dtype: Any = np.float32,
) -> Array:
    """Real numbers of codes (ONNX DequantizeLinear 25).

    (1) r = f32(f32(q - z)·S), q - z exact, then rounded once to dtype
    (2) dtype float64: r = float64(q - z)·float64(S)
    """
    q = np.asarray(q)
    s = _expand(scale, q, axis, block_size, np.float32)
    difference = q.astype(np.int64) - _expand(zero_point, q, axis, block_size, np.int64)
    wide = np.float64 if type_name(dtype) == "float64" else np.float32
    with np.errstate(all="ignore"):
        return _cast(difference.astype(wide) * s.astype(wide), dtype)


def dynamic_quantize_linear(x: Any) -> tuple[Array, Array, Array]:
    """uint8 codes y of x's shape, their 0-d scale and 0-d zero point (ONNX DynamicQuantizeLinear 11).

    (1) min, max: of the finite values f32(x) and 0
    (2) scale = max(f32(f32(max - min) / 255), 2^-126); 1 where min = max = 0
    (3) if max - min overflows: scale = f32(f32(max / 255) - f32(min / 255))
    (4) zero_point = clamp(rint(f32(-min / scale))); y = quantize_linear(x, scale, zero_point)
    """
    with np.errstate(all="ignore"):
        values = np.asarray(x).astype(np.float32)
        finite = values[np.isfinite(values)]
        low, high, steps = finite.min(initial=0), finite.max(initial=0), np.float32(255)  # (1)
        span = high - low
        scale = high / steps - low / steps if np.isinf(span) else span / steps  # (3), (2)
        scale = np.maximum(scale, np.float32(SMALLEST_SCALE)) if span > 0 else np.float32(1)
        zero_point = _saturate(_round(-low / scale, "half_even"), QUANTIZED["uint8"], False)  # (4)
    return quantize_linear(x, scale, zero_point), np.asarray(scale), zero_point


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
) -> Array:
    """dequantize_linear(quantize_linear(x)) in x's type ("torch": torch.fake_quantize_per_tensor_affine, …_channel_…).

    (1) torch: q = saturate(rint(f32(f32(x)·inv)) + z), inv = f32(1 / S), NaN gives z
    """
    x, kind = np.asarray(x), _quantized_type(dtype, zero_point)
    if rounding == "torch":
        s = _expand(scale, x, axis, block_size, np.float32)
        z = _expand(zero_point, x, axis, block_size, np.int64)
        with np.errstate(all="ignore"):
            codes = _round(x.astype(np.float32) * (np.float32(1) / s), "half_even") + z  # (1)
        q = _saturate(codes, kind, narrow_range)
    else:
        q = quantize_linear(
            x,
            scale,
            zero_point,
            axis=axis,
            block_size=block_size,
            dtype=kind.name,
            narrow_range=narrow_range,
            rounding=rounding,
        )
    return dequantize_linear(q, scale, zero_point, axis=axis, block_size=block_size, dtype=x.dtype)


# ------------------------------------------------------------------------------------------------------------- products
def _accumulate(a: Any, b: Any, a_zero_point: Any, b_zero_point: Any) -> Array:
    """acc = Σ_k (a - za)·(b - zb), exact, int64 of shape (…, M, N); a 1-D a counts as (1, K), a 1-D b as (K, 1).

    The product runs in float64 and is exact all the same: differences of 8-bit numbers are at most 255, so every
    partial sum, in whatever order, is an integer of at most 255²·K, which is below 2^53 up to K = 1.3e11.
    """
    a, b = np.asarray(a), np.asarray(b)
    left = (a[np.newaxis] if a.ndim == 1 else a).astype(np.int64) - _rows(a_zero_point, np.int64)
    right = (b[:, np.newaxis] if b.ndim == 1 else b).astype(np.int64) - _columns(b_zero_point, np.int64)
    return np.matmul(left.astype(np.float64), right.astype(np.float64)).astype(np.int64)


def _drop_axes(result: Array, a: Any, b: Any) -> Array:
    """A result of shape (…, M, N) without the axes that a 1-D a (M) and a 1-D b (N) do not have."""
    if np.ndim(a) == 1:
        result = result[..., 0, :]
    return result[..., 0] if np.ndim(b) == 1 else result


def matmul_integer(a: Any, b: Any, a_zero_point: Any = None, b_zero_point: Any = None) -> Array:
    """(a - za) @ (b - zb), int32 (ONNX MatMulInteger 10).

    Raises
    ------
    OverflowError
        If a value does not fit int32.
    """
    accumulator = _accumulate(a, b, a_zero_point, b_zero_point)
    if np.any((accumulator < INT32_MIN) | (accumulator > INT32_MAX)):
        raise OverflowError("matmul_integer: a value of the product does not fit int32")
    return _drop_axes(accumulator.astype(np.int32), a, b)


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
) -> Array:
    """The product of two quantized matrices, quantized (ONNX QLinearMatMul 21).

    (1) m = f32(f32(S_a·S_b) / S_y)
    (2) y = saturate(round(f32(f32(acc + bias)·m)) + z_y), acc + bias exact; an activation moves the bounds: _saturate
    """
    accumulator = _accumulate(a, b, a_zero_point, b_zero_point) + _columns(bias, np.int64)
    z, s = _rows(y_zero_point, np.int64), _rows(y_scale, np.float32)
    with np.errstate(all="ignore"):
        m = _rows(a_scale, np.float32) * _columns(b_scale, np.float32) / s  # (1)
        codes = _round(accumulator.astype(np.float32) * m, rounding) + z  # (2)
        y = _saturate(codes, _quantized_type(None, y_zero_point), narrow_range, z, activation, s)
    return _drop_axes(y, a, b)


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
) -> Array:
    """The product of two quantized matrices as real numbers.

    (1) r = act(f32(f32(f32(acc)·f32(S_a·S_b)) + f32(bias))), then rounded once to dtype
    """
    accumulator = _accumulate(a, b, a_zero_point, b_zero_point)
    with np.errstate(all="ignore"):
        scale = _rows(a_scale, np.float32) * _columns(b_scale, np.float32)
        v = accumulator.astype(np.float32) * scale + _columns(bias, np.float32)  # (1)
        return _drop_axes(_cast(_activate(v, activation), dtype), a, b)


def linear(x: Any, weight: Any, bias: Any = None, *, activation: str | None = None) -> Array:
    """A layer with a QTensor as its weight (in, out), x (…, in) quantized to int8 row by row, in x's type.

    (1) sx = max(f32(absmax / 127), 2^-126), absmax over the finite values of the row; 1 where that is 0
    (2) v = Σ_blocks f32(f32(acc)·f32(sx·sw)) in float32, in increasing k, acc being the block's exact product; one
        block where no parameter varies along k
    (3) y = act(f32(v + f32(bias))), rounded once to x's type
    """
    x, codes = np.asarray(x), np.asarray(weight.data).astype(np.int16)
    rows = _widen(x).reshape(math.prod(x.shape[:-1]), codes.shape[0])
    size = weight.block_size if weight.axis == 0 else max(1, len(codes))
    shape = (-(-len(codes) // size), codes.shape[1])
    scales = np.broadcast_to(np.asarray(weight.scale), shape)
    points = np.broadcast_to(np.asarray(weight.zero_point).astype(np.int16), shape)
    with np.errstate(all="ignore"):
        absmax = np.abs(np.where(np.isfinite(rows), rows, 0)).max(axis=1, initial=0)
        scale = np.where(absmax == 0, np.float32(1), np.maximum(absmax / np.float32(127), np.float32(SMALLEST_SCALE)))
        q = quantize_linear(rows, scale, axis=0, dtype="int8")  # (1)
        v = np.zeros((len(rows), codes.shape[1]), np.float32)
        for block in range(len(scales)):
            part = slice(block * size, (block + 1) * size)
            accumulator = _accumulate(q[:, part], codes[part], None, points[block])
            v = v + accumulator.astype(np.float32) * (scale[:, np.newaxis] * scales[block])  # (2)
        y = _cast(_activate(v + _columns(bias, np.float32), activation), x.dtype)  # (3)
    return y.reshape(*x.shape[:-1], codes.shape[1])


# --------------------------------------------------------------------------------------------------------- requantizing
def _doubling_high_product(a: Array, b: Array) -> Array:
    """gemmlowp's SaturatingRoundingDoublingHighMul of int32 values: min(floor((a·b + 2^30) / 2^31), 2^31 - 1).

    gemmlowp adds 2^30 to a product >= 0 and 1 - 2^30 to one below, then truncates: that rounds ties upward, as here.
    """
    return np.minimum((a * b + (1 << 30)) >> 31, INT32_MAX)


def _divide_by_power_of_two(x: Array, exponent: Array) -> Array:
    """gemmlowp's RoundingDivideByPOT: x / 2^exponent to the nearest integer, ties away from zero."""
    mask = (np.int64(1) << exponent) - 1
    threshold = (mask >> 1) + (x < 0)
    return (x >> exponent) + ((x & mask) > threshold)


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
) -> Array:
    """int32 accumulators as 8 or 16 bit codes saturate(u + z), with t = acc + bias and u by one of four rules.

    (1) float: u = rint(f32(f32(t)·f32(m))) (ONNX QLinearMatMul, XNNPACK)
    (2) float64: u = half_away(float64(t)·m) (LiteRT's reference FULLY_CONNECTED)
    (3) fixed_point: t saturated to int32, s = max(shift, 0), e = max(-shift, 0), u = RoundingDivideByPOT(
        SaturatingRoundingDoublingHighMul(saturate32(t·2^s), m), e) (gemmlowp; LiteRT's reference QUANTIZE, CONV_2D)
    (4) fixed_point_half_up: v = floor((t·2^s·m + 2^30) / 2^31), here with both divided by 2^s to stay within int64;
        u = v if e = 0, else floor((v + 2^(e-1)) / 2^e) (ruy on x86)
    """
    acc, kind = np.asarray(acc), _quantized_type(dtype, None)
    t = acc.astype(np.int64) + _expand(bias, acc, axis, 0, np.int64)
    z = _expand(zero_point, acc, axis, 0, np.int64)
    with np.errstate(all="ignore"):
        if mode == "float":
            u = _round(t.astype(np.float32) * _expand(multiplier, acc, axis, 0, np.float32), "half_even")  # (1)
        elif mode == "float64":
            u = _round(t.astype(np.float64) * _expand(multiplier, acc, axis, 0, np.float64), "half_away")  # (2)
        else:
            m, shift = (_expand(part, acc, axis, 0, np.int64) for part in multiplier)
            t, s, e = np.clip(t, INT32_MIN, INT32_MAX), np.maximum(shift, 0), np.maximum(-shift, 0)
            if mode == "fixed_point":
                u = _divide_by_power_of_two(_doubling_high_product(np.clip(t << s, INT32_MIN, INT32_MAX), m), e)  # (3)
            else:
                v = (t * m + (np.int64(1) << (30 - s))) >> (31 - s)  # (4)
                u = np.where(e > 0, (v + (np.int64(1) << np.maximum(e - 1, 0))) >> e, v)
        return _saturate(u + z, kind, narrow_range, z, activation, _expand(y_scale, acc, axis, 0, np.float32))


def quantize_multiplier(real: Any) -> tuple[Any, Any]:
    """A float64 >= 0, or an array of them, as int32 (m, shift): real ≈ m·2^(shift-31) (LiteRT's QuantizeMultiplier).

    (1) real = fraction·2^shift, 1/2 <= fraction < 1
    (2) m = half_away(fraction·2^31)
    (3) m = 2^31 becomes 2^30, shift + 1
    (4) 0, or shift < -31: (0, 0)
    """
    fraction, exponent = np.frexp(np.asarray(real, np.float64))  # (1)
    m = _round(fraction * 2.0**31, "half_away")  # (2)
    reached = m == 1 << 31
    m, shift = np.where(reached, 1 << 30, m), exponent + reached  # (3)
    zero = (m == 0) | (shift < -31)
    return np.where(zero, 0, m).astype(np.int32)[()], np.where(zero, 0, shift).astype(np.int32)[()]  # (4)


def choose_qparams(
    rmin: Any,
    rmax: Any,
    dtype: Any = "int8",
    *,
    symmetric: bool = False,
    narrow_range: bool = False,
) -> tuple[Any, Any, int, int]:
    """(scale float32, zero_point of the quantized type, qmin, qmax) for the range rmin … rmax, in float64.

    Scalars in, scalars out; arrays in, arrays out.

    (1) the range is widened to hold 0
    (2) scale = clamp((rmax - rmin) / (qmax - qmin), 2^-126, float32 max), zero_point = clamp(rint(qmin - rmin/scale))
    (3) symmetric: zero_point z = 0 (unsigned: 2^(bits-1)), scale = clamp(absmax / min(qmax - z, z - qmin))
    (4) 0 … 0 gives scale 1; the scale is rounded to float32 last
    """
    kind = _quantized_type(dtype, None)
    qmin, qmax = kind.lowest(narrow_range), kind.qmax
    low, high = np.minimum(np.asarray(rmin, np.float64), 0), np.maximum(np.asarray(rmax, np.float64), 0)  # (1)
    middle = 0 if kind.signed else 1 << (kind.bits - 1)
    with np.errstate(all="ignore"):
        if symmetric:
            span, steps = np.maximum(high, -low), min(qmax - middle, middle - qmin)  # (3)
        else:
            span, steps = high - low, qmax - qmin  # (2)
        scale = np.where(span == 0, 1.0, np.clip(span / steps, SMALLEST_SCALE, LARGEST_SCALE))  # (4)
        zero_point = np.full_like(scale, middle) if symmetric else np.rint(qmin - low / scale)
        codes = _saturate(_round(zero_point, "half_even"), kind, narrow_range)
        return scale.astype(np.float32)[()], codes[()], qmin, qmax
