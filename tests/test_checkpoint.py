"""QTensors in files: there and back, as the safetensors package reads them, and files that are none."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import gpuq
from compare import assert_same
from gpuq import nibbles
from gpuq.dtypes import QUANTIZED

Array = npt.NDArray[Any]
GRAINS: list[tuple[int | None, int]] = [(None, 0), (0, 0), (-1, 0), (1, 3), (0, 2)]
X = np.random.default_rng(0).normal(size=(5, 7)).astype(np.float32)


def tensors() -> dict[str, Any]:
    made = {
        f"{dtype} {axis} {block_size}": gpuq.quantize(X, dtype, axis=axis, block_size=block_size)
        for dtype in QUANTIZED
        for axis, block_size in GRAINS
    }
    shapes: tuple[tuple[int, ...], ...] = ((), (0,), (1,), (3, 0), (2, 3, 5))
    return {**made, **{f"{s} {d}": gpuq.quantize(np.ones(s, np.float32), d) for s in shapes for d in ("int8", "uint4")}}


def assert_same_tensor(actual: Any, expected: Any) -> None:
    for field in ("data", "scale", "zero_point"):
        assert_same(getattr(actual, field), getattr(expected, field), field)
    assert (actual.axis, actual.block_size, actual.dtype) == (expected.axis, expected.block_size, expected.dtype)


def test_there_and_back(tmp_path: Path) -> None:
    path, saved = tmp_path / "model.safetensors", tensors()
    gpuq.save(path, saved)
    loaded = gpuq.load(path)
    assert sorted(saved) == list(loaded)
    for name, q in saved.items():
        assert_same_tensor(loaded[name], q)
        assert loaded[name].data.flags.writeable
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
    gpuq.save(str(path), {})
    assert gpuq.load(str(path)) == {}


def test_as_the_safetensors_package_reads_it(tmp_path: Path) -> None:
    """Every part under its name, in its type; a 4-bit tensor two per byte; what they are in the metadata."""
    safetensors = pytest.importorskip("safetensors", reason="the package safetensors is not installed")
    from safetensors.numpy import load_file

    path, saved = tmp_path / "model.safetensors", tensors()
    gpuq.save(path, saved)
    parts = load_file(path)
    assert len(parts) == 3 * len(saved)
    with safetensors.safe_open(path, "np") as file:
        metadata = file.metadata()
    for name, q in saved.items():
        kind = QUANTIZED[q.dtype.name]
        codes = q.data.view(kind.storage)
        assert_same(parts[name], nibbles.pack(codes) if kind.bits == 4 else codes)
        assert_same(parts[f"{name}.scale"], q.scale)
        assert_same(parts[f"{name}.zero_point"], q.zero_point.view(kind.storage))
        assert metadata[f"{name}.dtype"] == kind.name
        assert metadata[f"{name}.axis"] == ("none" if q.axis is None else str(q.axis))
        assert metadata[f"{name}.block_size"] == str(q.block_size)
        assert metadata[f"{name}.shape"] == ",".join(map(str, q.shape))


def test_as_the_safetensors_package_writes_it(tmp_path: Path) -> None:
    """The same tensors and metadata, laid out by that package, load as well."""
    pytest.importorskip("safetensors", reason="the package safetensors is not installed")
    from safetensors.numpy import save_file

    q, path = gpuq.quantize(X, axis=1), tmp_path / "file"
    metadata = {"w.dtype": "int8", "w.axis": "1", "w.block_size": "0", "w.shape": "5,7", "other": "kept"}
    save_file({"w": q.data, "w.scale": q.scale, "w.zero_point": q.zero_point}, path, metadata)
    assert_same_tensor(gpuq.load(path)["w"], q)


@pytest.mark.parametrize("name", ["int4", "uint4"])
def test_nibbles(name: str) -> None:
    """The first code is the low half; an odd one has a high half of 0 beside it."""
    kind = QUANTIZED[name]
    for count in (0, 1, 2, 5, 16, 1001):
        codes = np.random.default_rng(count).integers(kind.qmin, kind.qmax + 1, count).astype(kind.storage)
        packed = nibbles.pack(codes)
        halves = [int(code) & 15 for code in codes] + [0] * (count % 2)
        assert packed.tolist() == [low | high << 4 for low, high in zip(halves[::2], halves[1::2], strict=True)]
        assert_same(nibbles.unpack(packed, count, kind.signed), codes)
    assert nibbles.pack(np.array([[1, 2], [3, 4]], kind.storage).T).tolist() == [0x31, 0x42]


def test_tensors_of_torch(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    for dtype in ("int8", "int4"):
        gpuq.save(tmp_path / "file", {"w": gpuq.quantize(torch.from_numpy(X), dtype, axis=0).T})
        assert_same(gpuq.load(tmp_path / "file")["w"].dequantize(), gpuq.quantize(X, dtype, axis=0).T.dequantize())


def test_a_failed_save_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    gpuq.save(path, {"w": gpuq.quantize(X)})
    before = path.read_bytes()

    def fail(*arguments: Any) -> None:
        raise OSError("no space left")

    for name in ("fsync", "replace"):
        with monkeypatch.context() as patch:
            patch.setattr(os, name, fail)
            with pytest.raises(OSError, match="no space"):
                gpuq.save(path, {"other": gpuq.quantize(X)})
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("tensors", "error"),
    [
        ([], TypeError),
        ({1: gpuq.QTensor(np.zeros(1, np.int8), 1.0)}, TypeError),
        ({"w": X}, TypeError),
        ({"__metadata__": gpuq.QTensor(np.zeros(1, np.int8), 1.0)}, ValueError),
        ({name: gpuq.QTensor(np.zeros(1, np.int8), 1.0) for name in ("w", "w.scale")}, ValueError),
    ],
)
def test_what_cannot_be_saved(tensors: Any, error: type[Exception], tmp_path: Path) -> None:
    with pytest.raises(error, match="tensors: got"):
        gpuq.save(tmp_path / "file", tensors)
    assert list(tmp_path.iterdir()) == []


# ---- files that are none ----


def file_of(header: Any, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def described(**changes: Any) -> bytes:
    """A right file of one tensor, or one with fields changed: NAME=value; of a tensor, NAME=[dtype, shape, offsets]."""
    entries: dict[str, Any] = {"w.scale": ["F32", [], [0, 4]], "w": ["I8", [2], [4, 6]]}
    entries["w.zero_point"] = ["I8", [], [6, 7]]
    metadata: dict[str, Any] = {"w.dtype": "int8", "w.axis": "none", "w.block_size": "0", "w.shape": "2"}
    for name, value in changes.items():
        (entries if isinstance(value, list) else metadata)[name.replace("_of_", ".")] = value
    keys = ("dtype", "shape", "data_offsets")
    header = {name: dict(zip(keys, value, strict=True)) for name, value in entries.items()}
    kept = {name: value for name, value in metadata.items() if value is not None}
    return file_of({"__metadata__": kept, **header}, np.float32(0.5).tobytes() + bytes([1, 2, 0]))


def test_the_right_file_loads(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(described())
    assert_same(gpuq.load(tmp_path / "file")["w"].dequantize(), np.float32([0.5, 1]))


MALFORMED = {
    "empty": b"",
    "seven bytes": bytes(7),
    "a header longer than the file": (1 << 40).to_bytes(8, "little") + b"{}",
    "no JSON": file_of(b"{]"),
    "no text": file_of(b"\xff\xfe"),
    "a list": file_of([]),
    "deeply nested": file_of(b"[" * 100_000),
    "a name twice": file_of(b'{"a": 1, "a": 2}'),
    "metadata of numbers": file_of({"__metadata__": {"w.dtype": 1}}),
    "cut short": described()[:-1],
    "a byte too many": described() + b"\0",
    "an unknown type": described(w=["F8", [2], [4, 6]]),
    "a type that is no text": described(w=[[], [2], [4, 6]]),
    "a negative size": described(w=["I8", [-2], [4, 6]]),
    "a size that is no integer": described(w=["I8", [2.0], [4, 6]]),
    "three offsets": described(w=["I8", [2], [4, 5, 6]]),
    "offsets that overlap": described(w=["I8", [2], [3, 5]]),
    "a shape of other bytes": described(w=["I8", [3], [4, 6]]),
    "a huge shape": described(w=["I8", [1 << 62, 1 << 62], [4, 6]]),
    "a tensor described by a number": file_of({"w": 3}),
    "a part missing": described(w_of_dtype=None),
    "a part too many": described(v_of_dtype="int8"),
    "no axis": described(w_of_axis=None),
    "an axis of text": described(w_of_axis="first"),
    "an axis too many": described(w_of_axis="1"),
    "another shape": described(w_of_shape="3"),
    "a shape of text": described(w_of_shape="a"),
    "another type": described(w_of_dtype="int16"),
    "no quantized type": described(w_of_dtype="float32"),
    "other 4-bit codes": described(w_of_dtype="int4"),
    "a scale of another type": described(**{"w.scale": ["I32", [], [0, 4]]}),
    "a zero point of another type": described(**{"w.zero_point": ["U8", [], [6, 7]]}),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_files(name: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(MALFORMED[name])
    with pytest.raises(ValueError, match="path: got"):
        gpuq.load(tmp_path / "file")


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        gpuq.load(tmp_path / "none")
    with pytest.raises(FileNotFoundError):
        gpuq.save(tmp_path / "none" / "file", {})
