"""What every operator does before and after its own work: pick the device, find memory for the result, call the
device's backend, hand the result back.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from gpuq import arrays, dispatch, validate
from gpuq.arrays import View
from gpuq.crossover import prefers_gpu
from gpuq.dtypes import numpy_dtype
from gpuq.layout import Shape
from gpuq.packed import PackedMatrix
from gpuq.validate import Array

MODULES = {  # of each backend, by what they offer
    **dict.fromkeys(("quantize", "fake_quantize", "dequantize", "requantize", "dynamic_quantize"), "operators"),
    **dict.fromkeys(("pack_columns", "matmul_int32", "matmul_scaled", "matmul_quantized"), "products"),
}


@dataclass(frozen=True)
class Call:
    """One call of an operator: where it runs ("cpu" or "cuda:N"), on which stream (0 on the CPU), and with which
    instruction set.
    """

    device: str
    stream: int
    isa: str

    def run(self, function: str, *arguments: Any) -> Any:
        """Call a function of the device's backend."""
        if self.device == "cpu":
            return _function("cpu", function)(*arguments)
        from gpuq.cuda import driver
        from gpuq.cuda.launch import Work

        with Work(driver.device(arrays.device_index(self.device)), self.stream) as work:
            result = _function("cuda", function)(work, *arguments)
            work.finish()
        return result

    def record(self, kernel: str, isa: str | None = None) -> None:
        """Note for `last_path` what is about to run; `isa` is that of packed matrices where it is another."""
        dispatch.record_path(self.device, kernel, isa or self.isa)

    def allocate(
        self, out: Any, view: View, shape: Shape, kind: str, inputs: Mapping[str, Any], in_place: str | None = None
    ) -> Array:
        """Where a result of type `kind` goes: `out`, checked, or new memory for the kind of array that `view` is of."""
        given = validate.output(out, shape, kind, inputs, in_place)
        if given is not None:
            return given.array
        if isinstance(view.owner, (np.ndarray, np.generic)):
            numpy_dtype(kind)  # refuses int4 and bfloat16 where ml_dtypes is missing, before any work is done
        return arrays.empty_like(view, shape, kind, self.stream)


@functools.cache
def _function(backend: str, name: str) -> Callable[..., Any]:
    function: Callable[..., Any] = getattr(importlib.import_module(f"gpuq.{backend}.{MODULES[name]}"), name)
    return function


def start(
    operator: str, device: str | None, stream: Any, multiply_adds: int = 0, result_size: int = 0, **values: Any
) -> Call:
    """The device and stream of this call, from its arguments that are arrays; one element on the CPU may go with any
    device. How many multiply-adds the operator will compute and the result's bytes matter to the automatic choice.
    """
    views = {name: view for name, value in values.items() if (view := arrays.view(value)) is not None}
    devices = {name: view.device for name, view in views.items() if view.device != "cpu" or view.array.size != 1}
    packed = next((value._device for value in values.values() if isinstance(value, PackedMatrix)), None)
    size = sum(view.array.nbytes for name, view in views.items() if name != "out") + result_size
    chosen = dispatch.pick_device(device, devices, packed, prefers_gpu(operator, size, multiply_adds))
    number = validate.stream(stream, chosen)
    if chosen == "cpu":
        return Call(chosen, 0, dispatch.instruction_set())
    from gpuq.cuda import driver, streams

    opened = driver.device(arrays.device_index(chosen))
    owners = [view.owner for view in views.values() if view.device != "cpu"]
    number = streams.choose_stream(number, owners, opened.index)
    streams.order_after_writers(opened, number, owners)
    return Call(f"cuda:{opened.index}", number, "sm_{}{}".format(*opened.capability))


def finish(out: Any, view: View, result: Array, kind: str) -> Any:
    """The result as the caller's kind of array, or `out` itself."""
    if kind == "int4" and isinstance(view.owner if out is None else out, (np.ndarray, np.generic)):
        result &= 15  # ml_dtypes keeps the unused upper bits 0
    return arrays.like(view.owner, result, kind) if out is None else out
