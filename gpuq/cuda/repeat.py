"""Calls on arrays of a GPU that come again: what one does is worked out, and the later ones take its steps.

    call ─ key ─┬─ new ──► operator: all checks, the work as it comes
                ├─ seen ─► operator: all checks; Call.run drafts the steps of the work, takes and keeps them
                └─ known ► result from the arrays' library, stream, order after writers; the steps

The steps are those of recipes.py. An operator that calls others has the steps of all of them; what one leaves to the
next is workspace when they come again. A key holds all that an operator and its backend decide
by: the operator; numbers and names with their types; of every array library, type, shape, strides, device, whether it
may be written, and its address modulo ALIGNMENT; of a QTensor its arrays and how they go together; which packed matrix.
It does not hold addresses, the stream and the contents. An `out` that may overlap another argument, and what is neither
a number, a name nor an array on a GPU, goes to the operator itself, and so does every call under GPUQ_CHECK=1.

No step changes once it is noted, so any thread may take it; a process forked from one that used CUDA takes none.
"""

from __future__ import annotations

import sys
import threading
import weakref
from collections.abc import Callable
from types import NoneType
from typing import Any, NamedTuple

import numpy as np

from gpuq import arrays, device_views, dispatch, dlpack, environment
from gpuq.block_products import PackedQTensor
from gpuq.cuda import driver, streams
from gpuq.cuda.driver import Device
from gpuq.cuda.launch import Work
from gpuq.cuda.memory import OwnedArray
from gpuq.cuda.recipes import ALIGNMENT, Steps, draft
from gpuq.device_array import DeviceArray, address_of
from gpuq.dispatch import Path
from gpuq.layout import Shape
from gpuq.packed import PackedMatrix
from gpuq.qtensor import QTensor
from gpuq.remembered import NAMES, NUMBERS

REMAINDER = ALIGNMENT - 1
SEEN, NO_RECIPE = "seen", "no recipe"  # of a call that came once, and of one that cannot be repeated
MOST_PARTS = 4  # of a call: what they leave to each other is kept until its end
NOTED_AT_ONCE = False  # else at the second call: a parameter that is another one each time is not worth the notes


class _UnknownError(Exception):
    """An argument that no key is made of."""


class Given:
    """The arrays among a call's arguments: `owners`, the caller's objects; `writers`, streams that still write them."""

    __slots__ = ("addresses", "owners", "writers")

    def __init__(self) -> None:
        self.owners: list[Any] = []
        self.addresses: list[int] = []
        self.writers: list[int] = []


class Result(NamedTuple):
    """An array that a call makes: beside which argument, of what shape and type, its address modulo ALIGNMENT."""

    like: int
    shape: Shape
    type: str
    remainder: int


class Apart(NamedTuple):
    """Memory overlaps where the address of `out`, less that of an array, is above the least and below the most."""

    array: int
    least: int
    most: int


class Part(NamedTuple):
    """Steps that know the first `arrays` of a call's arrays and results."""

    arrays: int
    steps: Steps


class Recipe(NamedTuple):
    """All that a call does. `between` are the bytes of what its parts leave to each other, and come before its results;
    `out` is the number of that array, None where there are results; `apart` tells how far it must be from others.
    """

    device: Device
    path: Path
    between: tuple[int, ...]
    results: tuple[Result, ...]
    out: int | None
    apart: tuple[Apart, ...]
    parts: tuple[Part, ...]


class Recording:
    """What the first call of its kind does, noted by `Call` on the way."""

    def __init__(self, given: Given) -> None:
        self._given = given
        self._results: list[tuple[DeviceArray, Result]] = []
        self._device: Device | None = None
        self._parts: list[Part] = []
        self._runs = 0

    def made(self, array: DeviceArray, like: Any) -> None:
        """Note an array that was made for a result."""
        place = next((place for place, owner in enumerate(self._owners()) if owner is like), -1)
        if place >= len(self._given.owners):  # like what an argument made another one like
            place = self._results[place - len(self._given.owners)][1].like
        result = Result(place, array.shape, array.type, address_of(array) & REMAINDER if array.size else 0)
        self._results.append((array, result))

    def _owners(self) -> list[Any]:
        return [*self._given.owners, *(array.owner for array, _ in self._results)]

    def plan(self, device: Device, function: Callable[..., Any], arguments: Any) -> tuple[Steps, list[int]] | None:
        """The steps of the backend's function and the addresses to take them for; None where it is to be called."""
        addresses = [*self._given.addresses, *(address_of(array) for array, _ in self._results)]
        known = len(self._parts) == self._runs < MOST_PARTS and self._device in (None, device)
        known = known and all(result.like >= 0 for _, result in self._results)
        self._runs, self._device = self._runs + 1, device
        steps = draft(device, self._owners(), addresses, function, arguments) if known else None
        if steps is None:
            return None
        self._parts.append(Part(len(addresses), steps))
        return steps, addresses

    def recipe(self, out: Any, returned: Any) -> Recipe | None:
        """What was noted, once the call is done."""
        path = dispatch.last_path()
        if self._device is None or len(self._parts) < self._runs or path is None:
            return None
        owners = self._given.owners
        number = next((place for place, owner in enumerate(owners) if owner is out), None)
        apart = () if number is None else _apart(owners, number)
        count = 0 if number is not None else len(returned) if isinstance(returned, tuple) else 1
        first = len(self._results) - count
        between = tuple(array.nbytes for array, _ in self._results[:first])
        if any(result.remainder for _, result in self._results[:first]):  # workspace has none
            return None
        results = tuple(result for _, result in self._results[first:])
        return Recipe(self._device, path, between, results, number, apart, tuple(self._parts))


_thread = threading.local()


def recording() -> Recording | None:
    """The recording of this thread's call, if there is one."""
    return getattr(_thread, "recording", None)


def repeat(operator: Callable[..., Any], arguments: tuple[Any, ...], options: dict[str, Any]) -> Any:
    """Call an operator; by the steps of a call like it, if there was one. Where it is part of a call that is noted, it
    is carried out for those notes.
    """
    if recording() is not None:
        return operator(*arguments, **options)
    given = Given()
    key = _key(operator, arguments, options, given)
    process = None if key is None else driver.usable_process()
    if process is None or environment.read("GPUQ_CHECK") == "1":
        return operator(*arguments, **options)
    recipe = process.recipes.get(key)
    if type(recipe) is Recipe:
        taken = _take(recipe, given, options.get("stream"))
        return operator(*arguments, **options) if taken is None else taken
    if recipe is SEEN or recipe is None and NOTED_AT_ONCE:
        return _record(process.recipes, key, operator, arguments, options, given)
    if recipe is None:
        process.recipes[key] = SEEN
    return operator(*arguments, **options)


def _record(
    recipes: Any, key: Any, operator: Callable[..., Any], arguments: Any, options: dict[str, Any], given: Given
) -> Any:
    """Call an operator, and keep what it does where calls like it may do the same."""
    noted = Recording(given)
    _thread.recording = noted
    try:
        result = operator(*arguments, **options)
    finally:
        _thread.recording = None
    recipes[key] = noted.recipe(options.get("out"), result) or NO_RECIPE
    return result


# ---- the key ----


def _key(operator: Any, arguments: tuple[Any, ...], options: dict[str, Any], given: Given) -> tuple[Any, ...] | None:
    """The key of a call, its arrays noted in `given`; None where it has none, or no arrays on a GPU."""
    key, torch = [operator], sys.modules.get("torch")
    try:
        tensor = NoneType if torch is None else torch.Tensor
        for value in arguments:
            _add(key, value, given, tensor)
        for name, value in options.items():
            if name != "stream":
                key.append(name)
                _add(key, value, given, tensor)
    except Exception:  # whatever is wrong with an argument, the operator says it
        return None
    owners = given.owners
    if len(owners) > 1 and len(set(given.addresses)) < len(owners):
        key += [next(place for place, other in enumerate(owners) if other is owner) for owner in owners]
    return tuple(key) if owners else None


def _add(key: list[Any], value: Any, given: Given, tensor: Any) -> None:
    """Add an argument to a key; an exception where it can be in none."""
    kind = type(value)
    key.append(kind)
    if kind in NUMBERS:
        key.append(value or str(value))  # 0.0 and -0.0, which are equal, differ
    elif kind in NAMES:
        key.append(value)
    elif isinstance(value, tensor):
        _add_tensor(key, value, given)
    elif kind is OwnedArray:
        _add_owned(key, value, given)
    elif kind is arrays.View:
        _add_view(key, value, given, tensor)
    elif kind is PackedMatrix:
        key.append(weakref.ref(value))  # equal to no other, also once this matrix is gone
    elif kind is QTensor:
        _add_qtensor(key, value, given, tensor)
    elif kind is PackedQTensor:
        key += map(weakref.ref, value.parts)
        _add_qtensor(key, value.unpacked, given, tensor)
    elif isinstance(value, np.dtype) or kind.__name__ == "dtype" and kind.__module__ == "torch":
        key.append(value)
    else:
        _add_interface(key, value, given)


def _add_qtensor(key: list[Any], value: QTensor, given: Given, tensor: Any) -> None:
    key += (value.axis, value.block_size, str(value.dtype))
    for array in (value.data, value.scale, value.zero_point):
        _add(key, array, given, tensor)


def _add_view(key: list[Any], value: Any, given: Given, tensor: Any) -> None:
    """A part of an array, or its elements in another shape."""
    _add(key, value.owner, given, tensor)
    array = value.array
    key += (array.shape, array.strides, address_of(array) - given.addresses[-1] if array.size else 0)


def _add_tensor(key: list[Any], value: Any, given: Given) -> None:
    if not value.is_cuda:
        raise _UnknownError
    address, place = value.data_ptr(), value.get_device()
    key += (value.dtype, value.layout, value.shape, value.stride(), value.is_neg(), place, address & REMAINDER)
    given.owners.append(value)
    given.addresses.append(address)


def _add_owned(key: list[Any], value: OwnedArray, given: Given) -> None:
    key += (value.dtype, value.shape, value.device.index, value.address & REMAINDER)
    given.owners.append(value)
    given.addresses.append(value.address)
    if value.stream is not None:
        given.writers.append(value.stream)


def _add_interface(key: list[Any], value: Any, given: Given) -> None:
    interface = value.__cuda_array_interface__
    address, read_only = interface["data"]
    address, strides, writer = address or 0, interface.get("strides"), interface.get("stream")
    if interface.get("mask") is not None:
        raise _UnknownError
    key += (interface["typestr"], tuple(interface["shape"]), None if strides is None else tuple(strides))
    key += (read_only, driver.device_of(address), address & REMAINDER)
    given.owners.append(value)
    given.addresses.append(address)
    if writer is not None:
        given.writers.append(dlpack.driver_stream(writer))


# ---- a known call ----


def _take(recipe: Recipe, given: Given, stream: Any) -> Any:
    """Do what a recipe says; None where the operator has to look at the call itself."""
    device, path, between, results, out, apart, parts = recipe
    owners, addresses = given.owners, given.addresses
    number = None if stream is None else streams.stream_number(stream)
    if number is None and stream is not None:
        return None
    for array, least, most in apart:
        if least < addresses[out] - addresses[array] < most:  # type: ignore[index]
            return None
    number = streams.choose_stream(number, owners, device.index)
    made = [
        device_views.empty_like(owners[like], device.index, shape, kind, number) for like, shape, kind, _ in results
    ]
    last = list(map(_address, made))
    for address, result in zip(last, results, strict=True):
        if address & REMAINDER != result.remainder:
            return None
    dispatch.record_path(path)
    with Work(device, number) as work:
        for writer in given.writers:
            device.order(writer, number)
        addresses += [work.allocate(size) if size else 0 for size in between]
        addresses += last
        for count, steps in parts:
            steps.carry_out(work, addresses[:count])
    if out is not None:
        return owners[out]
    if len(made) == 1:
        return device_views.like(owners[results[0].like], made[0])
    return tuple(device_views.like(owners[result.like], array) for result, array in zip(results, made, strict=True))


def _apart(owners: list[Any], out: int) -> tuple[Apart, ...]:
    """What `out` must not overlap; not the argument that it is itself, where the operator has allowed it."""
    first, last = _extent(owners[out])
    extents = [(place, *_extent(owner)) for place, owner in enumerate(owners) if owner is not owners[out]]
    return tuple(Apart(place, low - last, high - first) for place, low, high in extents)


def _extent(owner: Any) -> tuple[int, int]:
    """The first byte of an array and that after its last one, counted from its address."""
    view = arrays.view(owner)
    assert view is not None
    array = view.array
    if array.size == 0:
        return 0, 0
    low, high = np.lib.array_utils.byte_bounds(array)
    begin = address_of(array)
    return int(low) - begin, int(high) - begin


def _address(made: Any) -> int:
    """The address of a new array."""
    if type(made) is OwnedArray:
        return made.address
    if hasattr(made, "data_ptr"):
        return int(made.data_ptr())
    view = arrays.view(made)
    assert view is not None
    return address_of(view.array) if view.array.size else 0
