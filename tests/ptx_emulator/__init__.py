"""An emulator for the PTX that Numba compiles: runs a kernel instruction by instruction on NumPy, with no GPU.

    memory = Memory()
    x, y = memory.upload(array), memory.empty(array.shape, np.int8)
    counters = launch(parse(ptx), kernel_name, grid, block, [x, y, np.float32(0.5)])
    result = y.numpy()

A test that passes proves the compiled code: results are bit-exact, and each of these ends the launch with an error that
names the instruction and the thread: an access outside a buffer or misaligned, a read of memory never written, a race
on shared memory, two blocks on one byte of global memory, a cp.async copy touched before its wait, a barrier that not
all threads reach, a product and a sum that ptxas may fuse, an instruction that the emulator does not know.
"""

from .counters import Counters, NoCounters, Traffic
from .errors import (
    AccessError,
    AsyncCopyError,
    BarrierError,
    ContractionError,
    EmulationError,
    LaunchError,
    ParseError,
    RaceError,
    StepLimitError,
    UninitializedError,
    UnsupportedError,
)
from .launch import launch
from .memory import Buffer, DeviceArray, Memory
from .parser import parse
from .syntax import Module

__all__ = [
    "AccessError",
    "AsyncCopyError",
    "BarrierError",
    "Buffer",
    "ContractionError",
    "Counters",
    "DeviceArray",
    "EmulationError",
    "LaunchError",
    "Memory",
    "Module",
    "NoCounters",
    "ParseError",
    "RaceError",
    "StepLimitError",
    "Traffic",
    "UninitializedError",
    "UnsupportedError",
    "launch",
    "parse",
]
