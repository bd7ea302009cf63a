"""THE arithmetic of gpuq as scalar functions: the one place that rounds, saturates and multiplies scales.

Plain Python that Numba's CPU and CUDA compilers both take. Every operation is rounded by itself (no contraction, which
for CUDA takes NVVM's option fma=0; no reassociation), so the same inputs give the same bits wherever they run;
`reference.py` states the same in NumPy. The numbered equations are those of docs/arithmetic.md.

    x / S ──round_between──► c = q − z ──+ z──► q               code and offset: equation (2)
    q ──− z──► c ──dequantize──► r                              equation (1)
    dot ──correct──► acc ──scale | requantize──► r | q          equations (3), (4)

A *grid* is 1.5·2^23 as float32 or 1.5·2^52 as float64: a number below 2^22 or 2^51 added to it is rounded to an
integer, ties to even, as neighbours there lie 1 apart. It also says in which type the rounding happens: float32 holds
every offset of an 8- or 16-bit type, float64 those of a 32-bit type too.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numba import int32, types
from numba.extending import intrinsic, overload, register_jitable

from gpuq.closures import named_by_contents

HALF_EVEN, HALF_AWAY, HALF_UP, TORCH_PER_TENSOR, TORCH_PER_AXIS, TORCH_FAKE = range(6)
NO_ACTIVATION, RELU, RELU6, GELU, SILU = range(5)
FLOAT32, FLOAT16, BFLOAT16 = range(3)
GRID32, GRID64 = np.float32(1.5 * 2.0**23), np.float64(1.5 * 2.0**52)
INT32_MIN, INT32_MAX = -(2**31), 2**31 - 1
NEVER_OVERFLOWS = INT32_MAX // 255**2  # 33,025: codes along k whose products int32 holds, whatever they are
SMALLEST_NORMAL, FLOAT32_MAX = float(np.finfo(np.float32).tiny), float(np.finfo(np.float32).max)


def scalar(function: Callable[..., Any]) -> Callable[..., Any]:
    """Let Numba's compilers inline `function` where a kernel calls it, with IEEE division."""
    return register_jitable(error_model="numpy")(named_by_contents(function))


# How an intrinsic is lowered stands outside of it: before 0.67, of two of Numba's compilers that have met an intrinsic
# the first one looks up the way of the last one, and finds it only where both have the same.


def _lower_fma(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
    return builder.fma(*arguments)


def _lower_cast(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
    return builder.bitcast(arguments[0], context.get_value_type(signature.return_type))


@intrinsic
def fma(typing_context: Any, a: Any, b: Any, c: Any) -> Any:
    """a·b + c in float32, rounded once."""
    return types.float32(types.float32, types.float32, types.float32), _lower_fma


@intrinsic
def bits_of(typing_context: Any, value: Any) -> Any:
    """The bits of a float32 as a uint32."""
    return types.uint32(types.float32), _lower_cast


@intrinsic
def float_of(typing_context: Any, bits: Any) -> Any:
    """The float32 that has these bits."""
    return types.float32(types.uint32), _lower_cast


# ---- rounding and saturation ----


@scalar
def round_between(v: Any, low: Any, high: Any, grid: Any, rounding: int) -> Any:
    """The integer nearest to v, ties by `rounding`, saturated to [low, high]; NaN gives 0. With v = x / S, low =
    qmin − z and high = qmax − z it is q − z of equation (2).

    low and high are integers below 2^22 (float32) or 2^51 (float64), so saturating before rounding gives the same and
    keeps v on the grid. The distance d is exact, so that a tie is a tie: nothing is ever decided by adding 0.5.
    """
    clamped = low if v < low else v
    clamped = high if clamped > high else clamped
    nearest = (clamped + grid) - grid
    d = clamped - nearest
    if rounding == HALF_AWAY:
        away = (d == 0.5 and clamped > 0) or (d == -0.5 and clamped < 0)
        nearest = nearest + (d + d) if away else nearest
    elif rounding == HALF_UP:
        nearest = nearest + (d + d) if d == 0.5 else nearest
    return nearest if v == v else low - low


@scalar
def to_grid(v: Any, x: Any) -> Any:
    """v, between the ends of a grid, rounded to an integer, ties to even, as a number on GRID32; 0 there if x is NaN.

    Its bits, less those of GRID32, are that integer.
    """
    return v + GRID32 if x == x else GRID32


@scalar
def quantize_offset_torch(x: Any, inverse: Any, zero_point: Any, low: Any, high: Any, grid: Any, rounding: int) -> Any:
    """Equation (2) as torch has it, in three formulas, with inverse = f32(1 / S): quantize_per_tensor,
    quantize_per_channel (zero point added before rounding), fake_quantize.
    """
    if rounding == TORCH_FAKE:
        return round_between(x * inverse, low, high, grid, HALF_EVEN)
    if rounding == TORCH_PER_TENSOR:
        v = fma(x, inverse, np.float32(zero_point))
    else:
        v = np.float32(x * inverse) + np.float32(zero_point)
    offset = round_between(v, low + zero_point, high + zero_point, grid, HALF_EVEN) - zero_point
    return offset if v == v else low - low


@scalar
def dequantize(offset: Any, scale: Any) -> Any:
    """Equation (1): S·(q − z) in scale's type (float32 or float64); the offset, exact as it comes, is rounded to it
    first.
    """
    return as_type_of(scale, offset) * scale


# ---- accumulators ----


@scalar
def correct(dot: int, row_sum: int, column_sum: int, a_zero_point: int, b_zero_point: int, k: int) -> int:
    """Equation (3): Σ (a − za)(b − zb) from Σ ab, Σ a and Σ b, exact in int64."""
    return dot - a_zero_point * column_sum - b_zero_point * row_sum + k * a_zero_point * b_zero_point


@scalar
def row_constant(row_sum: int, a_zero_point: int, k: int) -> int:
    """Σ (a − za) of a row of k codes, modulo 2^32: what equation (3) multiplies with a column's zero point."""
    return int32(row_sum - int32(k * a_zero_point))


@scalar
def correct_in_int32(dot: int, column_sum: int, a_zero_point: int, b_zero_point: int, row: int) -> int:
    """Equation (3) modulo 2^32 from int32 numbers and a row's constant: exact where the result fits int32, whatever its
    terms do.

    `int32(...)` around every operation keeps Numba from widening it: vectors multiply 64-bit numbers slowly.
    """
    return int32(int32(dot - int32(a_zero_point * column_sum)) - int32(b_zero_point * row))


@scalar
def scale_accumulator(accumulator: int, a_scale: Any, b_scale: Any, bias: Any) -> Any:
    """Equation (4): f32(f32(f32(acc)·f32(a_scale·b_scale)) + bias): scales first, and a rounding between · and +."""
    return np.float32(accumulator) * (a_scale * b_scale) + bias


@scalar
def requantize_multiplier(a_scale: Any, b_scale: Any, y_scale: Any) -> Any:
    """f32(f32(a_scale·b_scale) / y_scale), all float32."""
    return (a_scale * b_scale) / y_scale


@scalar
def saturate(value: int, low: int, high: int) -> int:
    """`value` clamped to low … high."""
    return low if value < low else (high if value > high else value)


@scalar
def requantize_float(t: int, multiplier: Any, low: Any, high: Any, rounding: int) -> Any:
    """Offset of f32(f32(t)·m), rounded and saturated (ONNX QLinearMatMul, XNNPACK): low and high are float32."""
    return round_between(np.float32(t) * multiplier, low, high, GRID32, rounding)


@scalar
def requantize_float64(t: int, multiplier: Any, low: Any, high: Any) -> Any:
    """Offset of float64(t)·m, half away (LiteRT's reference FULLY_CONNECTED): low and high are float64."""
    return round_between(np.float64(t) * multiplier, low, high, GRID64, HALF_AWAY)


@scalar
def requantize_fixed_point(t: int, multiplier: int, shift: int) -> int:
    """gemmlowp: RoundingDivideByPOT(SaturatingRoundingDoublingHighMul(saturate32(t·2^max(shift, 0)), m), max(−shift,
    0)).
    """
    left, right = max(shift, 0), max(-shift, 0)
    shifted = saturate(saturate(t, INT32_MIN, INT32_MAX) << left, INT32_MIN, INT32_MAX)
    high = (shifted * multiplier + (1 << 30)) >> 31  # gemmlowp's nudge and truncating division: ties go upward
    remainder = high & ((1 << right) - 1)
    threshold = (((1 << right) - 1) >> 1) + (1 if high < 0 else 0)
    return (high >> right) + (1 if remainder > threshold else 0)


@scalar
def requantize_fixed_point_half_up(t: int, multiplier: int, shift: int) -> int:
    """ruy on x86: floor((t·2^max(shift, 0)·m + 2^30) / 2^31), then halves rounded up in the right shift.

    2^shift divides every term of the quotient, so (t·m + 2^(30−shift)) >> (31−shift) is the same and stays within 63
    bits.
    """
    left, right = max(shift, 0), max(-shift, 0)
    high = (saturate(t, INT32_MIN, INT32_MAX) * multiplier + (1 << (30 - left))) >> (31 - left)
    return (high + (1 << (right - 1))) >> right if right > 0 else high


# ---- choosing parameters ----


@scalar
def fixed_point_multiplier(real: Any) -> Any:
    """(m, shift) with real ≈ m·2^(shift − 31) and m in [2^30, 2^31), or (0, 0) (LiteRT's QuantizeMultiplier); float64
    in.
    """
    fraction, shift = math.frexp(real)
    rounded = np.int64(round_between(fraction * 2.0**31, 0.0, 2.0**31, GRID64, HALF_AWAY))
    carry = rounded >> 31  # 1 where rounding reached 2^31
    multiplier, exponent = rounded >> carry, shift + carry
    return (0, 0) if real == 0 or exponent < -31 else (multiplier, exponent)


@scalar
def asymmetric_parameters(rmin: Any, rmax: Any, qmin: int, qmax: int) -> Any:
    """Scale (float64) and zero point of the range rmin … rmax, widened to hold 0."""
    low, high = min(rmin, 0.0), max(rmax, 0.0)
    scale = normal_scale(high - low, qmax - qmin)
    return scale, np.int64(round_between(qmin - low / scale, np.float64(qmin), np.float64(qmax), GRID64, HALF_EVEN))


@scalar
def symmetric_parameters(rmin: Any, rmax: Any, qmin: int, qmax: int, zero_point: int) -> Any:
    """Scale (float64) of the range −absmax … absmax about a given zero point, and that zero point."""
    absmax = max(abs(rmin), abs(rmax))
    return normal_scale(absmax, min(qmax - zero_point, zero_point - qmin)), zero_point


@scalar
def normal_scale(width: Any, steps: int) -> Any:
    """width / steps within float32's normal numbers; 1 for a range without width."""
    return 1.0 if width == 0 else max(SMALLEST_NORMAL, min(width / steps, FLOAT32_MAX))


# ---- activations ----


@scalar
def relu(v: Any) -> Any:
    """v where v > 0 or NaN, else 0."""
    return np.float32(0) if v <= 0 else v


@scalar
def relu6(v: Any) -> Any:
    """relu, at most 6."""
    return np.float32(6) if v > 6 else relu(v)


@scalar
def clip(v: Any, activation: int) -> Any:
    """The activation of that number, if it is none, relu or relu6: comparisons alone, so a loop of them vectorizes."""
    if activation == RELU:
        return relu(v)
    return relu6(v) if activation == RELU6 else v


@scalar
def lowest_code(qmin: int, zero_point: int, activation: int) -> Any:
    """The lowest code an activation leaves: relu and relu6 clamp at real 0.0, which is the zero point."""
    return qmin if activation == NO_ACTIVATION else max(qmin, zero_point)


@scalar
def highest_code(qmax: int, zero_point: int, y_scale: Any, activation: int) -> Any:
    """The highest code an activation leaves: relu6 clamps at z + half_away(f32(6 / y_scale))."""
    if activation != RELU6:
        return qmax
    steps = round_between(np.float64(np.float32(6.0) / y_scale), 0.0, 2.0**40, GRID64, HALF_AWAY)
    return min(qmax, zero_point + np.int64(steps))


# ---- the range of dynamic quantization ----


@scalar
def order_key(v: Any) -> Any:
    """An int32 that orders finite float32 numbers as they are ordered; NaN and infinities count as 0.0."""
    bits = np.int32(bits_of(v))
    key = np.int32(bits ^ ((bits >> 31) & 0x7FFFFFFF))
    return key if bits & 0x7F800000 != 0x7F800000 else np.int32(0)


@scalar
def from_order_key(key: int) -> Any:
    """The float32 of an order key."""
    return float_of(np.uint32(np.int32(key ^ ((key >> 31) & 0x7FFFFFFF))))


@scalar
def dynamic_scale(low: Any, high: Any) -> Any:
    """Scale of the range low ≤ 0 ≤ high on 255 steps (ONNX DynamicQuantizeLinear): normal, and 1 for an empty range."""
    width = high - low
    steps = np.float32(255)
    scale = width / steps if width < math.inf else high / steps - low / steps
    smallest = np.float32(SMALLEST_NORMAL)
    return np.float32(1) if width == 0 else (smallest if scale < smallest else scale)


@scalar
def dynamic_zero_point(low: Any, scale: Any) -> Any:
    """clamp(rint(f32(−low / scale))) to 0 … 255."""
    return np.int64(round_between(-low / scale, np.float32(0), np.float32(255), GRID32, HALF_EVEN))


@scalar
def row_scale(absmax: Any) -> Any:
    """Scale of a row of activations, symmetric in int8: max(f32(absmax / 127), 2^-126); 1 for a row of zeros."""
    scale, smallest = absmax / np.float32(127), np.float32(SMALLEST_NORMAL)
    return np.float32(1) if absmax == 0 else (smallest if scale < smallest else scale)


# ---- half-precision numbers, on their bits: Numba's CPU target has neither float16 nor bfloat16 ----


@scalar
def widen_half(bits: int, real: int) -> Any:
    """The float32 that a float16 or bfloat16 (`real`) of these bits is, exactly."""
    if real == BFLOAT16:
        return float_of(np.uint32(np.uint32(bits) << np.uint32(16)))
    sign = np.uint32((bits & 0x8000) << 16)
    magnitude = np.uint32((bits & 0x7FFF) << 13)
    finite = bits_of(float_of(magnitude) * np.float32(2.0**112))  # rebiases the exponent, of subnormals too
    return float_of(np.uint32(sign | (np.uint32(magnitude | 0x7F800000) if bits & 0x7C00 == 0x7C00 else finite)))


@scalar
def narrow_half(value: Any, real: int) -> Any:
    """The bits of the float16 or bfloat16 (`real`) nearest to a float32, ties to even.

    `np.uint32(…)` keeps Numba from widening to 64 bit, of which a vector holds half as many.
    """
    bits = bits_of(value)
    sign, magnitude = (bits >> np.uint32(16)) & np.uint32(0x8000), bits & np.uint32(0x7FFFFFFF)
    if real == BFLOAT16:
        rounded = np.uint32(magnitude + np.uint32(0x7FFF) + ((magnitude >> np.uint32(16)) & np.uint32(1))) >> np.uint32(
            16
        )
        return sign | (np.uint32(0x7FC0) if magnitude > 0x7F800000 else rounded)
    odd = (magnitude >> np.uint32(13)) & np.uint32(1)
    normal = np.uint32(magnitude - np.uint32(112 << 23) + np.uint32(0xFFF) + odd) >> np.uint32(13)
    # below 2^-14 float16 has the fixed step 2^-24, which is float32's step at 0.5
    subnormal = np.uint32(bits_of(float_of(magnitude) + np.float32(0.5)) - np.uint32(126 << 23))
    finite = subnormal if magnitude < 0x38800000 else normal
    special = np.uint32(0x7E00) if magnitude > 0x7F800000 else np.uint32(0x7C00)
    return sign | (special if magnitude >= 0x477FF000 else finite)


# ---- between stored elements and numbers: resolved by type when a kernel is compiled ----


def widen(stored: Any, real: int) -> Any:
    """A stored real number as float32 or float64: half types are stored as uint16."""


def narrow(value: Any, storage: Any, real: int) -> Any:
    """A float as an element of type `storage` (np.float32, np.float64, or np.uint16 of the half type `real`)."""


def as_type_of(like: Any, value: Any) -> Any:
    """`value` as a number of the type of `like`: rounded once, or an integer that it holds."""


def to_integer(value: Any) -> Any:
    """An integral float as an integer wide enough: int32 for float32, int64 for float64."""


@overload(widen, jit_options={"error_model": "numpy"}, strict=False)
def _widen(stored: Any, real: Any) -> Any:
    if isinstance(stored, types.Float):
        return lambda stored, real: stored
    return lambda stored, real: widen_half(stored, real)


@overload(narrow, jit_options={"error_model": "numpy"}, strict=False)
def _narrow(value: Any, storage: Any, real: Any) -> Any:
    if isinstance(storage.dtype, types.Float):
        return lambda value, storage, real: storage(value)
    return lambda value, storage, real: np.uint16(narrow_half(np.float32(value), real))


@overload(as_type_of, jit_options={"error_model": "numpy"}, strict=False)
def _as_type_of(like: Any, value: Any) -> Any:
    storage = getattr(np, str(like))
    return lambda like, value: storage(value)


@overload(to_integer, jit_options={"error_model": "numpy"}, strict=False)
def _to_integer(value: Any) -> Any:
    if value == types.float32:
        return lambda value: np.int32(value)
    return lambda value: np.int64(value)
