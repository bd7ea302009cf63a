"""Times what Python does for a call on arrays of a GPU, which is all but the driver: no GPU is needed.

    python benchmarks/launch.py [--repeats N] [--json FILE] [--profile]

The devices are those of tests/emulated; what would start work on them does nothing, and memory is an address. A figure
is the median over rounds of calls in a row, the operators taking turns; the driver's own few microseconds come on top.
"""

from __future__ import annotations

import argparse
import cProfile
import json
import pstats
import random
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from types import SimpleNamespace
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

import numpy as np

import gpuq
from emulated import Driver, upload
from gpuq.cuda import driver

CALLS, ROUNDS = 100, 15
SIZE = 64


class Idle(Driver):
    """A driver that takes every order and carries out none."""

    def cuMemAllocAsync(self, size: int, number: int) -> Any:  # noqa: D102
        return driver.bindings().CUresult.CUDA_SUCCESS, 1 << 48

    def cuMemAlloc(self, size: int) -> Any:  # noqa: D102
        return self.cuMemAllocAsync(size, 0)

    def cuPointerGetAttribute(self, attribute: Any, address: int) -> Any:  # noqa: D102
        return driver.bindings().CUresult.CUDA_SUCCESS, 0

    def _nothing(self, *arguments: Any) -> Any:
        return (driver.bindings().CUresult.CUDA_SUCCESS,)

    cuLaunchKernel = cuMemFree = cuMemFreeAsync = cuMemsetD8Async = cuMemcpyHtoDAsync = cuMemcpyDtoHAsync = _nothing


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--repeats", type=int, default=ROUNDS, help="rounds (default: %(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there, too")
    parser.add_argument("--profile", action="store_true", help="print where the time goes instead")
    arguments = parser.parse_args()
    ways = calls()
    for way in ways.values():
        way()
    if arguments.profile:
        profile(ways)
        return
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(arguments.repeats):
        for name, way in ways.items():
            start = time.perf_counter()
            for _ in range(CALLS):
                way()
            seconds[name].append((time.perf_counter() - start) / CALLS)
    found = {name: median(times) * 1e6 for name, times in seconds.items()}
    for name, microseconds in found.items():
        print(f"{name:48} {microseconds:8.1f} µs")
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


def calls() -> dict[str, Callable[[], Any]]:
    """What is timed, by its name: results go where the caller says, unless the name says otherwise."""
    idle = Idle((8, 0))
    driver.bindings, driver.CODE_FORM = lambda: idle, "ptx"  # this process has no other device

    def there(dtype: Any, shape: tuple[int, ...] = (SIZE, SIZE)) -> Any:
        return upload(idle, np.ones(shape, dtype))

    libraries = {"interface": there, **torch_tensors()}
    return {f"{name}, {library}": way for library, make in libraries.items() for name, way in of(make).items()}


def of(there: Callable[..., Any]) -> dict[str, Callable[[], Any]]:
    """The calls on arrays of one library."""
    x, q, y = there(np.float32), there(np.int8), there(np.float32)
    a, b, c = there(np.int8), there(np.int8), there(np.int32)
    point, packed = np.int8(3), gpuq.prepack(b)
    columns = gpuq.QTensor(b, there(np.float32, (SIZE,)), there(np.int8, (SIZE,)), axis=1).prepack()
    grid = (2, SIZE)
    blocks = gpuq.QTensor(b, there(np.float32, grid), there(np.int8, grid), axis=0, block_size=SIZE // 2).prepack()
    return {
        "quantize_linear": lambda: gpuq.quantize_linear(x, 0.1, point, out=q),
        "quantize_linear, no out": lambda: gpuq.quantize_linear(x, 0.1, point),
        "quantize_linear, a scale that varies": lambda: gpuq.quantize_linear(x, random.random() + 1, point, out=q),
        "dequantize_linear": lambda: gpuq.dequantize_linear(q, 0.1, point, out=y),
        "matmul_integer": lambda: gpuq.matmul_integer(a, b, out=c),
        "matmul_integer, zero points": lambda: gpuq.matmul_integer(a, b, point, point, out=c),
        "matmul_integer, packed": lambda: gpuq.matmul_integer(a, packed, out=c),
        "matmul_integer, packed, no out": lambda: gpuq.matmul_integer(a, packed),
        "scaled_matmul, packed": lambda: gpuq.scaled_matmul(a, packed, 0.1, 0.1, out=y),
        "linear, packed": lambda: gpuq.linear(x, columns),
        "linear, blocks": lambda: gpuq.linear(x, blocks),
    }


def torch_tensors() -> dict[str, Callable[..., Any]]:
    """What makes tensors, if torch is installed: real ones, that say they lie on a GPU; so each attribute costs what it
    costs, and a new one takes a real allocation. torch's own question for its stream costs nothing here.
    """
    try:
        import torch
    except ImportError:
        return {}

    class Tensor(torch.Tensor):
        """A tensor on the CPU that says otherwise."""

        __torch_function__ = torch._C._disabled_torch_function_impl
        is_cuda, device = True, torch.device("cuda", 0)

        def get_device(self) -> int:
            return 0

    def empty(shape: Any, dtype: Any, device: Any = None) -> Any:
        return torch.empty(shape, dtype=dtype).as_subclass(Tensor)

    real_types = {name: getattr(torch, name) for name in ("float32", "int8", "int32", "strided", "dtype")}
    raw = SimpleNamespace(_cuda_getCurrentRawStream=lambda index: 0)
    cuda = SimpleNamespace(OutOfMemoryError=torch.cuda.OutOfMemoryError)
    sys.modules["torch"] = SimpleNamespace(Tensor=Tensor, empty=empty, _C=raw, cuda=cuda, **real_types)  # type: ignore
    return {"torch": lambda dtype, shape=(SIZE, SIZE): empty(shape, real_types[np.dtype(dtype).name])}


def profile(ways: dict[str, Callable[[], Any]]) -> None:
    """Print what each call spends its time in."""
    for name, way in ways.items():
        print(name)
        recorder = cProfile.Profile()
        recorder.enable()
        for _ in range(CALLS):
            way()
        recorder.disable()
        pstats.Stats(recorder).sort_stats("tottime").print_stats(25)


if __name__ == "__main__":
    main()
