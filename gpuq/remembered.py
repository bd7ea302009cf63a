"""Plans: what depends only on the types and options of a call is worked out, and checked, at the first such call."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TypeVar

Result = TypeVar("Result")
MOST = 1024  # plans of each kind that are kept


def remembered(function: Callable[..., Result]) -> Callable[..., Result]:
    """The function, its results kept by its arguments and their types (1, True and 1.0 are three); errors never are."""
    kept = functools.lru_cache(MOST, typed=True)(function)

    @functools.wraps(function)
    def look_up(*arguments: object) -> Result:
        try:
            return kept(*arguments)
        except TypeError:  # refused, or no key of a dictionary: the function itself says what is wrong
            pass
        return function(*arguments)

    return look_up
