"""The figures of kernels as a table: what ptxas gave each, and how its main loop is made."""

from __future__ import annotations

import fnmatch
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from .disassembly import Function, disassemble
from .issue_model import TENSOR_CYCLES, busy_share
from .main_loop import TENSOR, Loop, main_loop
from .resources import Resources, resources_of

LOCAL = ("LDL", "STL")


class Figures(NamedTuple):
    """What is known of a kernel's machine code. The main loop's are None where no loop multiplies, `share`, the issue
    model's at one warp per scheduler, also where the loop has no tensor instructions or their pace is not known.
    """

    target: str
    resources: Resources
    local_accesses: int
    loop: Loop | None
    share: float | None


def figures_of(cubin: bytes, entry: str | None = None) -> Figures:
    """The figures of a kernel; without the name of its entry those of the largest function."""
    listing = disassemble(cubin)
    functions = listing.functions
    name = entry or max(functions, key=lambda each: len(functions[each].instructions))
    loop = main_loop(functions[name])
    cycles = TENSOR_CYCLES.get(listing.target)
    share = busy_share(loop, cycles, 1) if loop and cycles and any(loop.mix[each] for each in TENSOR) else None
    return Figures(listing.target, resources_of(cubin)[name], _local_accesses(functions[name]), loop, share)


def table(folders: Iterable[Path], names: str) -> Iterator[str]:
    """The lines of a table of the kernels of such names in folders that `gpuq kernels --out` wrote."""
    rows = [TITLES, *(_row(name, figures) for folder in folders for name, figures in _of_folder(folder, names))]
    widths = [max(len(row[column]) for row in rows) for column in range(len(TITLES))]
    for row in rows:
        first, *others = zip(row, widths, strict=True)
        yield "  ".join([first[0].ljust(first[1]), *(text.rjust(width) for text, width in others)])


TITLES = ("kernel", "target", "registers", "stack", "local", "loop", "products", "ratio", "stall", "busy", "mix")


def _of_folder(folder: Path, names: str) -> Iterator[tuple[str, Figures]]:
    for kernel in json.loads((folder / "kernels.json").read_text(encoding="utf-8")):
        if fnmatch.fnmatchcase(kernel["name"], names):
            yield kernel["name"], figures_of((folder / f"{kernel['name']}.cubin").read_bytes(), kernel["entry"])


def _row(name: str, figures: Figures) -> tuple[str, ...]:
    resources, loop, share = figures.resources, figures.loop, figures.share
    start = (name, figures.target, str(resources.registers), str(resources.stack), str(figures.local_accesses))
    if loop is None:
        return (*start, *["-"] * (len(TITLES) - len(start)))
    mix = " ".join(f"{count} {each}" for each, count in loop.mix.most_common(4))
    return (
        *start,
        str(len(loop.instructions)),
        str(loop.products),
        f"{loop.ratio:.3f}",
        f"{loop.stall:.2f}",
        "-" if share is None else f"{share:.3f}",
        mix,
    )


def _local_accesses(function: Function) -> int:
    return sum(instruction.name in LOCAL for instruction in function.instructions)
