"""Products of QTensors: as one product where no parameter varies along k, else block by block along k.

    k:      ├─ block 0 ─┤├─ block 1 ─┤ …      one scale and zero point per row of a and column of b in each
    total = f32(f32(acc 0)·f32(sa·sb)) + …     accumulators exact, blocks added in float32 in increasing k

On a GPU the kernels of layers take what they can: signed codes without zero points by a matrix with blocks. Any other
sum over blocks is formed on the host: arrays on a GPU are brought here, the result taken back.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from gpuq import arrays, device_layers, environment, matmul, validate
from gpuq.arithmetic import FLOAT32, NO_ACTIVATION
from gpuq.cpu import block_gemm
from gpuq.cpu.block_gemm import BlockParameters, block_parameters, fits
from gpuq.cpu.isa import INSTRUCTION_SETS
from gpuq.cpu.rows import add_to
from gpuq.dtypes import QUANTIZED, type_name
from gpuq.layout import Shape, read_only
from gpuq.packed import PackedMatrix, Prepacked
from gpuq.qtensor import QTensor
from gpuq.transfer import beside, to_host

Array = npt.NDArray[Any]


@dataclass(frozen=True, eq=False, repr=False)
class PackedQTensor(Prepacked):
    """A quantized matrix (k, n), or a batch of them, packed for many products; `QTensor.prepack` makes it.

    `unpacked` is the tensor it was made from; `parts` the packed matrix of each block of k that shares parameters, all
    of k where none vary along it, or where the device's kernel takes all blocks at once (cpu/block_gemm.py,
    cuda/layers.py).
    """

    unpacked: QTensor
    parts: tuple[PackedMatrix, ...]
    _blocks: BlockParameters | None = None  # of a matrix that is one part, though its parameters vary along k

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
        own = (*self._blocks[1:],) if self._blocks is not None else ()
        return sum(part.nbytes for part in self.parts) + sum(array.nbytes for array in own)

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
        return PackedQTensor(b, (device_layers.prepack(b, step),)) if device_layers.takes(b, step) else None
    if not isinstance(b.data, np.ndarray):
        return None
    codes = bytes_of(b)
    packed = matmul.prepack(codes, device="cpu")
    if not fits(step, INSTRUCTION_SETS[packed._packed.isa]):
        return None
    points = _widened(b.zero_point, b)
    return PackedQTensor(b, (packed,), block_parameters(codes, packed._packed, step, b.scale, points))


def multiply(a: QTensor, b: QTensor | PackedQTensor) -> Any:
    """a @ b in float32, of the kind and on the device of a's data."""
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
    if not a_step and _kernel_takes(a, right, b_step):
        return _multiply_on_device(a, b, right, b_step)
    view = arrays.view(a.data)
    assert view is not None
    if isinstance(b, PackedQTensor) and b._blocks is not None and not a_step and a.ndim == 2 and view.device == "cpu":
        return beside(view, _multiply_whole(a, b), "float32")
    whole = isinstance(b, PackedQTensor) and b._blocks is not None
    parts = b.parts if isinstance(b, PackedQTensor) and right.device == "cpu" and not (a_step or whole) else None
    total = block_sum(Segments(a, left=True), Segments(right, left=False), a_step, b_step, parts)
    return beside(view, total, "float32")


def _kernel_takes(a: QTensor, b: QTensor, step: int) -> bool:
    """Whether the kernels of a GPU's layers multiply them: both there, b a matrix in blocks along k, a signed, with one
    scale or one per row, and no zero points, which are read back for it.
    """
    if a.device != b.device or b.device == "cpu" or b.ndim != 2 or b.axis != 0 or type_name(a.dtype) != "int8":
        return False
    rows = a.axis is None or (a.ndim == 2 and a.axis == 0 and not a.block_size)
    return rows and device_layers.takes(b, step) and not to_host(a.zero_point).any()


def _multiply_on_device(a: QTensor, b: QTensor | PackedQTensor, right: QTensor, step: int) -> Any:
    if environment.read("GPUQ_CHECK") == "1":
        validate.scale_products(to_host(a.scale).reshape(-1), to_host(right.scale).reshape(-1))
    codes = b.parts[0] if isinstance(b, PackedQTensor) else right.data
    bits, parameters = device_layers.bits_of(right), (right.scale, right.zero_point)
    return device_layers.multiply(a.data, a.scale, codes, *parameters, 0.0, step, bits, NO_ACTIVATION, "float32")


def _multiply_whole(a: QTensor, b: PackedQTensor) -> Array:
    """a, whose parameters do not vary along k, with a matrix whose blocks are packed as one, both on the CPU."""
    assert b._blocks is not None
    codes, y = np.ascontiguousarray(to_host(bytes_of(a))), np.empty((a.shape[0], b.shape[1]), np.float32)
    scale, points = (
        np.broadcast_to(np.reshape(to_host(spread(a, values)), -1), a.shape[:1]) for values in (a.scale, a.zero_point)
    )
    validate.scale_products(scale, b._blocks.scale.reshape(-1))
    scale, bias = read_only(np.ascontiguousarray(scale)), read_only(np.zeros(b.shape[1], np.float32))
    settings = NO_ACTIVATION, FLOAT32
    block_gemm.multiply(codes, points.astype(np.int64), scale, b.parts[0]._packed, b._blocks, bias, settings, y)
    return y


def block_sum(a: Any, b: Any, a_step: int, b_step: int, packed: tuple[PackedMatrix, ...] | None) -> Array:
    """Σ over blocks in increasing k, on the host."""
    total: Array | None = None
    for index, (first, last) in enumerate(_segments(a_step or b.length, b_step or b.length, b.length)):
        a_codes, a_scale, a_points = a.at(first, last)
        b_codes, b_scale, b_points = b.at(first, last)
        if packed is not None:
            b_codes, b_points = packed[index], None
        part = matmul.scaled_matmul(a_codes, b_codes, a_scale, b_scale, a_points, b_points, device="cpu")
        if total is None:
            total = np.asarray(part)
        else:
            add_to(total.reshape(-1), np.asarray(part).reshape(-1))
    assert total is not None  # k > 0
    return total


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


def spread(q: QTensor, values: Any) -> Any:
    """A parameter that does not vary along k, of the data's kind, as it broadcasts against the data."""
    if q.axis is None:
        return _widened(values, q)
    host = _laid_out(q, _widened(to_host(values), q))
    view = arrays.view(q.data)
    assert view is not None
    return beside(view, host.reshape(-1) if q.ndim == 1 else host, str(type_name(host.dtype)))


def _laid_out(q: QTensor, values: Array) -> Array:
    """A parameter as it broadcasts against the data, but that a single block along the axis stays one."""
    assert q.axis is not None
    if not q.block_size:
        shape = [1] * q.ndim
        shape[q.axis] = -1
        return values.reshape(shape)
    if values.shape[q.axis] == 1:
        return values
    return np.take(values, np.arange(q.shape[q.axis]) // q.block_size, q.axis)


def _widened(values: Any, q: QTensor) -> Any:
    """Zero points of 4-bit NumPy codes in 8 bits, as their codes; all else as it is."""
    if isinstance(values, np.ndarray) and values.dtype.name in ("int4", "uint4"):
        return values.astype(QUANTIZED[values.dtype.name].storage)
    return values


class Segments:
    """An operand on the host, to be taken apart along k: codes, scale and zero point of each part."""

    def __init__(self, q: QTensor, left: bool) -> None:
        self._axis = contracted(q, left)
        self._codes = _widened(to_host(q.data), q)
        self.length = self._codes.shape[self._axis]
        parameters = [_widened(to_host(values), q) for values in (q.scale, q.zero_point)]
        self._parameters = parameters if q.axis is None else [_laid_out(q, values) for values in parameters]

    def at(self, first: int, last: int) -> tuple[Array, Array, Array]:
        """The part first … last of k, within which parameters do not change."""
        index = [slice(None)] * self._codes.ndim
        index[self._axis] = slice(first, last)
        codes = self._codes[tuple(index)]
        index[self._axis] = slice(first, first + 1)
        scale, points = (
            values[tuple(index)] if values.ndim and values.shape[self._axis] > 1 else values
            for values in self._parameters
        )
        return codes, scale, points
