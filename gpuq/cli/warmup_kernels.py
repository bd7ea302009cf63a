"""The part of `gpuq warmup` that compiles CUDA kernels, for the devices that are there or for capabilities by name.

    kernels of the capabilities ── not in the cache ── dear ones first ──► processes, one a core ──► cache on disk

A process takes one kernel after the other, and compiles it for all of the capabilities: most of the work is in front of
where they part. No process opens a device.
"""

from __future__ import annotations

import multiprocessing
import signal
import sys
import time
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from typing import TYPE_CHECKING

from gpuq.cli.capabilities import kernels_module
from gpuq.cli.progress import progress
from gpuq.cuda import driver

if TYPE_CHECKING:
    from gpuq.cuda.compile import Kernel

DEAR = "gemm"  # the role of kernels that take seconds each: begun last, one would be waited for alone
Capability = tuple[int, int]
Job = tuple[str, tuple[Capability, ...]]  # the name of a kernel, and what to compile it for


def capabilities_here() -> list[Capability]:
    """Those of the devices that this process can use."""
    cards = driver.cards()
    return sorted({card.capability for index, card in enumerate(cards) if driver.unavailable_reason(index) is None})


def compile_kernels(capabilities: list[Capability], processes: int) -> int:
    """Compile what the cache does not have, say what that was, and name what failed. Returns the exit code."""
    start = time.monotonic()
    jobs, known = _jobs(capabilities)
    failed = [job for job, error in _compile_all(jobs, processes) if _failed(job, error)]
    count = sum(len(chosen) for _, chosen in jobs) - sum(len(chosen) for _, chosen in failed)
    print(
        f"CUDA kernels for compute capability {', '.join(map(_text, capabilities))} took "
        f"{time.monotonic() - start:.1f} s; compiled: {count}; in the cache before: {known}"
    )
    return 1 if failed else 0


def _jobs(capabilities: list[Capability]) -> tuple[list[Job], int]:
    """What is to compile, dear kernels first, and how many kernels are in the cache."""
    from gpuq.cuda.compile import stored_code

    wanted: dict[Kernel, list[Capability]] = {}
    known = 0
    for capability in capabilities:
        for kernel in kernels_module().kernels_of(capability):
            if stored_code(kernel, capability, driver.CODE_FORM) is None:
                wanted.setdefault(kernel, []).append(capability)
            else:
                known += 1
    in_order = sorted(wanted, key=lambda kernel: kernel.role != DEAR)
    return [(kernel.name, tuple(wanted[kernel])) for kernel in in_order], known


def _compile_all(jobs: list[Job], processes: int) -> Iterator[tuple[Job, str | None]]:
    """Each job with what went wrong, None if nothing did."""
    if not jobs:
        return
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(processes, len(jobs)), spawn, _ignore_interrupts) as pool:
        begun = [(job, pool.submit(_compile, *job, driver.CODE_FORM)) for job in jobs]
        try:
            for job, future in progress(begun, "compiling"):
                yield job, _error_of(future)
        except BaseException:  # interrupted: what has begun ends, the rest is left
            pool.shutdown(cancel_futures=True)
            raise


def _error_of(future: Future[str | None]) -> str | None:
    error = future.exception()  # of the process, where the memory was too small for it
    return future.result() if error is None else str(error)


def _failed(job: Job, error: str | None) -> bool:
    if error is not None:
        print(f"gpuq warmup: kernel {job[0]}: {error}", file=sys.stderr)
    return error is not None


def _text(capability: Capability) -> str:
    return "{}.{}".format(*capability)


# ---- in the processes ----


def _ignore_interrupts() -> None:
    """The command itself takes them."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _compile(name: str, capabilities: tuple[Capability, ...], form: str) -> str | None:
    """Compile a kernel; what went wrong, as text: not every error can travel."""
    from gpuq.cuda.compile import compiled_code

    try:
        (kernel,) = (each for each in kernels_module().all_kernels() if each.name == name)
        for capability in capabilities:
            compiled_code(kernel, capability, form)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return None
