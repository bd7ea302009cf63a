"""Time gpuq beside NumPy in float32, installed peers, and what this machine can do at most.

Each contender runs in a process of its own; they take turns, and a figure is the median over the turns, followed by
half the distance between the quartiles. Ceilings are measured in the same run, their fastest round counts: the dot
instruction in registers for products, a copy of the same bytes for the rest. On a GPU there is no NumPy, and calls are
timed in a row and, for what the kernels alone take, in a graph.

examples:
  gpuq bench --shapes 256x256x256,1x4096x4096
  gpuq bench --elements 16777216 --peers
  gpuq bench --peers --json bench.json --plot bench.png
  gpuq bench --device cuda --peers
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import importlib.metadata
import importlib.util
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median, quantiles
from typing import Any

from gpuq import dispatch
from gpuq.cli import bench_peers, bench_report, info
from gpuq.cli.bench_ceilings import CEILINGS, GPU_CEILING
from gpuq.cli.bench_worker import Contender
from gpuq.cli.contests import ELEMENTWISE, Contest
from gpuq.cli.progress import progress

# (m, k, n): a language model's decoding, odd sizes, a transformer's layers, squares, long and wide ones
SHAPES = (
    "1x4096x4096,4x4096x4096,16x4096x4096,33x1000x777,128x768x3072,197x768x768,256x256x256,512x512x512,"
    "1024x1024x1024,2048x2048x2048,4096x4096x4096,64x11008x4096,3000x128x64"
)
ELEMENTS = "4096,262144,16777216"  # inside the nearest cache, inside the last one, beyond it
ROUNDS = 30
STARTING = 20.0  # seconds at most until all processes run
SECONDS = 2.0  # at most, for each contender of a contest …
LARGE, LARGE_SECONDS = 1 << 34, 10.0  # … and for contests of so many operations
# what is measured once, before all contests: (contest, its contenders)
MACHINE = (
    (Contest("matmul_integer packed", (1024, 1024, 1024)), ("peak, 1 thread", "peak")),
    (Contest("quantize_linear", (1 << 24,)), ("stream", "stream, non-temporal")),
    (Contest("dequantize_linear", (1 << 24,)), ("stream", "stream, non-temporal")),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `gpuq bench`."""
    parser.add_argument("--device", metavar="D", help="cpu, cuda or cuda:N (default: cpu)")
    parser.add_argument("--shapes", type=_shapes, metavar="MxKxN,…", help=f"products (default: {SHAPES})")
    parser.add_argument(
        "--elements", type=_elements, metavar="N,…", help=f"sizes of elementwise operators (default: {ELEMENTS})"
    )
    parser.add_argument(
        "--peers", action="store_true", help="ONNX Runtime, torch and CuPy too, where they are installed"
    )
    parser.add_argument("--json", type=Path, metavar="F", help="write figures, machine and versions")
    parser.add_argument("--plot", type=Path, metavar="F.png", help="draw the share of the ceiling over size")


def run(arguments: argparse.Namespace) -> int:
    """Time everything and report."""
    device = dispatch.pick_device(arguments.device, {})
    if arguments.plot and importlib.util.find_spec("matplotlib") is None:
        raise ValueError("--plot: matplotlib is not installed: pip install 'gpuq[demo]'")
    names = contenders_on(device, arguments.peers)
    races = [(contest, names) for contest in contests_of(arguments.shapes, arguments.elements)]
    if device == "cpu":
        races = [*MACHINE, *races]
    most = STARTING + sum(limit(*entered) for entered in races)
    print(f"gpuq bench: {len(races)} contests of {', '.join(names)}; at most {most / 60:.1f} minutes", file=sys.stderr)
    report = {
        "machine": info.report(),
        "device": device,
        "contenders": {name: _version(name) for name in names},
        "rounds": ROUNDS,
        "results": race_all(races, device),
    }
    if arguments.json:
        arguments.json.write_text(json.dumps(report, indent=2) + "\n")
    bench_report.show(report)
    if arguments.plot:
        bench_report.draw(arguments.plot, report)
    return 0


def contests_of(shapes: Sequence[tuple[int, ...]] | None, elements: Sequence[int] | None) -> list[Contest]:
    """Every operation on every size; the lists above where nothing was asked for."""
    if shapes is None and elements is None:
        shapes, elements = _shapes(SHAPES), _elements(ELEMENTS)
    products = [Contest(name, shape) for shape in shapes or () for name in ("matmul_integer packed", "matmul_integer")]
    return products + [Contest(name, (size,)) for name in ELEMENTWISE for size in elements or ()]


def contenders_on(device: str, peers: bool) -> tuple[str, ...]:
    """Who takes part on a device: on a GPU with calls in a row and, but for CuPy, in a graph."""
    installed = [
        name
        for name, modules in bench_peers.NEEDED.items()
        if peers and all(importlib.util.find_spec(module) for module in modules)
    ]
    if device == "cpu":
        return ("gpuq", "numpy", *(name for name in bench_peers.ON_CPU if name in installed), *CEILINGS)
    entries = [entry for name, own in bench_peers.ON_GPU.items() if name in installed for entry in own]
    return ("gpuq", "gpuq, graph", *entries, GPU_CEILING)


def limit(contest: Contest, names: Sequence[str]) -> float:
    """Seconds after which a contest begins no further round."""
    return len(names) * (LARGE_SECONDS if contest.unit == "GOPS" and contest.amount >= LARGE else SECONDS)


def race_all(races: Sequence[tuple[Contest, Sequence[str]]], device: str) -> list[dict[str, Any]]:
    """Start the processes, run all contests, end the processes."""
    needed = dict.fromkeys(name for _, names in races for name in names)
    with contextlib.ExitStack() as stack:
        contenders = {name: stack.enter_context(Contender(name, device)) for name in needed}
        return [
            race(contest, [contenders[name] for name in names], limit(contest, names))
            for contest, names in progress(races, "timing")
        ]


def race(contest: Contest, contenders: Sequence[Contender], seconds: float) -> dict[str, Any]:
    """One contest, as the JSON file has it."""
    begun = time.monotonic()
    answers = [(contender, contender.ask(**dataclasses.asdict(contest))) for contender in contenders]
    entered = [contender for contender, answer in answers if answer["takes_part"]]
    times: dict[str, list[float]] = {contender.name: [] for contender in entered}
    last = time.monotonic()
    for _ in range(ROUNDS):
        for contender in entered:
            times[contender.name].append(contender.ask()["seconds"])
        took, last = time.monotonic() - last, time.monotonic()
        if last + took - begun > seconds:
            break
    medians = {name: (min if name in CEILINGS else median)(values) for name, values in times.items()}
    ceiling, kernels = ceiling_of(contest, medians), medians.get("gpuq, graph", medians.get("gpuq"))
    return {
        "operation": contest.operation,
        "shape": contest.shape,
        "unit": contest.unit,
        "rounds": len(times[entered[0].name]) if entered else 0,
        "path": next((answer["path"] for _, answer in answers if answer["path"]), None),
        "seconds": medians,
        "spread": {name: _spread(values) for name, values in times.items()},
        "rates": {name: contest.amount / value / 1e9 for name, value in medians.items()},
        "ceiling": contest.amount / ceiling / 1e9 if ceiling else None,
        "share_of_ceiling": ceiling / kernels if ceiling and kernels else None,
    }


def ceiling_of(contest: Contest, seconds: dict[str, float]) -> float | None:
    """The seconds that a contest takes at least: of the faster copy, or of the slower of computing and reading."""
    measured = [seconds[name] for name in (*CEILINGS, GPU_CEILING) if name in seconds]
    if not measured:
        return None
    return max(measured) if contest.unit == "GOPS" else min(measured)


def _spread(times: list[float]) -> float | None:
    """Half the distance between the quartiles, as a share of the median: none of a single round."""
    if len(times) < 2:
        return None
    first, _, third = quantiles(times, n=4, method="inclusive")
    return (third - first) / 2 / median(times)


def _version(name: str) -> str | None:
    modules = bench_peers.NEEDED.get(name.partition(",")[0], (name,))
    packages = importlib.metadata.packages_distributions().get(modules[0], modules)  # cupy comes as cupy-cuda13x
    try:
        return importlib.metadata.version(packages[0])
    except importlib.metadata.PackageNotFoundError:  # gpuq from its sources, or a ceiling
        return None


def _shapes(text: str) -> list[tuple[int, ...]]:
    shapes = [tuple(_sizes(part, "x")) for part in text.split(",")]
    if any(len(shape) != 3 for shape in shapes):
        raise argparse.ArgumentTypeError(f"got {text!r}; accepted: MxKxN of sizes from 1, separated by commas")
    return shapes


def _elements(text: str) -> list[int]:
    sizes = _sizes(text, ",")
    if not sizes:
        raise argparse.ArgumentTypeError(f"got {text!r}; accepted: integers from 1, separated by commas")
    return sizes


def _sizes(text: str, between: str) -> list[int]:
    """The integers of a text; none where one is not of at least 1."""
    parts = text.split(between)
    return [int(part) for part in parts] if all(part.isdecimal() and int(part) > 0 for part in parts) else []
