"""Emulated devices for the tests of the CUDA backend's pieces."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest


@pytest.fixture
def emulate(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """`emulate(*capabilities, **options)` puts a driver of such devices in the place of the real one."""
    pytest.importorskip("numba_cuda", reason="needs the package numba-cuda")
    from emulated import Driver, install

    def make(*capabilities: tuple[int, int], **options: Any) -> Any:
        driver = Driver(*(capabilities or ((8, 0),)), **options)
        install(monkeypatch, driver)
        return driver

    return make


@pytest.fixture
def work(emulate: Callable[..., Any]) -> Iterator[Any]:
    """The work of a call on an emulated device, which is `work.emulated`."""
    emulated = emulate()
    from gpuq.cuda import driver
    from gpuq.cuda.launch import Work

    with Work(driver.device(0), 0) as current:
        current.emulated = emulated
        yield current
