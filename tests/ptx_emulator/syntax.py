"""What the parser makes of PTX text: plain data classes, without scopes and without meaning."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Register:
    """A register operand by its unique name; `negated` for `!p`."""

    name: str
    negated: bool = False


@dataclass(frozen=True)
class Immediate:
    """A literal as written, sign included."""

    text: str


@dataclass(frozen=True)
class Symbol:
    """A variable, label, parameter or special register."""

    name: str


@dataclass(frozen=True)
class Address:
    """`[base + offset]`; base is a Register, a Symbol or an Immediate."""

    base: Operand
    offset: int


@dataclass(frozen=True)
class Vector:
    """`{a, b, …}`, or the pair `p|q` of two destinations."""

    parts: tuple[Operand, ...]


Operand = Register | Immediate | Symbol | Address | Vector


@dataclass(frozen=True)
class Instruction:
    """One instruction: guard predicate, opcode split at its dots, operands, and its source line and text."""

    guard: Register | None
    opcode: str
    modifiers: tuple[str, ...]
    operands: tuple[Operand, ...]
    line: int
    text: str

    @property
    def name(self) -> str:
        """The full opcode, as counters name it."""
        return ".".join((self.opcode, *self.modifiers))

    def __str__(self) -> str:
        return f"line {self.line}: {self.text}"


@dataclass(frozen=True)
class Variable:
    """A variable of a state space; `size` is None for `extern name[]`, whose size the launch gives."""

    name: str
    space: str
    type: str
    alignment: int
    size: int | None
    values: tuple[str, ...] = ()


@dataclass
class Function:
    """An entry or device function. `labels` maps a label to the index of the instruction that follows it."""

    name: str
    entry: bool
    parameters: list[Variable] = field(default_factory=list)
    registers: dict[str, str] = field(default_factory=dict)
    variables: dict[str, Variable] = field(default_factory=dict)
    instructions: list[Instruction] = field(default_factory=list)
    labels: dict[str, int] = field(default_factory=dict)
    limits: dict[str, tuple[int, ...]] = field(default_factory=dict)


@dataclass(eq=False)
class Module:
    """A parsed PTX file; `target` is the compute capability as in sm_80 → 80. `programs` keeps its compiled kernels."""

    target: int = 0
    functions: dict[str, Function] = field(default_factory=dict)
    variables: dict[str, Variable] = field(default_factory=dict)
    programs: dict[tuple[str, int], Any] = field(default_factory=dict, repr=False)
