"""Compiled loops over the parameter functions of arithmetic.py; one element at a time, for ranges and multipliers on
the host.
"""

from __future__ import annotations

from typing import Any

from gpuq import arithmetic
from gpuq.cpu.compile import jit


@jit
def fixed_point_multipliers(reals: Any, multipliers: Any, shifts: Any) -> None:
    """m and shift of flat float64 numbers."""
    for i in range(reals.shape[0]):
        multipliers[i], shifts[i] = arithmetic.fixed_point_multiplier(reals[i])


@jit
def asymmetric(rmin: Any, rmax: Any, scale: Any, zero_point: Any, qmin: int, qmax: int) -> None:
    """Scale (float64) and zero point of each range."""
    for i in range(rmin.shape[0]):
        scale[i], zero_point[i] = arithmetic.asymmetric_parameters(rmin[i], rmax[i], qmin, qmax)


@jit
def symmetric(rmin: Any, rmax: Any, scale: Any, zero_point: Any, qmin: int, qmax: int) -> None:
    """Scale (float64) of each range about the zero points already there."""
    for i in range(rmin.shape[0]):
        scale[i], zero_point[i] = arithmetic.symmetric_parameters(rmin[i], rmax[i], qmin, qmax, zero_point[i])
