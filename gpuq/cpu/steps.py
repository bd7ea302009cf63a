"""Steps: all that is left of a call on the CPU once everything but its arrays is decided.

    backend ─ decide ─► step ─ take ─► step(*sources, *targets)
                                 └───► who is listening (repeat.py), and may call the step again for other arrays

A step is a function of the arrays that an operator reads, in the order of its arguments, and of those it writes. It
holds no array of the caller's, and decides by types, shapes and memory order alone, which are those of the first call.
What it holds else is bounded by the arguments that make a call's key, or its bytes are said by its `nbytes`.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

Step = Callable[..., Any]

_thread = threading.local()


def take(step: Step, *arrays: Any) -> Any:
    """Call a step for these arrays."""
    taken = getattr(_thread, "taken", None)
    if taken is not None:
        taken.append((step, len(arrays)))
    return step(*arrays)


@contextlib.contextmanager
def listening() -> Iterator[list[tuple[Step, int]]]:
    """The steps that this thread takes inside, each with how many arrays it was given."""
    outer, taken = getattr(_thread, "taken", None), []  # type: ignore[var-annotated]
    _thread.taken = taken
    try:
        yield taken
    finally:
        _thread.taken = outer
