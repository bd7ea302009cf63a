"""A matrix packed once for many products."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from gpuq.layout import Shape


class Prepacked:
    """What an operator takes in the place of a matrix; `_packed` is what its backend has made of it."""

    _packed: Any


@dataclass(frozen=True, eq=False)
class PackedMatrix(Prepacked):
    """A matrix b (or a batch of them) in the layout of the GEMM kernel, with its column sums and zero point.

    `prepack` makes it; every matrix product takes it as `b`. It holds a copy: later changes of b do not reach it.

    Attributes
    ----------
    shape : tuple of int
        The shape of b.
    dtype : numpy.dtype
        int8 or uint8.
    """

    shape: Shape
    dtype: np.dtype[Any]
    _packed: Any
    _zero_point: npt.NDArray[Any] | None  # None of a QTensor's blocks, which are no matrix of codes
    _device: str

    @property
    def ndim(self) -> int:
        """Dimensions of b."""
        return len(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of the packed form."""
        return int(self._packed.nbytes)

    def __repr__(self) -> str:
        return f"PackedMatrix(shape={self.shape}, dtype={self.dtype.name})"
