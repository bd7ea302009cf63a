"""QTensors in files of the safetensors format, which any reader of it can open.

    8 bytes    length of the header, little-endian
    header     JSON: for each tensor type, shape and offsets; "__metadata__": strings
    data       one tensor after the other, little-endian, C order

A QTensor NAME is three tensors, NAME (the codes; 4-bit ones two per byte, nibbles.py), NAME.scale (F32) and
NAME.zero_point (of the codes' type, 4-bit ones one per byte), and four strings of metadata: NAME.dtype, NAME.axis
("none" per tensor), NAME.block_size and NAME.shape ("2,3").

Source: https://github.com/huggingface/safetensors, README.md, "Format".
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import secrets
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, NoReturn

import numpy as np
import numpy.typing as npt

from gpuq import nibbles
from gpuq.dtypes import QUANTIZED, QuantizedType, numpy_dtype, type_name
from gpuq.qtensor import QTensor
from gpuq.transfer import to_host

Array = npt.NDArray[Any]
TYPES = {"I8": "<i1", "U8": "<u1", "I16": "<i2", "U16": "<u2", "I32": "<i4", "U32": "<u4", "F32": "<f4"}
NAMES = {np.dtype(code): name for name, code in TYPES.items()}
METADATA = ("dtype", "axis", "block_size", "shape")
ALIGNMENT = 8  # of the data, for readers that map the file
LONGEST_HEADER = 100_000_000  # as the safetensors package has it


class _Entry(NamedTuple):
    """One tensor of a file: its type, shape and place in the data."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


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
    target = Path(path)
    order = sorted(contents, key=lambda name: (-contents[name].dtype.itemsize, name))  # so that all are aligned
    header: dict[str, Any] = {"__metadata__": metadata}
    end = 0
    for name in order:
        begin, end = end, end + contents[name].nbytes
        array = contents[name]
        header[name] = {"dtype": NAMES[array.dtype], "shape": list(array.shape), "data_offsets": [begin, end]}
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % ALIGNMENT)
    with _replacing(target) as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in order:
            file.write(contents[name].data if contents[name].size else b"")


def load(path: str | os.PathLike[str]) -> dict[str, QTensor]:
    """Read the QTensors of a file that `save` has written.

    Parameters
    ----------
    path : str or path

    Returns
    -------
    dict of str to QTensor
        With NumPy arrays, in the order of their names.

    Raises
    ------
    ValueError
        The file is no safetensors file, is cut short, or holds something else than QTensors.
    OSError
        As `open`.
    """
    with open(path, "rb") as file:
        entries, metadata, start = _read_header(path, file)
        names = sorted(key[: -len(".dtype")] for key in metadata if key.endswith(".dtype"))
        parts = {part for name in names for part in (name, f"{name}.scale", f"{name}.zero_point")}
        if parts != set(entries):
            odd = sorted(parts ^ set(entries))[0]
            _refuse(path, f"{odd!r} where it is no part of a QTensor, or lacks it", "a file that gpuq.save has written")
        return {name: _tensor(path, file, start, entries, metadata, name) for name in names}


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


@contextlib.contextmanager
def _replacing(target: Path) -> Iterator[BinaryIO]:
    """A file beside the target that takes its place, once it is on the disk, if nothing fails."""
    beside = target.with_name(f".{target.name}.{secrets.token_hex(8)}")
    try:
        with open(beside, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, target)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
    if hasattr(os, "O_DIRECTORY"):  # the new name is on the disk too
        folder = os.open(target.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _refuse(path: Any, came: str, accepted: str) -> NoReturn:
    raise ValueError(f"path: got {came} ({os.fspath(path)}); accepted: {accepted}")


def _read_header(path: Any, file: BinaryIO) -> tuple[dict[str, _Entry], dict[str, str], int]:
    """The tensors and the metadata of a file, checked, and where its data begins."""
    size = os.fstat(file.fileno()).st_size
    length = int.from_bytes(file.read(8), "little")
    if size < 8 or length > min(size - 8, LONGEST_HEADER):
        _refuse(path, f"a file of {size} bytes with a header of {length}", "a safetensors file, whole")
    try:
        header = json.loads(file.read(length).decode(), object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        _refuse(path, f"a header that is no JSON with names apart: {error}", "a safetensors file")
    if not isinstance(header, dict):
        _refuse(path, f"a header of type {type(header).__name__}", "a safetensors file")
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        _refuse(path, "metadata that are not strings", "a safetensors file")
    entries = {name: _entry(path, name, value) for name, value in header.items()}
    end = 0
    for name, entry in sorted(entries.items(), key=lambda item: (item[1].begin, item[1].end)):
        if entry.begin != end:
            _refuse(path, f"tensor {name!r} at {entry.begin} after an end at {end}", "tensors one after the other")
        end = entry.end
    if 8 + length + end != size:
        _refuse(path, f"{size - 8 - length} bytes of data for tensors of {end}", "a safetensors file, whole")
    return entries, metadata, 8 + length


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name stands twice")
    return found


def _entry(path: Any, name: str, value: Any) -> _Entry:
    """One tensor of the header, whose bytes are as many as its type and shape need."""
    fields: dict[str, Any] = value if isinstance(value, dict) else {}
    dtype, shape, offsets = (fields.get(key, "") for key in ("dtype", "shape", "data_offsets"))
    known = isinstance(dtype, str) and dtype in TYPES and _are_sizes(shape) and _are_sizes(offsets)
    if not known or len(offsets) != 2:
        _refuse(path, f"tensor {name!r} described as {value!r}", f"type ({', '.join(TYPES)}), shape and two offsets")
    entry = _Entry(dtype, tuple(shape), *offsets)
    needed = math.prod(entry.shape) * np.dtype(TYPES[dtype]).itemsize
    if entry.end - entry.begin != needed:
        _refuse(path, f"tensor {name!r} of shape {entry.shape} in {entry.end - entry.begin} bytes", f"{needed} bytes")
    return entry


def _are_sizes(values: Any) -> bool:
    return isinstance(values, list) and all(type(value) is int and value >= 0 for value in values)


def _tensor(
    path: Any, file: BinaryIO, start: int, entries: dict[str, _Entry], metadata: dict[str, str], name: str
) -> QTensor:
    """One QTensor of a file."""
    try:
        kind = QUANTIZED[metadata[f"{name}.dtype"]]
        axis, block_size, shape = (metadata[f"{name}.{key}"] for key in METADATA[1:])
        sizes = tuple(int(size) for size in shape.split(",")) if shape else ()
        data, scale, points = (
            _read(path, file, start, entries[part]) for part in (name, f"{name}.scale", f"{name}.zero_point")
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
        _refuse(path, f"tensor {name!r} with {type(error).__name__}: {error}", "one that gpuq.save has written")


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


def _read(path: Any, file: BinaryIO, start: int, entry: _Entry) -> Array:
    file.seek(start + entry.begin)
    array = np.empty(entry.shape, np.dtype(TYPES[entry.dtype]))
    if array.size and file.readinto(array.reshape(-1).view(np.uint8)) != array.nbytes:  # type: ignore[attr-defined]
        _refuse(path, "a file that became shorter while it was read", "a safetensors file, whole")
    return array.astype(array.dtype.newbyteorder("="), copy=False)
