"""Activations on a GPU quantized row by row, for `linear`: an operator of its own, but no public one."""

from __future__ import annotations

from typing import Any

from gpuq import arrays
from gpuq.arrays import seen
from gpuq.calls import finish, repeatable, start


@repeatable
def quantize_rows(x: Any) -> tuple[Any, Any]:
    """int8 codes of x (…, k), which lies on a GPU, and the float32 scales of its rows (…, 1), as arrays of its kind."""
    inputs = {"x": seen(x)}
    call, view = start("linear", None, None, inputs), inputs["x"]
    results = ((view.shape, "int8"), ((*view.shape[:-1], 1), "float32"))
    codes, scales = (call.allocate(None, view, shape, kind, {}) for shape, kind in results)
    call.record("linear")
    call.run("quantize_rows", arrays.readable(view), view.type, codes, scales)
    return finish(None, view, codes, "int8"), finish(None, view, scales, "float32")
