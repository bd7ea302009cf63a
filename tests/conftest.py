"""Fixtures shared by the tests, and how hypothesis draws examples: few, and the same ones every time."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import hypothesis
import pytest

from devices import CAPABILITIES, DEVICES, name_of, runner_on
from gpuq import matmul, ops
from gpuq.cpu.isa import available
from runner import Runner

hypothesis.settings.register_profile("gpuq", derandomize=True, database=None, deadline=None, max_examples=60)
hypothesis.settings.load_profile("gpuq")


@pytest.fixture(scope="module", params=DEVICES, ids=name_of)
def run(request: pytest.FixtureRequest) -> Iterator[Runner]:
    """Calls operators on each device in turn, asserting that they ran there."""
    with runner_on(request.param) as runner:
        yield runner


@pytest.fixture(params=[*available(), *CAPABILITIES], ids=name_of)
def run_each_isa(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Runner]:
    """Calls operators on the CPU with each instruction set it has, asserting that it was used, and on emulated GPUs."""
    if isinstance(request.param, str):
        monkeypatch.setenv("GPUQ_ISA", request.param)
    with runner_on(request.param) as runner:
        yield runner


@pytest.fixture
def quick_collection() -> Iterator[None]:
    """Garbage collections look at what the test makes alone: the kernels that other tests have run are a million
    closures, and a walk over them takes a second.
    """
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of operators that looked at a call themselves."""
    names: list[str] = []
    for module in (ops, matmul):
        start = module.start
        monkeypatch.setattr(
            module, "start", lambda name, *given, start=start: (names.append(name), start(name, *given))[1]
        )
    return names
