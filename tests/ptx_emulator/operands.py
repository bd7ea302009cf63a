"""Operands as numbered slots: registers, literals, special registers, variables' addresses and parameters all live in
one list.

A slot holds an array of shape (lanes,), or of shape (1,) while all lanes have the same value; arrays in slots are never
changed in place. So an instruction is a function from slots to slots whatever its operands are.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from .errors import UnsupportedError
from .ptxtypes import BITS, SIGNED, UNSIGNED, dtype_of, register_dtype
from .syntax import Address, Function, Immediate, Instruction, Operand, Register, Symbol, Variable

Array = npt.NDArray[Any]
Reader = Callable[[list[Array]], Array]

SPECIAL = {f"%{name}.{axis}" for name in ("tid", "ntid", "ctaid", "nctaid") for axis in "xyz"} | {
    "%laneid",
    "%warpid",
    "%nwarpid",
    "%dynamic_smem_size",
    "%total_smem_size",
    "%lanemask_eq",
    "%lanemask_lt",
    "%lanemask_le",
    "%lanemask_gt",
    "%lanemask_ge",
}
GARBAGE = 0xA5C3_96E1_B27D_8B4F  # what a register holds before anything is written to it


def garbage(dtype: np.dtype) -> Array:
    """The content of an unwritten register of `dtype`, shape (1,)."""
    if dtype.kind == "b":
        return np.ones(1, bool)
    return np.array([GARBAGE], np.uint64).view(np.uint8)[: dtype.itemsize].copy().view(dtype)


class Slots:
    """The slots of one kernel. `template` is their content before a launch fills in what `special` and `symbols`
    name."""

    def __init__(self, function: Function, variables: dict[str, Variable]) -> None:
        self.function = function
        self.variables = {**variables, **function.variables}
        self.parameters = {each.name: each for each in function.parameters}
        self.template: list[Array] = []
        self.dtypes: list[np.dtype] = []
        self.index: dict[object, int] = {}
        self.special: dict[str, int] = {}
        self.symbols: dict[str, int] = {}
        self.loaded: dict[tuple[str, int, str], int] = {}
        for name, kind in function.registers.items():
            self.index[name] = self._add(garbage(register_dtype(kind)))

    def _add(self, content: Array) -> int:
        self.template.append(content)
        self.dtypes.append(content.dtype)
        return len(self.template) - 1

    def constant(self, content: Array) -> int:
        """The slot of a constant, shape (1,)."""
        key = (content.dtype.str, content.tobytes())
        if key not in self.index:
            self.index[key] = self._add(content)
        return self.index[key]

    def register(self, operand: Operand, instruction: Instruction) -> int:
        """The slot of a register that `instruction` writes or tests."""
        if not isinstance(operand, Register):
            raise UnsupportedError(f"{instruction}: {operand} is not a register")
        return self.index[operand.name]

    def parameter(self, name: str, offset: int, kind: str) -> int:
        """The slot of the value that ld.param finds at `offset` of parameter `name`."""
        key = (name, offset, kind)
        if key not in self.loaded:
            self.loaded[key] = self._add(np.zeros(1, dtype_of(kind)))
        return self.loaded[key]

    def _symbol(self, name: str, instruction: Instruction) -> int:
        """The slot of a special register (int32) or of a variable's address (int64)."""
        if name == "WARP_SZ":
            return self.constant(np.array([32], np.int32))
        table, dtype = (self.special, np.int32) if name in SPECIAL else (self.symbols, np.int64)
        if table is self.symbols and name not in self.variables:
            raise UnsupportedError(f"{instruction}: unknown name {name}")
        if name not in table:
            table[name] = self._add(np.zeros(1, dtype))
        return table[name]

    def source(
        self, operand: Operand, kind: str, instruction: Instruction
    ) -> tuple[int, Callable[[Array], Array] | None]:
        """The slot of an operand read as type `kind`, and the conversion from its slot's dtype, None where none is
        needed."""
        if isinstance(operand, Immediate):
            return self.constant(literal(operand.text, kind)), None
        if isinstance(operand, Register):
            slot = self.index[operand.name]
            if operand.negated:
                return slot, np.logical_not
        elif isinstance(operand, Symbol):
            slot = self._symbol(operand.name, instruction)
        else:
            raise UnsupportedError(f"{instruction}: operand {operand} not understood")
        return slot, _conversion(self.dtypes[slot], dtype_of(kind), instruction)

    def address(self, operand: Operand, instruction: Instruction) -> Reader:
        """A function that gives the address operand's value from the slots, int64, offset added."""
        if not isinstance(operand, Address):
            raise UnsupportedError(f"{instruction}: {operand} is not an address")
        base, offset = operand.base, np.array([operand.offset], np.int64)
        if isinstance(base, Immediate):
            value = literal(base.text, "b64") + offset
            return lambda registers: value
        if not isinstance(base, (Register, Symbol)):
            raise UnsupportedError(f"{instruction}: {operand} is not an address")
        slot = self.index[base.name] if isinstance(base, Register) else self._symbol(base.name, instruction)
        if self.dtypes[slot].itemsize == 4:
            return lambda registers: registers[slot].view(np.uint32) + offset
        if operand.offset:
            return lambda registers: registers[slot] + offset
        return lambda registers: registers[slot]


def _conversion(have: np.dtype, want: np.dtype, instruction: Instruction) -> Callable[[Array], Array] | None:
    """How an instruction of dtype `want` reads a register of dtype `have`."""
    if have == want:
        return None
    if have.kind == "b" or want.kind == "b" or have.itemsize < want.itemsize:
        raise UnsupportedError(f"{instruction}: a {have} register read as {want}")
    if have.itemsize == want.itemsize:
        return lambda value: value.view(want)
    integer, bits = UNSIGNED[have.itemsize * 8], UNSIGNED[want.itemsize * 8]
    return lambda value: value.view(integer).astype(bits).view(want)


def widening(kind: str, register: np.dtype, instruction: Instruction) -> Callable[[Array], Array] | None:
    """How a result of type `kind` is put into a register of dtype `register`: .s types sign-extend, others
    zero-extend."""
    have = dtype_of(kind)
    if have == register:
        return None
    if have.kind == "b" or register.kind == "b" or have.itemsize > register.itemsize:
        raise UnsupportedError(f"{instruction}: a result of type .{kind} in a {register} register")
    if have.itemsize == register.itemsize:
        return lambda value: value.view(register)
    size = have.itemsize * 8
    narrow = SIGNED[size] if kind[0] == "s" else UNSIGNED[size]
    wide = SIGNED[register.itemsize * 8]
    return lambda value: value.view(narrow).astype(wide).view(register)


def literal(text: str, kind: str) -> Array:
    """A literal as type `kind`, shape (1,). Integers wrap to the type's width; 0f… and 0d… give a float's bits."""
    dtype, sign = dtype_of(kind), -1 if text.startswith("-") else 1
    body = text.lstrip("-")
    if kind == "pred":
        return np.array([int(body) != 0])
    if match := re.fullmatch(r"0[fF]([0-9a-fA-F]{8})|0[dD]([0-9a-fA-F]{16})", body):
        width = 4 if match[1] else 8
        value = np.array([int(match[1] or match[2], 16)], UNSIGNED[width * 8]).view(f"f{width}") * sign
        if dtype.kind == "f":
            return value.astype(dtype)
        return value.view(SIGNED[width * 8]).astype(SIGNED[BITS[kind]]).view(dtype)
    if dtype.kind == "f" and kind != "f16":
        return np.array([sign * float(body)], dtype)
    digits = body.rstrip("U")
    if digits.isdigit() and digits.startswith("0"):
        digits = "0o" + digits
    number = sign * int(digits, 0) % (1 << BITS[kind])
    return np.array([number], UNSIGNED[BITS[kind]]).view(dtype)
