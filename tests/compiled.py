"""The PTX of gpuq's kernels as the tests take it: in a run of all tests a kernel goes through the compiler once.

    front end (seconds) ──► PTX for 8.0, for 12.0 and perhaps one more capability (tenths of a second) ──► cache on disk

gpuq compiles for the device that it finds. The tests run a kernel on devices of four capabilities and read its code
for seven, in several processes: whoever needs a kernel first has all of that made, and for 7.5 and 9.0 takes what was
made for 8.0, which is the same but for the line that names the target. Every third kernel or so has one more
capability, there to hold NVVM to that (cuda/test_kernels.py); it differs from kernel to kernel.
"""

from __future__ import annotations

import functools
import re
import zlib

from gpuq.cuda.compile import Code, Kernel, compiled_code
from gpuq.cuda.kernels import CAPABILITIES
from gpuq.cuda.numba_cuda import Capability

BLACKWELL = (10, 0)  # from here on NVVM writes other PTX


def own_capabilities(kernel: Kernel) -> list[Capability]:
    """Those that a kernel is for."""
    return [capability for capability in CAPABILITIES if kernel.since <= capability < kernel.before]


def generations(kernel: Kernel) -> list[Capability]:
    """Those of a kernel that its PTX is taken from, one for each that differs."""
    own = own_capabilities(kernel)
    return [each for each in ((8, 0), (12, 0)) if each in own] or own[:1]


def compiled_for(kernel: Kernel) -> list[Capability]:
    """Those that a kernel is compiled for at once: one of each generation, and at times one that its name draws."""
    chosen = generations(kernel)
    others = [each for each in own_capabilities(kernel) if each not in chosen]
    return chosen + others[zlib.crc32(kernel.name.encode()) % 14 :][:1]


@functools.cache
def _compiled(kernel: Kernel) -> dict[Capability, Code]:
    return {capability: compiled_code(kernel, capability, "ptx") for capability in compiled_for(kernel)}


@functools.cache
def code_of(kernel: Kernel, capability: Capability, form: str = "ptx") -> Code:
    """What gpuq.cuda.compile.compiled_code gives, for the emulator: PTX, of another capability where it is the same."""
    assert form == "ptx"
    twin = generations(kernel)[0] if capability < BLACKWELL else capability
    code = _compiled(kernel).get(twin) or compiled_code(kernel, capability, form)
    target = ".target sm_{}{}".format(*capability).encode()
    return Code(re.sub(rb"\.target sm_\d+", target, code.image, count=1), code.entry)


def ptx_of(kernel: Kernel, capability: Capability) -> tuple[str, str]:
    """The PTX of a kernel for one of the capabilities it is compiled for, by itself, and the name of its entry."""
    code = _compiled(kernel)[capability]
    return code.image.decode(), code.entry
