"""Names for the functions that factories make: a closure is named by what it holds.

Compiled code is linked by name. Two closures of one factory share theirs; Numba tells them apart by counting, but the
count starts anew in every process, so code from the cache on disk may carry the very name of other code compiled
here, and then one of them runs in place of the other. A name made of the contents cannot.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any


def describe(value: Any) -> str:
    """A function by its name and what its closure holds, all the way down; anything else by its repr."""
    function = getattr(value, "py_func", getattr(value, "_defn", value))  # what a dispatcher or an intrinsic wraps
    if not hasattr(function, "__qualname__"):
        return repr(function)
    cells = [describe(cell.cell_contents) for cell in getattr(function, "__closure__", None) or ()]
    return f"{function.__module__}.{function.__qualname__}({', '.join(cells)})"


def named_by_contents(function: Callable[..., Any]) -> Callable[..., Any]:
    """The same function; a closure gets a qualified name that tells it from its siblings in every process."""
    if function.__closure__:
        function.__qualname__ += "_" + hashlib.sha256(describe(function).encode()).hexdigest()[:16]
    return function
