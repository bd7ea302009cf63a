"""Arguments where the driver reads them: what lies there, and that no integer is cut to fit."""

from __future__ import annotations

import ctypes
import struct

import pytest

from gpuq.cuda.arguments import WORD, Arguments

pytest.importorskip("numba_cuda", reason="needs the package numba-cuda")


def test_each_number_lies_where_its_pointer_says() -> None:
    kinds, numbers = "iqfdi", (-5, 1 << 62, 0.5, -1e300, (1 << 31) - 1)
    arguments = Arguments(kinds, numbers)
    pointers = (ctypes.c_void_p * len(kinds)).from_address(arguments.address)
    for kind, number, pointer in zip(kinds, numbers, pointers, strict=True):
        assert pointer % WORD == 0
        assert struct.unpack(kind, ctypes.string_at(pointer, struct.calcsize(kind))) == (number,)
    arguments.words[1] = 48
    assert struct.unpack("q", ctypes.string_at(pointers[1], WORD)) == (48,)
    assert struct.unpack("d", ctypes.string_at(pointers[3], WORD)) == (-1e300,)


@pytest.mark.parametrize(("kind", "number"), [("i", 1 << 31), ("i", -(1 << 31) - 1), ("q", 1 << 63), ("q", 0.5)])
def test_an_integer_that_does_not_fit_is_refused(kind: str, number: float) -> None:
    """ctypes cut it."""
    with pytest.raises(struct.error):
        Arguments(kind, [number])


def test_as_many_numbers_as_parameters() -> None:
    for numbers in ((), (1, 2)):
        with pytest.raises(ValueError, match="zip"):
            Arguments("q", numbers)
    assert Arguments("", ()).address
