"""A kernel's arguments where the driver reads them. From Python's numbers it makes them anew at every launch, which
takes as long as the launch itself; here they stay, and a launch like the last one changes addresses alone.

    words       │ 8 bytes │ 8 bytes │ 8 bytes │ …      a number each: int32 and float32 in the lower four
                  ▲         ▲         ▲
    pointers    │ 8 bytes │ 8 bytes │ 8 bytes │ …      what the driver is given; it reads all before it returns
"""

from __future__ import annotations

import ctypes
import functools
import struct
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gpuq.cuda.compile import Kernel

WORD = 8
ADDRESS = "q"
FORMATS = {"int32": "i", "int64": ADDRESS, "float32": "f", "float64": "d"}  # as the module struct has them


class Arguments:
    """Numbers of a kernel's types, whose integers must fit. `address` is what the driver takes; `words` are the
    numbers, of which addresses may be changed between launches, by one thread at a time.
    """

    __slots__ = ("_pointers", "address", "words")

    def __init__(self, kinds: str, numbers: Iterable[Any]) -> None:
        self.words = (ctypes.c_int64 * len(kinds))()
        first = ctypes.addressof(self.words)
        self._pointers = (ctypes.c_void_p * len(kinds))(*range(first, first + WORD * len(kinds), WORD))
        self.address = ctypes.addressof(self._pointers)
        for place, (kind, number) in enumerate(zip(kinds, numbers, strict=True)):
            struct.pack_into(kind, self.words, WORD * place, number)


@functools.cache
def types_of(kernel: Kernel) -> str:
    """The format of each parameter of a kernel, those that are tuples taken apart."""
    return "".join(FORMATS[str(leaf)] for argument in kernel.arguments for leaf in _leaves(argument))


def _leaves(kind: Any) -> Iterator[Any]:
    """The numbers that an argument's type consists of."""
    if hasattr(kind, "types"):
        for inner in kind.types:
            yield from _leaves(inner)
    else:
        yield kind
