"""Stand-ins for torch, CuPy and JAX on emulated devices: as much of each as gpuq touches, by its real names.

The real libraries refuse to work without a GPU; what gpuq may not do to them shows here all the same: arrays come from
their own allocators, on the stream that gpuq writes on.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np

from gpuq.dlpack import describe

from .arrays import DlpackArray, EmulatedArray, InterfaceArray, upload
from .driver import Driver


class TorchMemoryError(RuntimeError):
    """torch.cuda.OutOfMemoryError."""


class Torch:
    """The module torch: `made` lists (stream, shape) of what `empty` has made."""

    strided = "strided"

    def __init__(self, driver: Driver, current: int = 0) -> None:
        self.made: list[tuple[int, tuple[int, ...]]] = []
        self._stream, torch = current, self

        class Tensor(EmulatedArray):
            """A tensor; torch's strides count elements."""

            layout, is_cuda = Torch.strided, True

            def get_device(self) -> int:
                return int(self.index)

            @property
            def dtype(self) -> str:
                return f"torch.{self._dtype.name}"

            @dtype.setter
            def dtype(self, value: Any) -> None:
                self._dtype = value

            @property
            def device(self) -> Any:
                return SimpleNamespace(type="cuda", index=self.index)

            def is_neg(self) -> bool:
                return False

            def stride(self) -> tuple[int, ...]:
                return tuple(step // self._dtype.itemsize for step in self.strides)

            def data_ptr(self) -> int:
                return self.address

            @property
            def __cuda_array_interface__(self) -> Any:
                raise AssertionError("a tensor's interface was asked for")

        def empty(shape: tuple[int, ...], *, dtype: str, device: Any) -> Any:
            torch.made.append((torch._stream, shape))
            array = np.empty(shape, dtype.removeprefix("torch."))
            made = upload(driver, array, device.index, Tensor)
            buffer = driver.devices[device.index].memory.find(made.address)
            assert buffer is not None
            buffer.clear()
            return made

        self.Tensor, self.empty = Tensor, empty
        self._C = SimpleNamespace(_cuda_getCurrentRawStream=lambda index: self._stream)
        self.cuda = SimpleNamespace(
            current_stream=lambda index: SimpleNamespace(cuda_stream=self._stream),
            ExternalStream=lambda number, device: number,
            default_stream=lambda index: 0,
            OutOfMemoryError=TorchMemoryError,
            stream=lambda number: _Switch(self, "_stream", number),
        )

    def __getattr__(self, name: str) -> str:
        return f"torch.{name}"  # a type


class Cupy:
    """The module cupy."""

    def __init__(self, driver: Driver, current: int = 0) -> None:
        self.made: list[tuple[int, tuple[int, ...]]] = []
        self._device, self._stream = 0, current

        class ndarray(InterfaceArray):  # noqa: N801
            """A CuPy array."""

        def empty(shape: tuple[int, ...], dtype: str) -> Any:
            self.made.append((self._stream, shape))
            made = upload(driver, np.empty(shape, dtype), self._device, ndarray)
            buffer = driver.devices[self._device].memory.find(made.address)
            assert buffer is not None
            buffer.clear()
            return made

        self.ndarray, self.empty = ndarray, empty
        self.cuda = SimpleNamespace(
            Device=lambda index: _Switch(self, "_device", index),
            ExternalStream=lambda number: _Switch(self, "_stream", number),
            Stream=SimpleNamespace(null=_Switch(self, "_stream", 0)),
            get_current_stream=lambda: SimpleNamespace(ptr=current),
        )


class _Switch:
    """A context in which an attribute has another value, as often as one likes."""

    def __init__(self, owner: Any, name: str, value: int) -> None:
        self.owner, self.name, self.value = owner, name, value

    def __enter__(self) -> None:
        self.before = getattr(self.owner, self.name)
        setattr(self.owner, self.name, self.value)

    def __exit__(self, *_: object) -> None:
        setattr(self.owner, self.name, self.before)


class JaxArray(DlpackArray):
    """An array of a library that follows the array API, whose arrays nobody may write; `source` is what it was made
    from.
    """

    source: Any = None

    def __array_namespace__(self) -> Any:
        return SimpleNamespace(from_dlpack=lambda made: _from_dlpack(self, made))


def _from_dlpack(like: JaxArray, made: Any) -> JaxArray:
    """A JAX array that shares the memory of what gpuq made, ready on the stream that is asked for."""
    described = describe(made.__dlpack__(stream=1))
    assert described is not None
    result = JaxArray.__new__(JaxArray)
    result.driver, result.index, result.asked = like.driver, like.index, []
    result.address, result.shape, strides, name = described
    result.dtype, result.source = np.dtype(name), made
    result.strides = strides or np.empty(result.shape, name).strides
    return result
