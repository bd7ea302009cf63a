"""Arrays of data, and the numbers that go with them: scales, zero points, biases, multipliers.

A parameter of one element on the host comes out as a Python number, whatever it was: a scale as a float that float32
holds, a zero point as an int. Several come out as an array, and what lies on a GPU stays there as it is.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from ctypes import c_float
from typing import Any

import numpy as np
import numpy.typing as npt

from gpuq import arrays, environment
from gpuq.arithmetic import FLOAT32_MAX, INT32_MAX, INT32_MIN
from gpuq.arrays import View
from gpuq.device_array import DeviceArray
from gpuq.dtypes import QUANTIZED, REAL, QuantizedType, dtype_name, scalar_name
from gpuq.validate.options import dtype
from gpuq.validate.refusal import brief, kind_of, refuse

Array = npt.NDArray[Any]
Reals = float | Array
Integers = int | Array
INT8_TYPES = ("int8", "uint8")
SMALLEST_FLOAT32 = 2.0**-149
PYTHON_NUMBERS, NO_NUMBERS = (int, float), (bool, np.generic)
ONE_NUMBER = (float, int, np.generic)
LARGEST_REAL = math.nextafter(2.0**30 - 0.25, 0.0)  # from 2^30 − 1/4 on, m rounds to 2^31 and shift would be 31
REALS_ACCEPTED = f"a float or an array of {', '.join(REAL)}"


def array(argument: str, value: object, accepted: Iterable[str]) -> View:
    """An array of one of the accepted element types."""
    view = value if type(value) is View else arrays.view(value)
    if view is None:
        refuse(TypeError, argument, kind_of(value), f"an array of {', '.join(accepted)}")
    if view.type not in accepted:
        refuse(TypeError, argument, f"an array of {view.type}", ", ".join(accepted))
    return view


def are_numbers(scale: object, zero_point: object) -> bool:
    """Whether a scale and a zero point are numbers of Python or NumPy, or left out: what may be remembered by value."""
    return isinstance(scale, ONE_NUMBER) and (zero_point is None or isinstance(zero_point, ONE_NUMBER))


# ---- real numbers ----


def scale(argument: str, value: object) -> Reals:
    """Scales rounded to float32: each above 0 and finite, also after rounding."""
    if type(value) is float and SMALLEST_FLOAT32 <= (rounded := c_float(value).value) <= FLOAT32_MAX:
        return rounded
    scales = real_numbers(argument, value)
    if not isinstance(scales, DeviceArray) and not _all_within(scales, SMALLEST_FLOAT32, FLOAT32_MAX):
        listed = np.float32(scales).reshape(-1)
        bad = listed[~((listed > 0) & (listed < math.inf))]
        refuse(ValueError, argument, f"the value {bad[0]} (as float32)", "finite scales above 0")
    return scales


def real_numbers(argument: str, value: object) -> Reals:
    """Real numbers of any value (a float bias) rounded to float32."""
    given = _numbers(argument, value)
    if isinstance(given, DeviceArray):
        return given
    if isinstance(given, float):
        return c_float(given).value
    with np.errstate(over="ignore", under="ignore"):
        return given.astype(np.float32)


def multiplier(argument: str, value: object) -> Reals:
    """Multipliers of accumulators as float64: finite and not negative."""
    given = _numbers(argument, value)
    if isinstance(given, DeviceArray):
        return given
    numbers = given if isinstance(given, float) else given.astype(np.float64)
    if not _all_within(numbers, 0, FLOAT32_MAX):
        listed = np.float64(numbers).reshape(-1)
        bad = listed[~((listed >= 0) & (listed <= FLOAT32_MAX))]
        refuse(ValueError, argument, f"the value {bad[0]}", "multipliers from 0 to float32's largest number")
    return numbers


def ranges(rmin: object, rmax: object) -> tuple[Array, Array]:
    """Bounds of ranges as contiguous float64 arrays of one shape: finite and in order."""
    bounds = [_host_array(name, value) for name, value in (("rmin", rmin), ("rmax", rmax))]
    for argument, values in zip(("rmin", "rmax"), bounds, strict=True):
        if not np.isfinite(values).all():
            refuse(ValueError, argument, f"the value {values[~np.isfinite(values)][0]}", "finite numbers")
    try:
        low, high = (np.array(values, np.float64) for values in np.broadcast_arrays(*bounds))
    except ValueError:
        refuse(
            ValueError, "rmax", f"shape {bounds[1].shape} with rmin of shape {bounds[0].shape}", "shapes that broadcast"
        )
    if (low > high).any():
        refuse(ValueError, "rmin", f"the value {low[low > high][0]}, above rmax", "rmin ≤ rmax")
    return low, high


def fixed_point_reals(argument: str, value: object) -> Array:
    """Multipliers to be written in fixed point, as contiguous float64: those whose shift is at most 30."""
    numbers = np.array(_host_array(argument, value), np.float64)
    if not _all_within(numbers, 0, LARGEST_REAL):
        bad = numbers[~((numbers >= 0) & (numbers <= LARGEST_REAL))]
        refuse(ValueError, argument, f"the value {bad[0]}", "finite values from 0 to below 2^30 − 1/4")
    return numbers


def y_scale(value: object, activation: str | None) -> Reals:
    """The result's scale, which relu6 needs; 1 where it is not given."""
    if value is None and activation == "relu6":
        refuse(ValueError, "y_scale", "None", "the result's scale where activation is 'relu6'")
    return 1.0 if value is None else scale("y_scale", value)


# ---- integers ----


def zero_point(argument: str, value: object, kind: QuantizedType, lowest: int | None = None) -> Integers:
    """Zero points: of type `kind`, or Python ints within its range, from `lowest` on where given; arrays as int64."""
    if lowest is None:
        lowest = kind.qmin
    if value is None:
        value = 0
    if type(value) is int or scalar_name(value) == kind.name:
        number: int = value if type(value) is int else int(value)  # type: ignore[call-overload]
        if lowest <= number <= kind.qmax:
            return number
    named = isinstance(value, View) and not _is_numpy(value)
    names = (kind.name, dtype_name(kind.storage)) if named else (kind.name,)
    accepted = f"{lowest} … {kind.qmax} ({kind.name}{', narrow range' * (lowest > kind.qmin)})"
    return _integers(argument, value, names, (lowest, kind.qmax), accepted)


def int32_numbers(argument: str, value: object, lowest: int = INT32_MIN, highest: int = INT32_MAX) -> Integers:
    """int32 numbers (bias, fixed-point multiplier, shift); Python ints within their range; arrays as int64."""
    if type(value) is int and lowest <= value <= highest:
        return value
    return _integers(argument, value, ("int32",), (lowest, highest), f"{lowest} … {highest}")


def type_carried(value: object) -> str | None:
    """The name of the type that an array or NumPy scalar is of; None for anything else."""
    return value.type if type(value) is View else scalar_name(value)


def zero_point_type(argument: str, carried: str | None, accepted: Iterable[str]) -> QuantizedType:
    """The quantized type of a zero point that is of the type `carried`; uint8 for None and Python ints."""
    if carried is None:
        return QUANTIZED["uint8"]
    if carried not in accepted:
        refuse(TypeError, argument, f"an array of {carried}", ", ".join(accepted))
    return QUANTIZED[carried]


def quantized_type(carried: str | None, wanted: object) -> QuantizedType:
    """The type of codes: `dtype` where given, else the zero point's, else uint8."""
    if wanted is None:
        return zero_point_type("zero_point", carried, QUANTIZED)
    return QUANTIZED[dtype("dtype", wanted, QUANTIZED)]


def multiplier_and_shift(value: Any, mode: str) -> tuple[Reals, Integers]:
    """The multipliers of `requantize`: float64 and no shift, or the pair of the fixed-point modes."""
    if not mode.startswith("fixed_point"):
        return multiplier("multiplier", value), 0
    if not isinstance(value, (tuple, list)) or len(value) != 2:
        refuse(TypeError, "multiplier", kind_of(value), f"a pair (multiplier, shift) of int32 in mode {mode!r}")
    first, second = map(arrays.seen, value)
    return int32_numbers("multiplier", first, 0), int32_numbers("shift", second, -31, 30)


# ---- what these share ----


def _all_within(values: Reals | Integers, low: float, high: float) -> bool:
    """Whether every value lies in low … high, which NaN does not."""
    if isinstance(values, (int, float)):
        return low <= values <= high
    return values.size == 0 or bool(low <= values.min() and values.max() <= high)


def _is_numpy(view: View) -> bool:
    return isinstance(view.owner, (np.ndarray, np.generic))


def _number_or_array(values: Array) -> Any:
    """One element on the host as a Python number."""
    return values if values.size != 1 or isinstance(values, DeviceArray) else values.item()


def _integers(
    argument: str, value: object, names: tuple[str, ...], limits: tuple[int, int], accepted_values: str
) -> Integers:
    """Integers of one of the named types, or Python ints (one, or a list of them), within limits; arrays as int64."""
    accepted = f"an int or an array of {names[0]}"
    low, high = limits
    if isinstance(value, (list, tuple)) and any(isinstance(number, np.generic) for number in value):
        value = np.asarray(value)
    if isinstance(value, (int, list, tuple)) and not isinstance(value, bool):
        numbers = np.asarray(value, dtype=object)
        for number in numbers.flat:
            if not isinstance(number, int) or isinstance(number, bool):
                refuse(TypeError, argument, kind_of(number), accepted)
            if not low <= number <= high:
                refuse(ValueError, argument, f"the value {brief(number)}", accepted_values)
        return _number_or_array(numbers.astype(np.int64))
    view = value if isinstance(value, View) else arrays.view(value)
    if view is None:
        refuse(TypeError, argument, kind_of(value), accepted)
    if view.type not in names:
        refuse(TypeError, argument, f"an array of {view.type}", accepted)
    given = arrays.readable(_checkable(view))
    if isinstance(given, DeviceArray):
        return given
    points = given.astype(np.int64)
    if points.size and not (low <= points.min() and points.max() <= high):
        refuse(ValueError, argument, f"the value {points[(points < low) | (points > high)][0]}", accepted_values)
    return _number_or_array(points)


def _numbers(argument: str, value: object) -> Reals:
    """Real numbers: a Python number, a list of them, or an array of a real type, exactly as they are."""
    if isinstance(value, PYTHON_NUMBERS) and not isinstance(value, NO_NUMBERS):
        return _float64(argument, value)
    if isinstance(value, (list, tuple)):
        numbers = np.asarray(value, dtype=object)
        for number in numbers.flat:
            if not isinstance(number, (*PYTHON_NUMBERS, np.floating)) or isinstance(number, bool):
                refuse(TypeError, argument, f"{number!r} in a list", REALS_ACCEPTED)
        floats = [_float64(argument, number) for number in numbers.flat]
        return _number_or_array(np.asarray(floats, np.float64).reshape(numbers.shape))
    view = value if isinstance(value, View) else arrays.view(value)
    if view is None:
        refuse(TypeError, argument, kind_of(value), REALS_ACCEPTED)
    if view.type not in REAL:
        refuse(TypeError, argument, f"an array of {view.type}", REALS_ACCEPTED)
    return _number_or_array(arrays.real_numbers(_checkable(view)))


def _host_array(argument: str, value: object) -> Array:
    """The same as an array, for functions that compute on the host: copied from a GPU."""
    view = arrays.view(value)
    if view is not None and view.type in REAL:
        return arrays.real_numbers(arrays.on_host(view))
    return np.asarray(_numbers(argument, value))


def _checkable(view: View) -> View:
    """Parameters on a GPU stay there, their values unseen, unless GPUQ_CHECK=1 asks for checks: then on the host."""
    return arrays.on_host(view) if view.device != "cpu" and environment.read("GPUQ_CHECK") == "1" else view


def _float64(argument: str, value: Any) -> float:
    try:
        return float(value)
    except OverflowError:
        refuse(ValueError, argument, brief(value), f"{REALS_ACCEPTED}, within float64")
