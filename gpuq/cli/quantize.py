"""Quantize the arrays of a file, tensor by tensor, and say what that costs; OUT is replaced when it is whole.

IN and OUT are .safetensors files, or IN is a .npy file of one array. All tensors of real numbers are quantized that
--include and --exclude let through and that have the axis; the others are copied as they are. In a .safetensors OUT,
which gpuq.load reads, NAME becomes NAME, NAME.scale and NAME.zero_point. OUT x.npy holds the codes, 4-bit ones one in a
byte; beside it lie x.scale.npy and x.zero_point.npy. A large tensor is read in pieces, twice to choose its range.

examples:
  gpuq quantize model.safetensors small.safetensors --axis 0 --include '*.weight'
  gpuq quantize model.safetensors small.safetensors --dtype int4 --axis -1 --block-size 32 --exclude '*norm*'
  gpuq quantize weights.npy codes.npy --symmetric
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path

from gpuq.cli import table
from gpuq.cli.progress import Bar
from gpuq.dtypes import QUANTIZED
from gpuq.file_quantizing import Choice, Outcome, bytes_read, quantize_file
from gpuq.quantizing import OBSERVERS

HEADER = ("tensor", "shape", "from", "to", "before", "after", "SQNR dB", "largest error")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `gpuq quantize`."""
    parser.add_argument("source", metavar="IN", type=Path, help="a .safetensors or .npy file")
    parser.add_argument("target", metavar="OUT", type=Path, help="a .safetensors or .npy file")
    parser.add_argument("--dtype", choices=list(QUANTIZED), default="int8", help="type of codes (default: %(default)s)")
    parser.add_argument("--axis", type=int, help="a scale for each index along this axis (default: one for a tensor)")
    parser.add_argument(
        "--block-size", type=int, default=0, metavar="N", help="a scale for each N elements along the axis"
    )
    parser.add_argument("--symmetric", action="store_true", help="zero points 0, or the middle of unsigned types")
    parser.add_argument("--narrow-range", action="store_true", help="leave out the lowest code")
    parser.add_argument(
        "--calibration", choices=[str(name) for name in OBSERVERS], default="minmax",
        help="how the range is chosen (default: %(default)s)",
    )  # fmt: skip
    for name, what in (("include", "only tensors"), ("exclude", "no tensors")):
        parser.add_argument(
            f"--{name}", metavar="GLOB", action="append", default=[],
            help=f"{what} whose name matches; may be repeated",
        )  # fmt: skip
    parser.add_argument("--dry-run", action="store_true", help="say what would become of each tensor; write nothing")
    parser.add_argument("--json", action="store_true", help="print the outcome as JSON instead of a table")


def run(arguments: argparse.Namespace) -> int:
    """Quantize and report."""
    choice = Choice(
        arguments.dtype, arguments.axis, arguments.block_size, arguments.symmetric, arguments.narrow_range,
        arguments.calibration, arguments.include, arguments.exclude,
    )  # fmt: skip
    with Bar(bytes_read(arguments.source, choice), "quantizing") as bar:
        outcomes = quantize_file(arguments.source, arguments.target, choice, bar.advance, arguments.dry_run)
    if arguments.json:
        print(json.dumps([_described(outcome) for outcome in outcomes], indent=2))
    else:
        _show(outcomes)
    return 0


def _described(outcome: Outcome) -> dict[str, object]:
    """As JSON, which has neither NaN nor infinities."""
    numbers = {"sqnr_db": outcome.sqnr_db, "max_abs": outcome.max_abs}
    return {**outcome._asdict(), **{key: value if math.isfinite(value) else None for key, value in numbers.items()}}


def _show(outcomes: list[Outcome]) -> None:
    rows = [
        (
            outcome.name, table.shape(outcome.shape), outcome.before, outcome.after, table.size(outcome.bytes_before),
            table.size(outcome.bytes_after), _figure(outcome.sqnr_db, ".1f"), _figure(outcome.max_abs, ".3g"),
        )
        for outcome in outcomes
    ]  # fmt: skip
    before, after = sum(each.bytes_before for each in outcomes), sum(each.bytes_after for each in outcomes)
    total = (f"{len(outcomes)} tensors", "", "", "", table.size(before), table.size(after), "", "")
    table.show(HEADER, [*rows, total], left=4)


def _figure(value: float, form: str) -> str:
    """A number; nothing where nothing was quantized."""
    return "" if math.isnan(value) else f"{value:{form}}"
