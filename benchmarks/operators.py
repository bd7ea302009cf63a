"""Times gpuq's operators beside NumPy in float32 and writes the figures as JSON.

    python benchmarks/operators.py results.json [--device D] [--quick] [--repeats N]

Contenders take turns; a figure is the median of their runs. The file says on what machine, with which versions,
instruction set and threads it was made. Nothing is judged here: tests say what is right, this says how fast it was.

On a GPU gpuq's arrays lie there already, a run is a row of calls, and its time ends when the device is through with
them: so small shapes tell what a call costs in Python, large ones what the kernels do. NumPy stays on the CPU.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

import gpuq
import shapes
from gpu import IN_A_ROW, Gpu
from gpuq.cli import contests, info, timing

QUICK = 3  # shapes of each list


def main(given: list[str] | None = None) -> None:
    arguments = _arguments(given)
    with gpuq.device(arguments.device):
        results = [measure(contest, arguments.repeats, gpu) for gpu, contest in _contests(arguments)]
    report = {"machine": info.report(), "device": arguments.device, "repeats": arguments.repeats, "results": results}
    arguments.file.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


def _contests(arguments: argparse.Namespace) -> Iterator[tuple[Gpu | None, contests.Contest]]:
    """Every contest, with the GPU that its arrays lie on."""
    gpu = None if arguments.device == "cpu" else Gpu(arguments.device)
    place = np.asarray if gpu is None else gpu.place
    most = QUICK if arguments.quick else None
    generator = np.random.default_rng(0)
    for elements in shapes.ELEMENTS[:most]:
        yield from ((gpu, contest) for contest in contests.elementwise(elements, generator, place))
    for m, k, n in shapes.PRODUCTS[:most]:
        yield from ((gpu, contest) for contest in contests.products(m, k, n, generator, place))


def measure(contest: contests.Contest, repeats: int, gpu: Gpu | None) -> dict[str, Any]:
    """Time one contest, print a line, return what the file says of it; seconds are those of one call."""
    if gpu is None:
        seconds = timing.alternate(contest.contenders, repeats)
    else:
        row = {**contest.contenders, "gpuq": gpu.in_a_row(contest.contenders["gpuq"])}
        seconds = timing.alternate(row, repeats)
        seconds["gpuq"] /= IN_A_ROW
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


def _arguments(given: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("file", type=Path, help="JSON file to write")
    parser.add_argument(
        "--device", type=_device, default="cpu", metavar="D", help="cpu, cuda or cuda:N (default: %(default)s)"
    )
    parser.add_argument("--quick", action="store_true", help=f"only the first {QUICK} shapes of each list")
    parser.add_argument(
        "--repeats", type=int, default=timing.REPEATS, help="runs of each contender (default: %(default)s)"
    )
    return parser.parse_args(given)


def _device(text: str) -> str:
    """The name of a device that is there."""
    try:
        with gpuq.device(text):
            return text
    except (gpuq.DeviceError, ValueError) as error:
        raise argparse.ArgumentTypeError(str(error)) from None


if __name__ == "__main__":
    main()
