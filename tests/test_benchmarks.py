"""The benchmarks run, and write what they say: in a process of their own, as a user starts them, on small shapes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from gpuq.cuda import driver
from subprocesses import TESTS, run_python

BENCHMARKS = TESTS.parent / "benchmarks"
SMALL = f"""
import sys
sys.path.insert(0, {str(BENCHMARKS)!r})
import gpu, operators
operators.shapes.ELEMENTS, operators.shapes.PRODUCTS = (1000,), ((3, 40, 5),)
gpu.IN_A_ROW = operators.timing.IN_A_ROW = 2
"""
EMULATED = """
import emulated
from gpuq.cuda import driver
device = emulated.Driver((7, 5), (8, 0))
driver.bindings, driver.CODE_FORM = (lambda: device), "ptx"
for name in ("shapes", "products"):
    sys.modules.pop(name, None)  # those of the tests
"""
OPERATIONS = [
    "quantize_linear", "dequantize_linear", "matmul_integer", "matmul_integer packed", "qlinear_matmul packed",
    "scaled_matmul packed",
]  # fmt: skip


def assert_complete(report: dict[str, Any], device: str, instruction_sets: list[str]) -> None:
    """Every operation has run on the device, and so has NumPy."""
    assert report["device"] == device
    assert [each["operation"] for each in report["results"]] == OPERATIONS
    for each in report["results"]:
        assert set(each["seconds"]) == set(each["rates"]) == {"gpuq", "numpy"}
        assert min(each["seconds"].values()) > 0
        assert each["path"]["device"] == device
        assert each["path"]["isa"] in instruction_sets


def test_operators_on_the_cpu(tmp_path: Path) -> None:
    file = tmp_path / "results.json"
    printed = run_python(SMALL + f"operators.main([{str(file)!r}, '--repeats', '1'])")
    assert len(printed.splitlines()) == len(OPERATIONS)
    report = json.loads(file.read_text(encoding="utf-8"))
    assert_complete(report, "cpu", list(report["machine"]["instruction_sets"]))


def test_operators_on_a_gpu(tmp_path: Path) -> None:
    """All of gpuq's arrays lie on the device that was named, which is the emulated one here."""
    pytest.importorskip("numba_cuda", reason="needs the package numba-cuda")
    file = tmp_path / "results.json"
    script = "import sys" + EMULATED + SMALL
    run_python(script + f"operators.main([{str(file)!r}, '--device', 'cuda:1', '--repeats', '1'])")
    assert_complete(json.loads(file.read_text(encoding="utf-8")), "cuda:1", ["sm_80"])


@pytest.mark.parametrize(
    ("device", "words"),
    [("cuda:99", "device 'cuda:99' is not available: "), ("gpu", "got 'gpu'; accepted: None, 'cpu', 'cuda', 'cuda:N'")],
)
def test_a_device_that_is_not_there(tmp_path: Path, device: str, words: str) -> None:
    file = tmp_path / "results.json"
    command = [sys.executable, str(BENCHMARKS / "operators.py"), str(file), "--device", device]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=TESTS.parent, timeout=300)
    assert done.returncode == 2
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert not file.exists()
    if driver.unavailable_reason() is not None:
        assert driver.unavailable_reason() in done.stderr or device == "gpu"


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
