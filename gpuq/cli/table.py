"""Tables in plain text: columns that line up, numbers to the right."""

from __future__ import annotations

from collections.abc import Sequence

UNITS = ("B", "KB", "MB", "GB", "TB")


def show(header: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> None:
    """Print a table whose first `left` columns are texts."""
    lines = [header, *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    for line in lines:
        cells = [
            cell.ljust(width) if column < left else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ]
        print("  ".join(cells).rstrip())


def size(count: int) -> str:
    """Bytes as a person reads them, in thousands."""
    number, unit = float(count), 0
    while number >= 1000 and unit < len(UNITS) - 1:
        number, unit = number / 1000, unit + 1
    return f"{number:.0f} {UNITS[unit]}" if unit == 0 or number >= 99.5 else f"{number:.3g} {UNITS[unit]}"


def shape(sizes: Sequence[int]) -> str:
    """A shape: 2x3, or "scalar"."""
    return "x".join(map(str, sizes)) or "scalar"
