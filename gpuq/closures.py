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
    function = _wrapped(value)
    if not hasattr(function, "__qualname__"):
        return repr(function)
    return f"{function.__module__}.{function.__qualname__}({', '.join(map(describe, _held(function)))})"


def modules_of(value: Any) -> frozenset[str]:
    """The modules of a function and of the functions that its closure holds, all the way down."""
    function = _wrapped(value)
    own = {function.__module__} if hasattr(function, "__qualname__") else set()
    return frozenset(own.union(*map(modules_of, _held(function))))


def _wrapped(value: Any) -> Any:
    """What a dispatcher or an intrinsic wraps; anything else itself."""
    return getattr(value, "py_func", getattr(value, "_defn", value))


def _held(function: Any) -> list[Any]:
    """What a closure holds."""
    return [cell.cell_contents for cell in getattr(function, "__closure__", None) or ()]


def named_by_contents(function: Callable[..., Any]) -> Callable[..., Any]:
    """The same function; a closure gets a qualified name that tells it from its siblings in every process."""
    if function.__closure__:
        function.__qualname__ += "_" + hashlib.sha256(describe(function).encode()).hexdigest()[:16]
    return function
