"""Prints what a linear layer takes on a GPU: 4096 → 4096, its weight in 8 and in 4 bits, for few rows and for many.

    python benchmarks/gpu_layers.py [--rounds N] [--rows 1 4 16 64 256 1024] [--width 4096] [--json FILE]

x and y are float16. Weights in 8 bits have a scale for each column, those in 4 bits one for each block of 32 along the
input. "int8" is with activations quantized row by row, "float" with activations as they are. Beside gpuq stands torch:
its float16 layer, and its layers of 8 and 4 bits, which take bfloat16. Every contender's calls lie in a graph, on so
many weights that most come from memory; contenders take turns, and a figure is the median, in microseconds. "In a row"
are calls without a graph, which for few rows tell what Python takes.
"""

from __future__ import annotations

import argparse
import functools
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import gpuq
from gpuq.cli.bench_gpu import Gpu, Way, in_torch_s_graph

BLOCK = 32
PLAIN = "torch, float16"
FEWEST, ENOUGH = 4, 1e6  # turns of a contender at least, and after how many microseconds it has no more
Layer = Callable[[Any], Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=20, help="turns of each contender (default: %(default)s)")
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 4, 16, 64, 256, 1024], help="of x")
    parser.add_argument("--width", type=int, default=4096, help="of both sides, blocks of 32 (default: %(default)s)")
    parser.add_argument("--json", type=Path, help="write the figures there, too")
    arguments = parser.parse_args()
    layers = make_layers(arguments.width)
    found: dict[str, dict[int, float]] = {}
    for rows in arguments.rows:
        for name, microseconds in measure(layers, rows, arguments.width, arguments.rounds).items():
            found.setdefault(name, {})[rows] = microseconds
    print(f"{'µs':36}" + "".join(f"{f'{rows} rows':>11}" for rows in arguments.rows))
    for name, times in found.items():
        print(f"{name:36}" + "".join(f"{times[r]:11.1f}" if r in times else " " * 11 for r in arguments.rows))
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


def make_layers(width: int) -> dict[str, list[Layer]]:
    """Each contender's layer, with as many weights as the GPU's cache holds not half of."""
    weight = torch.randn(width, width, device="cuda", generator=torch.Generator("cuda").manual_seed(0)) / width**0.5
    layers: dict[str, list[Layer]] = {}
    for name, make in CONTENDERS.items():
        count = Gpu("cuda:0").sets(width * width // (2 if name.startswith("4") else 1))
        try:
            layers[name] = [make(weight) for _ in range(count)]
        except RuntimeError as error:  # this torch does not pack such weights
            print(f"{name}: {error}")
    return layers


def measure(layers: dict[str, list[Layer]], rows: int, width: int, rounds: int) -> dict[str, float]:
    """The median time of one call of each contender, in microseconds."""
    x = torch.randn(rows, width, device="cuda")
    runs: dict[str, Way] = {}
    for name, own in layers.items():
        typed = x.to(torch.bfloat16 if "bfloat16" in name else torch.float16)
        calls = [functools.partial(layer, typed) for layer in own]
        try:
            runs[name] = in_torch_s_graph(calls, "cuda:0")
        except RuntimeError as error:
            if "gpuq" in name:
                raise
            print(f"{name}, {rows} rows: {str(error).partition(chr(10))[0]}")
        if "gpuq" in name or name == PLAIN:
            runs[f"{name}, in a row"] = Gpu("cuda:0").in_a_row(calls[0])
    times: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(rounds + 1):
        for name, (run, count) in runs.items():
            if turn < FEWEST or sum(times[name]) * count < ENOUGH:
                start = time.perf_counter()
                run()
                times[name].append((time.perf_counter() - start) / count * 1e6)
    return {name: statistics.median(each[1:]) for name, each in times.items()}


# ---- the contenders: what makes a layer of a weight (in, out) ----


def of_gpuq(activations: str, **options: Any) -> Callable[[Any], Layer]:
    def make(weight: Any) -> Layer:
        packed = gpuq.quantize(weight, symmetric=True, **options).prepack()
        return lambda x: gpuq.linear(x, packed, activations=activations)

    return make


def of_torch(weight: Any) -> Layer:
    w = weight.t().contiguous().to(torch.float16)
    return lambda x: torch.nn.functional.linear(x, w)


def of_torch_rows(weight: Any) -> Layer:
    """Rows quantized by torch's functions, multiplied in int8, scaled: a program without gpuq."""
    scale = weight.abs().amax(0) / 127
    codes = torch.round(weight / scale).to(torch.int8).t().contiguous().t()

    def layer(x: Any) -> Any:
        row_scale = x.abs().amax(1, keepdim=True).float() / 127
        rows = torch.round(x / row_scale).to(torch.int8)
        return (torch._int_mm(rows, codes) * row_scale * scale).to(x.dtype)

    return layer


def of_torch_int8(weight: Any) -> Layer:
    scale = weight.abs().amax(0) / 127
    codes = torch.round(weight / scale).to(torch.int8).t().contiguous()
    return lambda x: torch._weight_int8pack_mm(x, codes, scale.to(x.dtype))


def of_torch_int4(weight: Any) -> Layer:
    blocks = weight.t().reshape(len(weight), -1, BLOCK)
    scale = blocks.abs().amax(2) / 7
    codes = (torch.round(blocks / scale[..., None]) + 8).clamp(0, 15).to(torch.int32).reshape(weight.shape)
    packed = torch._convert_weight_to_int4pack((codes[:, ::2] << 4 | codes[:, 1::2]).to(torch.uint8).contiguous(), 8)
    parameters = torch.stack([scale.t(), torch.zeros_like(scale.t())], 2).to(torch.bfloat16).contiguous()
    return lambda x: torch._weight_int4pack_mm(x, packed, BLOCK, parameters)


CONTENDERS: dict[str, Callable[[Any], Layer]] = {
    PLAIN: of_torch,
    "8 bits, int8: torch's functions": of_torch_rows,
    "8 bits, int8: gpuq": of_gpuq("int8", axis=1),
    "8 bits, bfloat16: torch": of_torch_int8,
    "8 bits, float: gpuq": of_gpuq("float", axis=1),
    "4 bits, int8: gpuq": of_gpuq("int8", dtype="int4", axis=0, block_size=BLOCK),
    "4 bits, bfloat16: torch": of_torch_int4,
    "4 bits, float: gpuq": of_gpuq("float", dtype="int4", axis=0, block_size=BLOCK),
}

if __name__ == "__main__":
    main()
