"""Arrays on a GPU as gpuq sees them: NumPy array headers whose memory the CPU must not touch.

Shape, strides, type, address, slicing, transposing and the question whether two of them overlap are NumPy's own, as
none of these looks at an element. Whatever would look at one raises a TypeError instead.
"""

from __future__ import annotations

from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

from gpuq.dtypes import dtype_name

HEADER_FUNCTIONS = (np.may_share_memory, np.shares_memory, np.broadcast_to, np.swapaxes)  # all that gpuq calls on them


class DeviceArray(np.ndarray[Any, np.dtype[Any]]):
    """The header of an array on a GPU.

    `owner` is the object whose memory it is, kept alive by it; `type` names its elements ("bfloat16" is stored as
    uint16, dtypes.py). Views have those of their array.
    """

    owner: Any
    type: str

    def __array_finalize__(self, source: Any) -> None:
        if type(source) is DeviceArray:
            self.owner, self.type = source.owner, source.type

    def __array_function__(self, function: Any, kinds: Any, arguments: Any, options: Any) -> Any:
        if function not in HEADER_FUNCTIONS:
            self._refuse()
        return super().__array_function__(function, kinds, arguments, options)

    def _refuse(self, *arguments: Any, **options: Any) -> NoReturn:
        raise TypeError("the elements of an array on a GPU were asked for on the CPU")

    __array_ufunc__ = __setitem__ = __iter__ = _refuse
    astype = copy = item = tolist = tobytes = min = max = any = all = sum = flatten = ravel = _refuse
    __repr__ = __str__ = object.__repr__


class _Memory:
    """Memory on a GPU, told to NumPy as if it were its own."""

    def __init__(self, interface: dict[str, Any]) -> None:
        self.__array_interface__ = interface


def device_array(
    address: int,
    shape: tuple[int, ...],
    dtype: npt.DTypeLike,
    strides: tuple[int, ...] | None = None,
    owner: Any = None,
    read_only: bool = False,
    type: str | None = None,
) -> DeviceArray:
    """The header of memory at `address`; strides are in bytes, None for C order; `type` is that of dtype if None."""
    kind = np.dtype(dtype)
    if 0 in shape:
        header: Any = np.empty(shape, kind)
    else:
        interface = {"version": 3, "shape": shape, "typestr": kind.str, "data": (address, read_only)}
        header = np.asarray(_Memory({**interface, "strides": strides}))
    array = header.view(DeviceArray)
    array.owner, array.type = owner, type or dtype_name(kind)
    return array


def address_of(array: npt.NDArray[Any]) -> int:
    """The address of an array's first element."""
    address: int = array.__array_interface__["data"][0]
    return address
