"""Files of quantized arrays back to real numbers, tensor by tensor, each in pieces; what is no QTensor is copied.

IN ─ scale, zero point ─┐
   ─ slabs ─► codes ────┴─ dequantize ─► OUT
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from gpuq.arrays import View
from gpuq.checkpoint import METADATA, PARTS
from gpuq.dtypes import QUANTIZED, REAL, QuantizedType, numpy_dtype
from gpuq.layout import PER_TENSOR, Granularity, Shape
from gpuq.ops import dequantize_linear
from gpuq.slabs import Slab, slabs
from gpuq.tensor_files import (
    CODE_NAMES,
    REAL_NAMES,
    Tensor,
    TensorFile,
    Writer,
    create,
    npy_beside,
    open_file,
    require_suffix,
)

Array = npt.NDArray[Any]
ELEMENTS = 1 << 23  # of a slab
Advance = Callable[[int], None]  # told of bytes that were dealt with
NAMES = {name: stored for stored, name in REAL_NAMES.items()}


class Quantized(NamedTuple):
    """A quantized tensor of a file, as its metadata describe it."""

    kind: QuantizedType
    grain: Granularity
    shape: Shape


def dequantize_file(
    source: Path, target: Path, dtype: str, advance: Advance, axis: int | None = None, block_size: int = 0
) -> list[tuple[str, Shape, str, str]]:
    """Dequantize the QTensors of a file into another one: of each tensor its name, shape, and types before and after.

    `axis` and `block_size` say what a .npy file does not: along which axis its parameters lie.

    Raises
    ------
    ValueError, TypeError
        A file or name that is none, or a tensor that is no QTensor.
    OSError
        As `open`; the target is then what it was.
    """
    if dtype not in REAL:
        raise ValueError(f"dtype: got {dtype!r}; accepted: {', '.join(REAL)}")
    numpy_dtype(dtype)  # refuses bfloat16 where ml_dtypes is missing
    require_suffix("OUT", target)
    with open_file(source) as file:
        if source.suffix == ".npy":
            found = {source.stem: _of_npy(file, source, axis, block_size)}
            parameters = _parameters_beside(source)
        else:
            found, parameters = quantized_tensors(file), None
        parts = {name + part for name in found for part in PARTS[1:]}
        kept = [name for name in file.tensors if name not in parts]
        made = {name: Tensor(NAMES[dtype], found[name].shape) if name in found else file.tensors[name] for name in kept}
        if target.suffix == ".npy" and len(made) != 1:
            raise ValueError(f"OUT: got {target} for {len(made)} tensors; accepted: a .safetensors file")
        described = {f"{name}.{key}" for name in found for key in METADATA}
        metadata = {key: value for key, value in file.metadata.items() if key not in described}
        with create(target, made, metadata) as begin:
            for name in sorted(kept):
                if name in found:
                    own = parameters or parameters_of(file, name, found[name])
                    _dequantize_tensor(file, name, found[name], own, dtype, begin(name), advance)
                else:
                    copy_tensor(file, name, begin(name), advance)
        after = {name: dtype if name in found else file.tensors[name].dtype for name in kept}
        before = {name: found[name].kind.name if name in found else file.tensors[name].dtype for name in kept}
        return [(name, made[name].shape, before[name], after[name]) for name in sorted(kept)]


def copy_tensor(file: TensorFile, name: str, writer: Writer, advance: Advance) -> None:
    """A tensor as it is."""
    for part in file.raw(name):
        writer.write(part)
        advance(len(part))


def dequantize(codes: Array, kind: QuantizedType, grain: Granularity, scale: Any, points: Any, real: str) -> Array:
    """Real numbers of a piece of codes that is given, with its own parameters, in storage types."""
    q, z = (View(array, kind.name, "cpu", False, array) for array in (codes, np.asarray(points)))
    length = min(grain.block_size, codes.shape[grain.axis]) if grain.kind == "block" else 0
    return np.asarray(dequantize_linear(q, scale, z, axis=grain.axis, block_size=length, dtype=real))


def quantized_tensors(file: TensorFile) -> dict[str, Quantized]:
    """The QTensors of a safetensors file, by name; their parts are there, of the right types and shapes."""
    names = [key[: -len(".dtype")] for key in file.metadata if key.endswith(".dtype")]
    return {name: _quantized(file, name) for name in names}


def _quantized(file: TensorFile, name: str) -> Quantized:
    try:
        dtype, axis, block_size, shape = (file.metadata[f"{name}.{key}"] for key in METADATA)
        kind, sizes = QUANTIZED[dtype], tuple(int(size) for size in shape.split(",")) if shape else ()
        grain = PER_TENSOR
        if axis != "none":
            along = range(len(sizes))[int(axis)]
            length = min(int(block_size), max(1, sizes[along]))
            grain = Granularity("block", along, length) if length > 0 else Granularity("axis", along)
        codes = CODE_NAMES[kind.storage.name]
        data = Tensor("U8", ((math.prod(sizes) + 1) // 2,)) if kind.bits == 4 else Tensor(codes, sizes)
        wanted = [data, *(Tensor(each, grain.parameter_shape(sizes)) for each in ("F32", codes))]
        if [file.tensors[name + part] for part in PARTS] != wanted or min(sizes, default=0) < 0:
            raise ValueError(f"parts other than {wanted}")
        return Quantized(kind, grain, sizes)
    except (KeyError, ValueError, IndexError) as error:
        raise ValueError(
            f"IN: got tensor {name!r} with {type(error).__name__}: {error}; accepted: one that gpuq has written"
        ) from None


def _of_npy(file: TensorFile, source: Path, axis: int | None, block_size: int) -> Quantized:
    """The tensor of a .npy file of codes, by the shape of its scales."""
    (tensor,), scale = file.tensors.values(), _load(npy_beside(source, ".scale"))
    kinds = {stored: name for name, stored in CODE_NAMES.items()}
    if tensor.dtype not in kinds:
        raise ValueError(f"IN: got an array of {tensor.dtype}; accepted: codes, of {', '.join(kinds)}")
    kind, shape = QUANTIZED[kinds[tensor.dtype]], tensor.shape
    if scale.size == 1 and axis is None:
        return Quantized(kind, PER_TENSOR, shape)
    fitting = [
        grain
        for along in (range(len(shape)) if axis is None else [axis % max(1, len(shape))])
        for grain in (Granularity("axis", along), *_blocks(shape, along, block_size))
        if grain.parameter_shape(shape) == scale.shape
    ]
    if len(fitting) != 1:
        raise ValueError(
            f"IN: got scales of shape {scale.shape} for codes of shape {shape}, which fit {len(fitting)} ways; "
            "accepted: the --axis and --block-size that they were made with"
        )
    return Quantized(kind, fitting[0], shape)


def _blocks(shape: Shape, axis: int, block_size: int) -> list[Granularity]:
    return [Granularity("block", axis, min(block_size, max(1, shape[axis])))] if block_size > 0 else []


def _parameters_beside(source: Path) -> tuple[Array, Array]:
    scale, points = (_load(npy_beside(source, part)) for part in PARTS[1:])
    return scale, points


def _load(path: Path) -> Array:
    if not path.exists():
        raise ValueError(f"IN: got a .npy file without {path} beside it; accepted: what gpuq quantize has written")
    loaded: Array = np.load(path, allow_pickle=False)
    return loaded


def parameters_of(file: TensorFile, name: str, tensor: Quantized) -> tuple[Array, Array]:
    """The scales and zero points of a QTensor of a safetensors file."""
    shape = tensor.grain.parameter_shape(tensor.shape)
    whole = Slab((0,) * len(shape), shape, 0)
    return file.read(f"{name}.scale", whole), file.read(f"{name}.zero_point", whole)


def _dequantize_tensor(
    file: TensorFile,
    name: str,
    tensor: Quantized,
    parameters: tuple[Array, Array],
    dtype: str,
    writer: Writer,
    advance: Advance,
) -> None:
    scale, points = parameters
    for slab in slabs(tensor.shape, ELEMENTS, tensor.grain):
        own = slab.parameters(tensor.grain)
        four = tensor.kind.bits == 4
        codes = file.read_codes(name, slab, tensor.kind.signed) if four else file.read(name, slab)
        real = dequantize(codes, tensor.kind, tensor.grain, scale[own], points[own], dtype)
        writer.write(real.view(REAL[dtype].storage))
        advance(codes.nbytes)
