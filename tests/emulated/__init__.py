"""Emulated NVIDIA devices behind gpuq's launch layer: the functions of `cuda.bindings.driver` on NumPy, with no GPU.

    gpuq.cuda.driver ── cuMemAllocAsync, cuLaunchKernel, … ──► Driver ── tasks ──► streams ──► ptx_emulator.launch

Work waits in its stream until somebody must see its result, so that a missing synchronization shows: as memory never
written, or as what the host had there before.
"""

from .arrays import DlpackArray, InterfaceArray, download, download_memory, upload
from .calls import Call
from .driver import Driver
from .install import install

__all__ = ["Call", "DlpackArray", "Driver", "InterfaceArray", "download", "download_memory", "install", "upload"]
