"""Times gpuq's operators beside NumPy in float32 and writes the figures as JSON.

    python benchmarks/operators.py results.json [--quick] [--repeats N]

Contenders take turns; a figure is the median of their runs. The file says on what machine, with which versions,
instruction set and threads it was made. Nothing is judged here: tests say what is right, this says how fast it was.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

import gpuq
import shapes
from gpuq.cli import contests, info, timing

QUICK = 3  # shapes of each list


def main() -> None:
    arguments = _arguments()
    most = QUICK if arguments.quick else None
    generator = np.random.default_rng(0)
    results = []
    for elements in shapes.ELEMENTS[:most]:
        results += [measure(contest, arguments.repeats) for contest in contests.elementwise(elements, generator)]
    for m, k, n in shapes.PRODUCTS[:most]:
        results += [measure(contest, arguments.repeats) for contest in contests.products(m, k, n, generator)]
    report = {"machine": info.report(), "repeats": arguments.repeats, "results": results}
    arguments.file.write_text(json.dumps(report, indent=2) + "\n")


def measure(contest: contests.Contest, repeats: int) -> dict[str, Any]:
    """Time one contest, print a line, return what the file says of it."""
    seconds = timing.alternate(contest.contenders, repeats)
    path = last_path(contest)
    rates = {name: contest.amount / time / 1e9 for name, time in seconds.items()}
    shape = "x".join(map(str, contest.shape))
    figures = "  ".join(f"{name} {rate:9.4g}" for name, rate in rates.items())
    print(f"{contest.operation:22} {shape:16} {figures}  {contest.unit}", flush=True)
    return {
        "operation": contest.operation,
        "shape": contest.shape,
        "unit": contest.unit,
        "rates": rates,
        "seconds": seconds,
        "path": path,
    }


def last_path(contest: contests.Contest) -> dict[str, str]:
    """The device, kernel and instruction set of gpuq's call."""
    contest.contenders["gpuq"]()
    path = gpuq.last_path()
    return dict(path._asdict()) if path else {}


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("file", type=Path, help="JSON file to write")
    parser.add_argument("--quick", action="store_true", help=f"only the first {QUICK} shapes of each list")
    parser.add_argument(
        "--repeats", type=int, default=timing.REPEATS, help="runs of each contender (default: %(default)s)"
    )
    return parser.parse_args()


if __name__ == "__main__":
    main()
