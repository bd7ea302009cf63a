"""Machine code as nvdisasm lists it: functions of instructions, each with the word by which ptxas schedules it.

    .text.NAME:
    .L_x_3:                                                     a label of the next instruction
            /*04c0*/  @!P0 BRA `(.L_x_3) ;   /* 0x…7947 */       address, guard, opcode, operands; the lower 64 bits
                                             /* 0x…0000 */       the upper 64 bits, the scheduling word at bit 41

The scheduling word says how many cycles the warp waits after an instruction (stall), which of six counters it raises
until its result has come (sets_written) or its operands have been read (sets_read), and which it waits for first.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from gpuq.cuda.numba_cuda import find_tool

TARGET = re.compile(r"\.target\s+(sm_\d+)")
FUNCTION = re.compile(r"\.text\.(\S+):$")
LABEL = re.compile(r"(\.L_\S+):$")
INSTRUCTION = re.compile(
    r"\s+/\*(?P<address>[0-9a-f]{4,})\*/\s+(?:(?P<guard>@!?U?P\w+)\s+)?(?P<opcode>[\w.]+)(?P<operands>[^;]*);"
    r"\s*/\* 0x[0-9a-f]{16} \*/"
)
UPPER_HALF = re.compile(r"\s+/\* 0x([0-9a-f]{16}) \*/$")
REFERENCE = re.compile(r"`\((\.L_[^)]+)\)")
SCHEDULING_BIT, NO_COUNTER, COUNTERS = 41, 7, 6


class Schedule(NamedTuple):
    """The scheduling word of an instruction; None where no counter is raised."""

    stall: int
    sets_written: int | None
    sets_read: int | None
    waits_for: tuple[int, ...]


@dataclass(frozen=True)
class Instruction:
    """One instruction; `guard` is "" where it always runs, "@P0" or "@!P0" where it depends on a predicate."""

    address: int
    guard: str
    opcode: str
    operands: str
    upper_half: int

    @property
    def name(self) -> str:
        """The opcode without its modifiers."""
        return self.opcode.partition(".")[0]

    @property
    def schedule(self) -> Schedule:
        """What ptxas has told the scheduler."""
        word = self.upper_half >> SCHEDULING_BIT
        written, read, waits = (word >> 5) & 7, (word >> 8) & 7, (word >> 11) & 63
        return Schedule(
            word & 15,
            None if written == NO_COUNTER else written,
            None if read == NO_COUNTER else read,
            tuple(counter for counter in range(COUNTERS) if waits >> counter & 1),
        )


@dataclass
class Function:
    """A function's instructions in the order of their addresses, and the addresses of its labels."""

    name: str
    instructions: list[Instruction] = field(default_factory=list)
    labels: dict[str, int] = field(default_factory=dict)

    def target_of(self, branch: Instruction) -> int | None:
        """The address that an instruction names; None where it names none of this function."""
        found = REFERENCE.search(branch.operands)
        return self.labels.get(found[1]) if found else None


class Listing(NamedTuple):
    """A cubin's machine code: its target, such as sm_80, and its functions by name."""

    target: str
    functions: dict[str, Function]


def disassemble(cubin: bytes) -> Listing:
    """The machine code of a cubin.

    Raises
    ------
    FileNotFoundError
        There is no nvdisasm: it is in the package nvidia-cuda-nvdisasm.
    """
    return parse(run_tool("nvdisasm", ["-c", "-hex"], cubin))


def run_tool(name: str, options: list[str], cubin: bytes) -> str:
    """What a program of the CUDA toolkit says of a cubin."""
    path = find_tool(name)
    if path is None:
        raise FileNotFoundError(f"{name} was not found: pip install nvidia-cuda-{name}, or a CUDA toolkit")
    with tempfile.TemporaryDirectory(prefix="gpuq-") as folder:
        file = Path(folder) / "kernel.cubin"
        file.write_bytes(cubin)
        return subprocess.run([path, *options, str(file)], capture_output=True, text=True, check=True).stdout


def parse(text: str) -> Listing:
    """The functions of a listing.

    Raises
    ------
    ValueError
        The listing names no target.
    """
    target = TARGET.search(text)
    if target is None:
        raise ValueError("text: got a listing without .target; accepted: what nvdisasm -c -hex prints")
    functions: dict[str, Function] = {}
    current, labels = Function(""), list[str]()
    started: re.Match[str] | None = None  # an instruction whose upper half is in the next line
    for line in text.splitlines():
        if found := FUNCTION.match(line):
            current, labels = functions.setdefault(found[1], Function(found[1])), []
        elif found := LABEL.match(line):
            labels.append(found[1])
        elif found := INSTRUCTION.match(line):
            current.labels.update(dict.fromkeys(labels, int(found["address"], 16)))
            started, labels = found, []
        elif started is not None and (found := UPPER_HALF.match(line)):
            address, operands = int(started["address"], 16), started["operands"].strip()
            instruction = Instruction(address, started["guard"] or "", started["opcode"], operands, int(found[1], 16))
            current.instructions.append(instruction)
            started = None
    return Listing(target[1], functions)
