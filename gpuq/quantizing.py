"""`quantize`: from real numbers to a QTensor, with parameters chosen from their own range; and what that cost: `error`.

x ──observer (calibration.py): a range for each tensor, index or block──► choose_qparams ──quantize_linear──► QTensor
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from gpuq import arrays, calibration, validate
from gpuq.arrays import View
from gpuq.dtypes import QUANTIZED, REAL
from gpuq.ops import quantize_linear
from gpuq.parameters import QParams
from gpuq.qtensor import QTensor
from gpuq.transfer import beside, to_host

Array = npt.NDArray[Any]
OBSERVERS: dict[str | None, Any] = {
    "minmax": calibration.MinMax,
    "percentile": calibration.Percentile,
    "mse": calibration.MSE,
    "entropy": calibration.Entropy,
}
BLOCKS = 4096  # whose ranges are chosen together: 128 MB of histograms
NAN = {"float32": np.nan, "float64": np.nan, "float16": 0x7E00, "bfloat16": 0x7FC0}  # as it is stored


def quantize(
    x: Any,
    dtype: Any = "int8",
    *,
    axis: int | None = None,
    block_size: int = 0,
    symmetric: bool = False,
    narrow_range: bool = False,
    calibration: str = "minmax",
) -> QTensor:
    """Quantize real numbers with scales and zero points of their own range.

    Parameters
    ----------
    x : array of float32, float16, bfloat16 or float64, any shape
        NaN and infinities do not count for the range; they become the zero point and the outermost codes.
    dtype : type or str
        A quantized type.
    axis : int, optional
        One scale and zero point for each index along it; None: one of each for all of x.
    block_size : int
        One for each block of so many elements along `axis`; the last block may be short.
    symmetric, narrow_range : bool
        As in `choose_qparams`.
    calibration : {"minmax", "percentile", "mse", "entropy"}
        How the range is chosen: the observers of `gpuq.calibration` with their defaults.

    Returns
    -------
    QTensor
        With arrays of x's kind, on its device. (With `block_size`, x is read back from a GPU to choose the ranges.)

    Raises
    ------
    TypeError, ValueError
        Naming the argument, what came and what is accepted.
    """
    view = validate.array("x", x, REAL)
    kind = QUANTIZED[validate.dtype("dtype", dtype, QUANTIZED)]
    maker = validate.choice("calibration", calibration, OBSERVERS)
    block_size = validate.integer("block_size", block_size, 0)
    options = {
        "symmetric": validate.flag("symmetric", symmetric),
        "narrow_range": validate.flag("narrow_range", narrow_range),
    }
    if axis is None and block_size:
        raise ValueError(f"block_size: got {block_size} without an axis; accepted: 0, or an axis of blocks")
    if axis is None or not block_size:
        found = maker(axis=axis)._observe_view(view).qparams(kind.name, **options)
    else:
        axis = _axis_of(view, axis)
        block_size = min(block_size, max(1, view.shape[axis]))
        found = _of_blocks(arrays.on_host(view), axis, block_size, maker, kind.name, options)
    scale = beside(view, np.asarray(found.scale), "float32")
    zero_point = beside(view, np.asarray(found.zero_point), kind.name)
    along: dict[str, Any] = {"axis": 0 if axis is None else axis, "block_size": block_size}
    data = quantize_linear(x, scale, zero_point, **along, dtype=kind.name, narrow_range=narrow_range)
    return QTensor(data, scale, zero_point, axis, block_size, kind.name)


class Error(NamedTuple):
    """How far a quantized tensor is from the numbers it stands for, over their finite ones.

    Attributes
    ----------
    max_abs, mean_abs, rmse : float
        Of the differences.
    sqnr_db : float
        10 · log10(Σ x² / Σ (x − r)²): infinite where there is no difference, NaN where there is nothing.
    cosine : float
        Σ x·r / √(Σ x² · Σ r²); 1 where both are 0, 0 where one is.
    """

    max_abs: float
    mean_abs: float
    rmse: float
    sqnr_db: float
    cosine: float


def error(x: Any, qx: Any) -> Error:
    """The error of quantization.

    Parameters
    ----------
    x : array of float32, float16, bfloat16 or float64
    qx : QTensor, or array of such a type: what stands for x; of its shape

    Returns
    -------
    Error
        Computed on the host in float64. NaN and infinities in x are passed over.

    Raises
    ------
    TypeError, ValueError
        Another type, or another shape.
    """
    wide = _float64("x", x)
    other = _float64("qx", qx.dequantize(np.float64) if isinstance(qx, QTensor) else qx)
    if wide.shape != other.shape:
        raise ValueError(f"qx: got shape {other.shape}; accepted: that of x, {wide.shape}")
    finite = np.isfinite(wide)
    wide, other = wide[finite], other[finite]
    if wide.size == 0:
        return Error(0.0, 0.0, 0.0, math.nan, 1.0)
    scale = max(float(np.abs(wide).max()), float(np.abs(other).max())) or 1.0  # squares neither overflow nor vanish
    wide, other = wide / scale, other / scale
    difference = np.abs(wide - other)
    signal, noise, power = (float(np.sum(np.square(values))) for values in (wide, difference, other))
    cosine = float(np.sum(wide * other)) / math.sqrt(signal * power) if signal and power else float(signal == power)
    ratio = math.inf if noise == 0 else 10 * math.log10(signal / noise) if signal else -math.inf
    rmse = math.sqrt(noise / wide.size) * scale
    return Error(float(difference.max()) * scale, float(difference.mean()) * scale, rmse, ratio, cosine)


def _float64(argument: str, value: Any) -> Array:
    validate.array(argument, value, REAL)
    return to_host(value).astype(np.float64)


def _axis_of(view: View, axis: int) -> int:
    ndim = len(view.shape)
    axis = validate.integer("axis", axis)
    if not -ndim <= axis < ndim:
        raise ValueError(f"axis: got {axis} for an array of {ndim} dimensions; accepted: one of its axes, or None")
    return axis % ndim


def _of_blocks(view: View, axis: int, block_size: int, maker: Any, dtype: str, options: dict[str, Any]) -> QParams:
    """The parameters of each block: blocks as rows, a short one filled up with NaN, which no observer counts."""
    x = np.moveaxis(arrays.readable(view), axis, -1)
    count = -(-x.shape[-1] // block_size)
    padded = np.full((*x.shape[:-1], count * block_size), NAN[view.type], x.dtype)
    padded[..., : x.shape[-1]] = x
    rows = padded.reshape(-1, block_size)
    parts = []
    for first in range(0, max(1, len(rows)), BLOCKS):
        part = View(rows[first : first + BLOCKS], view.type, "cpu", False, None)
        parts.append(maker(axis=0)._observe_view(part).qparams(dtype, **options))
    shape = (*x.shape[:-1], count)
    scale, zero_point = (
        np.moveaxis(np.concatenate(values).reshape(shape), -1, axis)
        for values in ([part.scale for part in parts], [part.zero_point for part in parts])
    )
    return QParams(scale, zero_point, parts[0].qmin, parts[0].qmax)
