"""Arrays in .npy and .safetensors files, a piece at a time: what file_quantizing.py reads from and writes to.

reading   open_file ─► TensorFile: tensors by name, metadata ─ read(name, slab) ─► an array of the piece's shape
writing   create    ─► Begin: a name ─► Writer: the pieces of that array, one after the other
"""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import numpy.typing as npt

from gpuq import nibbles
from gpuq.layout import Shape
from gpuq.safetensors_file import BITS, read_header, refuse, replacing, write_header
from gpuq.slabs import Slab

Array = npt.NDArray[Any]
REAL_NAMES = {"F32": "float32", "F64": "float64", "F16": "float16", "BF16": "bfloat16"}  # gpuq's, by safetensors'
CODE_NAMES = {"int8": "I8", "uint8": "U8", "int16": "I16", "uint16": "U16", "int32": "I32", "uint32": "U32"}
STORAGE = {  # of the types that gpuq reads, by safetensors' names; what is real without being NumPy's is its bits
    "F32": "<f4", "F64": "<f8", "F16": "<u2", "BF16": "<u2", "I8": "<i1", "U8": "<u1", "I16": "<i2", "U16": "<u2",
    "I32": "<i4", "U32": "<u4",
}  # fmt: skip
NPY_NAMES = {
    "float32": "F32", "float64": "F64", "float16": "F16", "int8": "I8", "uint8": "U8", "int16": "I16",
    "uint16": "U16", "int32": "I32", "uint32": "U32", "int64": "I64", "uint64": "U64", "bool": "BOOL",
    "complex64": "C64",
}  # fmt: skip
NPY_TYPES = {name: dtype for dtype, name in NPY_NAMES.items()}
SUFFIXES = (".npy", ".safetensors")
COPIED = 1 << 24  # bytes of a file that are copied at a time


class Tensor(NamedTuple):
    """An array of a file: its type by safetensors' name, and its shape."""

    dtype: str
    shape: Shape

    @property
    def nbytes(self) -> int:
        """Bytes of its elements."""
        return -(-math.prod(self.shape) * BITS[self.dtype] // 8)


class TensorFile:
    """A file of arrays, open."""

    tensors: dict[str, Tensor]
    metadata: dict[str, str]

    def read(self, name: str, slab: Slab) -> Array:
        """A piece of a tensor, of STORAGE's types in native byte order."""
        raise NotImplementedError

    def read_codes(self, name: str, slab: Slab, signed: bool) -> Array:
        """A piece of 4-bit codes that lie two in a byte; `slab` counts codes."""
        raise NotImplementedError

    def raw(self, name: str) -> Iterator[bytes]:
        """The bytes of a tensor as they lie in the file."""
        raise NotImplementedError


class _Safetensors(TensorFile):
    def __init__(self, path: Path, file: BinaryIO) -> None:
        self._path, self._file, self.header = path, file, read_header(path, file)
        self.tensors = {name: Tensor(entry.dtype, entry.shape) for name, entry in self.header.entries.items()}
        self.metadata = self.header.metadata

    def read(self, name: str, slab: Slab) -> Array:
        kind = np.dtype(STORAGE[self.tensors[name].dtype])
        array = np.empty(slab.shape, kind)
        self._fill(name, slab.first * kind.itemsize, array)
        return array.astype(kind.newbyteorder("="), copy=False)

    def read_codes(self, name: str, slab: Slab, signed: bool) -> Array:
        count = math.prod(slab.shape)
        begin, end = slab.first // 2, -(-(slab.first + count) // 2)
        packed = np.empty(end - begin, np.uint8)
        self._fill(name, begin, packed)
        codes = nibbles.unpack(packed, 2 * packed.size, signed)
        return codes[slab.first % 2 :][:count].reshape(slab.shape)

    def raw(self, name: str) -> Iterator[bytes]:
        entry = self.header.entries[name]
        for begin in range(entry.begin, entry.end, COPIED):
            part = np.empty(min(COPIED, entry.end - begin), np.uint8)
            self._fill(name, begin - entry.begin, part)
            yield part.tobytes()

    def _fill(self, name: str, begin: int, array: Array) -> None:
        self._file.seek(self.header.start + self.header.entries[name].begin + begin)
        flat = array.reshape(-1).view(np.uint8)
        if flat.size and self._file.readinto(flat) != flat.size:  # type: ignore[attr-defined]
            refuse(self._path, "a file that became shorter while it was read", "a safetensors file, whole")


class _Npy(TensorFile):
    """One array, named like its file. Parts of it are mapped while they are read, whatever its order."""

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self._path = path
        try:
            version = np.lib.format.read_magic(file)
            read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}[version]
            shape, self._fortran, self._dtype = read(file)
        except (ValueError, KeyError, EOFError) as error:
            refuse(path, f"no .npy file of version 1 or 2: {error}", "a .npy file")
        self._start, size = file.tell(), os.fstat(file.fileno()).st_size
        name = NPY_NAMES.get(self._dtype.name)
        if name is None:
            refuse(path, f"an array of {self._dtype}", f"one of {', '.join(NPY_NAMES)}")
        if size - self._start < math.prod(shape) * self._dtype.itemsize:
            refuse(path, f"an array of shape {shape} in a file of {size} bytes", "a .npy file, whole")
        self.tensors, self.metadata = {path.stem: Tensor(name, shape)}, {}

    def read(self, name: str, slab: Slab) -> Array:
        dtype, shape = self.tensors[name]
        order: Any = "F" if self._fortran else "C"
        mapped = np.memmap(self._path, self._dtype, "r", self._start, shape, order)
        index = tuple(slice(start, stop) for start, stop in zip(slab.starts, slab.stops, strict=True))
        part = np.array(mapped[index], self._dtype.newbyteorder("="), order="C")
        return part.view(np.dtype(STORAGE[dtype]).newbyteorder("="))

    def raw(self, name: str) -> Iterator[bytes]:
        mapped = np.load(self._path, mmap_mode="r" if math.prod(self.tensors[name].shape) else None)
        little = self._dtype.newbyteorder("<")
        yield np.ascontiguousarray(mapped, little).reshape(-1).view(np.uint8).tobytes()


@contextlib.contextmanager
def open_file(path: Path) -> Iterator[TensorFile]:
    """The arrays of a file, by its suffix.

    Raises
    ------
    ValueError
        The file is not what its suffix says, or cut short.
    OSError
        As `open`.
    """
    require_suffix("IN", path)
    with open(path, "rb") as file:
        yield _Npy(path, file) if path.suffix == ".npy" else _Safetensors(path, file)


def require_suffix(argument: str, path: Path) -> None:
    """Refuse a name that says of no known format."""
    if path.suffix not in SUFFIXES:
        raise ValueError(f"{argument}: got {path}; accepted: a name that ends in {' or '.join(SUFFIXES)}")


class Writer:
    """The bytes of one array, from a place in a file on."""

    def __init__(self, file: BinaryIO, place: int) -> None:
        self._file, self._left = file, np.empty(0, np.uint8)
        file.seek(place)

    def write(self, part: Any) -> None:
        """The next bytes, or the next elements of an array in C order."""
        if isinstance(part, np.ndarray):
            part = np.ascontiguousarray(part, part.dtype.newbyteorder("<")).reshape(-1).view(np.uint8).data
        self._file.write(part)

    def write_codes(self, codes: Array) -> None:
        """The next 4-bit codes, two in a byte; an odd one waits for those that follow, or for `end_codes`."""
        flat = codes.reshape(-1).view(np.uint8)
        if self._left.size:
            flat = np.concatenate([self._left, flat])
        even = flat.size // 2 * 2
        self._left = flat[even:].copy()
        self.write(nibbles.pack(flat[:even]))

    def end_codes(self) -> None:
        """The last code, if their number is odd."""
        self.write(nibbles.pack(self._left))


Begin = Callable[[str], Writer]  # writes the array of that name


@contextlib.contextmanager
def create(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> Iterator[Begin]:
    """A file of such arrays, or one .npy file for each, that take their names when they are whole and on the disk.

    An array whose name ends in .scale or .zero_point lies in a .npy file of its own beside the other.
    """
    with contextlib.ExitStack() as stack:
        if path.suffix != ".npy":
            file = stack.enter_context(replacing(path))
            header = write_header(file, tensors, metadata)
            yield lambda name: Writer(file, header.start + header.entries[name].begin)
            return
        opened = {
            name: stack.enter_context(_create_npy(npy_beside(path, name), tensor)) for name, tensor in tensors.items()
        }
        yield opened.__getitem__


def npy_beside(path: Path, name: str) -> Path:
    """Where the array of that name lies: the file itself, or beside it, x.scale.npy for x.npy."""
    part = next((suffix for suffix in (".scale", ".zero_point") if name.endswith(suffix)), "")
    return path.with_name(path.stem + part + path.suffix)


@contextlib.contextmanager
def _create_npy(path: Path, tensor: Tensor) -> Iterator[Writer]:
    if tensor.dtype not in NPY_TYPES:
        raise ValueError(f"OUT: got a .npy file for an array of {tensor.dtype}; accepted: {', '.join(NPY_TYPES)}")
    descr = np.lib.format.dtype_to_descr(np.dtype(NPY_TYPES[tensor.dtype]).newbyteorder("<"))
    with replacing(path) as file:
        header = {"descr": descr, "fortran_order": False, "shape": tensor.shape}
        np.lib.format.write_array_header_1_0(file, header)
        yield Writer(file, file.tell())
