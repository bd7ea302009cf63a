"""What every operator does before and after its own work: pick the device, find memory for the result, hand it back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from gpuq import arrays, dispatch, validate
from gpuq.arrays import View
from gpuq.dtypes import numpy_dtype
from gpuq.layout import Shape
from gpuq.validate import Array


def start(device: str | None, stream: Any, **values: Any) -> str:
    """The device of this call, from its arguments that are arrays; one element on the CPU may go with any device."""
    views = {name: arrays.view(value) for name, value in values.items()}
    devices = {
        name: view.device
        for name, view in views.items()
        if view is not None and (view.device != "cpu" or view.array.size != 1)
    }
    chosen = dispatch.pick_device(device, devices)
    validate.stream(stream, chosen)
    return chosen


def allocate(
    out: Any, view: View, shape: Shape, kind: str, inputs: Mapping[str, Any], in_place: str | None = None
) -> Array:
    """Where a result of type `kind` goes: `out`, checked, or new memory for the kind of array that `view` is of."""
    given = validate.output(out, shape, kind, inputs, in_place)
    if given is not None:
        return given.array
    if isinstance(view.owner, (np.ndarray, np.generic)):
        numpy_dtype(kind)  # refuses int4 and bfloat16 where ml_dtypes is missing, before any work is done
    return arrays.empty_like(view, shape, kind)


def finish(out: Any, view: View, result: Array, kind: str) -> Any:
    """The result as the caller's kind of array, or `out` itself."""
    if kind == "int4" and isinstance(view.owner if out is None else out, (np.ndarray, np.generic)):
        result &= 15  # ml_dtypes keeps the unused upper bits 0
    return arrays.like(view.owner, result, kind) if out is None else out
