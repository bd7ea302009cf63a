"""Files of arrays quantized and dequantized, tensor by tensor, each in pieces: memory does not grow with the file.

    IN ─ slabs ─► observe: a range for all, or for each index ─► scale, zero point
       ─ slabs ─► quantize ─► codes ─► OUT                        blocks lie in one slab, which is then read once
                     └─ dequantize ─► error

What is not quantized is copied as it is. OUT gets its name when all of it is on the disk.
"""

from __future__ import annotations

import contextlib
import fnmatch
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from gpuq.arithmetic import FLOAT32
from gpuq.arrays import View
from gpuq.checkpoint import METADATA, PARTS
from gpuq.cpu import noise
from gpuq.cpu.operators import HALF_CODES
from gpuq.dtypes import QUANTIZED, QuantizedType, numpy_dtype
from gpuq.file_dequantizing import copy_tensor, dequantize
from gpuq.layout import PER_TENSOR, Granularity, Shape
from gpuq.ops import quantize_linear
from gpuq.quantizing import OBSERVERS, quantize
from gpuq.slabs import Slab, slabs
from gpuq.tensor_files import (
    CODE_NAMES,
    REAL_NAMES,
    Begin,
    Tensor,
    TensorFile,
    create,
    open_file,
    require_suffix,
)

Array = npt.NDArray[Any]
ELEMENTS = 1 << 23  # of a slab: 32 MB of float32
Advance = Callable[[int], None]  # told of bytes that were dealt with


@dataclass(frozen=True)
class Choice:
    """How, and which tensors: names match one of `include`, if there are any, and none of `exclude`."""

    dtype: str = "int8"
    axis: int | None = None
    block_size: int = 0
    symmetric: bool = False
    narrow_range: bool = False
    calibration: str = "minmax"
    include: Sequence[str] = ()
    exclude: Sequence[str] = ()

    def takes(self, name: str, tensor: Tensor) -> bool:
        """Whether a tensor is to be quantized: it has to be real, and to have that axis and elements."""
        ndim = len(tensor.shape)
        fits = self.axis is None or -ndim <= self.axis < ndim
        wanted = not self.include or any(fnmatch.fnmatchcase(name, glob) for glob in self.include)
        unwanted = any(fnmatch.fnmatchcase(name, glob) for glob in self.exclude)
        return tensor.dtype in REAL_NAMES and 0 not in tensor.shape and fits and wanted and not unwanted

    def grain(self, shape: Shape) -> Granularity:
        """Which elements of such a tensor share a scale."""
        if self.axis is None:
            return PER_TENSOR
        axis = self.axis % len(shape)
        if not self.block_size:
            return Granularity("axis", axis)
        return Granularity("block", axis, min(self.block_size, shape[axis]))


class Outcome(NamedTuple):
    """What became of a tensor: types and bytes before and after; the error, NaN where it was copied."""

    name: str
    shape: Shape
    before: str
    after: str
    bytes_before: int
    bytes_after: int
    sqnr_db: float
    max_abs: float


@dataclass(frozen=True)
class Plan:
    """What will become of a file: which tensors are chosen, and all arrays of the target."""

    chosen: frozenset[str]
    made: dict[str, Tensor]
    metadata: dict[str, str]
    packed: bool  # 4-bit codes two in a byte

    def outcome(self, name: str, tensor: Tensor, choice: Choice, error: tuple[float, float]) -> Outcome:
        """What became of a tensor."""
        parts = [name + part for part in PARTS] if name in self.chosen else [name]
        after = sum(self.made[part].nbytes for part in parts)
        kind = choice.dtype if name in self.chosen else tensor.dtype
        return Outcome(name, tensor.shape, tensor.dtype, kind, tensor.nbytes, after, *error)


def quantize_file(source: Path, target: Path, choice: Choice, advance: Advance, dry_run: bool = False) -> list[Outcome]:
    """Quantize the tensors of a file into another one; what became of each, in the order of their names.

    Raises
    ------
    ValueError, TypeError
        A file or name that is none, or options that do not fit.
    OSError
        As `open`; the target is then what it was.
    """
    _require_options(choice)
    require_suffix("OUT", target)
    with open_file(source) as file:
        plan = _plan(file, source, target, choice)
        outcomes = []
        with contextlib.nullcontext() if dry_run else create(target, plan.made, plan.metadata) as begin:
            for name in sorted(file.tensors):
                error = math.nan, math.nan
                if begin is not None and name in plan.chosen:
                    error = _quantize_tensor(file, name, choice, plan.packed, begin, advance)
                elif begin is not None:
                    copy_tensor(file, name, begin(name), advance)
                outcomes.append(plan.outcome(name, file.tensors[name], choice, error))
    return outcomes


def bytes_read(source: Path, choice: Choice) -> int:
    """How many bytes `quantize_file` will tell of: those that are read to choose a range first count twice."""
    with open_file(source) as file:
        twice = choice.block_size == 0
        return sum(each.nbytes * (1 + (twice and choice.takes(name, each))) for name, each in file.tensors.items())


def _require_options(choice: Choice) -> None:
    if choice.dtype not in QUANTIZED:
        raise ValueError(f"dtype: got {choice.dtype!r}; accepted: {', '.join(QUANTIZED)}")
    if choice.calibration not in OBSERVERS:
        raise ValueError(f"calibration: got {choice.calibration!r}; accepted: {', '.join(map(str, OBSERVERS))}")
    if choice.block_size < 0 or choice.block_size and choice.axis is None:
        raise ValueError(f"block_size: got {choice.block_size}; accepted: 0, or with an axis what is above 0")
    numpy_dtype(choice.dtype)  # refuses 4 bits where ml_dtypes is missing


def _plan(file: TensorFile, source: Path, target: Path, choice: Choice) -> Plan:
    names = [key[: -len(".dtype")] for key in file.metadata if key.endswith(".dtype")]
    already = {name + part for name in names for part in PARTS}
    chosen = [name for name, each in file.tensors.items() if choice.takes(name, each) and name not in already]
    if source.suffix == ".npy" and not chosen:
        only = next(iter(file.tensors.values()))
        raise ValueError(f"IN: got {only.dtype} of shape {only.shape}; accepted: real numbers, with such an axis")
    if target.suffix == ".npy" and source.suffix != ".npy":
        raise ValueError(f"OUT: got {target} for a .safetensors file; accepted: a .safetensors file")
    packed = QUANTIZED[choice.dtype].bits == 4 and target.suffix != ".npy"
    made: dict[str, Tensor] = {}
    metadata = {"format": "gpuq", **file.metadata}
    for name, tensor in file.tensors.items():
        parts = _parts(name, tensor, choice, packed) if name in chosen else {name: tensor}
        for part, described in parts.items():
            if part in made:
                raise ValueError(f"IN: got {part!r}, which is also a part of another tensor; accepted: names apart")
            made[part] = described
        if name in chosen:
            metadata |= {f"{name}.{key}": value for key, value in _description(tensor, choice).items()}
    return Plan(frozenset(chosen), made, metadata, packed)


def _parts(name: str, tensor: Tensor, choice: Choice, packed: bool) -> dict[str, Tensor]:
    """The arrays of a quantized tensor."""
    codes = CODE_NAMES[QUANTIZED[choice.dtype].storage.name]
    shape = choice.grain(tensor.shape).parameter_shape(tensor.shape)
    data = Tensor("U8", ((math.prod(tensor.shape) + 1) // 2,)) if packed else Tensor(codes, tensor.shape)
    return {name: data, f"{name}.scale": Tensor("F32", shape), f"{name}.zero_point": Tensor(codes, shape)}


def _description(tensor: Tensor, choice: Choice) -> dict[str, str]:
    """The metadata of a quantized tensor, as checkpoint.py has them."""
    grain = choice.grain(tensor.shape)
    axis = "none" if grain.kind == "tensor" else str(grain.axis)
    described = (choice.dtype, axis, str(grain.block_size), ",".join(map(str, tensor.shape)))
    return dict(zip(METADATA, described, strict=True))


# ---- one tensor ----


def _quantize_tensor(
    file: TensorFile, name: str, choice: Choice, packed: bool, begin: Begin, advance: Advance
) -> tuple[float, float]:
    """Write a tensor's codes and parameters; its signal to noise ratio in dB and its largest error."""
    tensor, kind = file.tensors[name], QUANTIZED[choice.dtype]
    grain = choice.grain(tensor.shape)
    found = None if grain.kind == "block" else _choose(file, name, choice, grain, advance)
    shape = grain.parameter_shape(tensor.shape)
    scale, points = np.empty(shape, np.float32), np.empty(shape, kind.storage)
    codes, signal, noise_, largest = begin(name), 0.0, 0.0, 0.0
    for slab, view in _views(file, name, grain):
        own = slab.parameters(grain)
        q, scale[own], points[own] = _quantize_slab(view, choice, grain, found, own)
        codes.write_codes(q) if packed else codes.write(q)
        back = dequantize(q, kind, grain, scale[own], points[own], "float64" if view.type == "float64" else "float32")
        more = noise.sums(view.array.reshape(-1), back.reshape(-1), HALF_CODES.get(view.type, FLOAT32))
        signal, noise_, largest = signal + more[0], noise_ + more[1], max(largest, more[2])
        advance(view.array.nbytes)
    if packed:
        codes.end_codes()
    begin(f"{name}.scale").write(scale)
    begin(f"{name}.zero_point").write(points)
    return _decibels(signal, noise_), largest


def _views(file: TensorFile, name: str, grain: Granularity) -> Iterator[tuple[Slab, View]]:
    tensor = file.tensors[name]
    for slab in slabs(tensor.shape, ELEMENTS, grain):
        array = file.read(name, slab)
        yield slab, View(array, REAL_NAMES[tensor.dtype], "cpu", False, array)


def _choose(
    file: TensorFile, name: str, choice: Choice, grain: Granularity, advance: Advance
) -> tuple[Array, Array]:
    """The scale and zero point of a tensor, or of each index along its axis."""
    observers: dict[Any, Any] = {}
    for slab, view in _views(file, name, grain):
        part = slab.parameters(grain)
        place = (part[0].start, part[0].stop) if part else None
        if place not in observers:
            observers[place] = OBSERVERS[choice.calibration](axis=grain.axis if part else None)
        observers[place]._observe_view(view)
        advance(view.array.nbytes)
    options = {"symmetric": choice.symmetric, "narrow_range": choice.narrow_range}
    in_order = sorted(observers, key=lambda place: place or ())
    found = [observers[place].qparams(choice.dtype, **options) for place in in_order]
    storage = QUANTIZED[choice.dtype].storage
    scales, points = ([np.asarray(each[field]) for each in found] for field in (0, 1))
    join = np.concatenate if grain.kind == "axis" else lambda arrays: arrays[0]
    return join(scales).astype(np.float32), join(points).astype(storage)


def _quantize_slab(
    view: View, choice: Choice, grain: Granularity, found: tuple[Array, Array] | None, own: tuple[slice, ...]
) -> tuple[Array, Array, Array]:
    """The codes, scales and zero points of a piece, in their storage types."""
    kind = QUANTIZED[choice.dtype]
    narrow = choice.narrow_range
    if found is None:
        length = min(grain.block_size, view.shape[grain.axis])
        chosen: dict[str, Any] = {"symmetric": choice.symmetric, "calibration": choice.calibration}
        q = quantize(view, choice.dtype, axis=grain.axis, block_size=length, narrow_range=narrow, **chosen)
        return _stored(q.data, kind), q.scale, _stored(q.zero_point, kind)
    scale, points = found[0][own], np.asarray(found[1][own])
    given = View(points, choice.dtype, "cpu", False, points)
    codes = quantize_linear(view, scale, given, axis=grain.axis, dtype=choice.dtype, narrow_range=narrow)
    return _stored(codes, kind), scale, points


def _stored(codes: Array, kind: QuantizedType) -> Array:
    """Codes in their storage type; of 4-bit ones the upper bits are those of their sign."""
    return codes.astype(kind.storage) if kind.bits == 4 else codes


def _decibels(signal: float, noise_: float) -> float:
    if noise_ == 0:
        return math.inf
    return 10 * math.log10(signal / noise_) if signal else -math.inf
