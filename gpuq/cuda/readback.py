"""Reading arrays back from a GPU, where values are asked for on the host: by `GPUQ_CHECK=1`, by `choose_qparams`."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from gpuq.cuda import driver
from gpuq.cuda.launch import Work
from gpuq.cuda.strided import contiguous


def to_host(array: Any, index: int) -> npt.NDArray[Any]:
    """A copy on the host of an array on a device, in its storage type, once the device has done all it was asked."""
    if array.size == 0:
        return np.empty(array.shape, array.dtype)
    with Work(driver.device(index), stream=0) as work:
        driver.call("cuCtxSynchronize")
        return work.read(contiguous(work, array))
