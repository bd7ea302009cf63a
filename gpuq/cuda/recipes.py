"""What a call on a GPU's arrays does, as a list of steps that any call like it may take: a recipe.

    operator ─ call.run ─► backend ─ launch, empty, fill ─► Draft ─► Recipe ─ with the addresses of a call ─► Work

A draft is a `Work` that does nothing but take notes. The backend plans for arrays that lie where no memory is, each at
an address of its own; so every address among a kernel's numbers shows by its value which array it is of, and how far
from its first element. Made-up addresses have the remainder modulo ALIGNMENT of the real ones, and are multiples of
nothing larger: what a backend decides by an address holds for all addresses of that remainder.

Steps that wait, or read what the host holds, make a call that has no recipe; it is carried out as it comes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, NoReturn

import numpy as np
import numpy.typing as npt

from gpuq.cuda import driver
from gpuq.cuda.arguments import ADDRESS, Arguments
from gpuq.cuda.driver import Device, Launch
from gpuq.cuda.launch import Work
from gpuq.cuda.memory import OwnedMemory
from gpuq.device_array import DeviceArray, address_of, device_array

ALIGNMENT = 16  # of the widest access; no backend looks at more of an address
MADE_UP = 1 << 60  # from here on lie no arrays, and what counts their elements is smaller
SPAN_BITS = 52  # of the made-up memory of an array
LONGEST_STEP = 1 << 48


class Unrepeatable(Exception):  # noqa: N818 - no error: the call takes the other way
    """What a call does depends on more than a recipe knows."""


class Place(NamedTuple):
    """Where an address comes from: array number `array` of the call and its workspace, and the bytes from its own."""

    array: int
    offset: int


class Start(NamedTuple):
    """Start a kernel with these numbers, of which some are addresses: their index, array and offset. `spare` are
    arguments that no thread is using.
    """

    launch: Launch
    numbers: tuple[Any, ...]
    addresses: tuple[tuple[int, int, int], ...]
    spare: list[Arguments]

    def carry_out(self, work: Work, addresses: list[int]) -> None:
        """With the addresses of a call."""
        try:
            arguments = self.spare.pop()
        except IndexError:
            arguments = Arguments(self.launch.kinds, self.numbers)
        words = arguments.words
        for index, array, offset in self.addresses:
            words[index] = addresses[array] + offset
        work.device.start(self.launch, arguments, work.stream)
        self.spare.append(arguments)


class Fill(NamedTuple):
    """Set so many bytes."""

    place: Place
    byte: int
    size: int

    def carry_out(self, work: Work, addresses: list[int]) -> None:
        """With the addresses of a call."""
        array, offset = self.place
        driver.call("cuMemsetD8Async", addresses[array] + offset, self.byte, self.size, work.stream)


class Steps(NamedTuple):
    """The steps of a call in their order, and the bytes of each piece of workspace that they use."""

    workspace: tuple[int, ...]
    steps: tuple[Start | Fill, ...]

    def carry_out(self, work: Work, addresses: Sequence[int]) -> None:
        """Take the steps for arrays at these addresses."""
        known = [*addresses, *[work.allocate(size) for size in self.workspace]]
        for step in self.steps:
            step.carry_out(work, known)


class Draft(Work):
    """Takes notes of what a backend would do with arrays at `addresses`, whose owners are `arrays`."""

    def __init__(self, device: Device, arrays: Sequence[Any], addresses: Sequence[int]) -> None:
        super().__init__(device, 0)
        self._numbers = {id(owner): number for number, owner in reversed(list(enumerate(arrays)))}
        self._addresses = addresses
        self._made_up = [self._place_of(number, address % ALIGNMENT) for number, address in enumerate(addresses)]
        self._sizes: list[int] = []
        self._steps: list[Start | Fill] = []

    @property
    def steps(self) -> Steps:
        """What was noted."""
        return Steps(tuple(self._sizes), tuple(self._steps))

    @staticmethod
    def _place_of(number: int, remainder: int) -> int:
        """A made-up address: the middle of an array's span, aligned to ALIGNMENT and no more."""
        return MADE_UP + (number << SPAN_BITS) + (1 << SPAN_BITS - 1) + ALIGNMENT + remainder

    def moved(self, value: Any) -> Any:
        """An argument of the backend with the call's arrays at their made-up addresses, wherever in tuples they are."""
        if type(value) is DeviceArray:
            return self._moved_array(value)
        if isinstance(value, tuple):
            items = [self.moved(item) for item in value]
            return type(value)(*items) if hasattr(value, "_fields") else tuple(items)
        return value

    def _moved_array(self, array: DeviceArray) -> DeviceArray:
        if array.size == 0 or type(array.owner) is OwnedMemory:  # read by nobody; kept by a packed matrix
            return array
        number = self._numbers.get(id(array.owner))
        if number is None or any(abs(step) > LONGEST_STEP for step in array.strides):
            raise Unrepeatable
        address = self._made_up[number] + address_of(array) - self._addresses[number]
        read_only = not array.flags.writeable
        return device_array(address, array.shape, array.dtype, array.strides, array.owner, read_only, array.type)

    def _origin(self, address: int) -> Place:
        if address < MADE_UP:
            raise Unrepeatable
        number = address - MADE_UP >> SPAN_BITS
        return Place(number, address - self._made_up[number])

    # ---- what a backend asks for ----

    def empty(self, shape: tuple[int, ...] | int, dtype: npt.DTypeLike) -> DeviceArray:  # noqa: D102
        shape, kind = (shape,) if isinstance(shape, int) else shape, np.dtype(dtype)
        size = math.prod(shape) * kind.itemsize
        return device_array(self.allocate(size) if size else 0, shape, kind)

    def allocate(self, size: int) -> int:  # noqa: D102
        self._sizes.append(size)
        self._made_up.append(self._place_of(len(self._made_up), -ALIGNMENT))
        return self._made_up[-1]

    def input(self, array: Any) -> DeviceArray:  # noqa: D102
        if isinstance(array, DeviceArray):
            return array
        raise Unrepeatable

    result = input

    def fill(self, array: DeviceArray, byte: int = 0) -> None:  # noqa: D102
        if array.size:
            self._steps.append(Fill(self._origin(address_of(array)), byte, array.nbytes))

    def launch(self, kernel: Any, grid: tuple[int, ...] | int, *arguments: Any) -> None:  # noqa: D102
        launch, numbers = self.prepared(kernel, grid, arguments)
        found = [
            (index, *self._origin(number))
            for index, (number, kind) in enumerate(zip(numbers, launch.kinds, strict=True))
            if kind == ADDRESS and number >= MADE_UP
        ]
        self._steps.append(Start(launch, numbers, tuple(found), []))

    def _refuse(self, *_: Any) -> NoReturn:
        raise Unrepeatable

    keep = read = wait = refuse_capture = _refuse  # type: ignore[assignment]


def draft(
    device: Device, arrays: Sequence[Any], addresses: Sequence[int], function: Callable[..., Any], arguments: Any
) -> Steps | None:
    """The steps of a backend's function for its arguments; None where they are not those of all calls like it."""
    notes = Draft(device, arrays, addresses)
    try:
        answer = function(notes, *notes.moved(tuple(arguments)))
    except Unrepeatable:
        return None
    return None if answer else notes.steps
