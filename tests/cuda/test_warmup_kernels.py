"""`gpuq warmup` on CUDA kernels, a few small ones: which it compiles, and what it says of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("numba_cuda", reason="needs the package numba-cuda")

from gpuq.cli import main, warmup, warmup_kernels  # noqa: E402
from gpuq.cuda import compile as compiling  # noqa: E402
from gpuq.cuda import kernels  # noqa: E402
from gpuq.cuda.compile import Kernel, compiled_code  # noqa: E402
from gpuq.cuda.gemm_dots import kernels as products  # noqa: E402
from gpuq.cuda.numba_cuda import types  # noqa: E402
from gpuq.cuda.reduce import kernels as reductions  # noqa: E402

FEW = [kernel for kernel in reductions() if kernel.name in ("reciprocals", "finite_range_float32")]
Emulate = Callable[..., Any]


@pytest.fixture(autouse=True)
def nothing_on_the_cpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("GPUQ_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(warmup, "common_calls", list)
    monkeypatch.setattr(kernels, "all_kernels", lambda: tuple(FEW))


def refuse(*_: Any, **__: Any) -> Any:
    raise AssertionError("compiled once more")


def test_a_capability_by_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other processes compile; this one, as any later one, takes what they left, and compiles nothing twice."""
    assert main(["warmup", "--cc", "9.0", "--jobs", "2"]) == 0
    printed = capsys.readouterr().out
    assert "CUDA kernels for compute capability 9.0 took" in printed
    assert "compiled: 2; in the cache before: 0" in printed
    assert len(list(tmp_path.iterdir())) == 2
    monkeypatch.setattr(compiling, "_front_end", refuse)
    monkeypatch.setattr(warmup_kernels, "ProcessPoolExecutor", refuse)
    assert {compiled_code(kernel, (9, 0), "cubin").image[:4] for kernel in FEW} == {b"\x7fELF"}
    assert main(["warmup", "--cc", "9.0"]) == 0
    assert "compiled: 0; in the cache before: 2" in capsys.readouterr().out


def test_the_devices_that_are_there(
    emulate: Emulate, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Twice the same and one too old: what each needs, once."""
    emulate((9, 0), (8, 0), (6, 1), (8, 0))
    monkeypatch.setattr(kernels, "all_kernels", lambda: tuple(FEW[:1]))
    assert main(["warmup"]) == 0
    printed = capsys.readouterr().out
    assert "capability 8.0, 9.0 took" in printed
    assert "compiled: 2; in the cache before: 0" in printed


def test_without_a_device(emulate: Emulate, capsys: pytest.CaptureFixture[str]) -> None:
    emulate((6, 1))
    assert main(["warmup"]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("0 calls took")


def test_a_kernel_that_fails_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """The others are compiled all the same."""

    def function(x: int) -> None:
        pass

    unknown = Kernel("no_such_kernel", "gemm", function, (types.int64,), 32, (1,))
    monkeypatch.setattr(kernels, "all_kernels", lambda: (FEW[0], unknown))
    assert main(["warmup", "--cc", "8.0"]) == 1
    printed = capsys.readouterr()
    assert "gpuq warmup: kernel no_such_kernel: ValueError: " in printed.err
    assert "compiled: 1; in the cache before: 0" in printed.out


def test_dear_kernels_come_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each once, for all the capabilities that have it."""
    dear = products()[0]
    monkeypatch.setattr(kernels, "all_kernels", lambda: (*FEW, dear))
    jobs, known = warmup_kernels._jobs([(8, 0), (9, 0)])
    assert jobs == [(kernel.name, ((8, 0), (9, 0))) for kernel in (dear, *FEW)]
    assert known == 0


def test_what_is_no_capability(capsys: pytest.CaptureFixture[str]) -> None:
    """Said before anything is compiled."""
    assert main(["warmup", "--cc", "3.5"]) == 2
    printed = capsys.readouterr()
    assert "--cc: got 3.5; accepted: 7.5, 8.0" in printed.err
    assert printed.out == ""


@pytest.mark.parametrize("number", ["0", "-1", "x", "1.5"])
def test_what_is_no_number_of_processes(number: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["warmup", "--jobs", number])
    assert caught.value.code == 2
    assert "--jobs" in capsys.readouterr().err
