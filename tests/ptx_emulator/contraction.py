"""Finds float results that PTX leaves open: a product and a sum that ptxas may fuse into one rounding.

PTX ISA, "Floating Point Instructions: add, sub, mul": without a rounding modifier on either, "mul/add sequences … may
be optimized to use fused-multiply-add instructions". Such a kernel has no one answer, so it is refused; `mul.rn` or
`add.rn` settles it.
"""

from __future__ import annotations

from .instructions.rounding import MODES
from .ptxtypes import is_float
from .syntax import Function, Instruction, Operand, Register, Vector


def find_contraction(function: Function) -> str:
    """Names an add or sub without a rounding mode that reads the result of such a mul; "" where there is none."""
    products = {name: each for each in function.instructions if _open(each, "mul") for name in _names(each.operands[0])}
    copies = [each for each in function.instructions if each.opcode in ("mov", "neg") and len(each.operands) == 2]
    grown = -1
    while products and grown != len(products):
        grown = len(products)
        for each in copies:
            source = next((products[name] for name in _names(each.operands[1]) if name in products), None)
            if source is not None:
                for name in _names(each.operands[0]):
                    products.setdefault(name, source)
    for each in function.instructions:
        if _open(each, "add") or _open(each, "sub"):
            for name in (name for operand in each.operands[1:] for name in _names(operand)):
                if name in products:
                    return f"{each}: ptxas may fuse this with {products[name]}; one of them needs .rn"
    return ""


def _open(instruction: Instruction, opcode: str) -> bool:
    """Whether the instruction is a float `opcode` without a rounding mode."""
    words = instruction.modifiers
    return instruction.opcode == opcode and not MODES & {*words} and any(is_float(word) for word in words[-1:])


def _names(operand: Operand) -> list[str]:
    """The registers of an operand."""
    parts = operand.parts if isinstance(operand, Vector) else (operand,)
    return [each.name for each in parts if isinstance(each, Register)]
