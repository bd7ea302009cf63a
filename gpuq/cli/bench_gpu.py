"""A GPU as `gpuq bench` needs it: arrays that lie there, and calls in a row or in a graph with one wait behind them.

    in a row      what a program sees that calls operator after operator: small shapes tell what a call costs in Python
    in a graph    what the kernels take: a graph is started by one call. Contests whose arrays fit the GPU's cache go
                  through several sets of them, so that most come from memory as a model's weights do

Times are the CPU's, from the start to the end of the wait. Arrays are torch tensors where torch reaches the GPU, else
gpuq's own.
"""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Callable
from typing import Any

import numpy as np

from gpuq.arrays import device_index
from gpuq.cli.contests import ELEMENTWISE, ZERO_POINT, Contest, gpuq_way, matrices, numpy_way
from gpuq.cuda import driver
from gpuq.cuda.memory import OwnedArray
from gpuq.device_array import address_of

IN_A_ROW = 20  # calls behind one another: the GPU works on one while Python prepares the next
IN_A_GRAPH = 48
MOST_SETS = 8  # of arrays
BESIDE_LEGACY = 1  # of a stream: it does not wait for the legacy one
RELAXED = 2  # of a capture: memory may be asked for meanwhile
FEWEST_ROWS, MULTIPLE = 17, 8  # of torch._int_mm: rows, and what k and n are multiples of

Call = Callable[[], Any]
Way = tuple[Call, float]


class Gpu:
    """The device "cuda" or "cuda:N", and a stream of the bench's own."""

    def __init__(self, name: str) -> None:
        self._device = driver.device(device_index(name))
        with self._device.current():
            self.stream = int(driver.call("cuStreamCreate", BESIDE_LEGACY))

    def place(self, array: np.ndarray[Any, Any], stream: int = 0) -> Any:
        """A copy of an array on the device, for calls on a stream."""
        torch = _torch_with_gpu()
        if torch is not None:
            tensor = torch.from_numpy(array).to(f"cuda:{self._device.index}")
            torch.cuda.synchronize(self._device.index)
            return tensor
        placed = OwnedArray(self._device, array.shape, array.dtype.name, stream)
        with self._device.current():
            address = placed.__cuda_array_interface__["data"][0]
            driver.call("cuMemcpyHtoDAsync", address, address_of(array), array.nbytes, 0)
            driver.call("cuCtxSynchronize")
        return placed

    def in_a_row(self, call: Call) -> Way:
        """IN_A_ROW of these calls, and the wait until the device is through with them."""

        def run() -> None:
            for _ in range(IN_A_ROW):
                call()
            with self._device.current():
                driver.call("cuCtxSynchronize")

        return run, IN_A_ROW

    def in_a_graph(self, calls: list[Call]) -> Way:
        """IN_A_GRAPH of these calls in turn, on this device's stream, and the wait."""
        with self._device.current():
            made = [call() for call in calls]  # loads what has to be loaded
            driver.call("cuStreamSynchronize", self.stream)
            driver.call("cuStreamBeginCapture", self.stream, _mode(RELAXED))
            made += [calls[number % len(calls)]() for number in range(IN_A_GRAPH)]
            graph = driver.call("cuGraphInstantiate", driver.call("cuStreamEndCapture", self.stream), 0)

        def run() -> Any:
            with self._device.current():
                driver.call("cuGraphLaunch", graph, self.stream)
                driver.call("cuStreamSynchronize", self.stream)
            return calls, made  # whose arrays the graph reads and writes

        return run, IN_A_GRAPH

    def sets(self, size: int) -> int:
        """How many sets of arrays of so many bytes the cache cannot hold half of; not more than MOST_SETS."""
        return min(MOST_SETS, -(-2 * self._device.hardware.cache_bytes // max(size, 1)))


def _torch_with_gpu() -> Any:
    """torch, where it is installed and has been built for GPUs."""
    if importlib.util.find_spec("torch") is None:
        return None
    import torch

    return torch if torch.cuda.is_available() else None


def _mode(number: int) -> Any:
    from cuda.bindings import driver as enumerations

    return enumerations.CUstreamCaptureMode(number)


def gpuq_row(contest: Contest, device: str) -> Way:
    """gpuq's calls, some in a row."""
    gpu = Gpu(device)
    return gpu.in_a_row(gpuq_way(contest, gpu.place))


def gpuq_graph(contest: Contest, device: str) -> Way | None:
    """gpuq's calls in a graph; those that make new arrays have none to make there."""
    if contest.operation.endswith("fresh"):
        return None
    gpu = Gpu(device)
    count = gpu.sets(bytes_of(contest))
    place = functools.partial(gpu.place, stream=gpu.stream)
    return gpu.in_a_graph([gpuq_way(contest, place, stream=gpu.stream) for _ in range(count)])


def copy_graph(contest: Contest, device: str) -> Way | None:
    """As many bytes read and written by the driver's copies: the ceiling of elementwise operators."""
    if contest.operation not in ELEMENTWISE or contest.operation.endswith("fresh"):
        return None
    gpu, half = Gpu(device), contest.amount // 2
    sets = [[gpu.place(np.empty(half, np.uint8)) for _ in range(2)] for _ in range(gpu.sets(contest.amount))]

    def call_of(source: Any, target: Any) -> Call:
        to, at = (each.__cuda_array_interface__["data"][0] for each in (target, source))
        return lambda: driver.call("cuMemcpyDtoDAsync", to, at, half, gpu.stream) and (source, target)

    return gpu.in_a_graph([call_of(*pair) for pair in sets])


def bytes_of(contest: Contest) -> int:
    """What a call touches: bytes moved, or those of a, b and an int32 result."""
    if contest.operation in ELEMENTWISE:
        return contest.amount
    m, k, n = contest.shape
    return m * k + k * n + 4 * m * n


def torch_calls(contest: Contest, device: str, sets: int) -> list[Call] | None:
    """torch's int8 products, which have no zero points."""
    import torch

    if not contest.operation.startswith("matmul_integer"):
        return None
    m, k, n = contest.shape
    if m < FEWEST_ROWS or k % MULTIPLE or n % MULTIPLE:
        return None
    a, b, _, _ = (torch.from_numpy(np.ascontiguousarray(part)) for part in matrices(*contest.shape))
    left = (a.to(torch.int16) - int(ZERO_POINT)).to(torch.int8).to(device)
    rights = [b.t().contiguous().to(device).t() for _ in range(sets)]
    out = torch.empty((m, n), dtype=torch.int32, device=device)
    return [functools.partial(torch._int_mm, left, right, out=out) for right in rights]


def torch_row(contest: Contest, device: str) -> Way | None:
    """torch's calls, some in a row."""
    import torch

    calls = torch_calls(contest, device, 1)
    if calls is None:
        return None

    def run() -> None:
        for _ in range(IN_A_ROW):
            calls[0]()
        torch.cuda.synchronize(device)

    return run, IN_A_ROW


def torch_graph(contest: Contest, device: str) -> Way | None:
    """torch's calls in a graph of its own making."""
    calls = torch_calls(contest, device, Gpu(device).sets(bytes_of(contest)))
    return None if calls is None else in_torch_s_graph(calls, device)


def in_torch_s_graph(calls: list[Call], device: str) -> Way:
    """IN_A_GRAPH of these calls in turn, captured by torch, which gives their results memory, and the wait."""
    import torch

    for call in calls * 2:  # what is noted at the second call is there before the capture
        call()
    torch.cuda.synchronize(device)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.device(device), torch.cuda.graph(graph):
        for number in range(IN_A_GRAPH):
            calls[number % len(calls)]()

    def run() -> Any:
        graph.replay()
        torch.cuda.synchronize(device)
        return calls

    return run, IN_A_GRAPH


def cupy_row(contest: Contest, device: str) -> Way:
    """CuPy's calls, NumPy's by name, some in a row."""
    import cupy

    chosen = cupy.cuda.Device(device_index(device))
    chosen.use()  # of a process that has no other purpose
    call = numpy_way(contest, cupy)

    def run() -> None:
        for _ in range(IN_A_ROW):
            call()
        chosen.synchronize()

    return run, IN_A_ROW


WAYS: dict[str, Callable[[Contest, str], Way | None]] = {
    "gpuq": gpuq_row,
    "gpuq, graph": gpuq_graph,
    "copy": copy_graph,
    "torch": torch_row,
    "torch, graph": torch_graph,
    "cupy": cupy_row,
}
