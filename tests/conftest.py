"""Fixtures shared by the tests, and how hypothesis draws examples: few, and the same ones every time."""

from __future__ import annotations

import hypothesis
import pytest

from gpuq.cpu.isa import available
from runner import Runner

hypothesis.settings.register_profile("gpuq", derandomize=True, database=None, deadline=None, max_examples=60)
hypothesis.settings.load_profile("gpuq")


@pytest.fixture(scope="module", params=["cpu"])
def run(request: pytest.FixtureRequest) -> Runner:
    """Calls operators on each device in turn, asserting that they ran there."""
    return Runner(request.param)


@pytest.fixture(params=available())
def run_each_isa(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Runner:
    """Calls operators on the CPU with each instruction set it has, asserting that it was used."""
    monkeypatch.setenv("GPUQ_ISA", request.param)
    return Runner("cpu")
