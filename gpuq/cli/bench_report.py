"""The table and the plot of `gpuq bench`."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from gpuq.cli.bench_ceilings import CEILINGS, GPU_CEILING
from gpuq.cli.picture import COLORS

Report = dict[str, Any]
CAPTION = "medians over the rounds, ± half the distance between the quartiles"
MARKS = ("o", "s", "^", "v", "D", "P", "X")


def show(report: Report) -> None:
    """Print what the machine can do, then a line for each contest: in a table where rich is installed."""
    machine = report["machine"]
    settings = f"{machine['cpu']['name']}, {machine['instruction_set']}, {machine['threads']} threads"
    print(f"device {report['device']}: {machine['devices'][_indexed(report['device'])]}; {settings}")
    for result in report["results"]:
        if "gpuq" not in result["rates"]:
            figures = ", ".join(f"{name} {rate:.4g}" for name, rate in result["rates"].items())
            print(f"bytes of {result['operation']}" if result["unit"] == "GB/s" else "dot instruction", end="")
            print(f": {figures} {result['unit']}")
    names = [name for name in report["contenders"] if name not in (*CEILINGS, GPU_CEILING)]
    header = ["operation", "shape", *names, "ceiling", "unit", "gpuq of it", "rounds"]
    rows = [_row(result, names) for result in report["results"] if "gpuq" in result["rates"]]
    try:
        _show_rich(header, rows)
    except ImportError:
        _show_plain(header, rows)


def _indexed(device: str) -> str:
    """The device as the list of devices has it."""
    return "cuda:0" if device == "cuda" else device


def _row(result: Report, names: list[str]) -> list[str]:
    ceiling = result["ceiling"]
    return [
        result["operation"],
        "x".join(map(str, result["shape"])),
        *(_figure(result, name) for name in names),
        "" if ceiling is None else f"{ceiling:.4g}",
        result["unit"],
        f"{result['share_of_ceiling']:.1%}" if result["share_of_ceiling"] else "",
        str(result["rounds"]),
    ]


def _figure(result: Report, name: str) -> str:
    """The rate of a contender and its spread."""
    rate, spread = result["rates"].get(name), result["spread"].get(name)
    if rate is None:
        return ""
    return f"{rate:.4g}" if spread is None else f"{rate:.4g} ±{spread:.0%}"


def _show_rich(header: list[str], rows: list[list[str]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(caption=CAPTION, caption_justify="left")
    for number, name in enumerate(header):
        table.add_column(name, justify="left" if number < 2 else "right")
    for row in rows:
        table.add_row(*row)
    console = Console()
    console.print(table) if console.is_terminal else Console(width=140).print(table)


def _show_plain(header: list[str], rows: list[list[str]]) -> None:
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    for row in [header, *rows]:
        print("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip())
    print(CAPTION)


def draw(path: Path, report: Report) -> None:
    """Write the shares of the ceiling over size as PNG: products on the left, elementwise operators on the right."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 4.8), layout="constrained", dpi=120)
    FigureCanvasAgg(figure)
    sides = zip(figure.subplots(1, 2), ("GOPS", "GB/s"), ("products: 2·m·k·n", "elements"), strict=True)
    for axes, unit, size in sides:
        results = [result for result in report["results"] if result["unit"] == unit and result["share_of_ceiling"]]
        _draw_shares(axes, results)
        axes.axhline(1, color=COLORS["numpy"])
        axes.set(xscale="log", xlabel=size, ylabel="share of the ceiling", ylim=(0, 1.1))
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(color="#e6e6e6")
    figure.savefig(path)


def _draw_shares(axes: Any, results: list[Report]) -> None:
    """A line for each operation."""
    operations = dict.fromkeys(result["operation"] for result in results)
    for operation, mark in zip(operations, MARKS, strict=False):
        own = sorted(
            (_size(result), result["share_of_ceiling"]) for result in results if result["operation"] == operation
        )
        axes.plot(*zip(*own, strict=True), marker=mark, label=operation)
    if operations:
        axes.legend(frameon=False, fontsize=8)


def _size(result: Report) -> int:
    return math.prod(result["shape"]) * (2 if result["unit"] == "GOPS" else 1)
