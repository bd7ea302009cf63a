"""Every TypeError and ValueError of the operators on arrays: what the caller gave becomes what kernels may rely on.

Each function takes an argument's name and value and returns the checked value, or raises an error that names the
argument, what came and what is accepted. All of it happens before an output is touched.
"""

from __future__ import annotations

import math
import operator
import os
import re
from collections.abc import Iterable, Mapping
from typing import Any, NoReturn, TypeVar

import numpy as np
import numpy.typing as npt

from gpuq import arrays
from gpuq.arithmetic import FLOAT32_MAX, INT32_MAX, INT32_MIN, SMALLEST_NORMAL
from gpuq.arrays import View
from gpuq.device_array import DeviceArray
from gpuq.dtypes import QUANTIZED, REAL, QuantizedType, type_name
from gpuq.layout import Granularity, MatmulShape, Shape, matmul_shape

Array = npt.NDArray[Any]
T = TypeVar("T")
DEVICE_NAME = re.compile(r"cpu|cuda(:[0-9]+)?")
INT8_TYPES = ("int8", "uint8")
SMALLEST_FLOAT32 = 2.0**-149
PYTHON_NUMBERS, NO_NUMBERS = (int, float), (bool, np.generic)
LARGEST_REAL = math.nextafter(2.0**30 - 0.25, 0.0)  # from 2^30 − 1/4 on, m rounds to 2^31 and shift would be 31
OVERLAP_WORK: Any = 10_000  # steps of NumPy's exact test before an overlap is assumed


def _refuse(error: type[Exception], argument: str, came: object, accepted: str) -> NoReturn:
    raise error(f"{argument}: got {came}; accepted: {accepted}")


def _kind_of(value: object) -> str:
    return f"an object of type {type(value).__name__}"


# ---- plain arguments ----


def choice(argument: str, value: object, accepted: Mapping[str | None, T]) -> T:
    """One of a few names."""
    if not (value is None or isinstance(value, str)):
        _refuse(TypeError, argument, _kind_of(value), ", ".join(map(repr, accepted)))
    if value not in accepted:
        _refuse(ValueError, argument, repr(value), ", ".join(map(repr, accepted)))
    return accepted[value]


def flag(argument: str, value: object) -> bool:
    """A truth value, and nothing that merely has one."""
    if not isinstance(value, (bool, np.bool_)):
        _refuse(TypeError, argument, _kind_of(value), "True, False")
    return bool(value)


def integer(argument: str, value: Any, lowest: int | None = None) -> int:
    """An integer, at least `lowest`."""
    if isinstance(value, (bool, np.bool_)) or not hasattr(value, "__index__"):
        _refuse(TypeError, argument, _kind_of(value), "an integer")
    if lowest is not None and operator.index(value) < lowest:
        _refuse(ValueError, argument, value, f"an integer of at least {lowest}")
    return operator.index(value)


def device_name(argument: str, value: object) -> str | None:
    """None or the name of a device, present or not."""
    accepted = "None, 'cpu', 'cuda', 'cuda:N'"
    if value is not None and not isinstance(value, str):
        _refuse(TypeError, argument, _kind_of(value), accepted)
    if value is not None and not DEVICE_NAME.fullmatch(value):
        _refuse(ValueError, argument, repr(value), accepted)
    return value


def one_device(forced: str | None, array_devices: Mapping[str, str], packed: str | None = None) -> str | None:
    """The device that a call is bound to by where its arrays lie: a GPU's arrays, or a packed matrix; None where only
    arrays on the CPU are given, which can be copied anywhere.
    """
    first, where = next(iter(array_devices.items()), ("", "cpu"))
    for argument, other in array_devices.items():
        if other != where:
            _refuse(ValueError, argument, f"an array on {other}, but {first} is on {where}", "arrays on one device")
    bound = where if where != "cpu" else packed
    if packed is not None and bound != packed:
        _refuse(ValueError, "b", f"a matrix packed on {packed}, but {first} is on {where}", "arrays on one device")
    if bound is not None and forced not in (None, bound, bound.partition(":")[0]):
        _refuse(ValueError, "device", f"{forced!r}, but {first or 'b'} is on {bound}", "the device of the arrays")
    return bound


def dtype(argument: str, value: object, accepted: Iterable[str]) -> str:
    """The name of an element type."""
    name = type_name(value)
    if name is None or name not in (*QUANTIZED, *REAL) or name not in accepted:
        _refuse(TypeError, argument, repr(value), ", ".join(accepted))
    return name


def absent(argument: str, value: object, accepted: str) -> None:
    """An argument that must not be given here."""
    if value is not None:
        _refuse(ValueError, argument, repr(value), accepted)


def stream(value: object, device: str) -> int | None:
    """The driver's handle of a stream; only CUDA has streams."""
    if value is None:
        return None
    if device == "cpu":
        _refuse(ValueError, "stream", repr(value), "None on the CPU")
    from gpuq.cuda.streams import stream_number

    number = stream_number(value)
    if number is None:
        _refuse(TypeError, "stream", _kind_of(value), "a stream of torch, CuPy or Numba, or its handle")
    return number


# ---- arrays ----


def array(argument: str, value: object, accepted: Iterable[str]) -> View:
    """An array of one of the accepted element types."""
    view = arrays.view(value)
    if view is None:
        _refuse(TypeError, argument, _kind_of(value), f"an array of {', '.join(accepted)}")
    if view.type not in accepted:
        _refuse(TypeError, argument, f"an array of {view.type}", ", ".join(accepted))
    return view


def scale(argument: str, value: object) -> Array:
    """Scales as a float32 array: each above 0 and finite, also after rounding to float32; on a GPU as they are."""
    given = _numbers(argument, value, tuple(REAL), "a float or an array of")
    if isinstance(given, DeviceArray):
        return given
    with np.errstate(over="ignore", under="ignore"):
        scales = given.astype(np.float32)
    if not _all_within(scales, SMALLEST_FLOAT32, FLOAT32_MAX):
        bad = scales[~((scales > 0) & (scales < math.inf))]
        _refuse(ValueError, argument, f"the value {bad[0]} (as float32)", "finite scales above 0")
    return scales


def zero_point(argument: str, value: object, kind: QuantizedType, narrow_range: bool = False) -> Array:
    """Zero points as an int64 array: of type `kind`, or Python ints within its range; on a GPU as they are."""
    if value is None:
        value = 0
    names = (kind.name,) if isinstance(value, (np.ndarray, np.generic)) else (kind.name, kind.storage.name)
    accepted = f"{kind.lowest(narrow_range)} … {kind.qmax} ({kind.name}{', narrow range' * narrow_range})"
    return _integers(argument, value, names, (kind.lowest(narrow_range), kind.qmax), accepted)


def int32_numbers(argument: str, value: object, lowest: int = INT32_MIN, highest: int = INT32_MAX) -> Array:
    """int32 numbers (bias, fixed-point multiplier, shift) as an int64 array; Python ints within their range."""
    return _integers(argument, value, ("int32",), (lowest, highest), f"{lowest} … {highest}")


def real_numbers(argument: str, value: object) -> Array:
    """Real numbers of any value (a float bias) rounded to float32; on a GPU as they are."""
    given = _numbers(argument, value, tuple(REAL), "a float or an array of")
    with np.errstate(over="ignore", under="ignore"):
        return given if isinstance(given, DeviceArray) else given.astype(np.float32)


def multiplier(argument: str, value: object) -> Array:
    """Multipliers of accumulators as float64: finite and not negative; on a GPU as they are."""
    given = _numbers(argument, value, tuple(REAL), "a float or an array of")
    if isinstance(given, DeviceArray):
        return given
    numbers = given.astype(np.float64)
    if not _all_within(numbers, 0, FLOAT32_MAX):
        bad = numbers[~((numbers >= 0) & (numbers <= FLOAT32_MAX))]
        _refuse(ValueError, argument, f"the value {bad[0]}", "multipliers from 0 to float32's largest number")
    return numbers


def ranges(rmin: object, rmax: object) -> tuple[Array, Array]:
    """Bounds of ranges as contiguous float64 arrays of one shape: finite and in order."""
    bounds = [_host_numbers(name, value) for name, value in (("rmin", rmin), ("rmax", rmax))]
    for argument, values in zip(("rmin", "rmax"), bounds, strict=True):
        if not np.isfinite(values).all():
            _refuse(ValueError, argument, f"the value {values[~np.isfinite(values)][0]}", "finite numbers")
    try:
        low, high = (np.array(values, np.float64) for values in np.broadcast_arrays(*bounds))
    except ValueError:
        _refuse(
            ValueError, "rmax", f"shape {bounds[1].shape} with rmin of shape {bounds[0].shape}", "shapes that broadcast"
        )
    if (low > high).any():
        _refuse(ValueError, "rmin", f"the value {low[low > high][0]}, above rmax", "rmin ≤ rmax")
    return low, high


def fixed_point_reals(argument: str, value: object) -> Array:
    """Multipliers to be written in fixed point, as contiguous float64: those whose shift is at most 30."""
    numbers = np.array(_host_numbers(argument, value), np.float64)
    if not _all_within(numbers, 0, LARGEST_REAL):
        bad = numbers[~((numbers >= 0) & (numbers <= LARGEST_REAL))]
        _refuse(ValueError, argument, f"the value {bad[0]}", "finite values from 0 to below 2^30 − 1/4")
    return numbers


def zero_point_type(argument: str, value: object, accepted: Iterable[str]) -> QuantizedType:
    """The quantized type that a zero point carries; uint8 for None and Python ints."""
    view = arrays.view(value)
    if view is None:
        return QUANTIZED["uint8"]
    if view.type not in accepted:
        _refuse(TypeError, argument, f"an array of {view.type}", ", ".join(accepted))
    return QUANTIZED[view.type]


def quantized_type(zero_point: object, wanted: object) -> QuantizedType:
    """The type of codes: `dtype` where given, else the zero point's, else uint8."""
    if wanted is None:
        return zero_point_type("zero_point", zero_point, QUANTIZED)
    return QUANTIZED[dtype("dtype", wanted, QUANTIZED)]


def multiplier_and_shift(value: Any, mode: str) -> tuple[Array, Array]:
    """The multipliers of `requantize`: float64 and no shift, or the pair of the fixed-point modes as int64."""
    if not mode.startswith("fixed_point"):
        return multiplier("multiplier", value), np.zeros((), np.int64)
    if not isinstance(value, (tuple, list)) or len(value) != 2:
        _refuse(TypeError, "multiplier", _kind_of(value), f"a pair (multiplier, shift) of int32 in mode {mode!r}")
    return int32_numbers("multiplier", value[0], 0), int32_numbers("shift", value[1], -31, 30)


def y_scale(value: object, activation: str | None) -> Array:
    """The result's scale, which relu6 needs; 1 where it is not given."""
    if value is None and activation == "relu6":
        _refuse(ValueError, "y_scale", "None", "the result's scale where activation is 'relu6'")
    return scale("y_scale", 1.0 if value is None else value)


def _all_within(values: Array, low: float, high: float) -> bool:
    """Whether every value lies in low … high, which NaN does not; one value is looked at without NumPy's reductions."""
    if values.size == 1:
        return bool(low <= values.item() <= high)
    return values.size == 0 or bool(low <= values.min() and values.max() <= high)


def _integers(
    argument: str, value: object, names: tuple[str, ...], limits: tuple[int, int], accepted_values: str
) -> Array:
    """Integers of one of the named types, or Python ints (one, or a list of them), within limits, as int64."""
    accepted = f"an int or an array of {names[0]}"
    low, high = limits
    if isinstance(value, (list, tuple)) and any(isinstance(number, np.generic) for number in value):
        value = np.asarray(value)
    if isinstance(value, (int, list, tuple)) and not isinstance(value, bool):
        numbers = np.asarray(value, dtype=object)
        for number in numbers.flat:
            if not isinstance(number, int) or isinstance(number, bool):
                _refuse(TypeError, argument, _kind_of(number), accepted)
            if not low <= number <= high:
                _refuse(ValueError, argument, f"the value {_brief(number)}", accepted_values)
        return numbers.astype(np.int64)
    view = arrays.view(value)
    if view is None:
        _refuse(TypeError, argument, _kind_of(value), accepted)
    if view.type not in names:
        _refuse(TypeError, argument, f"an array of {view.type}", accepted)
    given = arrays.readable(_checkable(view))
    if isinstance(given, DeviceArray):
        return given
    points = given.astype(np.int64)
    if not _all_within(points, low, high):
        _refuse(ValueError, argument, f"the value {points[(points < low) | (points > high)][0]}", accepted_values)
    return points


def _brief(number: int) -> str:
    """A Python int, or the size of one too long to read (and, past Python's limit, to print)."""
    return str(number) if number.bit_length() <= 128 else f"an integer of {number.bit_length()} bits"


def _numbers(argument: str, value: object, names: tuple[str, ...], what: str) -> Array:
    """Real numbers: a Python number, a list of them, or an array of one of the named types, as float32 or float64."""
    accepted = f"{what} {', '.join(names)}"
    if isinstance(value, PYTHON_NUMBERS) and not isinstance(value, NO_NUMBERS):
        return np.asarray(_float64(argument, value, accepted))
    if isinstance(value, (list, tuple)):
        numbers = np.asarray(value, dtype=object)
        for number in numbers.flat:
            if not isinstance(number, (*PYTHON_NUMBERS, np.floating)) or isinstance(number, bool):
                _refuse(TypeError, argument, f"{number!r} in a list", accepted)
        floats = [_float64(argument, number, accepted) for number in numbers.flat]
        return np.asarray(floats, np.float64).reshape(numbers.shape)
    view = arrays.view(value)
    if view is None:
        _refuse(TypeError, argument, _kind_of(value), accepted)
    if view.type not in names:
        _refuse(TypeError, argument, f"an array of {view.type}", accepted)
    return arrays.real_numbers(_checkable(view))


def _host_numbers(argument: str, value: object) -> Array:
    """The same, for functions that compute on the host: copied from a GPU."""
    view = arrays.view(value)
    if view is not None and view.type in REAL:
        return arrays.real_numbers(arrays.on_host(view))
    return _numbers(argument, value, tuple(REAL), "a float or an array of")


def _checkable(view: View) -> View:
    """Parameters on a GPU stay there, their values unseen, unless GPUQ_CHECK=1 asks for checks: then on the host."""
    return arrays.on_host(view) if os.environ.get("GPUQ_CHECK") == "1" else view


def _float64(argument: str, value: Any, accepted: str) -> float:
    try:
        return float(value)
    except OverflowError:
        _refuse(ValueError, argument, _brief(value), f"{accepted}, within float64")


# ---- shapes ----


def granularity(shape: Shape, parameters: Mapping[str, Array], axis: int, block_size: int) -> Granularity:
    """Per tensor if every parameter has one element; else per block if a block size is given; else per axis."""
    if all(values.size == 1 for values in parameters.values()):
        return Granularity("tensor")
    if not shape:
        _refuse(ValueError, "axis", f"{axis} for an array of 0 dimensions", "none: its parameters have one element")
    if not -len(shape) <= axis < len(shape):
        _refuse(
            ValueError, "axis", f"{axis} for an array of {len(shape)} dimensions", f"{-len(shape)} … {len(shape) - 1}"
        )
    axis %= len(shape)
    grain = Granularity("block" if block_size else "axis", axis, min(block_size, max(1, shape[axis])))
    for argument, values in parameters.items():
        if values.size != 1 and values.shape != grain.parameter_shape(shape):
            wanted = (
                f"one element or shape {grain.parameter_shape(shape)} (per {grain.kind}, axis {axis} of shape {shape})"
            )
            _refuse(ValueError, argument, f"shape {values.shape}", wanted)
    return grain


def matmul(a: Shape, b: Shape) -> MatmulShape:
    """Shapes that multiply after NumPy's rules."""
    for argument, shape in (("b", b), ("a", a)):
        if not shape:
            _refuse(ValueError, argument, "an array of 0 dimensions", "at least 1 dimension")
    try:
        return matmul_shape(a, b)
    except ValueError:
        _refuse(
            ValueError,
            "b",
            f"shape {b} with a of shape {a}",
            "shapes that multiply: k equal, batch dimensions broadcast",
        )


def row_vector(argument: str, values: Array, shape: MatmulShape, a_ndim: int) -> Array:
    """A parameter per row of a as (…, 1 or m): one element, (m,), or (…, m, 1) that does not enlarge the result's
    batch.
    """
    if values.size == 1:
        return values.reshape(1)
    column = values[:, np.newaxis] if values.ndim == 1 else values
    vector = column[..., 0] if column.shape[-1:] == (1,) and a_ndim > 1 else None
    accepted = f"one element, ({shape.m},) or (…, {shape.m}, 1)" if a_ndim > 1 else "one element, as a has 1 dimension"
    return _vector(argument, values, vector, shape.m, shape.batch, accepted)


def column_vector(argument: str, values: Array, shape: MatmulShape, b_ndim: int) -> Array:
    """A parameter per column of b as (…, 1 or n): one element, (n,), or (…, 1, n) that does not enlarge the result's
    batch.
    """
    if values.size == 1:
        return values.reshape(1)
    row = values[np.newaxis, :] if values.ndim == 1 else values
    vector = row[..., 0, :] if row.shape[-2:-1] == (1,) and b_ndim > 1 else None
    accepted = f"one element, ({shape.n},) or (…, 1, {shape.n})" if b_ndim > 1 else "one element, as b has 1 dimension"
    return _vector(argument, values, vector, shape.n, shape.batch, accepted)


def _vector(argument: str, values: Array, vector: Array | None, length: int, batch: Shape, accepted: str) -> Array:
    if vector is None or vector.shape[-1] not in (1, length) or not _fits(vector.shape[:-1], batch):
        _refuse(ValueError, argument, f"shape {values.shape}", f"{accepted}, broadcasting to the batch {batch}")
    return vector


def _fits(shape: Shape, batch: Shape) -> bool:
    """Whether a shape broadcasts to the batch without enlarging it."""
    try:
        return np.broadcast_shapes(shape, batch) == batch
    except ValueError:
        return False


def scale_products(a_scale: Array, b_scale: Array, y_scale: Array | None = None) -> None:
    """Every f32(a_scale·b_scale), and its quotient by y_scale, is a normal float32; all as row_vector gives them. What
    lies on a GPU is not looked at.
    """
    if any(isinstance(scale, DeviceArray) for scale in (a_scale, b_scale, y_scale)):
        return
    if 0 in (a_scale.size, b_scale.size) or (y_scale is not None and y_scale.size == 0):
        return
    with np.errstate(over="ignore", under="ignore"):
        least, most = a_scale * b_scale.min(-1, keepdims=True), a_scale * b_scale.max(-1, keepdims=True)
        _require_normal("a_scale, b_scale", "a product", least, most)
        if y_scale is not None:  # per row, as a_scale is
            what = "a multiplier a_scale·b_scale/y_scale"
            _require_normal("a_scale, b_scale, y_scale", what, least / y_scale, most / y_scale)


def _require_normal(argument: str, what: str, least: Array, most: Array) -> None:
    if not (least.min() >= SMALLEST_NORMAL and most.max() < math.inf):
        bad = least.min() if least.min() < SMALLEST_NORMAL else most.max()
        _refuse(ValueError, argument, f"{what} of {bad}", "normal float32 numbers")


# ---- outputs ----


def output(
    out: object, shape: Shape, kind: str, inputs: Mapping[str, object], in_place: str | None = None
) -> View | None:
    """The view of `out`: of the result's shape and type, writable, overlapping no input (but that named `in_place`
    may be it).
    """
    if out is None:
        return None
    view = arrays.view(out)
    if view is None:
        _refuse(TypeError, "out", _kind_of(out), f"an array of {kind}")
    names = (kind,) if isinstance(out, np.ndarray) or kind not in QUANTIZED else (kind, QUANTIZED[kind].storage.name)
    if view.type not in names or not view.array.dtype.isnative:
        _refuse(
            TypeError, "out", f"an array of {view.array.dtype if view.type in names else view.type}", f"native {kind}"
        )
    if view.shape != shape:
        _refuse(ValueError, "out", f"shape {view.shape}", f"shape {shape}")
    if not view.writable:
        _refuse(ValueError, "out", "a read-only array", "a writable array")
    if _overlaps_itself(view.array):
        _refuse(
            ValueError, "out", f"an array whose elements overlap (strides {view.array.strides})", "distinct elements"
        )
    for argument, value in inputs.items():
        given = arrays.view(value)
        if given is None or given.device != view.device or not _overlap(view.array, given.array):
            continue
        if argument != in_place or not _same(view.array, given.array):
            _refuse(ValueError, "out", f"an array that overlaps {argument}", "memory of its own")
    return view


def _overlap(first: Array, second: Array) -> bool:
    if not np.may_share_memory(first, second):
        return False
    try:
        return np.shares_memory(first, second, max_work=OVERLAP_WORK)
    except np.exceptions.TooHardError:
        return True


def _same(first: Array, second: Array) -> bool:
    return first.__array_interface__["data"] == second.__array_interface__["data"] and first.strides == second.strides


def _overlaps_itself(array: Array) -> bool:
    """Whether two elements may share memory: true unless each stride steps over all that the smaller ones reach."""
    reach = array.itemsize
    for step, count in sorted(
        (abs(step), count) for step, count in zip(array.strides, array.shape, strict=True) if count > 1
    ):
        if step < reach:
            return array.size > 0
        reach += step * (count - 1)
    return False
