"""A GPU as `gpuq bench` needs it: arrays that lie there, and calls in a row with one wait behind them.

So small shapes tell what a call costs in Python, large ones what the kernels do. Times are the CPU's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from gpuq.arrays import device_index
from gpuq.cuda import driver
from gpuq.cuda.memory import OwnedArray
from gpuq.device_array import address_of

IN_A_ROW = 20  # calls behind one another, as a program makes them: the GPU works on one while Python prepares the next


class Gpu:
    """The device "cuda" or "cuda:N"."""

    def __init__(self, name: str) -> None:
        self._device = driver.device(device_index(name))

    def place(self, array: np.ndarray[Any, Any]) -> OwnedArray:
        """A copy of an array on the device."""
        placed = OwnedArray(self._device, array.shape, array.dtype.name, stream=0)
        with self._device.current():
            address = placed.__cuda_array_interface__["data"][0]
            driver.call("cuMemcpyHtoDAsync", address, address_of(array), array.nbytes, 0)
            driver.call("cuCtxSynchronize")
        return placed

    def in_a_row(self, call: Callable[[], Any]) -> Callable[[], None]:
        """IN_A_ROW of these calls, and the wait until the device is through with them."""

        def run() -> None:
            for _ in range(IN_A_ROW):
                call()
            with self._device.current():
                driver.call("cuCtxSynchronize")

        return run
