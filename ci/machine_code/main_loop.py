"""The loop in which a kernel spends its time, and what it is made of.

A loop is what lies between a branch and an earlier address that it goes to. The main loop is, of the innermost loops
that multiply, the one with most tensor instructions; a kernel without any has none.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from .disassembly import Function, Instruction

TENSOR = ("IMMA", "HMMA", "QMMA", "OMMA", "IGMMA", "HGMMA", "QGMMA")  # one instruction of a warp or of four
DOT_PRODUCT = "IDP"  # dp4a, which is no tensor instruction but multiplies 8-bit codes as well


@dataclass(frozen=True)
class Loop:
    """The instructions of a loop, in order."""

    instructions: tuple[Instruction, ...]

    @property
    def mix(self) -> Counter[str]:
        """How many instructions of each name it has."""
        return Counter(instruction.name for instruction in self.instructions)

    @property
    def products(self) -> int:
        """Its tensor instructions, or where it has none its dp4a."""
        return _tensor_count(self.instructions) or self.mix[DOT_PRODUCT]

    @property
    def ratio(self) -> float:
        """The share of products among its instructions."""
        return self.products / len(self.instructions)

    @property
    def stall(self) -> float:
        """Cycles that its instructions make a warp wait by their own schedule, per product."""
        return sum(instruction.schedule.stall for instruction in self.instructions) / self.products


def main_loop(function: Function) -> Loop | None:
    """The main loop; None where no loop multiplies."""
    found = loops(function)
    for multiply in (_tensor_count, _dot_product_count):
        multiplying = [loop for loop in found if multiply(loop.instructions)]
        innermost = [loop for loop in multiplying if not any(_holds(loop, other) for other in multiplying)]
        if innermost:
            return max(innermost, key=lambda loop: (multiply(loop.instructions), -len(loop.instructions)))
    return None


def loops(function: Function) -> list[Loop]:
    """All loops of a function, in the order of their last instructions."""
    found = []
    for branch in function.instructions:
        target = function.target_of(branch) if branch.name == "BRA" else None
        if target is not None and target <= branch.address:
            body = (each for each in function.instructions if target <= each.address <= branch.address)
            found.append(Loop(tuple(body)))
    return found


def _holds(outer: Loop, inner: Loop) -> bool:
    """Whether a loop lies within another."""
    return (
        outer.instructions != inner.instructions
        and outer.instructions[0].address <= inner.instructions[0].address
        and inner.instructions[-1].address <= outer.instructions[-1].address
    )


def _tensor_count(instructions: tuple[Instruction, ...]) -> int:
    return sum(instruction.name in TENSOR for instruction in instructions)


def _dot_product_count(instructions: tuple[Instruction, ...]) -> int:
    return sum(instruction.name == DOT_PRODUCT for instruction in instructions)
