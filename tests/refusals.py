"""Assertions about refusals: the error names the argument, what came and what is accepted, and nothing was changed."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

import gpuq
from valid_calls import RESULT_TYPES, SHAPE, valid_arguments

HUGE = 10**30  # beyond every integer type
NAN, INF = float("nan"), float("inf")
GARBAGE = 85  # what `out` holds before a call
_MESSAGE = re.compile(r"(?P<argument>[^:]+): (got )?(?P<came>.*); accepted(:| are) (?P<accepted>.+)", re.DOTALL)


def assert_refused(
    operator: str, error: type[Exception], argument: str, came: str, accepted: str, **changes: Any
) -> None:
    """The call, so changed, raises that error in the three parts, and changes neither `out` nor any argument."""
    arguments = {**valid_arguments(operator), **changes}
    if operator in RESULT_TYPES and "out" not in arguments:
        arguments["out"] = np.full(SHAPE, GARBAGE, changes.get("dtype", RESULT_TYPES[operator]))
    arrays = {name: value for name, value in arguments.items() if isinstance(value, np.ndarray)}
    before = {name: np.array(value) for name, value in arrays.items()}
    with pytest.raises(error) as caught:
        getattr(gpuq, operator)(**arguments)
    assert type(caught.value) is error, caught.value
    assert_says(str(caught.value), argument, came, accepted)
    for name, value in arrays.items():
        assert value.tobytes() == before[name].tobytes(), f"{name} was changed"


def assert_says(message: str, argument: str, came: str, accepted: str) -> None:
    """The message has three parts: the argument's name, what came, what is accepted."""
    parts = _MESSAGE.fullmatch(message)
    assert parts is not None, f"not in three parts: {message}"
    assert parts["argument"] == argument
    assert came in parts["came"]
    assert accepted in parts["accepted"]
