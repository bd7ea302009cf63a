"""Run every operator and compare each result with its definition, gpuq.reference, bit for bit.

Exit code 1 on any difference. Nothing beyond gpuq itself is needed; NumPy arrays of bfloat16, int4 and uint4 are tried
where ml-dtypes is installed.

examples:
  gpuq selftest
  gpuq selftest --device cpu --seed 7
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterable

import gpuq
from gpuq import reference
from gpuq.cli import cases
from gpuq.cli.difference import first_difference

ULP = {"gelu": 4, "silu": 4}  # what the contract allows of these two; everything else is exact
MOST_SHOWN = 5


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `gpuq selftest`."""
    parser.add_argument("--device", metavar="D", help="device to run on: cpu, cuda or cuda:N (default: automatic)")
    parser.add_argument("--seed", type=_seed, default=0, metavar="N", help="seed of the random values (default: 0)")


def run(arguments: argparse.Namespace) -> int:
    """Run all cases; print a line an operator."""
    failed = 0
    with gpuq.device(arguments.device):
        for operator, generate in cases.GENERATORS.items():
            failed += _run_operator(operator, generate(arguments.seed))
    print(f"{failed} cases failed" if failed else "all equal gpuq.reference bit for bit (gelu, silu: within 4 ulp)")
    return 1 if failed else 0


def _run_operator(operator: str, tried: Iterable[cases.Case]) -> int:
    start, count, failures = time.perf_counter(), 0, []
    for case in tried:
        count += 1
        difference = _difference(operator, case)
        if difference:
            failures.append(f"  {operator}({case.describe()}): {difference}")
    seconds = time.perf_counter() - start
    print(f"{operator:24} {count:6} cases {'FAILED' if failures else 'ok':>7} {seconds:6.1f} s", flush=True)
    for failure in failures[:MOST_SHOWN]:
        print(failure, file=sys.stderr)
    if len(failures) > MOST_SHOWN:
        print(f"  and {len(failures) - MOST_SHOWN} more", file=sys.stderr)
    return len(failures)


def _difference(operator: str, case: cases.Case) -> str | None:
    expected = getattr(reference, operator)(*case.arguments, **case.keywords)
    try:
        actual = getattr(gpuq, operator)(*case.arguments, **case.keywords)
    except Exception as error:  # a valid call that raises is a difference too, and the other cases still count
        return f"raised {type(error).__name__}: {error}"
    return first_difference(expected, actual, ULP.get(case.keywords.get("activation") or "", 0))


def _seed(text: str) -> int:
    value = int(text)
    if value < 0:
        raise ValueError(text)
    return value
