"""Fixtures shared by the tests, and how hypothesis draws examples: few, and the same ones every time."""

from __future__ import annotations

from collections.abc import Iterator

import hypothesis
import pytest

from gpuq.cpu.isa import available
from runner import EmulatedRunner, Runner

hypothesis.settings.register_profile("gpuq", derandomize=True, database=None, deadline=None, max_examples=60)
hypothesis.settings.load_profile("gpuq")


CAPABILITIES = ((7, 5), (8, 0), (9, 0), (12, 0))


@pytest.fixture(scope="module", params=["cpu", *CAPABILITIES], ids=lambda value: value if value == "cpu" else "emulated_{}.{}".format(*value))
def run(request: pytest.FixtureRequest) -> Iterator[Runner]:
    """Calls operators on each device in turn, asserting that they ran there."""
    if request.param == "cpu":
        yield Runner("cpu")
        return
    pytest.importorskip("numba_cuda", reason="needs the package numba-cuda")
    from emulated import Driver, install

    with pytest.MonkeyPatch.context() as patch:
        emulated = Driver(request.param)
        install(patch, emulated)
        yield EmulatedRunner("cuda", emulated, CAPABILITIES.index(request.param))


@pytest.fixture(params=available())
def run_each_isa(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Runner:
    """Calls operators on the CPU with each instruction set it has, asserting that it was used."""
    monkeypatch.setenv("GPUQ_ISA", request.param)
    return Runner("cpu")
