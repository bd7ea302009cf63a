"""Basic blocks of a function and where divergent threads meet again: each block's immediate post-dominator.

Blocks end at branches, returns and barriers. The last block is the common exit; it post-dominates all others.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from .errors import ParseError, UnsupportedError
from .syntax import Address, Function, Instruction, Operand, Register, Symbol, Vector

BARRIERS = ("bar", "barrier")


@dataclass(frozen=True)
class BlockPlan:
    """One basic block: its plain instructions, the instruction that ends it, and the blocks that may follow.

    `target` follows when the end is taken (a branch, a return), `following` when it is not; `join` is the immediate
    post-dominator. The exit block has no end and is its own successor.
    """

    body: tuple[Instruction, ...]
    end: Instruction | None
    target: int
    following: int
    join: int


def _ends(instruction: Instruction) -> bool:
    barrier = instruction.opcode in BARRIERS and instruction.modifiers[:1] != ("warp",)
    return barrier or instruction.opcode in ("bra", "ret", "exit")


def _starts(function: Function) -> list[int]:
    """Indices at which blocks start: the first instruction, labels, and whatever follows an end."""
    starts = {0, *function.labels.values()}
    starts.update(index + 1 for index, each in enumerate(function.instructions) if _ends(each))
    return sorted(start for start in starts if start < len(function.instructions))


def plan(function: Function) -> list[BlockPlan]:
    """The basic blocks of `function` in the order of the text, the exit block last."""
    starts = _starts(function)
    block_at = {start: index for index, start in enumerate(starts)}
    last = len(starts)
    rough: list[tuple[tuple[Instruction, ...], Instruction | None, int, int]] = []
    for index, start in enumerate(starts):
        stop = starts[index + 1] if index + 1 < last else len(function.instructions)
        body = function.instructions[start:stop]
        end = body[-1] if body and _ends(body[-1]) else None
        target = index + 1
        if end is not None and end.opcode in ("ret", "exit"):
            target = last
        elif end is not None and end.opcode == "bra":
            target = block_at.get(_label(function, end), last)
        following = target if end is not None and end.guard is None and end.opcode not in BARRIERS else index + 1
        rough.append((tuple(body if end is None else body[:-1]), end, target, following))
    rough.append(((), None, last, last))
    joins = post_dominators([(target, following) for _, _, target, following in rough])
    return [BlockPlan(*parts, join) for parts, join in zip(rough, joins, strict=True)]


def _label(function: Function, branch: Instruction) -> int:
    """The index of the instruction that `branch` goes to."""
    if len(branch.operands) != 1 or not isinstance(branch.operands[0], Symbol):
        raise UnsupportedError(f"{branch}: only branches to one label are known")
    name = branch.operands[0].name
    if name not in function.labels:
        raise ParseError(f"{branch}: no label {name}")
    return function.labels[name]


def post_dominators(successors: list[tuple[int, ...]]) -> list[int]:
    """The immediate post-dominator of every node of a graph whose last node is the exit.

    Nodes that cannot reach the exit (endless loops) get the exit. Cooper, Harvey, Kennedy: "A Simple, Fast Dominance
    Algorithm", run on the reversed graph.
    """
    last = len(successors) - 1
    order = _reverse_postorder(successors)
    number = {node: place for place, node in enumerate(order)}
    join = {last: last}
    changed = True
    while changed:
        changed = False
        for node in order[1:]:
            found = None
            for after in successors[node]:
                if after in join:
                    found = after if found is None else _meet(found, after, join, number)
            if found is not None and join.get(node) != found:
                join[node], changed = found, True
    return [join.get(node, last) for node in range(last + 1)]


def _meet(a: int, b: int, join: dict[int, int], number: dict[int, int]) -> int:
    while a != b:
        while number[a] > number[b]:
            a = join[a]
        while number[b] > number[a]:
            b = join[b]
    return a


def _reverse_postorder(successors: list[tuple[int, ...]]) -> list[int]:
    """The nodes that reach the exit, from the exit backwards, each before those it post-dominates."""
    last = len(successors) - 1
    before: list[list[int]] = [[] for _ in successors]
    for node, after in enumerate(successors):
        for each in after:
            before[each].append(node)
    done: list[int] = []
    seen, stack = {last}, [(last, iter(before[last]))]
    while stack:
        node, rest = stack[-1]
        fresh = next((each for each in rest if each not in seen), None)
        if fresh is None:
            done.append(node)
            stack.pop()
        else:
            seen.add(fresh)
            stack.append((fresh, iter(before[fresh])))
    return done[::-1]


def short_lived(blocks: list[BlockPlan]) -> frozenset[str]:
    """Registers that are written once, by an instruction without a guard, and read only later in the same basic block.

    All lanes that read such a register were active when it was written, so what inactive lanes hold is no matter.
    """
    first: dict[str, tuple[int, bool]] = {}  # where a register is first named: its block, and whether it is written
    failed: set[str] = set()
    for index, block in enumerate(blocks):
        for instruction in (*block.body, *([block.end] if block.end is not None else [])):
            targets = [] if instruction.opcode in WITHOUT_RESULT else list(_registers(instruction.operands[:1]))
            sources = list(_registers(instruction.operands if not targets else instruction.operands[1:]))
            if instruction.guard is not None:
                sources.append(instruction.guard.name)
                failed.update(targets)
            for name in sources:
                if first.setdefault(name, (index, False)) != (index, True):
                    failed.add(name)
            for name in targets:
                if name in first:
                    failed.add(name)
                first.setdefault(name, (index, True))
    return frozenset(name for name in first if name not in failed)


WITHOUT_RESULT = ("st", "red", "bar", "barrier", "bra", "ret", "exit", "cp", "membar", "fence", "trap")


def _registers(operands: tuple[Operand, ...]) -> Iterator[str]:
    """The registers that operands name."""
    for operand in operands:
        if isinstance(operand, Register):
            yield operand.name
        elif isinstance(operand, Vector):
            yield from _registers(operand.parts)
        elif isinstance(operand, Address):
            yield from _registers((operand.base,))
