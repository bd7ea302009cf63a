"""`gpuq warmup`: what it calls, and what it says of it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from gpuq.cli import main, warmup


def test_it_says_what_it_compiled(tmp_path: Path) -> None:
    """For one call alone, on a machine without a GPU: the first process compiles, the second finds it compiled."""
    code = """
import functools, gpuq
from gpuq.cli import main, warmup
warmup.common_calls = lambda: [functools.partial(gpuq.quantize_multiplier, 0.5)]
main(["warmup"])
"""
    environment = {**os.environ, "GPUQ_CACHE_DIR": str(tmp_path / "new"), "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-c", code]
    first, second = (subprocess.check_output(command, env=environment, text=True) for _ in range(2))
    assert "functions compiled: 0;" not in first
    assert "functions compiled: 0;" in second
    assert str(tmp_path / "new") in first
    assert "CUDA" not in first + second


def test_a_folder_that_cannot_be_written_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("GPUQ_CACHE_DIR", str(tmp_path / "file" / "inside"))
    assert main(["warmup"]) == 1
    assert "cannot be written" in capsys.readouterr().err


def test_every_operator_is_among_the_calls() -> None:
    called = {call.func.__name__ for call in warmup.common_calls()}  # type: ignore[attr-defined]
    products = {"matmul_integer", "qlinear_matmul", "scaled_matmul"}
    elementwise = {"quantize_linear", "dequantize_linear", "dynamic_quantize_linear", "fake_quantize", "requantize"}
    assert called == products | elementwise | {"choose_qparams", "linear", "quantize_multiplier"}
