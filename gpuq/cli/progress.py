"""A progress bar for work of more than a moment, on a terminal only."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from typing import TypeVar

T = TypeVar("T")
PATIENCE = 1.0  # seconds before a bar appears
BETWEEN = 0.1  # seconds between two bars
WIDTH = 30


class Bar:
    """How much is done of a whole, drawn on standard error while it is a context."""

    def __init__(self, whole: int, what: str) -> None:
        self._whole, self._what, self._done = whole, what, 0
        self._on, self._due = sys.stderr.isatty(), time.monotonic() + PATIENCE
        self._drawn = 0

    def __enter__(self) -> Bar:
        return self

    def __exit__(self, *failure: object) -> None:
        if self._drawn:
            print(f"\r{' ' * self._drawn}\r", end="", file=sys.stderr, flush=True)

    def advance(self, amount: int, label: str = "") -> None:
        """So much more is done."""
        self._done += amount
        now = time.monotonic()
        if self._on and now >= self._due:
            self._due = now + BETWEEN
            share = min(1.0, self._done / max(1, self._whole))
            filled = int(WIDTH * share)
            text = f"{self._what} {'█' * filled}{'·' * (WIDTH - filled)} {label or f'{share:.0%}'}"
            print(f"\r{text}", end="", file=sys.stderr, flush=True)
            self._drawn = max(self._drawn, len(text))


def progress(items: Sequence[T], what: str) -> Iterator[T]:
    """The items, one by one; a bar on standard error tells how far the loop is."""
    with Bar(len(items), what) as bar:
        for done, item in enumerate(items):
            yield item
            bar.advance(1, f"{done + 1}/{len(items)}")
