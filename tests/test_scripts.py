"""What the scripts in ci/ share, in a checkout with a Python that only pretends."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

CI = Path(__file__).parent.parent / "ci"
PYTHON = """#!/usr/bin/env bash
echo "$@" >>calls
case "$*" in
    "{failing}"*) exit 1 ;;
    -) echo key ;;
esac
"""
SMI = """#!/usr/bin/env bash
echo "| NVIDIA-SMI 550.54.15    Driver Version: 550.54.15    CUDA Version: 12.4    |"
"""
pytestmark = pytest.mark.skipif(os.name == "nt" or shutil.which("bash") is None, reason="needs bash and its programs")


def make_checkout(folder: Path, failing: str) -> None:
    """The scripts beside a .venv whose interpreter notes its calls; those that begin with `failing` fail."""
    shutil.copytree(CI, folder / "ci", ignore=shutil.ignore_patterns("__pycache__"))
    interpreter = folder / ".venv" / "bin" / "python"
    interpreter.parent.mkdir(parents=True)
    write_program(interpreter, PYTHON.format(failing=failing))


def write_program(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
    path.chmod(0o755)


def calls(folder: Path) -> list[str]:
    return (folder / "calls").read_text(encoding="utf-8").splitlines()


@pytest.mark.parametrize("code", [0, 1])
def test_an_installation_that_fails_leaves_no_stamp(tmp_path: Path, code: int) -> None:
    """ci/gpu.sh goes on after a failed step, so the shell does not end where pip fails: `prepare` must say so itself.
    It wrote that all was installed, and every later run believed it.
    """
    make_checkout(tmp_path, "-m pip install" if code else "never")
    script = "source ci/environment.sh; prepare test || exit 3"
    done = subprocess.run(["bash", "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == (3 if code else 0), done.stderr
    assert "-m pip install --quiet --editable .[test]" in calls(tmp_path)
    assert (tmp_path / ".venv" / "gpuq-test.stamp").exists() == (code == 0)


@pytest.mark.parametrize("failing", ["never", "-m gpuq selftest", "-m pip install"])
def test_the_report_of_a_gpu(tmp_path: Path, failing: str) -> None:
    """Every step of ci/gpu.sh is made and reported, also after one that failed; none where nothing could be installed.
    The extra is that of the driver's CUDA version.
    """
    make_checkout(tmp_path, failing)
    programs = tmp_path / "programs"
    programs.mkdir()
    write_program(programs / "nvidia-smi", SMI)
    environment = {**os.environ, "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}"}
    environment.pop("CUDA_EXTRA", None)
    done = subprocess.run(
        ["bash", "ci/gpu.sh", "-k", "some tests"], cwd=tmp_path, env=environment, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == (failing != "never"), done.stderr
    assert "-m pip install --quiet --editable .[test-cu12]" in calls(tmp_path)
    steps = [
        "-m gpuq info",
        "-m gpuq selftest --device cuda",
        "-m pytest -n 4 --dist worksteal -q -k some tests",
        f"-m gpuq bench --device cuda --json {tmp_path}/gpu-report/benchmark.json",
    ]
    if failing.startswith("-m pip"):
        assert not set(steps) & set(calls(tmp_path))
        return
    assert calls(tmp_path)[-4:] == steps
    reports = {path.name for path in (tmp_path / "gpu-report").iterdir()}
    assert reports == {"card.txt", "info.txt", "selftest.txt", "tests.txt", "benchmark.txt"}
    assert "CUDA Version: 12.4" in (tmp_path / "gpu-report" / "card.txt").read_text(encoding="utf-8")
    assert ("failed: selftest" in done.stderr) == (failing != "never")
