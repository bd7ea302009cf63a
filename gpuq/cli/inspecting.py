"""Say what is in a .safetensors or .npy file: tensors, types, shapes, sizes, and how they are quantized.

Of the data only scales and zero points are read.

examples:
  gpuq inspect small.safetensors
  gpuq inspect model.safetensors --json
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from gpuq.checkpoint import METADATA, PARTS
from gpuq.cli import table
from gpuq.file_dequantizing import parameters_of, quantized_tensors
from gpuq.tensor_files import TensorFile, open_file

HEADER = ("tensor", "shape", "type", "size", "quantized", "scale", "zero point")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `gpuq inspect`."""
    parser.add_argument("file", metavar="FILE", type=Path, help="a .safetensors or .npy file")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")


def run(arguments: argparse.Namespace) -> int:
    """Print the file's tensors and its metadata."""
    with open_file(arguments.file) as file:
        tensors = describe(file)
        described = {f"{tensor['name']}.{key}" for tensor in tensors if tensor["quantized"] for key in METADATA}
        metadata = {key: value for key, value in file.metadata.items() if key not in described}
    if arguments.json:
        print(json.dumps({"tensors": tensors, "metadata": metadata}, indent=2))
        return 0
    table.show(HEADER, [_row(tensor) for tensor in tensors], left=3)
    for key, value in metadata.items():
        print(f"{key}: {value}")
    return 0


def describe(file: TensorFile) -> list[dict[str, Any]]:
    """Each tensor of a file; the parts of a QTensor are one."""
    quantized = quantized_tensors(file)
    parts = {name + part for name in quantized for part in PARTS[1:]}
    found = []
    for name in sorted(file.tensors):
        if name in parts:
            continue
        tensor, own = file.tensors[name], quantized.get(name)
        described: dict[str, Any] = {"name": name, "dtype": tensor.dtype, "shape": list(tensor.shape)}
        described |= {"bytes": tensor.nbytes, "quantized": None}
        if own is not None:
            scale, points = parameters_of(file, name, own)
            grain = own.grain
            described |= {
                "dtype": own.kind.name,
                "shape": list(own.shape),
                "bytes": sum(file.tensors[name + part].nbytes for part in PARTS),
                "quantized": {
                    "axis": None if grain.kind == "tensor" else grain.axis,
                    "block_size": grain.block_size,
                    "scale": [float(scale.min()), float(scale.max())] if scale.size else [],
                    "zero_point": [int(points.min()), int(points.max())] if points.size else [],
                },
            }
        found.append(described)
    return found


def _row(tensor: dict[str, Any]) -> tuple[str, ...]:
    own = tensor["quantized"]
    start = tensor["name"], table.shape(tensor["shape"]), tensor["dtype"], table.size(tensor["bytes"])
    if own is None:
        return (*start, "", "", "")
    if own["axis"] is None:
        grain = "per tensor"
    else:
        grain = f"blocks of {own['block_size']}, axis {own['axis']}" if own["block_size"] else f"axis {own['axis']}"
    return (*start, grain, _range(own["scale"], ".3g"), _range(own["zero_point"], "d"))


def _range(ends: list[Any], form: str) -> str:
    texts = dict.fromkeys(format(end, form) for end in ends)
    return " … ".join(texts)
