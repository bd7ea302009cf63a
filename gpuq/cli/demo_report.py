"""The tables of `gpuq demo`."""

from __future__ import annotations

from typing import Any

from gpuq.cli import network, timing
from gpuq.cli.picture import LABELS, Results
from gpuq.cpu import threads


def show(
    console: Any,
    data: network.Data,
    layers: list[network.Layer],
    exact: list[Any],
    schemes: list[network.Scheme],
    results: Results,
) -> None:
    """Print everything that was found."""
    for table in (_accuracy(data, exact, schemes), _layers(layers, exact, schemes)):
        console.print(table)
        console.print()
    for scheme in schemes:
        path = scheme.path
        console.print(
            f"{LABELS[scheme.name]}: device {path.device}, kernel {path.kernel}, instruction set {path.isa}",
            f"  logits against gpuq.reference: {scheme.difference or 'equal bit for bit'}",
            sep="\n",
            highlight=False,
            soft_wrap=True,
        )
    console.print()
    console.print(_throughput(results))
    console.print()


def _table(title: str, *columns: str, caption: str | None = None) -> Any:
    from rich.table import Table

    table = Table(title=title, title_justify="left", caption=caption, caption_justify="left")
    for number, column in enumerate(columns):
        table.add_column(column, justify="right" if number else "left")
    return table


def _accuracy(data: network.Data, exact: list[Any], schemes: list[network.Scheme]) -> Any:
    table = _table(f"{len(data.test)} handwritten digits", "network", "right", "same as float32")
    for name, logits in [("float32", exact[-1]), *((LABELS[scheme.name], scheme.outputs[-1]) for scheme in schemes)]:
        right = (logits.argmax(axis=1) == data.test_digits).mean()
        table.add_row(name, f"{right:.2%}", f"{network.agreement(exact[-1], logits):.2%}")
    return table


def _layers(layers: list[network.Layer], exact: list[Any], schemes: list[network.Scheme]) -> Any:
    table = _table(
        "Signal to quantization noise of each layer's output",
        "layer",
        "z input",
        "z weights",
        "z output",
        *(f"{scheme.name} dB" for scheme in schemes),
        caption="z: zero points",
    )
    for index, layer in enumerate(layers):
        rows, columns = layer.weight.shape
        noise = [network.signal_to_noise(exact[index], scheme.outputs[index]) for scheme in schemes]
        table.add_row(
            f"{rows} x {columns}",
            str(layer.input_zero_point),
            f"{layer.weight_zero_point.min()} to {layer.weight_zero_point.max()}",
            str(layer.output_zero_point),
            *(f"{value:.1f}" for value in noise),
        )
    return table


def _throughput(results: Results) -> Any:
    caption = f"gpuq: {threads.num_threads()} threads at most; NumPy: {_blas()}. "
    caption += f"Medians over {timing.REPEATS} turns."
    table = _table(
        "Throughput here: gpuq in 8 bit beside NumPy in float32",
        "operation",
        "shape",
        "gpuq",
        "NumPy",
        "ratio",
        caption=caption,
    )
    for contest, seconds in results:
        rates = {name: contest.amount / time / 1e9 for name, time in seconds.items()}
        table.add_row(
            contest.operation,
            "x".join(map(str, contest.shape)),
            f"{rates['gpuq']:.3g} {contest.unit}",
            f"{rates['numpy']:.3g} {contest.unit}",
            f"{rates['gpuq'] / rates['numpy']:.2g}",
        )
    return table


def _blas() -> str:
    """The library behind NumPy's matrix product, as threadpoolctl, which scikit-learn requires, sees it."""
    from threadpoolctl import threadpool_info

    found = [pool for pool in threadpool_info() if pool["user_api"] == "blas"]
    if not found:
        return "its own BLAS"
    pool = min(found, key=lambda pool: "numpy" not in pool["filepath"])  # SciPy may have brought a second one
    return f"{pool['internal_api']} {pool['version']} ({pool.get('architecture')}), {pool['num_threads']} threads"
