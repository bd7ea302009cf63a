"""Products of QTensors: as one product where no parameter varies along k, else block by block along k.

    k:      ├─ block 0 ─┤├─ block 1 ─┤ …      one scale and zero point per row of a and column of b in each
    total = f32(f32(acc 0)·f32(sa·sb)) + …     accumulators exact, blocks added in float32 in increasing k

On a GPU one kernel does it, that of layers, where b is a matrix and both have the same blocks along k, or one has none.
Any other sum over blocks is a product for each and their sum, there as on the CPU.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from gpuq import arrays, device_layers, environment, matmul, validate
from gpuq.arithmetic import FLOAT32, NO_ACTIVATION
from gpuq.calls import repeatable
from gpuq.cpu import block_gemm
from gpuq.cpu.block_weight import fits, pack_blocks
from gpuq.cpu.isa import INSTRUCTION_SETS
from gpuq.cpu.rows import add_to
from gpuq.dtypes import QUANTIZED, type_name
from gpuq.layout import Shape, read_only
from gpuq.packed import PackedMatrix, Prepacked
from gpuq.qtensor import QTensor
from gpuq.transfer import beside, to_host

Array = npt.NDArray[Any]
CODES = ("int8", "uint8", "int4", "uint4")  # that products take


@dataclass(frozen=True, eq=False, repr=False)
class PackedQTensor(Prepacked):
    """A quantized matrix (k, n), or a batch of them, packed for many products; `QTensor.prepack` makes it.

    `unpacked` is the tensor it was made from; `parts` the packed matrix of each block of k that shares parameters, all
    of k where none vary along it, or where the device's kernel takes all blocks at once (cpu/block_gemm.py,
    cuda/layers.py): that is no matrix for other products.
    """

    unpacked: QTensor
    parts: tuple[PackedMatrix, ...]

    @property
    def _packed(self) -> Any:
        """What the backend has made of all of it, where it is one part."""
        return self.parts[0]._packed if len(self.parts) == 1 else None

    @property
    def shape(self) -> Shape:
        """The shape of the matrix."""
        return self.unpacked.shape

    @property
    def ndim(self) -> int:
        """Its dimensions."""
        return self.unpacked.ndim

    @property
    def dtype(self) -> Any:
        """The type of its codes."""
        return self.unpacked.dtype

    @property
    def nbytes(self) -> int:
        """Bytes of the packed form."""
        return sum(part.nbytes for part in self.parts)

    def __repr__(self) -> str:
        return f"Packed{self.unpacked!r}"


def prepack(b: QTensor) -> PackedQTensor:
    """Pack each block of k that shares parameters."""
    if b.ndim < 1:
        raise ValueError("b: got an array of 0 dimensions; accepted: at least 1 dimension")
    step = block_length(b, contracted(b, left=False))
    if b.shape[contracted(b, left=False)] == 0:
        return PackedQTensor(b, (matmul.prepack(bytes_of(b)),))
    if not step:
        packed = matmul.prepack(bytes_of(b), zero_point=spread(b, b.zero_point))
        return PackedQTensor(b, (packed,))
    if (whole := _prepack_whole(b, step)) is not None:
        return whole
    own = Segments(b, left=False)
    parts = [own.at(first, last) for first, last in _segments(step, own.length, own.length)]
    return PackedQTensor(b, tuple(matmul.prepack(codes, zero_point=points) for codes, _, points in parts))


def _prepack_whole(b: QTensor, step: int) -> PackedQTensor | None:
    """A matrix with blocks along k that its device's kernel takes, packed as one."""
    if b.ndim != 2 or b.axis != 0:
        return None
    if b.device != "cpu":
        if not device_layers.takes(b, step, device_layers.LONGEST_BLOCK):
            return None
        scale, points = (spread(b, values, 0) for values in (b.scale, b.zero_point))
        return PackedQTensor(b, (device_layers.prepack(b, scale, points, step),))
    codes = to_host(bytes_of(b))
    packed = matmul.prepack(codes, device="cpu")._packed
    if not fits(step, INSTRUCTION_SETS[packed.isa]):
        return None
    scale, points = (_widened(to_host(values), b) for values in (b.scale, b.zero_point))
    own = pack_blocks(codes, packed, str(type_name(b.dtype)), step, scale, points)
    return PackedQTensor(b, (PackedMatrix(b.shape, codes.dtype, own, None, "cpu"),))


def multiply(a: QTensor, b: QTensor | PackedQTensor) -> Any:
    """a @ b in float32, of the kind and on the device of a's data."""
    return _multiply(a, b) if a.device == "cpu" else _multiply_again(a, b)


def _multiply(a: QTensor, b: QTensor | PackedQTensor) -> Any:
    """The same; `_multiply_again` takes the steps of a call like it on a GPU's arrays."""
    right = b.unpacked if isinstance(b, PackedQTensor) else b
    validate.matmul(a.shape, right.shape)
    if a.shape[-1] == 0:
        return matmul.scaled_matmul(bytes_of(a), bytes_of(right), 1.0, 1.0)
    a_step, b_step = block_length(a, contracted(a, left=True)), block_length(right, contracted(right, left=False))
    if not a_step and not b_step:
        a_scale, b_scale = spread(a, a.scale), spread(right, right.scale)
        points = spread(a, a.zero_point)
        if isinstance(b, PackedQTensor):
            return matmul.scaled_matmul(bytes_of(a), b.parts[0], a_scale, b_scale, points)
        return matmul.scaled_matmul(bytes_of(a), bytes_of(b), a_scale, b_scale, points, spread(b, b.zero_point))
    if _kernel_takes(a, right, a_step, b_step):
        return _multiply_on_device(a, b, a_step, b_step)
    whole = isinstance(b, PackedQTensor) and len(b.parts) == 1
    if a.device == "cpu" == right.device and isinstance(b, PackedQTensor) and whole and not a_step and a.ndim == 2:
        return _beside(a, _multiply_whole(a, b))
    parts = b.parts if isinstance(b, PackedQTensor) and not (a_step or whole) else None
    left, own = Segments(a, left=True), Segments(right, left=False)
    if a.device != "cpu" or right.device != "cpu":
        return block_sum(left, own, a_step, b_step, parts, device_layers.sum_of, None)
    return _beside(a, host_sum(left, own, a_step, b_step, parts))


_multiply_again = repeatable(_multiply)


def _beside(a: QTensor, total: Array) -> Any:
    """A result as an array of a's kind."""
    view = arrays.view(a.data)
    assert view is not None
    return beside(view, total, "float32")


def _kernel_takes(a: QTensor, b: QTensor, a_step: int, b_step: int) -> bool:
    """Whether the kernel of a GPU's layers multiplies them: both there, b a matrix, one of them with blocks along k or
    both with the same; no parameters but those of rows or columns, and of blocks along k.
    """
    if a.device != b.device or b.device == "cpu" or b.ndim != 2 or 0 < a_step != b_step > 0:
        return False
    if any(type_name(each.dtype) not in CODES for each in (a, b)):
        return False
    rows = a.axis is None or (a.ndim <= 2 and (a.axis == a.ndim - 1 or not a.block_size))
    columns = b.axis != 1 or not b.block_size
    return rows and columns and device_layers.takes(b, a_step or b_step, device_layers.LONGEST_WITH_POINTS)


def _multiply_on_device(a: QTensor, b: QTensor | PackedQTensor, a_step: int, b_step: int) -> Any:
    right = b.unpacked if isinstance(b, PackedQTensor) else b
    if environment.read("GPUQ_CHECK") == "1":
        validate.scale_products(to_host(a.scale).reshape(-1), to_host(right.scale).reshape(-1))
    codes = b.parts[0] if isinstance(b, PackedQTensor) and b_step and len(b.parts) == 1 else right.data
    own, other = ([spread(q, values, q.axis) for values in (q.scale, q.zero_point)] for q in (a, right))
    length, bits = a_step or b_step, device_layers.bits_of(right)
    return device_layers.multiply(
        a.data, own[0], own[1], codes, other[0], other[1], 0.0, length, bits, NO_ACTIVATION, "float32"
    )


def _multiply_whole(a: QTensor, b: PackedQTensor) -> Array:
    """a, whose parameters do not vary along k, with a matrix whose blocks are packed as one, both on the CPU."""
    codes, y = np.ascontiguousarray(to_host(bytes_of(a))), np.empty((a.shape[0], b.shape[1]), np.float32)
    scale, points = (
        np.broadcast_to(np.reshape(to_host(values), -1), a.shape[:1]) for values in (a.scale, a.zero_point)
    )
    validate.scale_products(scale, to_host(b.unpacked.scale).reshape(-1))
    scale, bias = read_only(np.ascontiguousarray(scale)), read_only(np.zeros(b.shape[1], np.float32))
    settings = NO_ACTIVATION, FLOAT32
    block_gemm.multiply(codes, points.astype(np.int64), scale, b._packed, bias, settings, y)
    return y


def block_sum(
    a: Any, b: Any, a_step: int, b_step: int, packed: tuple[PackedMatrix, ...] | None,
    add: Callable[[Any, Any], Any], device: str | None,
) -> Any:  # fmt: skip
    """Σ over blocks in increasing k, by `add`; where the blocks of b are packed, by those."""
    total = None
    for index, (first, last) in enumerate(_segments(a_step or b.length, b_step or b.length, b.length)):
        a_codes, a_scale, a_points = a.at(first, last)
        b_codes, b_scale, b_points = b.at(first, last)
        if packed is not None:
            b_codes, b_points = packed[index], None
        part = matmul.scaled_matmul(a_codes, b_codes, a_scale, b_scale, a_points, b_points, device=device)
        total = part if total is None else add(total, part)
    return total


def host_sum(a: Any, b: Any, a_step: int, b_step: int, packed: tuple[PackedMatrix, ...] | None) -> Array:
    """Σ over blocks of operands on the CPU."""
    return np.asarray(block_sum(a, b, a_step, b_step, packed, _add_on_host, "cpu"))


def _add_on_host(total: Any, part: Any) -> Any:
    own = np.asarray(total)
    add_to(own.reshape(-1), np.asarray(part).reshape(-1))
    return own


def contracted(q: QTensor, left: bool) -> int:
    """The axis that a product sums over."""
    return q.ndim - 1 if left or q.ndim == 1 else q.ndim - 2


def block_length(q: QTensor, k_axis: int) -> int:
    """How many neighbours along k share parameters; 0 where all of k does."""
    if q.axis is None or (q.axis != k_axis and not q.block_size) or q.shape[k_axis] == 0:
        return 0
    if q.axis == k_axis:
        length = max(1, q.block_size)
        return 0 if length >= q.shape[k_axis] else length
    return 0 if q.shape[k_axis] == 1 else 1


def bytes_of(q: QTensor) -> Any:
    """The codes as the products take them: 4-bit ones in 8 bits."""
    if not isinstance(q.data, np.ndarray) or type_name(q.dtype) not in ("int4", "uint4"):
        return q.data
    return q.data.astype(QUANTIZED[str(type_name(q.dtype))].storage)


def _segments(a_step: int, b_step: int, k: int) -> Iterator[tuple[int, int]]:
    """The parts of 0 … k within which neither operand's parameters change."""
    cuts = sorted({*range(0, k, max(1, a_step)), *range(0, k, max(1, b_step)), k})
    yield from zip(cuts[:-1], cuts[1:], strict=True)


def spread(q: QTensor, values: Any, k_axis: int | None = None) -> Any:
    """A parameter as it broadcasts against the data, where that lies, but that blocks along `k_axis`, or a single one,
    stay as they are: an array of NumPy, or a view.
    """
    own: Any = _widened(values, q) if q.axis is None or isinstance(values, np.ndarray) else arrays.view(values)
    if q.axis is None:
        return own
    if not q.block_size:
        shape = [1] * q.ndim
        shape[q.axis] = -1
        return own.reshape(shape) if isinstance(own, np.ndarray) else replace(own, array=own.array.reshape(shape))
    if q.axis == k_axis or own.shape[q.axis] == 1:
        return own
    host = np.take(_widened(to_host(values), q), np.arange(q.shape[q.axis]) // q.block_size, q.axis)
    view = arrays.view(q.data)
    assert view is not None
    return arrays.seen(beside(view, host, str(type_name(host.dtype)))) if view.device != "cpu" else host


def _widened(values: Any, q: QTensor) -> Any:
    """Zero points of 4-bit NumPy codes in 8 bits, as their codes; all else as it is."""
    if isinstance(values, np.ndarray) and values.dtype.name in ("int4", "uint4"):
        return values.astype(QUANTIZED[values.dtype.name].storage)
    return values


class Segments:
    """An operand, to be taken apart along k where it lies: codes, scale and zero point of each part."""

    def __init__(self, q: QTensor, left: bool) -> None:
        self._axis, codes = contracted(q, left), bytes_of(q)
        self._codes = to_host(codes) if q.device == "cpu" else arrays.view(codes)
        self.length = q.shape[self._axis]
        self._block = max(1, q.block_size) if q.axis == self._axis else 1
        self._parameters = tuple(spread(q, values, self._axis) for values in (q.scale, q.zero_point))
        self._varies = q.axis is not None and self._parameters[0].shape[self._axis] > 1

    def at(self, first: int, last: int) -> tuple[Any, Any, Any]:
        """The part first … last of k, within which parameters do not change."""
        codes, (scale, points) = self._cut(self._codes, first, last), self._parameters
        if self._varies:
            block = first // self._block
            scale, points = (self._cut(values, block, block + 1) for values in (scale, points))
        return codes, scale, points

    def _cut(self, values: Any, first: int, last: int) -> Any:
        index = [slice(None)] * len(values.shape)
        index[self._axis] = slice(first, last)
        own = tuple(index)
        return values[own] if isinstance(values, np.ndarray) else replace(values, array=values.array[own])
