"""Files of the safetensors format: the header read and checked, or written; checkpoint.py and file_quantizing.py do the
rest.

    8 bytes    length of the header, little-endian
    header     JSON: for each tensor type, shape and offsets; "__metadata__": strings
    data       one tensor after the other, little-endian, C order

Source: https://github.com/huggingface/safetensors, README.md, "Format".
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import secrets
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, NoReturn

ALIGNMENT = 8  # of the data, for readers that map the file
LONGEST_HEADER = 100_000_000  # as the safetensors package has it
BITS = {  # of an element
    "F4": 4,
    **dict.fromkeys(("F6_E2M3", "F6_E3M2"), 6),
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"), 8),
    **dict.fromkeys(("U16", "I16", "F16", "BF16"), 16),
    **dict.fromkeys(("U32", "I32", "F32"), 32),
    **dict.fromkeys(("U64", "I64", "F64", "C64"), 64),
}


class Entry(NamedTuple):
    """One tensor of a file: its type, shape and place in the data."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


class Header(NamedTuple):
    """The tensors and the metadata of a file, and where its data begins."""

    entries: dict[str, Entry]
    metadata: dict[str, str]
    start: int


def write_header(
    file: BinaryIO, tensors: Mapping[str, tuple[str, Sequence[int]]], metadata: Mapping[str, str]
) -> Header:
    """Write the header of tensors, given their types and shapes; they are laid out one after the other, aligned."""
    entries, end = {}, 0
    for name in sorted(tensors, key=lambda name: (-BITS[tensors[name][0]], name)):
        kind, shape = tensors[name]
        begin, end = end, end + _bytes_of(kind, shape)
        entries[name] = Entry(kind, tuple(shape), begin, end)
    described: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    for name, entry in entries.items():
        described[name] = {"dtype": entry.dtype, "shape": list(entry.shape), "data_offsets": [entry.begin, entry.end]}
    text = json.dumps(described, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % ALIGNMENT)
    file.write(len(text).to_bytes(8, "little") + text)
    return Header(entries, dict(metadata), 8 + len(text))


def read_header(path: Any, file: BinaryIO) -> Header:
    """The header of a file, all of whose bytes it accounts for.

    Raises
    ------
    ValueError
        The file is no safetensors file, or is cut short.
    """
    size = os.fstat(file.fileno()).st_size
    length = int.from_bytes(file.read(8), "little")
    if size < 8 or length > min(size - 8, LONGEST_HEADER):
        refuse(path, f"a file of {size} bytes with a header of {length}", "a safetensors file, whole")
    try:
        header = json.loads(file.read(length).decode(), object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        refuse(path, f"a header that is no JSON with names apart: {error}", "a safetensors file")
    if not isinstance(header, dict):
        refuse(path, f"a header of type {type(header).__name__}", "a safetensors file")
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        refuse(path, "metadata that are not strings", "a safetensors file")
    entries = {name: _entry(path, name, value) for name, value in header.items()}
    end = 0
    for name, entry in sorted(entries.items(), key=lambda item: (item[1].begin, item[1].end)):
        if entry.begin != end:
            refuse(path, f"tensor {name!r} at {entry.begin} after an end at {end}", "tensors one after the other")
        end = entry.end
    if 8 + length + end != size:
        refuse(path, f"{size - 8 - length} bytes of data for tensors of {end}", "a safetensors file, whole")
    return Header(entries, metadata, 8 + length)


def refuse(path: Any, came: str, accepted: str) -> NoReturn:
    """Raise a ValueError about a file."""
    raise ValueError(f"path: got {came} ({os.fspath(path)}); accepted: {accepted}")


@contextlib.contextmanager
def replacing(target: Path) -> Iterator[BinaryIO]:
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


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name stands twice")
    return found


def _entry(path: Any, name: str, value: Any) -> Entry:
    """One tensor of the header, whose bytes are as many as its type and shape need."""
    fields: dict[str, Any] = value if isinstance(value, dict) else {}
    dtype, shape, offsets = (fields.get(key, "") for key in ("dtype", "shape", "data_offsets"))
    known = isinstance(dtype, str) and dtype in BITS and _are_sizes(shape) and _are_sizes(offsets)
    if not known or len(offsets) != 2:
        refuse(path, f"tensor {name!r} described as {value!r}", f"type ({', '.join(BITS)}), shape and two offsets")
    entry, needed = Entry(dtype, tuple(shape), *offsets), _bytes_of(dtype, shape)
    if entry.end - entry.begin != needed:
        refuse(path, f"tensor {name!r} of shape {entry.shape} in {entry.end - entry.begin} bytes", f"{needed} bytes")
    return entry


def _bytes_of(dtype: str, shape: Sequence[int]) -> int:
    return -(-math.prod(shape) * BITS[dtype] // 8)


def _are_sizes(values: Any) -> bool:
    return isinstance(values, list) and all(type(value) is int and value >= 0 for value in values)
