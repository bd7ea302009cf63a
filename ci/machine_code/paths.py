"""What lies between two instructions of a kernel, whichever way it goes.

A kernel has several ways through it: one for whole tiles, others for ragged ends. The main path is what lies between
its 16-byte loads and its 16-byte stores: every instruction that can come after one of those loads and before one of
those stores.
"""

from __future__ import annotations

from collections.abc import Iterable

from .disassembly import Function, Instruction

LOAD, STORE, WIDE = "LDG", "STG", "128"
INDIRECT = ("BRX", "BRXU", "JMX", "JMXU")
NEVER_GOES_ON = ("EXIT", "RET", "BRA", "BSYNC")  # unless a guard lets it


def main_path(function: Function) -> list[Instruction]:
    """The instructions between wide loads and wide stores, both included.

    Raises
    ------
    ValueError
        The function branches to addresses that it reads from somewhere.
    """
    following = _successors(function)
    preceding: dict[int, set[int]] = {place: set() for place in following}
    for place, targets in following.items():
        for target in targets:
            preceding[target].add(place)
    wide = {name: _places(function, name) for name in (LOAD, STORE)}
    after_load, before_store = _reached(following, wide[LOAD]), _reached(preceding, wide[STORE])
    return [function.instructions[place] for place in sorted(after_load & before_store)]


def is_wide(access: Instruction) -> bool:
    """Whether an access takes 16 bytes."""
    return WIDE in access.opcode.split(".")


def _places(function: Function, name: str) -> list[int]:
    numbered = enumerate(function.instructions)
    return [place for place, each in numbered if each.name == name and is_wide(each)]


def _successors(function: Function) -> dict[int, set[int]]:
    """Which instructions may come next, all by their place in the function."""
    places = {each.address: place for place, each in enumerate(function.instructions)}
    meeting: dict[str, set[int]] = {}  # BSSY B0, label: where BSYNC B0 goes to
    for each in function.instructions:
        target = function.target_of(each)
        if each.name == "BSSY" and target is not None:
            meeting.setdefault(each.operands.partition(",")[0], set()).add(places[target])
    following: dict[int, set[int]] = {}
    for place, each in enumerate(function.instructions):
        if each.name in INDIRECT:
            raise ValueError(f"function: got {function.name} with {each.opcode}; accepted: branches to labels")
        goes_on = each.name not in NEVER_GOES_ON or each.guard or "P" in each.operands.partition("`")[0]
        following[place] = {place + 1} if goes_on and place + 1 < len(function.instructions) else set()
        target = function.target_of(each)
        if each.name == "BRA" and target is not None:
            following[place].add(places[target])
        elif each.name == "BSYNC":
            following[place] |= meeting.get(each.operands.partition(",")[0], set())
    return following


def _reached(steps: dict[int, set[int]], starts: Iterable[int]) -> set[int]:
    """All places that steps lead to, and the starts."""
    found, waiting = set[int](), list(starts)
    while waiting:
        place = waiting.pop()
        if place not in found:
            found.add(place)
            waiting.extend(steps[place])
    return found
