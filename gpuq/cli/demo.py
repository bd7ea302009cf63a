"""The main job on real data: a digit classifier in 8 bit beside float32, how accurate and how fast.

Trains a small network on scikit-learn's handwritten digits, runs the test half of them in float32 and through two
8-bit schemes, compares, times the operators on this machine, and writes a picture. Exit code 1 if a scheme agrees with
float32 on less than 99 % of the images, or differs from gpuq.reference in a bit. Needs: pip install 'gpuq[demo]'.

examples:
  gpuq demo
  gpuq demo --out pictures
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
from pathlib import Path
from typing import Any

import gpuq
from gpuq import reference
from gpuq.cli import contests, network, timing
from gpuq.cli.difference import first_difference

SEED = 0
REQUIRED_AGREEMENT = 0.99
NEEDED = ("sklearn", "matplotlib", "rich")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `gpuq demo`."""
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("gpuq-demo"),
        metavar="DIR",
        help="folder of the picture, made if need be (default: %(default)s)",
    )


def run(arguments: argparse.Namespace) -> int:
    """Run the demo and say whether its checks held."""
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        print(f"gpuq demo: {', '.join(missing)} not installed: pip install 'gpuq[demo]'", file=sys.stderr)
        return 2
    from rich.console import Console
    from rich.progress import Progress

    from gpuq.cli import demo_report, picture

    arguments.out.mkdir(parents=True, exist_ok=True)
    console = Console()
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("training", total=4)
        data = network.load_data(SEED)
        layers = network.train_network(data, SEED)
        progress.update(task, advance=1, description="float32 and 8 bit")
        exact = network.forward_float(layers, data.test)
        quantized = network.quantize_network(layers, data.train)
        schemes = [run_static(quantized, data.test), run_dynamic(quantized, data.test)]
        progress.update(task, advance=1, description="timing")
        results = time_operators()
        progress.update(task, advance=1, description="drawing")
        picture_path = arguments.out.resolve() / "demo.png"
        picture.draw(picture_path, exact[-1], {scheme.name: scheme.outputs[-1] for scheme in schemes}, results)
    demo_report.show(console, data, quantized, exact, schemes, results)
    console.print(f"picture: {picture_path}", soft_wrap=True, highlight=False)
    return judge(exact[-1], schemes)


def run_static(layers: list[network.Layer], x: Any) -> network.Scheme:
    """Static uint8 activations, the layers chained by `qlinear_matmul`."""
    codes = network.forward_static(layers, x, gpuq)
    path = gpuq.last_path()
    difference = first_difference(network.forward_static(layers, x, reference)[-1], codes[-1])
    return network.Scheme("static", network.dequantize_outputs(layers, codes), path, difference)


def run_dynamic(layers: list[network.Layer], x: Any) -> network.Scheme:
    """Dynamic int8 activations, one scale a row, by `scaled_matmul`."""
    outputs = network.forward_dynamic(layers, x, gpuq)
    path = gpuq.last_path()
    difference = first_difference(network.forward_dynamic(layers, x, reference)[-1], outputs[-1])
    return network.Scheme("dynamic", outputs, path, difference)


def time_operators() -> list[tuple[contests.Contest, dict[str, float]]]:
    """Seconds of every contest: 4 Mi elements, 1024 x 1024 x 1024 products."""
    entered = [contests.Contest(operation, (1 << 22,)) for operation in ("quantize_linear", "dequantize_linear")]
    entered += [contests.Contest(operation, (1024, 1024, 1024)) for operation in contests.PRODUCTS]
    return [(contest, timing.alternate(contests.ways_of(contest))) for contest in entered]


def judge(exact: Any, schemes: list[network.Scheme]) -> int:
    """The exit code: 0 if every scheme agrees with float32 and equals the reference, else 1."""
    failures = []
    for scheme in schemes:
        share = network.agreement(exact, scheme.outputs[-1])
        if share < REQUIRED_AGREEMENT:
            failures.append(f"{scheme.name}: agrees with float32 on {share:.2%}, required is {REQUIRED_AGREEMENT:.0%}")
        if scheme.difference:
            failures.append(f"{scheme.name}: logits differ from gpuq.reference: {scheme.difference}")
    for failure in failures:
        print(f"gpuq demo: {failure}", file=sys.stderr)
    return 1 if failures else 0
