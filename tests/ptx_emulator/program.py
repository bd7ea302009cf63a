"""A kernel compiled to Python closures: per basic block a list of steps, each one instruction on all lanes of a group.

Every step exists twice: `full` for a group whose lanes are all active stores results as they are, `masked` keeps the
inactive lanes' values. A guarded instruction runs masked, or not at all, as its predicate says.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy.typing as npt

from .contraction import find_contraction
from .errors import ContractionError, LaunchError, UnsupportedError
from .flow import BARRIERS, BlockPlan, plan, short_lived
from .group import Group
from .instructions import explain
from .operands import Slots, widening
from .ptxtypes import BITS
from .semantics import Semantics
from .syntax import Address, Function, Immediate, Instruction, Module, Operand, Register, Symbol

Array = npt.NDArray[Any]
Step = Callable[[Group], None]
Reader = Callable[[list[Array]], Array]
Change = Callable[[Array], Array]


@dataclass(frozen=True)
class Block:
    """An executable basic block. `condition` is the slot of the branch's predicate, None for a plain jump."""

    full: tuple[Step, ...]
    masked: tuple[Step, ...]
    opcodes: tuple[str, ...]
    barrier: Instruction | None
    condition: int | None
    negated: bool
    target: int
    following: int
    join: int


@dataclass(frozen=True)
class Program:
    """A kernel ready to run.

    It is `orderly` if its warps meet at barriers or in shared memory, so that their order matters. `contraction` names
    a product and a sum that ptxas may fuse, if there are any. `grain` is the size of its smallest access to memory.
    """

    function: Function
    slots: Slots
    blocks: tuple[Block, ...]
    orderly: bool
    contraction: str
    grain: int


def compile_kernel(module: Module, name: str, capability: int, contraction: bool = False) -> Program:
    """The program of entry `name` for a compute capability such as 80. Raises UnsupportedError, LaunchError.

    Raises ContractionError for products and sums that ptxas may fuse, unless `contraction` is allowed.
    """
    if (name, capability) not in module.programs:
        module.programs[name, capability] = _compile(module, name, capability)
    program: Program = module.programs[name, capability]
    if program.contraction and not contraction:
        raise ContractionError(program.contraction)
    return program


def _compile(module: Module, name: str, capability: int) -> Program:
    function = module.functions.get(name)
    if function is None or not function.entry:
        raise LaunchError(f"no kernel {name} in the module, only {sorted(module.functions)}")
    if module.target > capability:
        raise LaunchError(f"PTX for compute capability {module.target / 10} on a device of {capability / 10}")
    rough = plan(function)
    compiler = _Compiler(Slots(function, module.variables), capability, short_lived(rough))
    blocks = tuple(compiler.block(each) for each in rough)
    shared = any(each.space == "shared" for each in (*module.variables.values(), *function.variables.values()))
    orderly = shared or any(each.barrier for each in blocks)
    return Program(function, compiler.slots, blocks, orderly, find_contraction(function), _grain(function))


def _grain(function: Function) -> int:
    """The bytes of the smallest load, store or atomic of any space but global memory and parameters; 4 for the rest."""
    accesses = [each for each in function.instructions if each.opcode in ("ld", "st", "atom", "red")]
    near = [each for each in accesses if not {"global", "param", "const"} & {*each.modifiers}]
    return min((BITS[each.modifiers[-1]] // 8 for each in near), default=4)


@dataclass
class _Compiler:
    """Turns instructions into steps; `passing` are registers whose inactive lanes nobody reads."""

    slots: Slots
    capability: int
    passing: frozenset[str]

    def block(self, rough: BlockPlan) -> Block:
        """One basic block."""
        pairs = [self.steps(instruction) for instruction in rough.body]
        full, masked = tuple(first for first, _ in pairs), tuple(second for _, second in pairs)
        end, condition, negated = rough.end, None, False
        barrier = end if end is not None and end.opcode in BARRIERS else None
        if barrier is not None:
            _check_barrier(barrier)
        elif end is not None and end.guard is not None:
            condition, negated = self.slots.register(end.guard, end), end.guard.negated
        opcodes = tuple(each.name for each in rough.body) + ((end.name,) if end is not None else ())
        return Block(full, masked, opcodes, barrier, condition, negated, rough.target, rough.following, rough.join)

    def steps(self, instruction: Instruction) -> tuple[Step, Step]:
        """The full and the masked step of an instruction."""
        semantics = explain(instruction, self.capability)
        targets = [self.target(operand, kind, instruction) for operand, kind in semantics.targets]
        slots, readers = self.sources(semantics, instruction)
        passing = all(isinstance(each, Register) and each.name in self.passing for each, _ in semantics.targets)
        if semantics.lanewise and len(targets) == 1 and targets[0][1] is None and slots is not None:
            full, masked = _plain(semantics.evaluate, targets[0][0], slots)
            masked = full if passing else masked
        else:
            full = masked = _general(instruction, semantics, targets, readers, passing)
        if instruction.guard is None:
            return full, masked
        guarded = _guarded(self.slots.register(instruction.guard, instruction), instruction.guard.negated, full, masked)
        return guarded, guarded

    def target(self, operand: Operand, kind: str, instruction: Instruction) -> tuple[int, Change | None]:
        """A target's slot, -1 for the sink `_`, and the change to its register's dtype."""
        if operand == Symbol("_"):
            return -1, None
        slot = self.slots.register(operand, instruction)
        return slot, widening(kind, self.slots.dtypes[slot], instruction)

    def sources(self, semantics: Semantics, instruction: Instruction) -> tuple[list[int] | None, list[Reader]]:
        """Readers of all sources, and their slots where none needs a change."""
        slots: list[int] | None = []
        readers: list[Reader] = []
        for operand, kind in semantics.sources:
            if kind == "address":
                readers.append(self.slots.address(operand, instruction))
                slots = None
                continue
            slot, change = self.source(operand, kind, instruction)
            readers.append(_reader(slot, change))
            slots = None if slots is None or change is not None else [*slots, slot]
        return slots, readers

    def source(self, operand: Operand, kind: str, instruction: Instruction) -> tuple[int, Change | None]:
        """One source that is no address."""
        if kind.startswith("param."):
            assert isinstance(operand, Address)
            assert isinstance(operand.base, Symbol)
            if operand.base.name not in self.slots.parameters:
                raise UnsupportedError(f"{instruction}: no parameter {operand.base.name}")
            return self.slots.parameter(operand.base.name, operand.offset, kind[6:]), None
        if kind == "size or predicate":
            predicate = isinstance(operand, Register) and self.slots.function.registers[operand.name] == "pred"
            kind = "pred" if predicate else "u32"
        return self.slots.source(operand, kind, instruction)


def _reader(slot: int, change: Change | None) -> Reader:
    if change is None:
        return lambda registers: registers[slot]
    return lambda registers: change(registers[slot])


def _plain(evaluate: Callable[..., Any], target: int, slots: list[int]) -> tuple[Step, Step]:
    """Steps of a lanewise instruction whose operands need no change: the bulk of every kernel."""

    def masked(group: Group) -> None:
        group.write(target, evaluate(*[group.registers[slot] for slot in slots]))

    return _plain_full(evaluate, target, slots), masked


def _plain_full(evaluate: Callable[..., Any], target: int, slots: list[int]) -> Step:
    first, second, *_ = (*slots, 0, 0)

    def unary(group: Group) -> None:
        registers = group.registers
        registers[target] = evaluate(registers[first])

    def binary(group: Group) -> None:
        registers = group.registers
        registers[target] = evaluate(registers[first], registers[second])

    def general(group: Group) -> None:
        registers = group.registers
        registers[target] = evaluate(*[registers[slot] for slot in slots])

    return {1: unary, 2: binary}.get(len(slots), general)


def _general(
    instruction: Instruction,
    semantics: Semantics,
    targets: list[tuple[int, Change | None]],
    readers: list[Reader],
    passing: bool,
) -> Step:
    """The step of any instruction, full and masked."""
    evaluate, lanewise = semantics.evaluate, semantics.lanewise

    def step(group: Group) -> None:
        registers = group.registers
        values = [read(registers) for read in readers]
        if lanewise:
            results = evaluate(*values)
        else:
            group.current = instruction
            results = evaluate(group, *values)
        if len(targets) == 1:
            results = (results,)
        for (slot, change), result in zip(targets, results or (), strict=True):
            if slot >= 0 and passing:
                registers[slot] = result if change is None else change(result)
            elif slot >= 0:
                group.write(slot, result if change is None else change(result))

    return step


def _guarded(slot: int, negated: bool, full: Step, masked: Step) -> Step:
    """A step under a predicate: lanes where it does not hold count as inactive."""

    def step(group: Group) -> None:
        predicate, before = group.registers[slot], group.mask
        chosen = ~predicate if negated else predicate
        if before is None and chosen.all():
            full(group)
            return
        mask = group.full(chosen) if before is None else chosen & before
        if mask.any():
            group.mask = mask
            masked(group)
            group.mask = before

    return step


def _check_barrier(instruction: Instruction) -> None:
    """Only barriers of all threads of a block are known: bar.sync n and its synonyms."""
    words = set(instruction.modifiers)
    plain = "sync" in words and words <= {"sync", "aligned", "cta"}
    if not plain or len(instruction.operands) != 1 or not isinstance(instruction.operands[0], Immediate):
        raise UnsupportedError(f"{instruction}: only barriers of the whole block with a literal number are known")
    if instruction.guard is not None:
        raise UnsupportedError(f"{instruction}: a barrier under a predicate is not known")
