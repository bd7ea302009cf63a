"""What gpuq takes from inside numba-cuda: compiling a kernel to PTX and to machine code, with or without a GPU.

    function, argument types ──front end──► NVVM IR ──libNVVM──► PTX ──nvJitLink──► cubin
                                (any target)            (one compute capability)

These functions are private to numba-cuda; nothing else in gpuq touches them. Two of its defaults do not serve here:
NVVM contracts a·b + c into one rounding, and a device function asks the current device what it is, even where the
caller has said for which capability to compile.
"""

from __future__ import annotations

import functools
import importlib.metadata
import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numba.cuda.dispatcher
from cuda.bindings import nvjitlink
from cuda.pathfinder import find_nvidia_binary_utility
from numba import cuda
from numba.cuda import types
from numba.cuda.compiler import _compile_pyfunc_with_fixup
from numba.cuda.cudadrv import nvvm
from numba.cuda.cudadrv.driver import _have_nvjitlink

Capability = tuple[int, int]
_FRONT_END = (7, 5)  # what the front end is told; nothing it emits depends on it
_asked_by_numba = numba.cuda.dispatcher.get_current_device
_compiling = threading.local()
_EMPTY_MODULE = """target triple = "nvptx64-nvidia-cuda"
target datalayout = "{layout}"
!nvvmir.version = !{{!0}}
!0 = !{{i32 2, i32 0}}
"""


@functools.cache
def versions() -> tuple[str, ...]:
    """numba-cuda, libNVVM and nvJitLink, each with the release in use: together they decide what a kernel becomes.

    libNVVM's own version is 2.0 in CUDA 12 and 13 alike; its release stands at the head of all PTX that it writes.
    """
    unit = nvvm.CompilationUnit({"arch": "compute_{}{}".format(*_FRONT_END)})
    unit.add_module(_EMPTY_MODULE.format(layout=nvvm.NVVM().data_layout).encode())
    head = unit.compile().decode().partition(".version")[0]
    linker = "nvJitLink {}.{}".format(*nvjitlink.version()) if _have_nvjitlink() else "the driver"
    return importlib.metadata.version("numba-cuda"), head, linker


class Compiled:
    """A kernel in NVVM's intermediate form, from which machine code of any compute capability is made."""

    def __init__(
        self, function: Callable[..., Any], argument_types: tuple[Any, ...], threads: int, resident: int
    ) -> None:
        _compiling.here = True
        numba.cuda.dispatcher.get_current_device = _current_device
        try:
            signature = types.void(*argument_types)
            self._library, _ = _compile_pyfunc_with_fixup(
                function, signature, device=False, abi="numba", cc=_FRONT_END, launch_bounds=(threads, resident)
            )
        finally:
            _compiling.here = False
        self._library._nvvm_options["fma"] = 0
        self.entry: str = self._library._entry_name

    def ptx(self, capability: Capability) -> str:
        """The PTX for one compute capability."""
        return str(self._library.get_asm_str(cc=capability))

    def cubin(self, capability: Capability) -> bytes:
        """The machine code for one compute capability."""
        return bytes(self._library.get_cubin(cc=capability).code)


def find_tool(name: str) -> str | None:
    """The path of a program of the CUDA toolkit, from its package or an installation; None where there is none."""
    path: str | None = find_nvidia_binary_utility(name)
    return path


def _current_device() -> Any:
    """The device that numba-cuda asks for: inside gpuq's own compilation none is needed, and none is started."""
    if getattr(_compiling, "here", False):
        return SimpleNamespace(compute_capability=_FRONT_END)
    return _asked_by_numba()


__all__ = ["Capability", "Compiled", "cuda", "find_tool", "types", "versions"]
