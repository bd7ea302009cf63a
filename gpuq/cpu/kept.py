"""Calls of jobs that are kept: what a call hands to compiled code is laid out once, and used again for other arrays.

    first     run((address, KEEP), arguments, …)     spread.py writes what a job's pieces read to that address
    after     run_again(address, …, ids of arrays)   copies it to the stack, puts in where these arrays lie, shares it

To hand over a product's dozen arrays takes as long as to multiply small matrices. All but the arrays that the job's
first argument is a tuple of stay the same, and of those all but the address. That is read from NumPy's own objects,
by their ids: arrays themselves would have the code compiled anew for each type, number of axes and flag that they have.

    kept:   FUNCTION │ BYTES │ SMALLEST │ PLACES of addresses in what is held │ HELD: units of a piece │ all units │ …
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from gpuq.cpu.atomics import I64, load
from gpuq.cpu.compile import jit
from gpuq.cpu.pool import WORD
from gpuq.cpu.spread import BYTES, FUNCTION, HELD, KEEP, MOST_BYTES, PLACES, SMALLEST, share_units

DATA = object.__basicsize__  # bytes before an array object's first field: the address of its elements
DATA_WORD, AXIS_WORDS, OTHER_WORDS = 4, 2, 5  # of an array in compiled code: its address, shape and strides, the rest


class Kept:
    """A call of a job for units of one number; its arrays but the first argument's live as long as this does."""

    def __init__(self, run: Callable[..., None], arguments: tuple[Any, ...], units: int, smallest: int) -> None:
        memory = np.zeros(MOST_BYTES // WORD, np.int64)
        self.address, self.units = memory.ctypes.data, units
        if ctypes.c_int64.from_address(id(memory) + DATA).value != self.address:
            raise RuntimeError("arrays of this NumPy do not begin with the address of their elements")
        self._alive = run, memory, arguments[1:]
        run((self.address, KEEP), arguments, units, smallest)
        if memory[BYTES // WORD] == 0:
            raise RuntimeError(f"a call of {run.__name__} takes more than {MOST_BYTES} bytes; see gpuq/cpu/spread.py")
        memory[PLACES // WORD : PLACES // WORD + len(arguments[0])] = _places([array.ndim for array in arguments[0]])


def _places(ranks: list[int]) -> list[int]:
    """Where in what is held the addresses of arrays with so many axes lie, which come after two words."""
    words = [OTHER_WORDS + AXIS_WORDS * rank for rank in ranks]
    return [WORD * (2 + sum(words[:index]) + DATA_WORD) for index in range(len(ranks))]


@jit
def run_again(kept: int, control: int, workers: int, *arrays: int) -> None:
    """Share the kept call's units, with the arrays of these ids in the place of the first argument's."""
    held = copy_held(kept)
    for index in range(len(arrays)):
        put_address(held, kept, index, address_of(arrays[index]))
    share_units((control, workers), load(kept + FUNCTION), held, load(held + WORD), load(kept + SMALLEST), 0)


def _word(builder: Any, address: Any, offset: Any) -> Any:
    """A pointer to the word so many bytes behind an address."""
    return builder.inttoptr(builder.add(address, offset), I64.as_pointer())


@intrinsic
def address_of(typing_context: Any, array: Any) -> Any:
    """Where the elements lie of the array with this id, which the caller keeps alive."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return builder.load(_word(builder, values[0], I64(DATA)))

    return types.int64(types.int64), generate


@intrinsic
def put_address(typing_context: Any, held: Any, kept: Any, index: Any, address: Any) -> Any:
    """Put an array's address into a copy of what is held: of the array with this index in the first argument."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        held, kept, index, address = values
        offset = builder.add(builder.mul(index, I64(WORD)), I64(PLACES))
        builder.store(address, _word(builder, held, builder.load(_word(builder, kept, offset))))
        return context.get_dummy_value()

    return types.void(*[types.int64] * 4), generate


@intrinsic
def copy_held(typing_context: Any, kept: Any) -> Any:
    """The address of a copy of what is held, on the caller's stack; the next one of the same line takes its place."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        room = cgutils.alloca_once(builder, ir.ArrayType(I64, MOST_BYTES // WORD))
        own = builder.bitcast(room, I64.as_pointer())
        held, size = (_word(builder, values[0], I64(offset)) for offset in (HELD, BYTES))
        cgutils.raw_memcpy(builder, own, held, builder.load(size), 1)
        return builder.ptrtoint(own, I64)

    return types.int64(types.int64), generate
