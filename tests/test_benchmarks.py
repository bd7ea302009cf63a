"""The benchmarks run, and write what they say: in a process of their own, as a user starts them, on small shapes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from subprocesses import TESTS, run_python

BENCHMARKS = TESTS.parent / "benchmarks"


def test_emulator(tmp_path: Path) -> None:
    pytest.importorskip("numba_cuda", reason="needs the package numba-cuda")
    file = tmp_path / "figures.json"
    printed = run_python(
        f"import sys; sys.path.insert(0, {str(BENCHMARKS)!r})\n"
        "import emulator\n"
        "emulator.ELEMENTS, emulator.EXTENT = 5000, 32\n"
        f"emulator.main(['--repeats', '1', '--json', {str(file)!r}])\n"
    )
    figures = json.loads(file.read_text(encoding="utf-8"))
    assert list(figures) == [
        "tensor-core product 32x32x32", "quantize_linear 5000", "dequantize_linear 5000", "matmul_integer 32x32x32"
    ]  # fmt: skip
    assert [line.rsplit(maxsplit=2)[0].strip() for line in printed.splitlines()] == list(figures)
    assert min(figures.values()) > 0
