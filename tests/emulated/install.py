"""Putting the emulated driver in the place of the real one, for one test or one module of tests."""

from __future__ import annotations

from typing import Any

import pytest

import gpuq.cuda.compile
from compiled import code_of
from gpuq.cuda import driver, repeat


def install(patch: pytest.MonkeyPatch, emulated: Any) -> None:
    """Let gpuq open the emulated devices, as a process that has opened none; steps are noted at the first call, so that
    every test of an operator runs them.
    """
    patch.setattr(driver, "bindings", lambda: emulated)
    patch.setattr(driver, "CODE_FORM", "ptx")
    patch.setattr(driver, "_process", None)
    patch.setattr(gpuq.cuda.compile, "compiled_code", code_of)
    patch.setattr(repeat, "NOTED_AT_ONCE", True)
