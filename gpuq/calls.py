"""What every operator does before and after its own work: pick the device, find memory for the result, call the
device's backend, hand the result back.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeVar, cast

import numpy as np

from gpuq import arrays, dispatch, validate
from gpuq.arrays import View
from gpuq.cpu.repeat import repeat
from gpuq.crossover import PRODUCTS, prefers_gpu
from gpuq.device_array import DeviceArray
from gpuq.dtypes import NEEDS_ML_DTYPES, numpy_dtype
from gpuq.layout import Shape
from gpuq.packed import PackedMatrix
from gpuq.validate import Array

Operator = TypeVar("Operator", bound=Callable[..., Any])
ON_HOST = frozenset((list, tuple, float, int))  # what else an operator's first argument may be
MODULES = {  # of each backend, by what they offer
    **dict.fromkeys(("quantize", "fake_quantize", "dequantize", "requantize", "dynamic_quantize"), "operators"),
    "quantize_rows": "rows",
    "add_reals": "sums",
    **dict.fromkeys(("pack_layer", "multiply_layer"), "layers"),
    **dict.fromkeys(("pack_columns", "matmul_int32", "matmul_scaled", "matmul_quantized"), "products"),
}


class Call(NamedTuple):
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
        from gpuq.cuda import driver, repeat
        from gpuq.cuda.launch import Work

        chosen, recording = _function("cuda", function), repeat.recording()
        with Work(driver.device(arrays.device_index(self.device)), self.stream) as work:
            planned = None if recording is None else recording.plan(work.device, chosen, arguments)
            if planned is not None:
                steps, addresses = planned
                return steps.carry_out(work, addresses)
            result = chosen(work, *arguments)
            work.finish()
        return result

    def record(self, kernel: str, isa: str | None = None) -> None:
        """Note for `last_path` what is about to run; `isa` is that of packed matrices where it is another."""
        dispatch.record_path(dispatch.Path(self.device, kernel, isa or self.isa))

    def allocate(
        self, out: Any, view: View, shape: Shape, kind: str, inputs: Mapping[str, Any], in_place: str | None = None
    ) -> Array:
        """Where a result of type `kind` goes: `out`, checked, or new memory for the kind of array that `view` is of."""
        if out is not None:
            validate.output(out, shape, kind, inputs, in_place)
            return out.array
        if kind in NEEDS_ML_DTYPES and isinstance(view.owner, (np.ndarray, np.generic)):
            numpy_dtype(kind)  # refuses where ml_dtypes is missing, before any work is done
        made = arrays.empty_like(view, shape, kind, self.stream)
        if isinstance(made, DeviceArray):
            _note_result(made, view.owner)
        return made


def _note_result(made: DeviceArray, like: Any) -> None:
    from gpuq.cuda.repeat import recording

    noted = recording()
    if noted is not None:
        noted.made(made, like)


def repeatable(operator: Operator) -> Operator:
    """The operator; a call that comes again, on arrays of NumPy or of a GPU, is carried out as the first one was."""

    @functools.wraps(operator)
    def call(*arguments: Any, **options: Any) -> Any:
        kind = type(arguments[0]) if arguments else None
        if kind is np.ndarray:
            return repeat(operator, arguments, options)
        if kind in ON_HOST:
            return operator(*arguments, **options)
        return _repeat_on_gpu()(operator, arguments, options)

    return cast(Operator, call)


@functools.cache
def _repeat_on_gpu() -> Callable[..., Any]:
    from gpuq.cuda.repeat import repeat

    return repeat


@functools.cache
def _function(backend: str, name: str) -> Callable[..., Any]:
    function: Callable[..., Any] = getattr(importlib.import_module(f"gpuq.{backend}.{MODULES[name]}"), name)
    return function


@functools.cache
def _on_cpu(isa: str) -> Call:
    return Call("cpu", 0, isa)


def start(
    operator: str,
    device: str | None,
    stream: Any,
    inputs: Mapping[str, Any],
    out: Any = None,
    multiply_adds: int = 0,
    result_size: int = 0,
) -> Call:
    """The device and stream of this call, from its arguments that are arrays; one element on the CPU may go with any
    device. How many multiply-adds a product will compute and the result's bytes matter to the automatic choice.
    """
    packed, forced = None, device is not None
    for value in inputs.values():
        if type(value) is View:
            forced = forced or value.device != "cpu"
        elif isinstance(value, PackedMatrix):
            packed = value._device
    devices = _devices(inputs, out) if forced or type(out) is View and out.device != "cpu" else {}
    worthwhile = operator in PRODUCTS and prefers_gpu(operator, _size(inputs) + result_size, multiply_adds)
    chosen = dispatch.pick_device(device, devices, packed, worthwhile)
    number = None if stream is None else validate.stream(stream, chosen)
    if chosen == "cpu":
        return _on_cpu(dispatch.instruction_set())
    return _start_on_gpu(chosen, number, [*inputs.values(), out])


def _devices(inputs: Mapping[str, Any], out: Any) -> dict[str, str]:
    """The device of each array that binds the call to one."""
    views = {name: value for name, value in (*inputs.items(), ("out", out)) if isinstance(value, View)}
    return {name: view.device for name, view in views.items() if view.device != "cpu" or view.array.size != 1}


def _size(inputs: Mapping[str, Any]) -> int:
    """The bytes of all arrays that a call reads."""
    return sum([value.array.nbytes for value in inputs.values() if type(value) is View])


def _start_on_gpu(chosen: str, stream: int | None, values: list[Any]) -> Call:
    from gpuq.cuda import driver, streams

    opened = driver.device(arrays.device_index(chosen))
    owners = [value.owner for value in values if isinstance(value, View) and value.device != "cpu"]
    number = streams.choose_stream(stream, owners, opened.index)
    streams.order_after_writers(opened, number, owners)
    return Call(f"cuda:{opened.index}", number, "sm_{}{}".format(*opened.capability))


def finish(out: Any, view: View, result: Array, kind: str) -> Any:
    """The result as the caller's kind of array, or `out` itself."""
    owner = view.owner if out is None else out.owner
    if kind == "int4" and isinstance(owner, (np.ndarray, np.generic)):
        result &= 15  # ml_dtypes keeps the unused upper bits 0
    return arrays.like(owner, result, kind) if out is None else owner
