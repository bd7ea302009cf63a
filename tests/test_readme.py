"""What README.md shows is what gpuq gives: its sessions run as doctests."""

from __future__ import annotations

import doctest
from pathlib import Path

README = Path(__file__).parent.parent / "README.md"


def test_the_sessions_in_the_readme() -> None:
    failed, attempted = doctest.testfile(
        str(README), module_relative=False, encoding="utf-8", optionflags=doctest.NORMALIZE_WHITESPACE
    )
    assert attempted >= 15
    assert failed == 0
