"""Choosing parameters on the host: range → scale and zero point, real multiplier → fixed point."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from gpuq import arrays, validate
from gpuq.cpu import parameters as cpu
from gpuq.dtypes import QUANTIZED, numpy_dtype
from gpuq.validate import Array


class QParams(NamedTuple):
    """How a range is quantized: real = scale · (q − zero_point), qmin ≤ q ≤ qmax."""

    scale: Any
    zero_point: Any
    qmin: int
    qmax: int


def choose_qparams(
    rmin: Any, rmax: Any, dtype: Any = "int8", *, symmetric: bool = False, narrow_range: bool = False
) -> QParams:
    """Scale and zero point that map a range of real numbers onto all codes of a type.

    Parameters
    ----------
    rmin, rmax : float or array of a real type
        The range, widened to hold 0; arrays broadcast.
    dtype : type or str
        A quantized type.
    symmetric : bool
        Zero point 0 (unsigned: 2^(bits−1)) and the range −absmax … absmax.
    narrow_range : bool
        Leave out the lowest code.

    Returns
    -------
    QParams
        scale in float32, zero_point of the quantized type: NumPy scalars for scalars, arrays of rmin's kind for
        arrays; qmin and qmax, the codes in use. In float64 scale = (rmax − rmin) / (qmax − qmin), clamped to [2^-126,
        float32's largest], zero_point = clamp(rint(qmin − rmin / scale)); then the scale is rounded to float32. The
        range 0 … 0 gives scale 1.

    Raises
    ------
    TypeError, ValueError
        A bound is NaN or infinite, rmin > rmax, or an argument is of the wrong type.

    Notes
    -----
    The affine mapping of Jacob et al., arXiv 1712.05877, section 2.1, with the scale clamped.
    """
    kind = QUANTIZED[validate.dtype("dtype", dtype, QUANTIZED)]
    qmin, qmax = kind.lowest(validate.flag("narrow_range", narrow_range)), kind.qmax
    low, high = validate.ranges(rmin, rmax)
    scales, points = np.empty(low.shape, np.float64), np.zeros(low.shape, np.int64)
    if validate.flag("symmetric", symmetric):
        points[...] = 0 if kind.signed else 1 << (kind.bits - 1)
        cpu.symmetric(low.reshape(-1), high.reshape(-1), scales.reshape(-1), points.reshape(-1), qmin, qmax)
    else:
        cpu.asymmetric(low.reshape(-1), high.reshape(-1), scales.reshape(-1), points.reshape(-1), qmin, qmax)
    codes = points.astype(kind.storage)
    return QParams(
        _like(rmin, rmax, scales.astype(np.float32), "float32"), _like(rmin, rmax, codes, kind.name), qmin, qmax
    )


def quantize_multiplier(real: Any) -> tuple[Any, Any]:
    """A real multiplier in fixed point: real ≈ m · 2^(shift − 31).

    Parameters
    ----------
    real : float or array of a real type
        At least 0 and below 2^30 − 1/4, so that shift is at most 30.

    Returns
    -------
    m : int32
        In [2^30, 2^31), rounded half away from zero; 0 where real is 0 or shift would be below −31.
    shift : int32
        NumPy scalars for a scalar, arrays of real's shape for an array.

    Raises
    ------
    TypeError, ValueError
        A value is negative, NaN, infinite or too large.

    Notes
    -----
    LiteRT, QuantizeMultiplier in kernels/internal/quantization_util.cc.
    """
    reals = validate.fixed_point_reals("real", real)
    multipliers, shifts = np.empty(reals.shape, np.int32), np.empty(reals.shape, np.int32)
    cpu.fixed_point_multipliers(reals.reshape(-1), multipliers.reshape(-1), shifts.reshape(-1))
    return _like(real, real, multipliers, "int32"), _like(real, real, shifts, "int32")


def _like(first: Any, second: Any, values: Array, kind: str) -> Any:
    """Arrays for arrays, of the first array's kind; NumPy scalars for numbers."""
    owner = next((value for value in (first, second) if arrays.view(value) is not None), None)
    if values.ndim == 0 and (owner is None or isinstance(owner, np.generic)):
        return values.view(numpy_dtype(kind))[()]
    return values.view(numpy_dtype(kind)) if owner is None else arrays.like(owner, values, kind)
