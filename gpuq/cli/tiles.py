"""`gpuq info --tiles`: the kernels that a product could get on a card, and what each would cost."""

from __future__ import annotations

import argparse
import json
import re
from typing import Any

from gpuq import dispatch
from gpuq.cuda import blocking, hardware
from gpuq.cuda.blocking import Candidate, Problem
from gpuq.cuda.hardware import KIBI, MEBI, Capability, Hardware

PARTS = ("start", "fill", "tensor", "shared", "cache", "memory", "latency")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "--tiles", metavar="MxKxN", type=_problem, help="only this: the CUDA kernels for a product, with their costs"
    )
    parser.add_argument(
        "--cc",
        metavar="X.Y",
        type=_capability,
        help="compute capability for --tiles, on a card that stands for it (default: that of cuda:0, else 8.0)",
    )


def run(arguments: argparse.Namespace) -> int:
    """Print the candidates, the one that is chosen first."""
    capability, card = _card(arguments.cc)
    found = report(arguments.tiles, capability, card)
    print(json.dumps(found, indent=2) if arguments.json else "\n".join(_lines(found)))
    return 0


def report(problem: Problem, capability: Capability, card: Hardware) -> dict[str, Any]:
    """The candidates as JSON can hold them, from cheapest to dearest, times in microseconds."""
    candidates = sorted(blocking.candidates(problem, capability, card), key=lambda each: each.cycles)
    return {
        "problem": problem._asdict(),
        "compute_capability": "{}.{}".format(*capability),
        "hardware": card._asdict(),
        "candidates": [_entry(each, card) for each in candidates],
    }


def _entry(candidate: Candidate, card: Hardware) -> dict[str, Any]:
    def microseconds(cycles: float) -> float:
        return round(cycles / card.gigahertz / 1e3, 3)

    return {
        "kernel": str(candidate),
        "blocks": candidate.blocks,
        **{part: microseconds(getattr(candidate, part)) for part in PARTS},
        "total": microseconds(candidate.cycles),
    }


def _lines(found: dict[str, Any]) -> list[str]:
    card, candidates = found["hardware"], found["candidates"]
    columns = ("kernel", "blocks", *PARTS, "total")
    rows = [columns, *([_text(each[column]) for column in columns] for each in candidates)]
    widths = [max(len(row[place]) for row in rows) for place in range(len(columns))]
    head = (
        f"{'x'.join(str(found['problem'][each]) for each in ('m', 'k', 'n'))} on {card['name']}, compute capability "
        f"{found['compute_capability']}: {card['multiprocessors']} multiprocessors, {card['shared_bytes'] // KIBI} KiB "
        f"of shared memory for a block, {card['cache_bytes'] / MEBI:.3g} MiB of cache"
    )
    first, *others = (
        "  ".join(
            text.rjust(width) if place else text.ljust(width)
            for place, (text, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    )
    return [head, "estimated microseconds; the first kernel is chosen", "", first, *others]


def _text(value: Any) -> str:
    return f"{value:.2f}" if isinstance(value, float) else str(value)


def _card(capability: Capability | None) -> tuple[Capability, Hardware]:
    """The card that was asked for; without such a wish the first device's, where there is one."""
    if capability is None and dispatch.cuda_unavailable_reason() is None:
        from gpuq.cuda import driver

        device = driver.device(0)
        return device.capability, device.hardware
    capability = capability or (8, 0)
    return capability, hardware.representative(capability)


def _problem(text: str) -> Problem:
    match = re.fullmatch(r"(\d+)x(\d+)x(\d+)", text)
    if match is None or 0 in map(int, match.groups()):
        raise argparse.ArgumentTypeError(f"got {text!r}; accepted: sizes m, k, n of at least 1, such as 128x768x3072")
    m, k, n = map(int, match.groups())
    return Problem(m, k, n)


def _capability(text: str) -> Capability:
    match = re.fullmatch(r"(\d+)\.(\d)", text)
    known = ", ".join("{}.{}".format(*each) for each in hardware.REPRESENTATIVES)
    if match is None or (found := (int(match[1]), int(match[2]))) < min(hardware.REPRESENTATIVES):
        raise argparse.ArgumentTypeError(f"got {text!r}; accepted: {known}, and what comes after them")
    return found
