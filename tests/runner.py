"""How the operator tests call an operator: on one device, checking which path ran, against the reference."""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import gpuq
from compare import assert_all_same, assert_same
from gpuq import dispatch, reference
from layouts import Place

Case = TypeVar("Case")


@dataclass
class Runner:
    """The operators on one device; `tests/conftest.py` gives it to tests as the fixture `run`."""

    device: str

    def __call__(self, name: str, *arguments: Any, **options: Any) -> Any:
        """The operator's result; asserts that it ran on the device, with the instruction set that was to be used."""
        result = getattr(gpuq, name)(*arguments, device=self.device, **options)
        path = gpuq.last_path()
        assert path is not None
        assert path.device.split(":")[0] == self.device
        assert path.kernel.split()[0] == name
        assert self.device != "cpu" or path.isa == dispatch.instruction_set()
        return result

    def part(self, cases: Iterable[Case], turn: int, of: int) -> list[Case]:
        """The cases of a sweep that takes all of them for each of several types or options, which are the turns."""
        return list(cases)

    def check(self, name: str, *arguments: Any, what: str = "", **options: Any) -> None:
        """Assert that the operator gives what the reference gives."""
        expected = getattr(reference, name)(*arguments, **options)
        compare = assert_all_same if isinstance(expected, tuple) else assert_same
        compare(self(name, *arguments, **options), expected, what or f"{name} {options}")

    def check_into(self, place: Place, name: str, *arguments: Any, what: str = "", **options: Any) -> None:
        """Assert that the operator writes what the reference gives into `out`, and nothing beside it."""
        expected = getattr(reference, name)(*arguments, **options)
        memory, out = place(expected.shape, expected.dtype)
        before, garbage = memory.copy(), out.copy()
        result = self(name, *arguments, out=out, **options)
        assert result is out
        assert_same(out, expected, what or f"{name} {options}")
        out[...] = garbage
        assert_same(memory, before, f"{what}: the memory around out")


@dataclass
class EmulatedRunner(Runner):
    """The operators on an emulated GPU: called now with NumPy's arrays, which are copied there, now with arrays that
    lie there as the test has laid them out. Makes a share of the comparisons that it is asked for.
    """

    driver: Any
    share: float
    _random: random.Random = field(default_factory=lambda: random.Random(1))

    def __call__(self, name: str, *arguments: Any, **options: Any) -> Any:
        """The operator's result, brought back where the arguments lay on the device."""
        from emulated import Call

        call = Call(self.driver, arguments, options)
        if self._random.random() < 0.5 or not call.on_device():
            return super().__call__(name, *arguments, **options)
        return call.bring_back(super().__call__(name, *call.arguments, **call.options))

    def part(self, cases: Iterable[Case], turn: int, of: int) -> list[Case]:
        """One in `of` of them, others at each turn: the product with all types says nothing that the CPU's does not.

        They shift from row to row of `of` cases, lest they always be the same of a pattern that repeats as often.
        """
        return [case for i, case in enumerate(cases) if (i + i // of - turn) % of == 0]

    def check(self, name: str, *arguments: Any, what: str = "", **options: Any) -> None:
        """The comparison, if it is one of the share."""
        if self._random.random() < self.share:
            super().check(name, *arguments, what=what, **options)

    def check_into(self, place: Place, name: str, *arguments: Any, what: str = "", **options: Any) -> None:
        """The comparison, if it is one of the share."""
        if self._random.random() < self.share:
            super().check_into(place, name, *arguments, what=what, **options)
