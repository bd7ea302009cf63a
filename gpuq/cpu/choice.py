"""The choice of a micro-kernel by the rows of a strip: an LLVM function for each number of rows that there is one for.

    rows   1   2 3 4   5 6   …      tiles of a number of rows do for strips of as many, and of fewer than the last had
           └─┐ └─┬─┘ └─┬─┘
    tiles    1   4     6     …

Functions of Numba's would be compiled one by one, and each again with whatever calls it: seconds of the first call.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from gpuq.cpu.atomics import I64
from gpuq.cpu.isa import InstructionSet


def row_counts(isa: InstructionSet) -> list[int]:
    """The rows that tiles are made for; strips with others take the next larger one."""
    counts = (1, 4, 16) if isa.without_tiles else (1, 4, 6, 8, 10)
    return [count for count in counts if count < isa.rows] + [isa.rows]


def make_choice(
    isa: InstructionSet, emit: Callable[[Any, int, int, Any, Sequence[Any]], None]
) -> Callable[[int, tuple[Any, ...]], None]:
    """The intrinsic (rows, arguments: a tuple of words and tuples of them) that runs what `emit(builder, count, fewest,
    rows, words)` emits for the number of rows, which is from `fewest` to `count`.
    """

    @intrinsic
    def choose(typing_context: Any, rows: Any, arguments: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            own = [values[0], *_words(builder, arguments, values[1])]
            fewest = 1
            for count in row_counts(isa):
                function = _make_function(builder.module, [word.type for word in own], f"tiles_of_{count}_rows")
                inside = ir.IRBuilder(function.append_basic_block())
                emit(inside, count, fewest, function.args[0], list(function.args[1:]))
                inside.ret_void()
                above = builder.sub(own[0], I64(fewest))
                with builder.if_then(builder.icmp_unsigned("<=", above, I64(count - fewest))):
                    builder.call(function, own)
                fewest = count + 1
            return context.get_dummy_value()

        return types.void(types.int64, arguments), generate

    return choose


def _words(builder: Any, kind: Any, value: Any) -> list[Any]:
    """The numbers in tuples of tuples, one after the other."""
    if not isinstance(kind, types.BaseTuple):
        return [value]
    parts = [(part, builder.extract_value(value, place)) for place, part in enumerate(kind.types)]
    return [word for part in parts for word in _words(builder, *part)]


def _make_function(module: Any, kinds: list[Any], name: str) -> Any:
    """A new function of the module, for one kernel: in one with the others it would share registers with them."""
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), kinds), module.get_unique_name(name))
    function.linkage = "internal"
    function.attributes.add("noinline")
    return function
