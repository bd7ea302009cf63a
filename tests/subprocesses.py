"""Python in a process of its own, for tests of what a process does first, last or alone."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

TESTS = Path(__file__).parent


def start_python(script: str, **environment: str) -> subprocess.Popen[str]:
    """Start a script that finds gpuq and what the tests share, without writing byte code."""
    paths = os.pathsep.join([str(TESTS.parent), str(TESTS)])
    environment = {**os.environ, "PYTHONPATH": paths, "PYTHONDONTWRITEBYTECODE": "1", **environment}
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", script], env=environment, text=True, stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def finish(process: subprocess.Popen[str]) -> str:
    """What the script printed; asserts that it ended well and complained about nothing."""
    printed, complaints = process.communicate(timeout=300)
    assert process.returncode == 0, complaints or f"exit code {process.returncode}"
    assert complaints == ""
    return printed


def run_python(script: str, **environment: Any) -> str:
    """Run a script to its end and return what it printed."""
    return finish(start_python(script, **environment))
