"""QTensors in files of the safetensors format (safetensors_file.py), which any reader of it can open.

A QTensor NAME is three tensors, NAME (the codes; 4-bit ones two per byte, nibbles.py), NAME.scale (F32) and
NAME.zero_point (of the codes' type, 4-bit ones one per byte), and four strings of metadata: NAME.dtype, NAME.axis
("none" per tensor), NAME.block_size and NAME.shape ("2,3").
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from gpuq import nibbles
from gpuq.dtypes import QUANTIZED, QuantizedType, numpy_dtype, type_name
from gpuq.qtensor import QTensor
from gpuq.safetensors_file import Entry, Header, read_header, refuse, replacing, write_header
from gpuq.transfer import to_host

Array = npt.NDArray[Any]
TYPES = {"I8": "<i1", "U8": "<u1", "I16": "<i2", "U16": "<u2", "I32": "<i4", "U32": "<u4", "F32": "<f4"}
OTHERS = {"BOOL": "?", "I64": "<i8", "U64": "<u8", "F16": "<f2", "F64": "<f8", "C64": "<c8", "BF16": "<u2"}
PLAIN_TYPES = {**TYPES, **OTHERS}
NAMES = {np.dtype(code): name for name, code in TYPES.items()}
METADATA = ("dtype", "axis", "block_size", "shape")
PARTS = ("", ".scale", ".zero_point")  # of a QTensor's name


def save(path: str | os.PathLike[str], tensors: Mapping[str, QTensor]) -> None:
    """Write QTensors to a safetensors file.

    Parameters
    ----------
    path : str or path
        Written under another name beside it first and renamed when it is on the disk, so that whatever happens the file
        is the old or the new one, whole.
    tensors : mapping of str to QTensor
        Tensors on a GPU are read back.

    Raises
    ------
    TypeError, ValueError
        Names or values that are none, or two tensors that would get one name in the file.
    OSError
        As `open`.
    """
    contents, metadata = _contents(tensors)
    described = {name: (NAMES[array.dtype], array.shape) for name, array in contents.items()}
    with replacing(Path(path)) as file:
        for name in write_header(file, described, metadata).entries:
            array = contents[name]
            file.write(array.data if array.size else b"")


def load(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read the QTensors of a file that `save` or `gpuq quantize` has written.

    Parameters
    ----------
    path : str or path

    Returns
    -------
    dict of str to QTensor
        With NumPy arrays, in the order of their names. A tensor that `gpuq quantize` has left as it was comes as a
        NumPy array.

    Raises
    ------
    ValueError
        The file is no safetensors file, is cut short, holds tensors but no QTensor, or parts of one.
    TypeError
        A tensor's type needs the package ml-dtypes, or NumPy has none like it.
    OSError
        As `open`.
    """
    with open(path, "rb") as file:
        header = read_header(path, file)
        names = quantized_names(header)
        parts = {name + part for name in names for part in PARTS}
        odd = sorted(parts - set(header.entries)) or ([] if names else sorted(header.entries))
        if odd:
            refuse(path, f"{odd[0]!r} where it is no part of a QTensor, or lacks it", "a file that gpuq has written")
        whole = [*names, *(name for name in header.entries if name not in parts)]
        return {
            name: read_tensor(path, file, header, name) if name in names else _plain(path, file, header, name)
            for name in sorted(whole)
        }


def quantized_names(header: Header) -> list[str]:
    """The names of a file's QTensors, as its metadata have them."""
    return sorted(key[: -len(".dtype")] for key in header.metadata if key.endswith(".dtype"))


def _contents(tensors: Mapping[str, QTensor]) -> tuple[dict[str, Array], dict[str, str]]:
    """The arrays of a file by name, little-endian and contiguous, and its metadata."""
    if not isinstance(tensors, Mapping):
        raise TypeError(f"tensors: got an object of type {type(tensors).__name__}; accepted: QTensors by name")
    contents: dict[str, Array] = {}
    metadata = {"format": "gpuq"}
    for name, q in tensors.items():
        if not isinstance(name, str):
            raise TypeError(f"tensors: got the name {name!r}; accepted: a str")
        if not isinstance(q, QTensor):
            raise TypeError(f"tensors: got {name!r} of type {type(q).__name__}; accepted: QTensors")
        kind = QUANTIZED[str(type_name(q.dtype))]
        codes, scale, points = (to_host(part) for part in (q.data, q.scale, q.zero_point))
        data = nibbles.pack(codes.view(kind.storage)) if kind.bits == 4 else codes
        parts = {name: data, f"{name}.scale": scale, f"{name}.zero_point": points.view(kind.storage)}
        axis = "none" if q.axis is None else str(q.axis)
        described = (kind.name, axis, str(q.block_size), ",".join(map(str, q.shape)))
        for part, array in parts.items():
            if part in contents or part == "__metadata__":
                raise ValueError(f"tensors: got two tensors for the name {part!r} in the file; accepted: names apart")
            contents[part] = np.ascontiguousarray(array, array.dtype.newbyteorder("<")).reshape(array.shape)
        metadata.update({f"{name}.{key}": value for key, value in zip(METADATA, described, strict=True)})
    return contents, metadata


def read_tensor(path: Any, file: BinaryIO, header: Header, name: str) -> QTensor:
    """One QTensor of a file."""
    metadata = header.metadata
    try:
        kind = QUANTIZED[metadata[f"{name}.dtype"]]
        axis, block_size, shape = (metadata[f"{name}.{key}"] for key in METADATA[1:])
        sizes = tuple(int(size) for size in shape.split(",")) if shape else ()
        data, scale, points = (
            _read(path, file, header.start, header.entries[name + part]) for part in PARTS
        )
        codes = _codes(data, kind, sizes)
        return QTensor(
            codes.view(numpy_dtype(kind.name)),
            scale,
            points.view(numpy_dtype(kind.name)) if points.dtype == kind.storage else points,
            None if axis == "none" else int(axis),
            int(block_size),
        )
    except (KeyError, ValueError, TypeError) as error:
        if isinstance(error, TypeError) and "ml-dtypes" in str(error):
            raise
        refuse(path, f"tensor {name!r} with {type(error).__name__}: {error}", "one that gpuq.save has written")


def _codes(data: Array, kind: QuantizedType, shape: tuple[int, ...]) -> Array:
    """Codes in their shape, one per element of their storage type."""
    if kind.bits != 4:
        if data.dtype != kind.storage or data.shape != shape:
            raise ValueError(f"{data.dtype} of shape {data.shape} for {kind.name} of {shape}")
        return data
    count = math.prod(shape)
    if data.dtype != np.uint8 or data.shape != ((count + 1) // 2,) or min(shape, default=0) < 0:
        raise ValueError(f"{data.dtype} of shape {data.shape} for {count} codes of {kind.name}")
    return nibbles.unpack(data, count, kind.signed).reshape(shape)


def _plain(path: Any, file: BinaryIO, header: Header, name: str) -> Array:
    """A tensor that is no QTensor."""
    entry = header.entries[name]
    if entry.dtype not in PLAIN_TYPES:
        raise TypeError(f"path: got tensor {name!r} of {entry.dtype}; accepted: types that NumPy has")
    stored = _read(path, file, header.start, entry)
    return stored.view(numpy_dtype("bfloat16")) if entry.dtype == "BF16" else stored


def _read(path: Any, file: BinaryIO, start: int, entry: Entry) -> Array:
    file.seek(start + entry.begin)
    if entry.dtype not in PLAIN_TYPES:
        raise ValueError(f"a part of {entry.dtype}")
    array = np.empty(entry.shape, np.dtype(PLAIN_TYPES[entry.dtype]))
    if array.size and file.readinto(array.reshape(-1).view(np.uint8)) != array.nbytes:  # type: ignore[attr-defined]
        refuse(path, "a file that became shorter while it was read", "a safetensors file, whole")
    return array.astype(array.dtype.newbyteorder("="), copy=False)
