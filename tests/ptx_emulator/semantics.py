"""What an instruction family says about one instruction: which types it reads and writes, and the function in between.

A builder takes an Instruction and returns its Semantics, or raises UnsupportedError naming it; BUILDERS in
instructions/__init__.py maps opcodes to builders.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from .errors import UnsupportedError
from .ptxtypes import BITS
from .syntax import Instruction, Operand


@dataclass(frozen=True)
class Semantics:
    """How to execute an instruction.

    `targets` and `sources` pair operands with PTX types; a source of type "address" reads an Address operand as int64.
    `evaluate` takes the sources' arrays, shape (lanes,) or (1,), and returns the target's array, a tuple of them for
    several targets, or None. With `lanewise` False it takes the group of lanes first, obeys the group's mask and may
    touch memory.
    """

    targets: tuple[tuple[Operand, str], ...]
    sources: tuple[tuple[Operand, str], ...]
    evaluate: Callable[..., Any]
    lanewise: bool = True


Builder = Callable[[Instruction], Semantics]


def read_modifiers(instruction: Instruction, *choices: set[str]) -> tuple[list[str], list[str]]:
    """Split the modifiers into types (in order) and, for each set of `choices`, the word found of it ("" for none).

    Raises UnsupportedError for a modifier that is neither.
    """
    types: list[str] = []
    found = [""] * len(choices)
    for word in instruction.modifiers:
        place = next((index for index, choice in enumerate(choices) if word in choice and not found[index]), None)
        if place is not None:
            found[place] = word
        elif word in BITS:
            types.append(word)
        else:
            raise UnsupportedError(f"{instruction}: modifier .{word} is not known")
    return types, found


def simple(instruction: Instruction, target: str, sources: list[str], evaluate: Callable[..., Any]) -> Semantics:
    """Semantics of a lanewise instruction with one target: operand 0 is of type `target`, the others as listed."""
    expect_operands(instruction, 1 + len(sources))
    first, *rest = instruction.operands
    return Semantics(((first, target),), tuple(zip(rest, sources, strict=True)), evaluate)


def expect_operands(instruction: Instruction, *counts: int) -> None:
    """Raise UnsupportedError unless the instruction has one of these numbers of operands."""
    if len(instruction.operands) not in counts:
        raise UnsupportedError(f"{instruction}: {len(instruction.operands)} operands, expected {counts}")


def expect_type(instruction: Instruction, kind: str, allowed: set[str]) -> None:
    """Raise UnsupportedError unless type `kind` is allowed."""
    if kind not in allowed:
        raise UnsupportedError(f"{instruction}: type .{kind} is not known here")
