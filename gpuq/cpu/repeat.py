"""Calls on NumPy arrays that come again: what the first ones have checked and decided is kept for the later ones.

    call ─ key ─┬─ new ──► operator
                ├─ seen ─► operator; the step that its backend takes (steps.py) is kept
                └─ known ► memory for the results, the step

A key holds all that an operator and its backend decide by: the operator; the device and instruction set asked for;
numbers and names with their types; of arrays that are multiplied or walked over (DATA), and of `out`, type, shape and
memory order; of all other arrays, which are parameters, their elements; which packed matrix. How many threads there are
is no part of it: steps ask. What is neither goes to the operator itself, and so do parameters of more than MOST_BYTES,
an `out` that may overlap another array, and what raises an error.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from gpuq import arrays, dispatch
from gpuq.cpu import steps
from gpuq.cpu.block_weight import BlockWeight
from gpuq.cpu.pack import Packed
from gpuq.cpu.steps import Step
from gpuq.dispatch import Path
from gpuq.layout import Shape
from gpuq.packed import Prepacked
from gpuq.remembered import NAMES, NUMBERS, Recent

Array = npt.NDArray[Any]
DATA = {"matmul_integer": (0, 1), "scaled_matmul": (0, 1), "qlinear_matmul": (0, 3)}  # places of arguments
FIRST = (0,)  # of all other operators
DATA_NAMES = frozenset(("x", "q", "acc", "a", "b"))
MOST_BYTES = 1 << 14  # of a parameter: comparing it must take less time than the operator's checks
LAYOUT = 0x0503  # of an array's flags: C order, Fortran order, aligned, writable
MOST_CALLS = 1024
MOST_KEPT = 1 << 25  # bytes of the parameters that the steps of so many calls hold, one for each row and column
SEEN, NO_RECIPE = "seen", "no recipe"  # of a call that came once, and of one that cannot be repeated


class _UnknownError(Exception):
    """An argument that no key is made of."""


# the arrays among a call's arguments: data, packed matrices among them; parameters; an `out`, if there is one
Given = tuple[list[Any], list[Array], list[Array]]


class Result(NamedTuple):
    """An array that a call makes: its shape, the type that kernels see, its order, and the type that callers see, if it
    is another one.
    """

    shape: Shape
    storage: np.dtype[Any]
    order: Any
    type: np.dtype[Any] | None


class Recipe(NamedTuple):
    """All that is left of a call: `views`, what data and `out` are viewed as for the step, where that is another type;
    `results`, none where there is an `out`.
    """

    step: Step
    path: Path
    views: tuple[np.dtype[Any] | None, ...] | None
    results: tuple[Result, ...]
    any_retyped: bool


def _bytes_kept(recipe: Any) -> int:
    """Bytes of the arrays that a recipe keeps alive."""
    return getattr(recipe.step, "nbytes", 0) if type(recipe) is Recipe else 0


_recipes: Recent[tuple[Any, ...], Any] = Recent(MOST_CALLS, MOST_KEPT, _bytes_kept)


def repeat(operator: Callable[..., Any], arguments: tuple[Any, ...], options: dict[str, Any]) -> Any:
    """Call an operator whose first argument is a NumPy array; by the step of a call like it, if there was one."""
    given: Given = [], [], []
    try:
        key = _key(operator, arguments, options, given)
        recipe = _recipes.get(key)
    except Exception:  # whatever is wrong with an argument, the operator says it
        return operator(*arguments, **options)
    if type(recipe) is Recipe:
        result = _take(recipe, given)
        return operator(*arguments, **options) if result is None else result
    if recipe is SEEN:
        return _record(key, operator, arguments, options, given)
    if recipe is None:
        _recipes[key] = SEEN
    return operator(*arguments, **options)


# ---- the key ----


def _key(operator: Any, arguments: tuple[Any, ...], options: dict[str, Any], given: Given) -> tuple[Any, ...]:
    """The key of a call, its arrays noted in `given`; an exception where it has none."""
    key, (data, _, out) = [operator, dispatch.asked_for()], given
    places = DATA.get(operator.__name__, FIRST)
    for place, value in enumerate(arguments):
        kind = type(value)
        if kind is np.ndarray and place in places:
            key += (value.dtype, value.shape, value.flags.num & LAYOUT)
            data.append(value)
        elif kind in NUMBERS:
            key += (kind, value or str(value))  # 0.0 and -0.0, which are equal, differ
        elif isinstance(value, Prepacked):
            key.append(weakref.ref(value))  # equal to no other, also once this matrix is gone
            data.append(value._packed)
        else:
            _add(key, value, given)
    for name, value in options.items():
        key.append(name)
        if name == "out" and type(value) is np.ndarray:
            key += (value.dtype, value.shape, value.flags.num & LAYOUT, data[0] is value)
            out.append(value)
        elif name in DATA_NAMES:
            raise _UnknownError
        else:
            _add(key, value, given)
    return tuple(key)


def _add(key: list[Any], value: Any, given: Given) -> None:
    """Add a parameter or an option to a key; an exception where it can be in none."""
    kind = type(value)
    if kind in NAMES:
        key += (kind, value)
    elif kind in NUMBERS:
        key += (kind, value or str(value))
    elif kind is np.ndarray and value.nbytes <= MOST_BYTES:
        key += (value.dtype, value.shape, value.tobytes())
        given[1].append(value)
    elif kind is tuple:
        key += (tuple, len(value))
        for part in value:
            _add(key, part, given)
    elif isinstance(value, np.dtype):
        key += (np.dtype, value)
    else:
        raise _UnknownError


# ---- a call that is seen again ----


def _record(
    key: tuple[Any, ...], operator: Callable[..., Any], arguments: Any, options: dict[str, Any], given: Given
) -> Any:
    """Call an operator, and keep the step it takes where calls like it may take the same."""
    with steps.listening() as taken:
        result = operator(*arguments, **options)
    _recipes[key] = _recipe(taken, given, result) or NO_RECIPE
    return result


def _recipe(taken: list[tuple[Step, int]], given: Given, result: Any) -> Recipe | None:
    """What is kept of a call: nothing where data are converted before the step, or results after it."""
    path, made = dispatch.last_path(), result if isinstance(result, tuple) else (result,)
    if len(taken) != 1 or path is None or path.device != "cpu":
        return None
    (step, count), (data, _, out) = taken[0], given
    if count != len(data) + len(made) or not all(map(_is_plain, (*data, *made))):
        return None
    views = tuple(_storage(array) for array in (*data, *out))
    results = () if out else tuple(map(_result, made))
    any_retyped = any(result.type is not None for result in results)
    return Recipe(step, path, views if any(view is not None for view in views) else None, results, any_retyped)


def _is_plain(array: Any) -> bool:
    """Whether kernels take an array's memory as it is."""
    if type(array) is not np.ndarray:
        return isinstance(array, (Packed, BlockWeight))
    return array.dtype.isnative and arrays.name_and_storage(array.dtype)[0] not in ("int4", "uint4")


def _storage(array: Any) -> np.dtype[Any] | None:
    """What an array is viewed as, where that is another type than its own."""
    return arrays.name_and_storage(array.dtype)[1] if type(array) is np.ndarray else None


def _result(array: Array) -> Result:
    storage, flags = _storage(array), array.flags
    order = "F" if flags.f_contiguous and not flags.c_contiguous else "C"
    return Result(array.shape, storage or array.dtype, order, None if storage is None else array.dtype)


# ---- a known call ----


def _take(recipe: Recipe, given: Given) -> Any:
    """Do what a recipe says; None where the operator has to look at the call itself."""
    step, path, views, results, any_retyped = recipe
    sources, parameters, out = given
    if out:
        if _may_overlap(out[0], sources, parameters):
            return None
        sources = [*sources, *out]
    if views is not None:
        sources = [array if view is None else array.view(view) for array, view in zip(sources, views, strict=True)]
    made = [np.empty(shape, storage, order) for shape, storage, order, _ in results]
    dispatch.record_path(path)
    if step(*sources, *made):  # a sum did not fit: the operator says it
        return None
    if out:
        return out[0]
    if any_retyped:
        made = [each if type is None else each.view(type) for each, (_, _, _, type) in zip(made, results, strict=True)]
    return made[0] if len(made) == 1 else tuple(made)


def _may_overlap(out: Array, data: list[Any], parameters: list[Array]) -> bool:
    """Whether `out` may share memory with another argument: the operator looks closer. That it is the first one is in
    the key.
    """
    first, *others = data
    if first is not out and np.may_share_memory(out, first):
        return True
    return any(type(array) is np.ndarray and np.may_share_memory(out, array) for array in (*others, *parameters))
