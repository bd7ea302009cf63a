"""Calls of jobs that are kept: what a call hands to compiled code is laid out once, and used again for other arrays.

    first     run((address, KEEP), arguments, …)     spread.py writes what a job's pieces read to that address
    after     run_again(address, …, arrays)          copies it to the stack, puts in where these arrays lie, shares it

To hand over a product's dozen arrays takes as long as to multiply small matrices. All but the arrays that the job's
first argument is a tuple of stay the same, and of those all but the address.

    kept:   FUNCTION │ BYTES │ SMALLEST │ PLACES of addresses in what is held │ HELD: units of a piece │ all units │ …
"""

from __future__ import annotations

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

DATA_WORD, AXIS_WORDS, OTHER_WORDS = 4, 2, 5  # of an array in compiled code: its address, shape and strides, the rest


class Kept:
    """A call of a job for units of one number; its arrays but the first argument's live as long as this does."""

    def __init__(self, run: Callable[..., None], arguments: tuple[Any, ...], units: int, smallest: int) -> None:
        memory = np.zeros(MOST_BYTES // WORD, np.int64)
        self.address, self.units = memory.ctypes.data, units
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
def run_again(kept: int, control: int, workers: int, *arrays: Any) -> None:
    """Share the kept call's units, with these arrays in the place of the first argument's."""
    held = copy_with(kept, arrays)
    share_units((control, workers), load(kept + FUNCTION), held, load(held + WORD), load(kept + SMALLEST), 0)


@intrinsic
def copy_with(typing_context: Any, kept: Any, arrays: Any) -> Any:
    """The address of a copy of what is held, on the caller's stack, with these arrays, or what lies at these addresses,
    in the place of the first argument's; the next copy that the same line makes takes its place.
    """

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        address, lent = values
        room = cgutils.alloca_once(builder, ir.ArrayType(I64, MOST_BYTES // WORD))
        own = builder.ptrtoint(room, I64)

        def word(place: Any) -> Any:
            return builder.load(builder.inttoptr(place, I64.as_pointer()))

        def kept_word(place: int) -> Any:
            return word(builder.add(address, I64(place)))

        source = builder.inttoptr(builder.add(address, I64(HELD)), I64.as_pointer())
        cgutils.raw_memcpy(builder, builder.bitcast(room, I64.as_pointer()), source, kept_word(BYTES), 1)
        for index, kind in enumerate(arrays.types):
            given = builder.extract_value(lent, index)
            if isinstance(kind, types.Array):
                given = builder.ptrtoint(cgutils.create_struct_proxy(kind)(context, builder, given).data, I64)
            place = builder.add(own, kept_word(PLACES + index * WORD))
            builder.store(given, builder.inttoptr(place, I64.as_pointer()))
        return own

    return types.int64(types.int64, arrays), generate
