"""Compile every CUDA kernel for one compute capability, and say what it takes; no GPU is needed.

With --out the PTX, the machine code and a list in JSON are written to a folder. Registers, stack and spills are those
of ptxas, from the package nvidia-cuda-nvcc or a CUDA toolkit; without it they are left out, and so is the machine code.

examples:
  gpuq kernels
  gpuq kernels --cc 9.0 --out kernels_90
  gpuq kernels --cc 12.0 --json
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpuq.cli.capabilities import kernels_module, parse_capability
from gpuq.cli.progress import progress

if TYPE_CHECKING:
    from gpuq.cuda.compile import Kernel

COLUMNS = ("name", "role", "threads", "dynamic_shared_bytes", "registers", "stack", "spills")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `gpuq kernels`."""
    parser.add_argument(
        "--cc", metavar="X.Y", type=parse_capability, default=(8, 0), help="compute capability (default: 8.0)"
    )
    parser.add_argument("--out", metavar="DIR", type=Path, help="folder for NAME.ptx, NAME.cubin and kernels.json")
    parser.add_argument("--json", action="store_true", help="print the list as JSON instead of a table")


def run(arguments: argparse.Namespace) -> int:
    """Compile, write, print; 1 where a kernel uses the stack or spills registers."""
    found = list(_compile(arguments.cc, arguments.out))
    if arguments.out is not None:
        (arguments.out / "kernels.json").write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    if arguments.json:
        print(json.dumps(found, indent=2))
    else:
        _print_table(found)
    return 1 if any(kernel["stack"] or kernel["spills"] for kernel in found) else 0


def _compile(capability: tuple[int, int], folder: Path | None) -> Iterator[dict[str, Any]]:
    kernels = kernels_module([capability])
    ptxas = kernels.find_ptxas()
    if ptxas is None:
        print("gpuq kernels: no ptxas (pip install nvidia-cuda-nvcc): no machine code", file=sys.stderr)
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
    for kernel in progress(kernels.kernels_of(capability), "compiling"):
        yield _describe(kernel, capability, folder, ptxas)


def _describe(kernel: Kernel, capability: tuple[int, int], folder: Path | None, ptxas: str | None) -> dict[str, Any]:
    """Compile one kernel, write its files, and give its entry in the list."""
    from gpuq.cuda import kernels

    ptx, entry = kernels.ptx_of(kernel, capability)
    assembled = None if ptxas is None else kernels.assemble(ptx, capability, ptxas)
    if folder is not None:
        (folder / f"{kernel.name}.ptx").write_text(ptx, encoding="utf-8")
        if assembled is not None:
            (folder / f"{kernel.name}.cubin").write_bytes(assembled.cubin)
    return {
        "name": kernel.name,
        "role": kernel.role,
        "entry": entry,
        "tile": list(kernel.tile),
        "threads": kernel.threads,
        "dynamic_shared_bytes": kernel.shared_bytes,
        "registers": None if assembled is None else assembled.registers,
        "stack": None if assembled is None else assembled.stack,
        "spills": None if assembled is None else assembled.spills,
    }


def _print_table(found: list[dict[str, Any]]) -> None:
    titles = [column.replace("dynamic_shared_bytes", "shared") for column in COLUMNS]
    rows = [
        titles,
        *(["-" if kernel[column] is None else str(kernel[column]) for column in COLUMNS] for kernel in found),
    ]
    widths = [max(len(row[i]) for row in rows) for i in range(len(COLUMNS))]
    for row in rows:
        texts = [
            text.ljust(width) if i < 2 else text.rjust(width)
            for i, (text, width) in enumerate(zip(row, widths, strict=True))
        ]
        print("  ".join(texts))
