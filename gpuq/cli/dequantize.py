"""Bring a quantized file back to real numbers; OUT is replaced when it is whole.

What is no QTensor is copied as it is. For a .npy file of codes the scales and zero points lie beside it, as `gpuq
quantize` has put them; --axis and --block-size are needed where their shapes fit several ways.

examples:
  gpuq dequantize small.safetensors model.safetensors
  gpuq dequantize small.safetensors model.safetensors --dtype float16
  gpuq dequantize codes.npy weights.npy --axis 0 --block-size 32
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from gpuq.cli import table
from gpuq.cli.progress import Bar
from gpuq.dtypes import REAL
from gpuq.file_dequantizing import dequantize_file


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `gpuq dequantize`."""
    parser.add_argument("source", metavar="IN", type=Path, help="a .safetensors or .npy file of gpuq quantize")
    parser.add_argument("target", metavar="OUT", type=Path, help="a .safetensors or .npy file")
    parser.add_argument("--dtype", choices=list(REAL), default="float32", help="real type (default: %(default)s)")
    parser.add_argument("--axis", type=int, help="of a .npy file: the axis of its scales")
    parser.add_argument("--block-size", type=int, default=0, metavar="N", help="of a .npy file: elements of a block")
    parser.add_argument("--json", action="store_true", help="print the outcome as JSON instead of a table")


def run(arguments: argparse.Namespace) -> int:
    """Dequantize and report."""
    size = arguments.source.stat().st_size
    with Bar(size, "dequantizing") as bar:
        outcomes = dequantize_file(
            arguments.source, arguments.target, arguments.dtype, bar.advance, arguments.axis, arguments.block_size
        )
    if arguments.json:
        keys = ("name", "shape", "before", "after")
        print(json.dumps([dict(zip(keys, outcome, strict=True)) for outcome in outcomes], indent=2))
    else:
        rows = [(name, table.shape(shape), before, after) for name, shape, before, after in outcomes]
        table.show(("tensor", "shape", "from", "to"), rows, left=4)
    return 0
