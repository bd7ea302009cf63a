"""An operator's arguments as arrays on an emulated device, and its results as NumPy's again."""

from __future__ import annotations

from typing import Any

import numpy as np

from gpuq.dtypes import type_name
from gpuq.packed import PackedMatrix

from .arrays import DlpackArray, InterfaceArray, download, download_memory, upload
from .driver import Driver

WITHOUT_INTERFACE = ("bfloat16",)  # types that only DLPack has
HOST_ONLY = ("int4", "uint4")


class Call:
    """A call's arguments on the device: one object for each array, also where one stands twice."""

    def __init__(self, driver: Driver, arguments: tuple[Any, ...], options: dict[str, Any]) -> None:
        self.driver, self._known = driver, {}
        self._host = (*arguments, *options.values())
        self._out, self._dtype = options.get("out"), type_name(options.get("dtype"))
        self._possible = self._can_lie_there()
        if self._possible:
            self.arguments = tuple(self._there(value) for value in arguments)
            self.options = {name: self._there(value) for name, value in options.items()}

    def on_device(self) -> bool:
        """Whether the arguments can lie there: at least one array, none of a type or order that only NumPy has."""
        return self._possible

    def _can_lie_there(self) -> bool:
        found = [each for value in self._host for each in _arrays(value)]
        if any(isinstance(value, PackedMatrix) for value in self._host) and not any(each.size > 1 for each in found):
            return True
        if self._dtype in HOST_ONLY or any(each.dtype.name in HOST_ONLY or not each.dtype.isnative for each in found):
            return False
        if self._out is not None and self._out.dtype.name in WITHOUT_INTERFACE:
            return False
        return any(each.size > 1 for each in found)

    def _there(self, value: Any) -> Any:
        if isinstance(value, (tuple, list)) and any(isinstance(each, np.ndarray) for each in value):
            return type(value)(self._there(each) for each in value)
        if not isinstance(value, np.ndarray):
            return value
        if id(value) not in self._known:
            kind = DlpackArray if value.dtype.name in WITHOUT_INTERFACE else InterfaceArray
            self._known[id(value)] = upload(self.driver, value, kind=kind, read_only=value is not self._out)
        return self._known[id(value)]

    def bring_back(self, result: Any) -> Any:
        """The results as NumPy arrays; what was written into `out` on the device as written into the test's own."""
        if isinstance(result, PackedMatrix):
            return result
        if isinstance(result, tuple):
            return tuple(self.bring_back(each) for each in result)
        if self._out is None:
            return download(self.driver, result)
        assert result is self._known[id(self._out)]
        download_memory(self.driver, result, self._out)
        return self._out


def _arrays(value: Any) -> list[Any]:
    if isinstance(value, (tuple, list)):
        return [each for each in value if isinstance(each, np.ndarray)]
    return [value] if isinstance(value, np.ndarray) else []
