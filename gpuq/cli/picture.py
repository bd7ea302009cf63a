"""The demo's picture: how far the 8-bit logits are from float32's, and how fast each operator ran."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from gpuq.cli.contests import Contest

COLORS = {"gpuq": "#0072b2", "numpy": "#b0b0b0", "static": "#009e73", "dynamic": "#e69f00"}
LABELS = {
    "gpuq": "gpuq, 8 bit",
    "numpy": "NumPy, float32",
    "static": "static uint8",
    "dynamic": "dynamic int8, per row",
}

Results = list[tuple[Contest, dict[str, float]]]  # each with the seconds of its contenders


def draw(path: Path, logits: Any, approximations: dict[str, Any], results: Results) -> None:
    """Write the picture as PNG.

    Parameters
    ----------
    path : Path
        The file to write.
    logits : array, float32
        The float network's.
    approximations : dict
        The logits of each scheme, by its key in `LABELS`.
    results : list
        What was timed.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 4.6), layout="constrained", dpi=120)
    FigureCanvasAgg(figure)
    errors, elementwise, products = figure.subplots(1, 3, width_ratios=(1.25, 1, 1.25))
    _draw_errors(errors, logits, approximations)
    _draw_bars(elementwise, [pair for pair in results if pair[0].unit == "GB/s"], "quantize and dequantize")
    _draw_bars(products, [pair for pair in results if pair[0].unit == "GOPS"], "matrix products")
    for axes in (errors, elementwise, products):
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_axisbelow(True)
        axes.grid(axis="y", color="#e6e6e6")
        axes.legend(frameon=False)
    figure.savefig(path)


def _draw_errors(axes: Any, logits: Any, approximations: dict[str, Any]) -> None:
    errors = {name: (values - logits).ravel() for name, values in approximations.items()}
    widest = max(float(np.percentile(np.abs(values), 99.9)) for values in errors.values())
    bins = np.linspace(-widest, widest, 82)
    for name, values in errors.items():
        root_mean_square = np.sqrt(np.mean(values.astype(np.float64) ** 2))
        axes.hist(values, bins, color=COLORS[name], alpha=0.65, label=f"{LABELS[name]} (rms {root_mean_square:.3f})")
    axes.set(
        title="error of the logits against float32",
        ylabel="logits",
        xlabel=f"error (logits: {logits.min():.0f} to {logits.max():.0f})",
    )
    axes.margins(y=0.25)


def _draw_bars(axes: Any, results: Results, title: str) -> None:
    places = np.arange(len(results))
    for side, name in ((-0.2, "gpuq"), (0.2, "numpy")):
        rates = [contest.amount / seconds[name] / 1e9 for contest, seconds in results]
        bars = axes.bar(places + side, rates, 0.38, color=COLORS[name], label=LABELS[name])
        axes.bar_label(bars, fmt="%.3g", padding=2, fontsize=9)
    axes.set_xticks(places, [contest.operation.replace("_", "_\n", 1).replace(" ", "\n") for contest, _ in results])
    axes.set(title=title, ylabel=results[0][0].unit)
    axes.margins(y=0.25)
