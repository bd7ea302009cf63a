"""Plans: what depends only on the types and options of a call is worked out, and checked, at the first such call."""

from __future__ import annotations

import functools
from collections.abc import Callable
from types import NoneType
from typing import Generic, TypeVar

import numpy as np

Result = TypeVar("Result")
Key = TypeVar("Key")
Value = TypeVar("Value")
MOST = 1024  # plans of each kind that are kept
NUMPY_NUMBERS = (np.bool_, *(np.dtype(code).type for code in "bBhHiIlLqQefd"))
NUMBERS = frozenset((bool, int, float, *NUMPY_NUMBERS))  # what a call may be remembered by, with its type: numbers …
NAMES = frozenset((NoneType, str, type))  # … and names


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


class Recent(Generic[Key, Value]):
    """A dictionary of what was asked for last: between `most` and twice as many entries, once there were so many, and
    twice as many bytes as `most_bytes`, as `bytes_of` counts those of a value; one that is more alone is not kept.

    Two generations: what is found in the old one comes into the young one; when that is full, it becomes the old one.
    Any thread may use it; at worst an entry is lost, or counted once too few.
    """

    def __init__(
        self, most: int, most_bytes: int = 0, bytes_of: Callable[[Value], int] = lambda value: 0
    ) -> None:
        self._most, self._most_bytes, self._bytes_of = most, most_bytes, bytes_of
        self._bytes = 0  # of the young generation
        self._young: dict[Key, Value] = {}
        self._old: dict[Key, Value] = {}

    def get(self, key: Key) -> Value | None:
        """The value of a key; None where it is not known any more."""
        found = self._young.get(key)
        if found is None and (found := self._old.get(key)) is not None:
            self[key] = found
        return found

    def __setitem__(self, key: Key, value: Value) -> None:
        size = self._bytes_of(value)
        if size > self._most_bytes:
            return
        if len(self._young) >= self._most or self._bytes + size > self._most_bytes:
            self._old, self._young, self._bytes = self._young, {}, 0
        self._young[key] = value
        self._bytes += size
