"""A progress bar for loops of more than a moment, on a terminal only."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from typing import TypeVar

T = TypeVar("T")
PATIENCE = 1.0  # seconds before a bar appears
WIDTH = 30


def progress(items: Sequence[T], what: str) -> Iterator[T]:
    """The items, one by one; a bar on standard error tells how far the loop is."""
    shown, start = sys.stderr.isatty(), time.monotonic()
    for done, item in enumerate(items):
        if shown and time.monotonic() - start > PATIENCE:
            filled = WIDTH * done // len(items)
            print(
                f"\r{what} {'█' * filled}{'·' * (WIDTH - filled)} {done}/{len(items)}",
                end="",
                file=sys.stderr,
                flush=True,
            )
        yield item
    if shown and time.monotonic() - start > PATIENCE:
        print(f"\r{' ' * (len(what) + WIDTH + 20)}\r", end="", file=sys.stderr, flush=True)
