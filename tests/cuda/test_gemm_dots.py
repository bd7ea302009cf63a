"""The GEMM of dot products on emulated devices that would mostly choose tiles: few rows and few columns, every mix."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from products import MIXES, PRODUCTS, arguments, operands
from runner import Runner

pytest.importorskip("numba_cuda", reason="needs the package numba-cuda")

from gpuq.cuda import products  # noqa: E402

SHAPES = [(1, 48, 40), (3, 700, 9), (16, 33, 5), (5, 16, 16), (9, 1, 1), (1, 0, 7), (40, 530, 2)]


@pytest.fixture
def run(emulate: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> Runner:
    emulate()
    monkeypatch.setattr(products, "_tile", lambda *_: None)
    return Runner("cuda")


@pytest.mark.parametrize("name", PRODUCTS)
def test_few_rows_or_columns(run: Runner, name: str) -> None:
    rng = np.random.default_rng(0)
    for number, (m, k, n) in enumerate(SHAPES):
        for rows, columns in (((m,), (n,)), ((), ())):
            a, b = operands(rng, MIXES[number % len(MIXES)], (m, k), (k, n))
            run.check(name, **arguments(rng, name, a, b, rows, columns), what=f"{m} {k} {n}")


def test_batches(run: Runner) -> None:
    rng = np.random.default_rng(1)
    a, b = operands(rng, ("uint8", "int8"), (2, 1, 3, 40), (3, 40, 20))
    run.check("matmul_integer", **arguments(rng, "matmul_integer", a, b, (2, 3, 3, 1), (3, 1, 20)))
