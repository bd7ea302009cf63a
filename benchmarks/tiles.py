"""Times products on a GPU by each tile that it could be given, beside the one that gpuq chooses and torch.

    python benchmarks/tiles.py [--shapes MxKxN …] [--rounds N] [--json FILE]

int8 × int8 to int32, without zero points, b packed beforehand. Calls lie in a graph, on as many b as the GPU's cache
holds not half of; tiles take turns, and a figure is the median, in microseconds. What the cost model of blocking.py is
made by: its constants are right where the chosen tile is the fastest.
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
from gpuq.cli.bench_gpu import FEWEST_ROWS, Gpu, Way, in_torch_s_graph
from gpuq.cuda import blocking, driver, products
from gpuq.cuda.tiles import AMPERE_TILES, Tile

SHAPES = (
    *("512x512x512", "768x768x768", "1024x1024x1024", "1536x1536x1536", "2048x2048x2048", "4096x4096x4096"),
    *("32x4096x4096", "64x4096x4096", "64x11008x4096", "128x4096x4096", "128x768x3072", "256x4096x4096"),
    *("256x11008x4096", "512x4096x4096", "512x4096x11008", "1024x4096x4096"),
)
LEAST, MANY = 128 * 64, 3e10  # elements of a tile that is tried on products of more operations than the second number


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--shapes", nargs="+", default=SHAPES, metavar="MxKxN", help="products")
    parser.add_argument("--rounds", type=int, default=9, help="turns of each tile (default: %(default)s)")
    parser.add_argument("--json", type=Path, help="write the figures there, too")
    arguments = parser.parse_args()
    found: dict[str, Any] = {}
    for shape in arguments.shapes:
        chosen, times = measure(*map(int, shape.split("x")), arguments.rounds)
        found[shape] = {"chosen": chosen, "microseconds": times}
        fastest = sorted((each for each in times.items() if each[0] != "torch"), key=lambda each: each[1])
        others = "  ".join(f"{name} {microseconds:.1f}" for name, microseconds in fastest[:4])
        print(f"{shape:18} {chosen:11} {times[chosen]:8.1f}   torch {times.get('torch', 0):8.1f}   fastest: {others}")
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


def measure(m: int, k: int, n: int, rounds: int) -> tuple[str, dict[str, float]]:
    """The tile that gpuq chooses, and the time of a product by each."""
    gpu, device = Gpu("cuda:0"), driver.device(0)
    a = codes(m, k)
    columns = [codes(n, k).t() for _ in range(gpu.sets(m * k + k * n + 4 * m * n))]
    packed, c = [gpuq.prepack(b) for b in columns], torch.empty((m, n), dtype=torch.int32, device="cuda")
    tiles = [tile for tile in AMPERE_TILES if tile.block_bytes <= device.hardware.shared_bytes]
    if 2 * m * k * n > MANY:
        tiles = [tile for tile in tiles if tile.rows * tile.columns >= LEAST]
    chosen = blocking.choose_tile(blocking.Problem(m, k, n), device.capability, device.hardware)
    calls = [functools.partial(gpuq.matmul_integer, a, b, out=c, stream=gpu.stream) for b in packed]
    ways = {str(tile or "dots"): by_tile(tile, gpu, calls) for tile in dict.fromkeys([chosen, *tiles])}
    if m >= FEWEST_ROWS:
        ways["torch"] = in_torch_s_graph([functools.partial(torch._int_mm, a, b, out=c) for b in columns], "cuda:0")
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds + 1):
        for name, (run, count) in ways.items():
            start = time.perf_counter()
            run()
            times[name].append((time.perf_counter() - start) / count * 1e6)
    return str(chosen or "dots"), {name: statistics.median(each[1:]) for name, each in times.items()}


def codes(*shape: int) -> Any:
    return torch.randint(-128, 128, shape, dtype=torch.int8, device="cuda")


def by_tile(tile: Tile | None, gpu: Gpu, calls: list[Callable[[], Any]]) -> Way:
    """The calls by one tile, whatever the cost model says, and whatever calls like them did before."""
    process = driver.usable_process()
    assert process is not None
    process.recipes = type(process.recipes)(driver.MOST_RECIPES)
    choose = products._tile
    products._tile = lambda *_: tile
    try:
        return gpu.in_a_graph(calls)
    finally:
        products._tile = choose


if __name__ == "__main__":
    main()
