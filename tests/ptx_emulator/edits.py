"""Random small faults in PTX text, to measure how many of them a kernel's tests find on the emulator.

Kinds: a deleted barrier, wait or commit; an offset or literal moved by 16; two swapped registers; a turned predicate.
Edits that cannot change anything by themselves are not made: swapped operands of a commutative instruction, waits and
commits behind the last barrier, where no other thread reads a copy, other true predicates than -1, and the number that
a shuffle flips in its lane (a sum over all lanes is one in whatever order they meet).
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from dataclasses import dataclass

REGISTER = re.compile(r"%(?:r|rd|f|fd|rs)\d+\b")
COMMUTATIVE = ("add", "mul", "min", "max", "and", "or", "xor", "setp.eq", "setp.ne", "dp4a", "mad", "fma")
SYNCHRONIZATION = re.compile(r"\b(bar\.sync\s+\d+|cp\.async\.(wait_group \d+|wait_all|commit_group));")
MOVABLE = re.compile(r"(?P<address>\[%r[d]?\d+(\+-?\d+)?)(?P<end>\])|(?<=, )(?P<literal>-?\d+)(?=;)")
SHUFFLE = re.compile(r"shfl\.sync\.bfly\.b32 \s*%r\d+\|%p\d+, %r\d+, (%r\d+),")
OPPOSITE = {"lt": "ge", "ge": "lt", "gt": "le", "le": "gt", "eq": "ne", "ne": "eq"}


@dataclass(frozen=True)
class Edit:
    """One fault: its kind, its line from 1 on, the line before and after, and the whole edited text."""

    kind: str
    line: int
    before: str
    after: str
    text: str

    def __str__(self) -> str:
        return f"{self.kind} in line {self.line}: {self.before.strip()} → {self.after.strip()}"


def random_edits(text: str, count: int, seed: int) -> list[Edit]:
    """`count` different edits of a PTX text, the kinds in equal shares as far as the text allows."""
    rng = random.Random(seed)
    lines = text.split("\n")
    start = next(index for index, line in enumerate(lines) if line.startswith("{"))
    flips = {flip for line in lines for flip in SHUFFLE.findall(line)}
    choices: dict[str, list[tuple[int, str]]] = {"delete": [], "offset": [], "swap": [], "predicate": []}
    for index in range(start + 1, len(lines)):
        written = re.search(r"mov\.(?:b|u)32 \s*(%r\d+), -?\d+;", lines[index])
        if written and written[1] in flips or "mov.pred" in lines[index]:
            continue
        for kind, after in _edits_of(lines[index]):
            choices[kind].append((index, after))
    last = max((index for index, _ in choices["delete"] if "bar.sync" in lines[index]), default=-1)
    choices["delete"] = [choice for choice in choices["delete"] if choice[0] <= last]
    found: list[Edit] = []
    while len(found) < count and any(choices.values()):
        kind = rng.choice([kind for kind, rest in choices.items() if rest])
        index, after = choices[kind].pop(rng.randrange(len(choices[kind])))
        edited = "\n".join([*lines[:index], after, *lines[index + 1 :]])
        found.append(Edit(kind, index + 1, lines[index], after, edited))
    return found


def _edits_of(line: str) -> Iterator[tuple[str, str]]:
    """Every edit of one line, as kind and new line."""
    opcode = re.sub(r"^\s*(@!?%p\d+\s+)?", "", line)
    if opcode.startswith((".", "//", "$", "}", "{ .reg")) or not opcode.endswith(";"):
        return
    if SYNCHRONIZATION.search(line):
        yield "delete", SYNCHRONIZATION.sub("", line)
    for match in MOVABLE.finditer(line):
        if match["end"]:
            for step in ("+16", "+-16"):
                yield "offset", line[: match.end("address")] + step + line[match.end("address") :]
        elif opcode.startswith(("add", "sub", "mov")):
            for number in (int(match["literal"]) + 16, int(match["literal"]) - 16):
                yield "offset", line[: match.start()] + str(number) + line[match.end() :]
    registers = [(each.start(), each.end(), each.group()) for each in REGISTER.finditer(line)]
    first = 1 if opcode.startswith(COMMUTATIVE) else 0  # only a swap with the result changes a commutative instruction
    for a, left in enumerate(registers[:1] if first else registers):
        for right in registers[a + 1 :]:
            if left[2] != right[2] and re.sub(r"\d", "", left[2]) == re.sub(r"\d", "", right[2]):
                yield "swap", line[: left[0]] + right[2] + line[left[1] : right[0]] + left[2] + line[right[1] :]
    if match := re.match(r"(\s*)@(!?)(%p\d+)", line):
        yield "predicate", f"{match[1]}@{'' if match[2] else '!'}{match[3]}{line[match.end() :]}"
    if (match := re.match(r"(\s*setp\.)(lt|ge|gt|le|eq|ne)\b", line)) and match[2] in OPPOSITE:
        yield "predicate", match[1] + OPPOSITE[match[2]] + line[match.end() :]
