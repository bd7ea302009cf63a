"""`gpuq quantize`, `dequantize` and `inspect`: files in pieces give what whole arrays give; OUT is whole or none."""

from __future__ import annotations

import itertools
import json
import math
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gpuq
from compare import assert_same
from gpuq import file_dequantizing, file_quantizing
from gpuq.cli import main
from gpuq.file_quantizing import Choice, quantize_file
from gpuq.layout import PER_TENSOR, Granularity
from gpuq.slabs import slabs
from subprocesses import run_python

safetensors_numpy = pytest.importorskip("safetensors.numpy", reason="the package safetensors is not installed")
SHAPES = ((), (1,), (7,), (5, 7), (3, 4, 10), (2, 1, 3, 5))
CALIBRATIONS = ("minmax", "percentile", "mse", "entropy")


def reals(*shape: int, seed: int = 0, dtype: Any = np.float32) -> Any:
    return np.asarray(np.random.default_rng(seed).normal(0.3, 2, shape)).astype(dtype)


def model() -> dict[str, Any]:
    """Tensors of every kind of shape, real type, and some that are not real."""
    made = {f"layer.{i}.weight": reals(*shape, seed=i) for i, shape in enumerate(SHAPES)}
    made |= {"half": reals(6, 10, dtype=np.float16), "double": reals(4, 9, dtype=np.float64)}
    made |= {"ids": np.arange(6).reshape(2, 3), "mask": np.array([True, False]), "empty": np.zeros((0, 3), np.float32)}
    made["odd ones"] = np.array([[np.nan, np.inf, -np.inf, 0, 1, -2, 1e30]], np.float32)
    return made


def stored(path: Path, tensors: dict[str, Any], metadata: dict[str, str] | None = None) -> Path:
    safetensors_numpy.save_file(tensors, path, metadata)
    return path


@pytest.fixture(params=[1, 4, 1 << 23], ids="slabs of {}".format)
def small_slabs(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pieces so small that every tensor is cut, and so large that none is."""
    monkeypatch.setattr(file_quantizing, "ELEMENTS", request.param)
    monkeypatch.setattr(file_dequantizing, "ELEMENTS", request.param)


# ---- slabs ----


@pytest.mark.parametrize("shape", [*SHAPES, (0, 3), (3, 0)], ids=str)
def test_slabs_follow_each_other_and_miss_nothing(shape: tuple[int, ...]) -> None:
    grains = [PER_TENSOR, *(Granularity("axis", axis) for axis in range(len(shape)))]
    grains += [Granularity("block", axis, size) for axis in range(len(shape)) for size in (1, 2, 3)]
    numbers = np.arange(math.prod(shape)).reshape(shape)
    for grain, elements in itertools.product(grains, (1, 3, 8, 1000)):
        count = 0
        for slab in slabs(shape, elements, grain):
            part = numbers[tuple(slice(*ends) for ends in zip(slab.starts, slab.stops, strict=True))]
            assert part.reshape(-1).tolist() == list(range(slab.first, slab.first + part.size))
            assert slab.first == count
            assert part.shape == slab.shape
            assert part.size <= elements or grain.kind == "block"
            if grain.kind == "block":
                assert slab.starts[grain.axis] % grain.block_size == 0
            count += part.size
        assert count == numbers.size


# ---- there ----


@pytest.mark.usefixtures("small_slabs")
@pytest.mark.parametrize(("axis", "block_size"), [(None, 0), (0, 0), (-1, 0), (1, 0), (0, 2), (-1, 3), (1, 100)])
@pytest.mark.parametrize("dtype", ["int8", "uint8", "int4", "int16"])
def test_a_file_in_pieces_is_what_whole_arrays_are(
    tmp_path: Path, dtype: str, axis: int | None, block_size: int
) -> None:
    tensors = model()
    source, target = stored(tmp_path / "in.safetensors", tensors, {"by": "somebody"}), tmp_path / "out.safetensors"
    quantize_file(source, target, Choice(dtype, axis, block_size), lambda count: None)
    loaded = gpuq.load(target)
    assert loaded.keys() == tensors.keys()
    for name, x in tensors.items():
        fits = axis is None or -x.ndim <= axis < x.ndim
        if x.dtype.kind != "f" or x.size == 0 or not fits:
            assert_same(loaded[name], x, name)
            continue
        expected, q = gpuq.quantize(x, dtype, axis=axis, block_size=block_size), loaded[name]
        for field in ("data", "scale", "zero_point"):
            assert_same(getattr(q, field), getattr(expected, field), f"{name} {field}")
        assert (q.axis, q.block_size, q.dtype) == (expected.axis and expected.axis % x.ndim, expected.block_size, dtype)
    with safetensors_numpy.safe_open(target, "np") as file:
        assert file.metadata()["by"] == "somebody"


@pytest.mark.usefixtures("small_slabs")
@pytest.mark.parametrize("calibration", CALIBRATIONS)
@pytest.mark.parametrize("axis", [None, 0, 1])
def test_every_calibration_and_option(tmp_path: Path, calibration: str, axis: int | None) -> None:
    x = reals(6, 50)
    source = stored(tmp_path / "in.safetensors", {"x": x})
    for symmetric, narrow in itertools.product((False, True), repeat=2):
        choice = Choice("int8", axis, 0, symmetric, narrow, calibration)
        quantize_file(source, tmp_path / "out.safetensors", choice, lambda count: None)
        options = {"symmetric": symmetric, "narrow_range": narrow, "calibration": calibration}
        expected, q = gpuq.quantize(x, axis=axis, **options), gpuq.load(tmp_path / "out.safetensors")["x"]
        for field in ("data", "scale", "zero_point"):
            assert_same(getattr(q, field), getattr(expected, field), field)


def test_bfloat16(tmp_path: Path) -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes", reason="ml_dtypes is not installed")
    x = reals(5, 6).astype(ml_dtypes.bfloat16)
    source, out = stored(tmp_path / "in.safetensors", {"x": x, "kept": x[:1]}), tmp_path / "out.safetensors"
    assert main(["quantize", str(source), str(out), "--axis", "0", "--exclude", "k*"]) == 0
    loaded = gpuq.load(out)
    assert_same(loaded["x"].data, gpuq.quantize(x, axis=0).data)
    assert_same(loaded["kept"], x[:1])
    assert main(["dequantize", str(out), str(tmp_path / "back.safetensors"), "--dtype", "bfloat16"]) == 0
    back = safetensors_numpy.load_file(tmp_path / "back.safetensors")
    assert_same(back["x"], loaded["x"].dequantize(ml_dtypes.bfloat16))


def test_what_is_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    x = reals(40, 30)
    source, out = stored(tmp_path / "in.safetensors", {"x": x, "n": np.arange(3)}), tmp_path / "a b ü.safetensors"
    assert main(["quantize", str(source), str(out), "--axis", "1", "--json"]) == 0
    n, described = json.loads(capsys.readouterr().out)
    error = gpuq.error(x, gpuq.quantize(x, axis=1))
    assert described == {
        "name": "x", "shape": [40, 30], "before": "F32", "after": "int8", "bytes_before": 4800,
        "bytes_after": 1200 + 30 * 5, "sqnr_db": pytest.approx(error.sqnr_db), "max_abs": pytest.approx(error.max_abs),
    }  # fmt: skip
    assert (n["before"], n["after"], n["sqnr_db"]) == ("I64", "I64", None)
    assert main(["quantize", str(source), str(out), "--axis", "1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["tensor", "shape", "from", "to", "before", "after", "SQNR", "dB", "largest", "error"]
    assert lines[2].split()[:4] == ["x", "40x30", "F32", "int8"]
    assert lines[3].startswith("2 tensors")


def test_which_tensors(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = ("a.weight", "a.bias", "b.weight", "b.norm.weight")
    source = stored(tmp_path / "in.safetensors", {name: reals(4, 4) for name in names})
    out, globs = tmp_path / "out.safetensors", ["--include", "*.weight", "--exclude", "*norm*", "--exclude", "none"]
    before = list(tmp_path.iterdir())
    assert main(["quantize", str(source), str(out), *globs, "--dry-run", "--json"]) == 0
    dry = {each["name"]: each["after"] for each in json.loads(capsys.readouterr().out)}
    assert dry == {"a.weight": "int8", "a.bias": "F32", "b.weight": "int8", "b.norm.weight": "F32"}
    assert list(tmp_path.iterdir()) == before
    assert main(["quantize", str(source), str(out), *globs]) == 0
    assert {name for name, q in gpuq.load(out).items() if isinstance(q, gpuq.QTensor)} == {"a.weight", "b.weight"}
    again = tmp_path / "again.safetensors"
    assert main(["quantize", str(out), str(again)]) == 0
    loaded = gpuq.load(again)
    assert all(isinstance(q, gpuq.QTensor) for q in loaded.values())
    assert_same(loaded["a.weight"].data, gpuq.load(out)["a.weight"].data, "what was quantized already stays")


# ---- and back ----


@pytest.mark.usefixtures("small_slabs")
@pytest.mark.parametrize(("axis", "block_size"), [(None, 0), (0, 0), (-1, 3), (0, 2)])
@pytest.mark.parametrize("dtype", ["int8", "uint4", "uint16"])
def test_back_to_real_numbers(tmp_path: Path, dtype: str, axis: int | None, block_size: int) -> None:
    tensors = model()
    source, q = stored(tmp_path / "in.safetensors", tensors, {"by": "somebody"}), tmp_path / "q.safetensors"
    quantize_file(source, q, Choice(dtype, axis, block_size), lambda count: None)
    for real in ("float32", "float16", "float64"):
        assert main(["dequantize", str(q), str(tmp_path / "back.safetensors"), "--dtype", real]) == 0
        back = safetensors_numpy.load_file(tmp_path / "back.safetensors")
        assert back.keys() == tensors.keys()
        for name, each in gpuq.load(q).items():
            assert_same(back[name], each.dequantize(real) if isinstance(each, gpuq.QTensor) else each, name)
    with safetensors_numpy.safe_open(tmp_path / "back.safetensors", "np") as file:
        assert file.metadata()["by"] == "somebody"


@pytest.mark.usefixtures("small_slabs")
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("kind", ["<f4", ">f4", "<f2", ">f8"])
def test_npy(tmp_path: Path, order: Any, kind: str) -> None:
    x = np.asarray(reals(6, 10), kind, order=order)
    np.save(tmp_path / "x.npy", x)
    native = x.astype(x.dtype.newbyteorder("="))
    blocks = ["--axis", "0", "--block-size", "4"]
    for options, axis, block_size in (([], None, 0), (["--axis", "1"], 1, 0), (blocks, 0, 4)):
        q = gpuq.quantize(native, "int4", axis=axis, block_size=block_size)
        codes = q.data.astype(np.int8)
        assert main(["quantize", str(tmp_path / "x.npy"), str(tmp_path / "q.npy"), "--dtype", "int4", *options]) == 0
        assert_same(np.load(tmp_path / "q.npy"), codes)
        assert_same(np.load(tmp_path / "q.scale.npy"), q.scale)
        assert_same(np.load(tmp_path / "q.zero_point.npy"), q.zero_point.astype(np.int8))
        assert main(["dequantize", str(tmp_path / "q.npy"), str(tmp_path / "r.npy"), *options]) == 0
        assert_same(np.load(tmp_path / "r.npy"), q.dequantize())
        assert main(["quantize", str(tmp_path / "x.npy"), str(tmp_path / "q.safetensors"), *options]) == 0
        whole = gpuq.quantize(native, axis=axis, block_size=block_size)
        assert_same(gpuq.load(tmp_path / "q.safetensors")["x"].data, whole.data)


# ---- inspect ----


def test_inspect(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = stored(tmp_path / "in.safetensors", {"w": reals(4, 64), "n": np.arange(3)}, {"by": "somebody"})
    options = ["--dtype", "int4", "--axis", "1", "--block-size", "32"]
    assert main(["quantize", str(source), str(tmp_path / "q.safetensors"), *options]) == 0
    capsys.readouterr()
    assert main(["inspect", str(tmp_path / "q.safetensors"), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    q = gpuq.load(tmp_path / "q.safetensors")["w"]
    assert report["metadata"] == {"format": "gpuq", "by": "somebody"}
    assert report["tensors"] == [
        {"name": "n", "dtype": "I64", "shape": [3], "bytes": 24, "quantized": None},
        {
            "name": "w", "dtype": "int4", "shape": [4, 64], "bytes": 128 + 8 * 5,
            "quantized": {
                "axis": 1, "block_size": 32, "scale": [q.scale.min(), q.scale.max()],
                "zero_point": [q.zero_point.astype(int).min(), q.zero_point.astype(int).max()],
            },
        },
    ]  # fmt: skip
    np.save(tmp_path / "x.npy", reals(3, 2))
    for path in (source, tmp_path / "q.safetensors", tmp_path / "x.npy"):
        assert main(["inspect", str(path)]) == 0
    text = capsys.readouterr().out
    assert "blocks of 32, axis 1" in text
    assert "3x2" in text


# ---- mistakes, and failures on the way ----


def test_mistakes_are_told_in_a_line_and_nothing_is_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = stored(tmp_path / "good.safetensors", {"w": reals(4, 4), "w.scale": reals(2, 2)})
    fine = stored(tmp_path / "fine.safetensors", {"w": reals(4, 4)})
    (tmp_path / "text.safetensors").write_text("no tensors here, but a text")
    (tmp_path / "cut.safetensors").write_bytes(good.read_bytes()[:-1])
    np.save(tmp_path / "objects.npy", np.array([{}], dtype=object), allow_pickle=True)
    np.save(tmp_path / "whole.npy", np.arange(3))
    (tmp_path / "cut.npy").write_bytes((tmp_path / "whole.npy").read_bytes()[:-1])
    (tmp_path / "none.npy").write_bytes(b"")
    np.save(tmp_path / "codes.npy", np.arange(4, dtype=np.int8))
    before = sorted(tmp_path.iterdir())
    out = str(tmp_path / "out.safetensors")
    for arguments, *words in (
        (["quantize", "missing.safetensors", out], "missing.safetensors"),
        (["quantize", str(tmp_path), out], "IN: got"),
        (["quantize", "model.onnx", out], "IN: got model.onnx", ".npy"),
        (["quantize", str(good), str(tmp_path / "out.bin")], "OUT: got", ".safetensors"),
        (["quantize", str(good), str(tmp_path / "out.npy")], "OUT: got"),
        (["quantize", str(fine), str(tmp_path / "no folder" / "out.safetensors")], "no folder"),
        (["quantize", str(good), out], "'w.scale'", "part of another"),
        (["quantize", str(tmp_path / "text.safetensors"), out], "header"),
        (["quantize", str(tmp_path / "cut.safetensors"), out], "bytes of data"),
        (["quantize", str(tmp_path / "objects.npy"), out], "object"),
        (["quantize", str(tmp_path / "whole.npy"), out], "I64", "real"),
        (["quantize", str(tmp_path / "cut.npy"), out], "whole"),
        (["quantize", str(tmp_path / "none.npy"), out], ".npy"),
        (["quantize", str(good), out, "--block-size", "4"], "block_size"),
        (["quantize", str(good), out, "--axis", "0", "--block-size", "-4"], "block_size"),
        (["dequantize", str(tmp_path / "codes.npy"), out], "codes.scale.npy"),
        (["inspect", str(tmp_path / "cut.safetensors")], "bytes of data"),
    ):
        assert main(arguments) == 2
        told = capsys.readouterr().err
        assert told.startswith(f"gpuq {arguments[0]}: ")
        assert told.count("\n") == 1
        for word in words:
            assert word in told, told
    assert sorted(tmp_path.iterdir()) == before


def test_hostile_names_are_names(tmp_path: Path) -> None:
    """A path in a tensor's name leads nowhere, in a .npy file's beside it neither."""
    inner = tmp_path / "inner"
    inner.mkdir()
    source = stored(inner / "in.safetensors", {"../../up": reals(3, 3), "/etc/x": reals(2)})
    assert main(["quantize", str(source), str(inner / "out.safetensors")]) == 0
    assert sorted(gpuq.load(inner / "out.safetensors")) == ["../../up", "/etc/x"]
    assert list(tmp_path.iterdir()) == [inner]


@pytest.mark.parametrize("command", ["quantize", "dequantize"])
def test_a_failure_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str) -> None:
    source, out = stored(tmp_path / "in.safetensors", {"w": reals(9, 9)}), tmp_path / "out.safetensors"
    assert main(["quantize", str(source), str(out)]) == 0
    before, files = out.read_bytes(), sorted(tmp_path.iterdir())

    def fail(*arguments: Any) -> None:
        raise OSError("no space left")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        assert main([command, str(source if command == "quantize" else out), str(out)]) == 2
    assert out.read_bytes() == before
    assert sorted(tmp_path.iterdir()) == files


def test_a_file_into_itself(tmp_path: Path) -> None:
    x = reals(9, 9)
    path = stored(tmp_path / "file.safetensors", {"w": x})
    assert main(["quantize", str(path), str(path)]) == 0
    assert_same(gpuq.load(path)["w"].data, gpuq.quantize(x).data)
    assert main(["dequantize", str(path), str(path)]) == 0
    assert_same(safetensors_numpy.load_file(path)["w"], gpuq.quantize(x).dequantize())


PEAK = """
import os, resource
from gpuq.cli import main

def there_and_back(name):
    assert main(["quantize", f"{{name}}.safetensors", "q.safetensors", *{options}]) == 0
    assert main(["dequantize", "q.safetensors", "back.safetensors"]) == 0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10

os.chdir({folder!r})
print("grown by", -there_and_back("small") + there_and_back("large"))
"""


def large_file(path: Path, rows: int, columns: int) -> None:
    """A file of one tensor, written in parts."""
    described = {"dtype": "F32", "shape": [rows, columns], "data_offsets": [0, rows * columns * 4]}
    header = json.dumps({"w": described}).encode()
    part = reals(1 << 10, columns)
    with open(path, "wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        for _ in range(rows >> 10):
            file.write(part.data)


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in KB on Linux")
@pytest.mark.parametrize(
    "options",
    [(), ("--axis", "0"), ("--dtype", "int4", "--axis", "1", "--block-size", "64")],
)
@pytest.mark.parametrize("gigabytes", [0.5, pytest.param(4, marks=pytest.mark.thorough)])
def test_memory_does_not_grow_with_the_file(
    tmp_path: Path, gigabytes: float, options: tuple[str, ...]
) -> None:
    """At most 256 MiB beyond a slab of 32 MiB, in a process that has compiled what it needs."""
    large_file(tmp_path / "large.safetensors", int(gigabytes * (1 << 16)), 1 << 12)
    large_file(tmp_path / "small.safetensors", 1 << 10, 1 << 12)
    grown = int(run_python(PEAK.format(folder=str(tmp_path), options=options)).split("grown by")[1])
    for file in tmp_path.iterdir():
        file.unlink()
    assert grown <= 256 + 32
