"""What quantization costs, summed up over large arrays: Σ x², Σ (x − r)² and the largest |x − r|, in float64.

pieces:  ├ UNIT ┤├ UNIT ┤ …     each sums its own elements; the caller adds the pieces up in their order, so that no
                                thread decides a bit
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from gpuq.arithmetic import widen
from gpuq.cpu.compile import jit
from gpuq.cpu.spread import find_crew, runner
from gpuq.layout import read_only

UNIT = 1 << 15  # elements that are summed up together


@jit
def _sum(arguments: Any, first: int, last: int) -> None:
    x, r, real, sums = arguments
    for unit in range(first, last):
        signal = noise = largest = 0.0
        for i in range(unit * UNIT, min((unit + 1) * UNIT, x.shape[0])):
            value = np.float64(widen(x[i], real))
            if np.isfinite(value):
                difference = value - r[i]
                signal, noise = signal + value * value, noise + difference * difference
                largest = max(largest, abs(difference))
        sums[unit, 0], sums[unit, 1], sums[unit, 2] = signal, noise, largest


_run = runner(_sum)


def sums(x: npt.NDArray[Any], r: npt.NDArray[Any], real: int) -> tuple[float, float, float]:
    """Σ x², Σ (x − r)² and the largest |x − r| over finite x; x as it is stored, r float32 or float64, both flat."""
    found = np.zeros((-(-x.size // UNIT), 3))
    _run(find_crew(len(found), 1), (read_only(x), read_only(r), real, found), len(found), 1)
    if not len(found):
        return 0.0, 0.0, 0.0
    return float(found[:, 0].sum()), float(found[:, 1].sum()), float(found[:, 2].max())
