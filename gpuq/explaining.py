"""`explain`: what every convention makes of one number, step by step, and why two of them differ.

half_even, half_away, half_up      v = f32(x / S),            q = saturate(round(v) + z)
torch, per tensor                  p = fma(x, f32(1/S), z),   q = saturate(rint(p))
torch, per channel                 p = f32(f32(x·inv) + z),   q = saturate(rint(p))
torch, fake_quantize               p = f32(x·inv),            q = saturate(rint(p) + z)
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np

from gpuq import arrays, validate
from gpuq.dtypes import QUANTIZED, QuantizedType
from gpuq.layout import as_array
from gpuq.ops import fake_quantize, quantize_linear

PROGRAMS = {
    "half_even": "ONNX Runtime QuantizeLinear; gpuq's default",
    "half_away": "LiteRT reference QUANTIZE",
    "half_up": "fixed-point hardware",
    "torch": "torch.quantize_per_tensor",
    "torch per channel": "torch.quantize_per_channel",
    "torch fake": "torch.fake_quantize_per_tensor_affine",
}


@dataclass(frozen=True)
class Convention:
    """What one convention gives.

    Attributes
    ----------
    name, programs : str
        Its name (that of `rounding`, where it has one) and who computes so.
    rounded : float
        The float32 number that is rounded to an integer.
    code : int
        The result.
    real : float
        What the code stands for.
    """

    name: str
    programs: str
    rounded: float
    code: int
    real: float


@dataclass(frozen=True)
class Explanation:
    """What `explain` found; `str` of it is a table and the reasons.

    Attributes
    ----------
    conventions : tuple of Convention
    reasons : tuple of str
        Sentences: what is special about the number, and why conventions differ. Empty where nothing is.
    """

    conventions: tuple[Convention, ...]
    reasons: tuple[str, ...]

    def __str__(self) -> str:
        header = ("convention", "as in", "rounded", "code", "real")
        rows = [
            (each.name, each.programs, f"{each.rounded:.9g}", str(each.code), f"{each.real:.9g}")
            for each in self.conventions
        ]
        widths = [max(len(row[column]) for row in (header, *rows)) for column in range(len(header))]
        padded = ([cell.ljust(width) for cell, width in zip(row, widths, strict=True)] for row in (header, *rows))
        return "\n".join([*("  ".join(cells).rstrip() for cells in padded), *self.reasons])


def explain(x: Any, scale: Any, zero_point: Any = 0, *, dtype: Any = None) -> Explanation:
    """What each convention of quantization gives for a number, and why they differ.

    Parameters
    ----------
    x : float
        Taken as float32.
    scale : float
        Above 0 and finite; used as float32.
    zero_point : int or number of a quantized type
    dtype : type or str, optional
        A quantized type of 4, 8 or 16 bits. Default: the zero point's, else uint8.

    Returns
    -------
    Explanation

    Raises
    ------
    TypeError, ValueError
        Naming the argument, what came and what is accepted.
    """
    value, s = (_one(name, given) for name, given in (("x", x), ("scale", scale)))
    validate.scale("scale", s)
    kind = validate.quantized_type(validate.type_carried(arrays.seen(zero_point)), dtype)
    if kind.bits > 16:
        raise TypeError(f"dtype: got {kind.name}; accepted: a quantized type of at most 16 bits")
    z = int(as_array(validate.zero_point("zero_point", arrays.seen(zero_point), kind)).reshape(-1)[0])
    codes = _codes(value, s, z, kind)
    with np.errstate(all="ignore"):
        v, inverse = value / s, np.float32(1) / s
        product = np.float32(value * inverse)
        moved = np.float32(np.float64(value) * np.float64(inverse) + z)  # shown only: fma may differ in the last bit
    rounded = dict(zip(PROGRAMS, (v, v, v, moved, np.float32(product + np.float32(z)), product), strict=True))
    found = tuple(
        Convention(name, PROGRAMS[name], float(rounded[name]), code, _real(code, s, z, kind))
        for name, code in codes.items()
    )
    return Explanation(found, tuple(_reasons(value, s, z, kind, codes, rounded)))


def _one(argument: str, value: Any) -> np.float32:
    numbers = as_array(validate.real_numbers(argument, value))
    if numbers.size != 1:
        raise ValueError(f"{argument}: got shape {numbers.shape}; accepted: one number")
    return np.float32(numbers.reshape(-1)[0])


def _codes(x: np.float32, scale: np.float32, z: int, kind: QuantizedType) -> dict[str, int]:
    """The code of each convention, by the operators themselves; 4-bit types in 8 bits, saturated to theirs."""
    wide = kind if kind.bits >= 8 else QUANTIZED[kind.storage.name]
    pair = np.full(2, x, np.float32)

    def saturated(code: Any) -> int:
        return min(max(int(code), kind.qmin), kind.qmax)

    options: dict[str, Any] = {"dtype": wide.name, "device": "cpu"}
    codes = {
        name: saturated(quantize_linear(pair, scale, z, rounding=name, **options)[0])
        for name in ("half_even", "half_away", "half_up", "torch")
    }
    per_axis = quantize_linear(pair, np.full(2, scale), [z, z], axis=0, rounding="torch", **options)
    codes["torch per channel"] = saturated(per_axis[0])
    real = fake_quantize(pair.astype(np.float64), scale, z, rounding="torch", **options)[0]
    codes["torch fake"] = saturated(z + round(float(real) / float(scale)))
    return codes


def _real(code: int, scale: np.float32, z: int, kind: QuantizedType) -> float:
    return float(np.float32(code - z) * scale)


def _reasons(
    x: np.float32, scale: np.float32, z: int, kind: QuantizedType, codes: dict[str, int], rounded: dict[str, Any]
) -> list[str]:
    """Why: special values, saturation, ties, and what torch does another way."""
    if math.isnan(x):
        return [f"NaN becomes the zero point, {z}."]
    if math.isinf(x):
        return ["Infinities saturate."]
    v, reasons = float(rounded["half_even"]), []
    if not kind.qmin <= v + z <= kind.qmax:
        reasons.append(f"x / S + z = {v + z:.9g} lies outside {kind.qmin} … {kind.qmax} and saturates.")
    if abs(v - math.trunc(v)) == 0.5:
        even, away, up = (codes[name] for name in ("half_even", "half_away", "half_up"))
        reasons.append(f"x / S = {v:.9g} is a tie: to even gives {even}, away from zero {away}, upward {up}.")
        if Fraction(float(x)) / Fraction(float(scale)) != Fraction(v):
            reasons.append("(It is a tie only in float32: the exact quotient lies beside it.)")
    product = float(rounded["torch fake"])
    if product != v:
        reasons.append(f"torch multiplies by f32(1/S), others divide by S: {product:.9g}, not {v:.9g}.")
    if z and codes["torch"] != codes["torch fake"]:
        moved = float(rounded["torch"])
        formula = f"x · f32(1/S) + z = {moved:.9g}"
        reasons.append(f"torch.quantize_per_tensor adds the zero point before it rounds: {formula}.")
    if len(set(codes.values())) == 1:
        return [reason for reason in reasons if "saturates" in reason]
    return reasons
