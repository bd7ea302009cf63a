"""QTensor: codes together with what they mean.

    x ──quantize──► QTensor ──dequantize──► real numbers
                      │  T, to, requantize: QTensors again
                      └─ @ ──block_products.py──► float32,  prepack ──► what @ and `linear` take as the right operand

Whatever kind of array the codes are (NumPy's, torch's, on a GPU): scale and zero point are of that kind, on its
device.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from gpuq import arrays, validate
from gpuq.arrays import View
from gpuq.device_array import DeviceArray
from gpuq.dtypes import QUANTIZED, QuantizedType, numpy_dtype, type_name
from gpuq.layout import Granularity, Shape, as_array
from gpuq.ops import dequantize_linear, quantize_linear
from gpuq.transfer import beside, to_device, to_host

if TYPE_CHECKING:
    from gpuq.block_products import PackedQTensor


@dataclass(frozen=True, eq=False, repr=False)
class QTensor:
    """An array of real numbers, quantized: r = scale · (data − zero_point).

    With P = () per tensor (`axis` None), (shape[axis],) per axis, and the shape with its `axis` divided by
    `block_size`, rounded up, per block:

    (1) scale.shape = zero_point.shape = P, and element i along `axis` has the parameters i // max(1, block_size)
    (2) 0 < scale < ∞ in float32, qmin ≤ zero_point ≤ qmax
    (3) q.dequantize() = gpuq.dequantize_linear(data, scale, zero_point)
    (4) q.T.dequantize() = q.dequantize().T
    (5) qa @ qb = scaled_matmul of the codes, where no parameter varies along k; else its sum, in float32, over the
        blocks of k with one parameter each, in increasing k

    Parameters
    ----------
    data : array of a quantized type
    scale : float or array of a real type
    zero_point : int or array of data's type, optional
        One element, or of scale's shape. Default 0.
    axis : int, optional
        The axis of per-axis and per-block parameters; None per tensor.
    block_size : int
        0: no blocks.
    dtype : type or str, optional
        "int4" or "uint4" where data are such codes in int8 or uint8, which is how arrays other than NumPy's have them.

    Raises
    ------
    TypeError, ValueError
        What stands above does not hold. Values of arrays on a GPU are not read back.
    """

    data: Any
    scale: Any
    zero_point: Any = None
    axis: int | None = None
    block_size: int = 0
    dtype: Any = None

    __array_ufunc__ = None  # NumPy's arrays leave `array @ q` to Python, which refuses it

    def __post_init__(self) -> None:
        view = validate.array("data", self.data, QUANTIZED)
        kind = _kind(view, self.dtype)
        axis = self.axis if self.axis is None else validate.integer("axis", self.axis)
        block_size = validate.integer("block_size", self.block_size, 0)
        if axis is None and block_size:
            raise ValueError(f"block_size: got {block_size} without an axis; accepted: 0, or an axis of blocks")
        scale = as_array(validate.scale("scale", self.scale))
        points = _points(self.zero_point, kind)
        grain = Granularity("tensor")
        if axis is not None:
            grain = _grain(view.shape, axis, block_size)
        elif scale.size != 1 or points.size != 1:
            came = f"None with parameters of shapes {scale.shape} and {points.shape}"
            raise ValueError(f"axis: got {came}; accepted: an axis, or one element of each")
        shape = grain.parameter_shape(view.shape)
        for name, values in (("scale", scale), ("zero_point", points)):
            if values.size != 1 and values.shape != shape:
                raise ValueError(f"{name}: got shape {values.shape}; accepted: one element or shape {shape}")
        fields = {
            "scale": _parameter(view, self.scale, scale, shape, "float32"),
            "zero_point": _parameter(view, self.zero_point, points, shape, kind.name),
            "axis": None if axis is None else grain.axis,
            "block_size": grain.block_size,
            "dtype": _dtype(kind.name),
        }
        for name, value in fields.items():
            object.__setattr__(self, name, value)

    @property
    def shape(self) -> Shape:
        """The shape of the data."""
        return tuple(self.data.shape)

    @property
    def ndim(self) -> int:
        """Dimensions of the data."""
        return len(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of data, scale and zero point as they lie in memory."""
        return sum(_view(part).array.nbytes for part in (self.data, self.scale, self.zero_point))

    @property
    def device(self) -> str:
        """Where the data lie: "cpu" or "cuda:N"."""
        return _view(self.data).device

    @property
    def T(self) -> QTensor:  # noqa: N802  NumPy's name
        """The axes in reverse order, without a copy of the data."""
        axis = None if self.axis is None else self.ndim - 1 - self.axis
        scale, zero_point = (_reversed(part) for part in (self.scale, self.zero_point))
        return replace(self, data=_reversed(self.data), scale=scale, zero_point=zero_point, axis=axis)

    def dequantize(self, dtype: Any = np.float32) -> Any:
        """The real numbers, as an array of `dtype` and of the data's kind: see `dequantize_linear`."""
        return dequantize_linear(self.data, self.scale, self.zero_point, **self._granularity(), dtype=dtype)

    def requantize(
        self, scale: Any, zero_point: Any = None, *, axis: int | None = None, block_size: int = 0, dtype: Any = None
    ) -> QTensor:
        """The same numbers with other parameters: quantize_linear(dequantize(), scale, zero_point).

        Parameters
        ----------
        scale, zero_point, axis, block_size
            As of the class.
        dtype : type or str, optional
            Default: that of this tensor.

        Raises
        ------
        TypeError, ValueError
            As `quantize_linear`.
        """
        wanted = validate.dtype("dtype", self.dtype if dtype is None else dtype, QUANTIZED)
        options: dict[str, Any] = {"axis": 0 if axis is None else axis, "block_size": block_size, "dtype": wanted}
        data = quantize_linear(self.dequantize(), scale, zero_point, **options)
        return QTensor(data, scale, zero_point, axis, block_size, wanted)

    def prepack(self) -> PackedQTensor:
        """The matrix (k, n), or batch of them, packed once as the right operand of many products."""
        from gpuq.block_products import prepack

        return prepack(self)

    def to(self, device: str) -> QTensor:
        """The same on a device, "cpu", "cuda" or "cuda:N": of NumPy arrays on the CPU, of gpuq's own on a GPU; torch
        tensors stay tensors.

        Raises
        ------
        TypeError, ValueError, DeviceError
            No name of a device, or one that is absent.
        """
        from gpuq.dispatch import pick_device

        validate.device_name("device", device)
        chosen = pick_device(device, {})
        chosen = "cuda:0" if chosen == "cuda" else chosen
        if chosen == self.device:
            return self
        data, scale, zero_point = (to_device(part, chosen) for part in (self.data, self.scale, self.zero_point))
        if isinstance(data, np.ndarray):
            data, zero_point = (codes.astype(numpy_dtype(_name(self)), copy=False) for codes in (data, zero_point))
        return replace(self, data=data, scale=scale, zero_point=zero_point)

    def __matmul__(self, other: object) -> Any:
        from gpuq.block_products import PackedQTensor, multiply

        return multiply(self, other) if isinstance(other, (QTensor, PackedQTensor)) else NotImplemented

    def __repr__(self) -> str:
        grain = "per tensor" if self.axis is None else f"per axis {self.axis}"
        if self.block_size:
            grain = f"per block of {self.block_size} along axis {self.axis}"
        where = "" if self.device == "cpu" else f", device={self.device!r}"
        return f"QTensor(shape={self.shape}, dtype={_name(self)}, {grain}, scale={_range_of(self.scale)}{where})"

    def _granularity(self) -> dict[str, Any]:
        """The options of the elementwise operators."""
        return {"axis": 0 if self.axis is None else self.axis, "block_size": self.block_size}


def _name(q: QTensor) -> str:
    return str(type_name(q.dtype))


def _view(array: Any) -> View:
    view = arrays.view(array)
    assert view is not None
    return view


def _kind(view: View, dtype: Any) -> QuantizedType:
    """The type of the codes, whose values are checked where they lie in a wider type."""
    if dtype is None:
        return QUANTIZED[view.type]
    name = validate.dtype("dtype", dtype, QUANTIZED)
    kind = QUANTIZED[name]
    if view.type not in (name, kind.storage.name):
        raise TypeError(f"dtype: got {name} for data of {view.type}; accepted: {view.type}")
    if view.type != name and view.array.size and not isinstance(view.array, DeviceArray):
        low, high = view.array.min(), view.array.max()
        if low < kind.qmin or high > kind.qmax:
            raise ValueError(f"data: got codes {low} … {high}; accepted: {kind.qmin} … {kind.qmax} ({name})")
    return kind


def _points(zero_point: Any, kind: QuantizedType) -> Any:
    """Zero points, as the wider type that 4-bit codes may lie in has them too."""
    given = arrays.view(zero_point)
    if given is None or given.type == kind.name or given.type != kind.storage.name:
        return as_array(validate.zero_point("zero_point", arrays.seen(zero_point), kind))
    points = as_array(validate.zero_point("zero_point", given, QUANTIZED[given.type]))
    known = points.size > 0 and not isinstance(points, DeviceArray)
    if known and not kind.qmin <= points.min() <= points.max() <= kind.qmax:
        came, accepted = f"values {points.min()} … {points.max()}", f"{kind.qmin} … {kind.qmax} ({kind.name})"
        raise ValueError(f"zero_point: got {came}; accepted: {accepted}")
    return points


def _grain(shape: Shape, axis: int, block_size: int) -> Granularity:
    if not -len(shape) <= axis < len(shape):
        raise ValueError(f"axis: got {axis} for data of {len(shape)} dimensions; accepted: one of its axes, or None")
    axis %= len(shape)
    return Granularity("block" if block_size else "axis", axis, min(block_size, max(1, shape[axis])))


def _parameter(view: View, given: Any, values: Any, shape: Shape, type: str) -> Any:
    """A parameter as an array of its shape and type, of the data's kind, on its device."""
    own = arrays.view(given)
    if own is not None and own.device == view.device and own.shape == shape and _same_kind(own, view):
        storage = type if type not in ("int4", "uint4") else QUANTIZED[type].storage.name
        if own.type in (type, storage) and (own.type == type or not isinstance(given, np.ndarray)):
            return given
    if isinstance(values, DeviceArray):
        values = to_host(given)
    host = np.broadcast_to(np.asarray(values).reshape(shape if values.size == np.prod(shape) else ()), shape)
    stored = np.float32 if type == "float32" else QUANTIZED[type].storage
    return beside(view, host.astype(stored), type)


def _same_kind(one: View, other: View) -> bool:
    return type(one.owner) is type(other.owner)


def _dtype(name: str) -> Any:
    """The NumPy type of that name; where it would need a package that is not installed, the name."""
    try:
        return numpy_dtype(name)
    except TypeError:
        return name


def _reversed(array: Any) -> Any:
    if hasattr(array, "permute"):  # torch
        return array.permute(tuple(range(array.ndim))[::-1])
    if not hasattr(array, "T"):
        raise TypeError(f"T: got data of type {type(array).__name__}, which has none; accepted: arrays that have")
    return array.T


def _range_of(scale: Any) -> str:
    values = to_host(scale)
    if values.size == 0:
        return "none"
    low, high = values.min(), values.max()
    return f"{low:.6g}" if low == high else f"{low:.6g} … {high:.6g}"
