"""Random edits of compiled kernels: the emulator's checks and the kernels' results must find nearly all of them.

What is left over is equivalent, such as the offset of a number of which only the sign is used.
"""

from __future__ import annotations

import pytest

from ptx_emulator import EmulationError
from ptx_emulator.edits import Edit, random_edits

pytest.importorskip("numba_cuda", reason="needs the package numba-cuda")

from ptx_emulator.kernels import CASES, Case  # noqa: E402

COUNTS = {"quantize": 30, "sums": 60, "dot": 40, "gemm": 100}
MISSED = 0.05  # share of edits that nobody may notice


def unnoticed(case: Case, edits: list[Edit]) -> list[Edit]:
    """The edits that neither the emulator nor the result tells."""
    missed = []
    for edit in edits:
        try:
            case.check(edit.text)
        except (EmulationError, AssertionError):
            continue
        missed.append(edit)
    return missed


@pytest.mark.parametrize("name", list(COUNTS))
def test_random_edits_are_noticed(name: str) -> None:
    case = CASES[name]
    edits = random_edits(case.compile(), COUNTS[name], seed=1)
    assert len(edits) == COUNTS[name]
    missed = unnoticed(case, edits)
    assert len(missed) <= MISSED * len(edits), [str(each) for each in missed]
