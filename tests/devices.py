"""The devices that operator tests run on: the CPU, emulated GPUs, and a real one where the machine has it.

NVVM writes one and the same PTX for compute capabilities 7.5 to 9.0, and another for 10.0 and later: tests/cuda/
test_kernels.py holds it to that. So every comparison meant for GPUs is made on 8.0; on the others a share of them,
drawn in an order of its own, which for 7.5 and 9.0 repeats what 8.0 has shown. Sweeps that take all shapes for each of
several types are whole on the CPU and on real GPUs; emulated ones have a part of the shapes for each (`Runner.part`).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest

from gpuq.cuda import driver
from runner import EmulatedRunner, Runner

CAPABILITIES = ((7, 5), (8, 0), (9, 0), (12, 0))
SHARES = {(7, 5): 1 / 24, (8, 0): 1.0, (9, 0): 1 / 24, (12, 0): 1 / 3}  # of the comparisons
GPU = ["gpu"] if driver.unavailable_reason() is None else []
DEVICES = ["cpu", *CAPABILITIES, *GPU]


def name_of(device: Any) -> str:
    """A device as the name of a test has it."""
    return device if isinstance(device, str) else "emulated_{}.{}".format(*device)


@contextlib.contextmanager
def runner_on(device: Any) -> Iterator[Runner]:
    """A runner on a device of the list."""
    if device == "gpu":
        yield Runner("cuda")
        return
    if isinstance(device, str):
        yield Runner("cpu")
        return
    pytest.importorskip("numba_cuda", reason="needs the package numba-cuda")
    from emulated import Driver, install

    with pytest.MonkeyPatch.context() as patch:
        emulated = Driver(device)
        install(patch, emulated)
        yield EmulatedRunner("cuda", emulated, SHARES[device])
