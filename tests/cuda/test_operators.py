"""The host's side of the elementwise operators: what is launched for arrays larger than one launch takes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import gpuq
from compare import assert_same
from gpuq import reference

pytest.importorskip("numba_cuda", reason="needs the package numba-cuda")

from emulated import download, upload  # noqa: E402
from gpuq.cuda import geometry, operators  # noqa: E402


def test_scales_by_the_billion(emulate: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel counts by 32 bits: blocks of one element make as many scales as elements, and their reciprocals were
    launched at once. Beyond 2^31 of them the count wrapped, and reciprocals stayed unwritten.
    """
    monkeypatch.setattr(operators, "MOST_ELEMENTS", 300)
    monkeypatch.setattr(geometry, "MOST_ELEMENTS", 300)
    emulated = emulate()
    rng = np.random.default_rng(0)
    x, scale = rng.normal(0, 9, 1000).astype(np.float32), rng.uniform(0.1, 2, 1000).astype(np.float32)
    q = gpuq.quantize_linear(upload(emulated, x), upload(emulated, scale), axis=0, block_size=1, dtype="int8")
    assert_same(download(emulated, q), reference.quantize_linear(x, scale, axis=0, block_size=1, dtype="int8"))
    assert sum("reciprocals" in name for name in emulated.launches) == 4


def test_a_transposed_array_into_one_that_is_not(emulate: Callable[..., Any]) -> None:
    """Kernels go through x as it lies, and the codes are transposed by tiles; into any array of the result's shape."""
    emulated = emulate()
    x = np.random.default_rng(0).normal(0, 9, (70, 144)).astype(np.float32)
    scale = np.linspace(0.1, 1, 144).astype(np.float32)
    expected = reference.quantize_linear(x.T, scale, axis=0)
    there, out = upload(emulated, scale), upload(emulated, np.zeros(x.T.shape, np.uint8))
    assert_same(download(emulated, gpuq.quantize_linear(upload(emulated, x.T), there, axis=0, out=out)), expected)
    assert [("transpose" in name) for name in emulated.launches].count(True) == 1


def test_dynamic_quantization_takes_two_launches(emulate: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """The block that is done last chooses the parameters, of one launch or of many: one kernel finds them, one uses
    them. A launch for the parameters alone was a fifth of the time of a small array.
    """
    x = np.random.default_rng(0).normal(1, 3, 20_000).astype(np.float32)
    expected = reference.dynamic_quantize_linear(x)
    for most, launches in ((1 << 30, 2), (7000, 6)):
        monkeypatch.setattr(operators, "MOST_ELEMENTS", most)
        monkeypatch.setattr(geometry, "MOST_ELEMENTS", most)
        emulated = emulate()
        for result, wanted in zip(gpuq.dynamic_quantize_linear(upload(emulated, x)), expected, strict=True):
            assert_same(download(emulated, result), wanted)
        assert len(emulated.launches) == launches
