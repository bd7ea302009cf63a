"""What a kernel takes of a multiprocessor, as cuobjdump reads it from a cubin."""

from __future__ import annotations

import re
from typing import NamedTuple

from .disassembly import run_tool

USAGE = re.compile(r"Function (\S+?):?\s+REG:(\d+) STACK:(\d+) SHARED:(\d+)")


class Resources(NamedTuple):
    """Registers and bytes of stack of a thread, bytes of static shared memory of a block."""

    registers: int
    stack: int
    static_shared: int


def resources_of(cubin: bytes) -> dict[str, Resources]:
    """The resources of a cubin's functions, by name."""
    return parse(run_tool("cuobjdump", ["-res-usage"], cubin))


def parse(text: str) -> dict[str, Resources]:
    """The resources in what cuobjdump prints."""
    return {name: Resources(*map(int, numbers)) for name, *numbers in USAGE.findall(text)}
