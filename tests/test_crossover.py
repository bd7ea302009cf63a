"""Which calls on NumPy arrays go to a GPU when nobody chose a device: products from some size on, nothing else."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import gpuq
from gpuq import calls, crossover

ELEMENTWISE = ("quantize_linear", "dequantize_linear", "requantize", "fake_quantize", "dynamic_quantize_linear")


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int, int]]:
    """Operator, bytes and multiply-adds of each call, as the rule is given them."""
    seen: list[tuple[str, int, int]] = []

    def prefers_gpu(operator: str, size: int, multiply_adds: int) -> bool:
        seen.append((operator, size, multiply_adds))
        return False

    monkeypatch.setattr(calls, "prefers_gpu", prefers_gpu)
    return seen


@pytest.mark.parametrize("operator", crossover.PRODUCTS)
def test_a_product_goes_to_a_gpu_from_some_size_on(operator: str) -> None:
    m = crossover.smallest_square(operator)
    assert m is not None
    assert crossover.prefers_gpu(operator, 6 * m * m, m**3)
    assert not crossover.prefers_gpu(operator, 6 * (m - 1) ** 2, (m - 1) ** 3)
    assert 256 < m < 4096


@pytest.mark.parametrize("operator", ELEMENTWISE)
def test_an_elementwise_operator_never_goes_to_a_gpu(operator: str) -> None:
    assert crossover.smallest_square(operator) is None
    assert not crossover.prefers_gpu(operator, 1 << 40, 0)


def test_one_row_stays_on_the_cpu_however_large_the_matrix() -> None:
    """Copying the matrix takes longer than multiplying it."""
    for n in (1 << 10, 1 << 14, 1 << 17):
        assert not crossover.prefers_gpu("matmul_integer", n * n + 5 * n, n * n)


@pytest.mark.parametrize(
    ("m", "k", "n", "batch"), [(3, 5, 7, ()), (1, 1, 1, ()), (3, 0, 7, ()), (0, 5, 7, ()), (3, 5, 7, (2, 4))]
)
def test_the_rule_is_given_all_bytes_and_multiply_adds(
    asked: list[tuple[str, int, int]], m: int, k: int, n: int, batch: tuple[int, ...]
) -> None:
    a, b = np.zeros((*batch, m, k), np.uint8), np.zeros((k, n), np.int8)
    result = gpuq.matmul_integer(a, b)
    assert asked == [("matmul_integer", a.nbytes + b.nbytes + result.nbytes, result.size * k)]


def test_an_output_counts_once(asked: list[tuple[str, int, int]]) -> None:
    a, b, out = np.zeros((3, 5), np.uint8), np.zeros((5, 7), np.int8), np.zeros((3, 7), np.int32)
    gpuq.matmul_integer(a, b)
    gpuq.matmul_integer(a, b, out=out)
    assert asked[0] == asked[1]


@pytest.mark.parametrize(
    "call",
    [
        lambda a, b: gpuq.matmul_integer(a[0], b),
        lambda a, b: gpuq.matmul_integer(a, b[:, 0]),
        lambda a, b: gpuq.matmul_integer(a[0], b[:, 0]),
    ],
)
def test_vectors(asked: list[tuple[str, int, int]], call: Callable[[Any, Any], Any]) -> None:
    result = call(np.zeros((3, 5), np.uint8), np.zeros((5, 7), np.int8))
    assert asked[0][2] == result.size * 5
