"""Compiled kernels on disk: what one toolkit has made is not handed to another."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("numba_cuda", reason="needs the package numba-cuda")

from gpuq.cuda import compile as module  # noqa: E402
from gpuq.cuda import numba_cuda  # noqa: E402
from gpuq.cuda.compile import Code, compiled_code  # noqa: E402
from gpuq.cuda.reduce import reciprocal_kernel  # noqa: E402


class Compiled:
    """In the place of a compilation: code that says how often there was one."""

    entry = "entry"

    def __init__(self) -> None:
        self.count = 0

    def cubin(self, capability: tuple[int, int]) -> bytes:
        self.count += 1
        return f"cubin {self.count}".encode()


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Compiled:
    stand_in = Compiled()
    monkeypatch.setenv("GPUQ_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(module, "_front_end", lambda kernel: stand_in)
    return stand_in


def code() -> Code:
    return compiled_code(reciprocal_kernel(), (8, 0), "cubin")


@pytest.mark.parametrize("changed", range(3))
def test_code_of_another_toolkit_is_not_taken_from_the_cache(
    compiled: Compiled, monkeypatch: pytest.MonkeyPatch, changed: int
) -> None:
    """Two environments of one user share the folder. The name of a file told numba-cuda's version alone, so the PTX
    that CUDA 13 had written went to CUDA 12's driver, which refuses it, and CUDA 12's to CUDA 13.
    """
    first = code()
    assert code() == first == Code(b"cubin 1", "entry")
    versions = list(numba_cuda.versions())
    versions[changed] += ", another one"
    monkeypatch.setattr(numba_cuda, "versions", lambda: tuple(versions))
    assert code() == Code(b"cubin 2", "entry")


def test_the_versions_are_those_in_use(monkeypatch: pytest.MonkeyPatch) -> None:
    """libNVVM calls itself 2.0 in every toolkit; what tells two of them apart is at the head of their PTX."""
    package, head, linker = numba_cuda.versions()
    assert package.startswith("0.")
    assert "release {}, V".format(linker.removeprefix("nvJitLink ")) in head  # of one toolkit, as the extras install it
    kernel = reciprocal_kernel()
    compiled = numba_cuda.Compiled(kernel.function, kernel.arguments, kernel.threads, kernel.resident)
    assert compiled.ptx((8, 0)).startswith(head.strip())
    numba_cuda.versions.cache_clear()
    other: Any = SimpleNamespace(version=lambda: (12, 9))
    with monkeypatch.context() as patch:
        patch.setattr(numba_cuda, "nvjitlink", other)
        assert numba_cuda.versions() == (package, head, "nvJitLink 12.9")
    numba_cuda.versions.cache_clear()
