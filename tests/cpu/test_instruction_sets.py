"""The matrix products on every instruction set this machine has, against the reference."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import gpuq
from compare import assert_same
from gpuq import reference
from gpuq.cli import info
from gpuq.cpu import isa, permission
from gpuq.cpu.blocking import MOST_COLUMNS, MOST_ROWS
from gpuq.cpu.isa import INSTRUCTION_SETS, available
from gpuq.cpu.tiles import DEPTH, EXACT_DEPTH
from subprocesses import run_python
from values import codes

MIXES = [(a, b) for a in ("uint8", "int8") for b in ("uint8", "int8")]
# codes at their ends, a's and b's, which overflow any sum or product that is too narrow
EXTREMES = [(np.int8(-128), np.int8(-128)), (np.uint8(255), np.uint8(255)), (np.uint8(255), np.int8(-128))]
EXTREMES += [(np.int8(127), np.int8(-128)), (np.int8(-128), np.uint8(255)), (np.uint8(0), np.uint8(0))]

SHAPES = [(1, 1, 1), (2, 3, 4), (5, 7, 9), (13, 70, 33), (1, 131, 200), (97, 5, 1)]  # (m, k, n)
BLOCKS = [(MOST_ROWS, 3, MOST_COLUMNS), (MOST_ROWS + 1, DEPTH + 5, MOST_COLUMNS + 1)]
BLOCKS += [(2 * MOST_ROWS - 1, 66, 2 * MOST_COLUMNS + 3)]


@pytest.mark.parametrize("mix", MIXES)
@pytest.mark.parametrize("name", available())
def test_products(monkeypatch: pytest.MonkeyPatch, name: str, mix: tuple[str, str]) -> None:
    """Ragged shapes, whole blocks and one more, with zero points of every row and column."""
    monkeypatch.setenv("GPUQ_ISA", name)
    rng = np.random.default_rng(5)
    for m, k, n in [*SHAPES, *BLOCKS]:
        a, b = codes(rng, mix[0], (m, k)), codes(rng, mix[1], (k, n))
        points = codes(rng, mix[0], (m,)), codes(rng, mix[1], (n,))
        actual = gpuq.matmul_integer(a, b, *points)
        path = gpuq.last_path()
        assert path is not None
        assert path.isa == name
        assert_same(actual, reference.matmul_integer(a, b, *points), f"{m} x {k} x {n}")


def opposite(code: Any) -> int:
    """The zero point at the other end of a code's type."""
    limits = np.iinfo(code.dtype)
    return int(limits.min) + int(limits.max) - int(code)


@pytest.mark.parametrize("k", [DEPTH, 2 * DEPTH + 3, EXACT_DEPTH, EXACT_DEPTH + 1])
@pytest.mark.parametrize("name", available())
def test_products_of_extreme_codes(monkeypatch: pytest.MonkeyPatch, name: str, k: int) -> None:
    """All codes at their ends, with the zero points that make the most of them; the last k adds slices in int64."""
    monkeypatch.setenv("GPUQ_ISA", name)
    for left, right in EXTREMES:
        a, b = np.full((2, k), left), np.full((k, 3), right)
        for points in ((None, None), (opposite(left), opposite(right))):
            what = f"{left!r} · {right!r}, zero points {points}"
            assert_same(gpuq.matmul_integer(a, b, *points), reference.matmul_integer(a, b, *points), what)


@pytest.mark.parametrize("name", ["avx1024", *sorted(set(INSTRUCTION_SETS) - set(available()))])
def test_an_absent_set_that_is_forced(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv("GPUQ_ISA", name)
    one = np.ones((1, 1), np.int8)
    with pytest.raises(gpuq.DeviceError, match=name):
        gpuq.matmul_integer(one, one)


def test_tiles_that_the_system_does_not_permit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Their first instruction would end the process; the next best set is taken, and `gpuq info` says why."""
    monkeypatch.setattr(isa, "target_features", lambda: frozenset(INSTRUCTION_SETS["amx_int8"].features))
    monkeypatch.setattr(isa, "tiles_permitted", lambda: False)
    assert available.__wrapped__()[0] == "avx512_vnni"
    assert info._instruction_set_text("amx_int8") == "absent: the system does not permit tiles"
    monkeypatch.setattr(isa, "tiles_permitted", lambda: True)
    assert available.__wrapped__()[0] == "amx_int8"
    monkeypatch.setattr(isa, "target_features", frozenset)
    assert info._instruction_set_text("amx_int8").startswith("absent: the target lacks amx-tile, amx-int8, ")


@pytest.mark.parametrize("system", [("darwin", "x86_64"), ("win32", "AMD64"), ("linux", "aarch64")])
def test_other_systems_are_not_asked_for_tiles(monkeypatch: pytest.MonkeyPatch, system: tuple[str, str]) -> None:
    monkeypatch.setattr("sys.platform", system[0])
    monkeypatch.setattr("platform.machine", lambda: system[1])
    monkeypatch.setattr("ctypes.CDLL", None)
    assert not permission.tiles_permitted.__wrapped__()


SMALL_STACK = """
import ctypes
import numpy as np
import gpuq
from gpuq.cpu.permission import tiles_permitted

class Stack(ctypes.Structure):
    _fields_ = [("start", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t)]

memory = ctypes.create_string_buffer(4096)
assert ctypes.CDLL(None).sigaltstack(ctypes.byref(Stack(ctypes.addressof(memory), 0, len(memory))), None) == 0
a = np.full((20, 70), 200, np.uint8)
assert (gpuq.matmul_integer(a, a.T) == 70 * 200 * 200).all()
print(tiles_permitted(), gpuq.last_path().isa)
"""


@pytest.mark.skipif("amx_int8" not in available(), reason="this machine has no AMX, or no permission for its tiles")
def test_a_signal_stack_that_is_too_small_for_tiles() -> None:
    """Linux then refuses them to the whole process."""
    assert run_python(SMALL_STACK).split() == ["False", "avx512_vnni"]


THREADS_BEFORE = """
import os, threading
import numpy as np

def multiply():
    import gpuq
    a = np.full((100, 130), 200, np.uint8)
    assert (gpuq.matmul_integer(a, a[:, ::-1].T) == 130 * 200 * 200).all()
    assert gpuq.last_path().isa == "amx_int8"

ready, others = threading.Event(), []
for _ in range(3):
    others.append(threading.Thread(target=lambda: (ready.wait(), multiply())))
    others[-1].start()
multiply()
ready.set()
for other in others:
    other.join()
child = os.fork()
if not child:
    multiply()
    os._exit(7)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.skipif("amx_int8" not in available(), reason="this machine has no AMX, or no permission for its tiles")
def test_tiles_in_threads_that_were_there_before_and_in_a_forked_child() -> None:
    assert run_python(THREADS_BEFORE).split() == ["7"]
