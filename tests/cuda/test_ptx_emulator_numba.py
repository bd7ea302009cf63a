"""Kernels compiled by Numba, run on the emulator: branches, shared memory, shuffles, local arrays, doubles, dp4a."""

from __future__ import annotations

import math
import re
from typing import Any

import numpy as np
import pytest

from ptx_emulator import EmulationError, Memory

pytest.importorskip("numba_cuda", reason="needs the package numba-cuda")

from numba import cuda  # noqa: E402
from numba.cuda import types  # noqa: E402

from ptx_emulator.kernels import CASES, check_quantize, check_sums, polynomial, run  # noqa: E402


@pytest.mark.parametrize("capability", [(7, 5), (8, 0), (9, 0), (12, 0)])
def test_elementwise(capability: tuple[int, int]) -> None:
    counters = check_quantize(CASES["quantize"].compile(capability), count=100_003, capability=capability)
    assert counters.loads.ratio < 1.001
    assert counters.stores.ratio < 1.001


def test_a_kernel_without_its_bound_check_is_caught() -> None:
    def unguarded(x: Any, y: Any) -> None:
        i = cuda.grid(1)
        y[i] = x[i]

    text, _ = cuda.compile_ptx(unguarded, (types.int8[::1], types.int8[::1]), cc=(8, 0))
    memory = Memory()
    with pytest.raises(EmulationError, match="ld.global.*has 1000 bytes"):
        run(text, 4, 256, [memory.upload(np.zeros(1000, np.int8)), memory.empty(1000, np.int8)])


def test_reduction_in_shared_memory() -> None:
    text = CASES["sums"].compile()
    for seed in range(3):
        assert check_sums(text, seed, blocks=40).shared.ratio == 1


def test_its_barriers_are_needed() -> None:
    """All but the last, behind which each thread reads only what it wrote itself."""
    text = CASES["sums"].compile()
    barriers = list(re.finditer(r"bar\.sync\s+0;", text))
    assert len(barriers) > 2
    for barrier in barriers[:-1]:
        with pytest.raises(EmulationError, match="shared address"):
            check_sums(text[: barrier.start()] + text[barrier.end() :])


def test_local_arrays_and_doubles() -> None:
    text, _ = cuda.compile_ptx(polynomial, (types.float32[::1], types.float64[::1]), cc=(8, 0))
    values = np.random.default_rng(0).normal(size=256).astype(np.float32)
    memory = Memory()
    y = memory.empty(256, np.float64)
    run(text, 2, 128, [memory.upload(values), y])
    wanted = []
    for i, value in enumerate(values.astype(np.float64)):
        table = [np.float32(value * (j + 1)) for j in range(8)]
        total = sum(float(table[(i * 3 + j) % 8]) / (j + 2) for j in range(i % 7 + 1))
        wanted.append(math.sqrt(abs(total)) + i // 5)
    np.testing.assert_allclose(y.numpy(), wanted, rtol=1e-14)


def test_dp4a_tiles() -> None:
    case = CASES["dot"]
    counters = case.check(case.compile())
    assert any(opcode.startswith("dp4a") for opcode in counters.opcodes)
