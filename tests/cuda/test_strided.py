"""Copies between strided arrays on the device, and parameters converted there, against NumPy."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

from compare import assert_same
from gpuq.dtypes import numpy_dtype
from layouts import INPUT_LAYOUTS, PLACES

pytest.importorskip("numba_cuda", reason="needs the package numba-cuda")

from emulated import DlpackArray, download_memory, upload  # noqa: E402
from gpuq.arrays import view  # noqa: E402
from gpuq.cuda import strided  # noqa: E402
from gpuq.cuda.readback import to_host  # noqa: E402
from gpuq.cuda.strided import contiguous, convert, copy  # noqa: E402

SHAPES = [(1,), (7,), (5, 7), (3, 4, 5), (2, 1, 6, 3), (1, 1), (33, 16), (2, 3, 2, 3, 2, 3, 2)]
KINDS = ["uint8", "int16", "float32", "float64"]
LAYOUTS = [name for name in INPUT_LAYOUTS if name != "byte_swapped"]


def numbers(shape: tuple[int, ...], kind: str) -> Any:
    return (np.arange(np.prod(shape)) * 37 % 251).astype(kind).reshape(shape)


def seen(work: Any, array: Any, **options: Any) -> Any:
    """The header of an array uploaded to the device."""
    found = view(upload(work.emulated, array, **options))
    assert found is not None
    return found.array


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_contiguous(work: Any, layout: str, kind: str) -> None:
    for shape in SHAPES:
        array = INPUT_LAYOUTS[layout](numbers(shape, kind))
        result = contiguous(work, seen(work, array, read_only=True))
        assert result.flags.c_contiguous
        assert_same(work.read(result), np.ascontiguousarray(array), f"{layout} {shape}")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("place", PLACES)
def test_copy_into(work: Any, place: str, kind: str) -> None:
    """Nothing but the elements is written, whatever lies between them."""
    for shape in SHAPES:
        memory, target = PLACES[place](shape, kind)
        before, garbage, values = memory.copy(), target.copy(), numbers(shape, kind)
        there = upload(work.emulated, target)
        copy(work, seen(work, values), view(there).array)
        download_memory(work.emulated, there, target)
        assert_same(target, values)
        target[...] = garbage
        assert_same(memory, before)


def test_pieces_are_as_large_as_alignment_allows(work: Any) -> None:
    """Rows of 16 bytes 32 apart go 16 bytes at a time, those 20 apart 4, those 17 apart one."""
    for gap, size in ((16, 16), (8, 8), (4, 4), (1, 1)):
        array = numbers((8, 16 + gap), "uint8")[:, :16]
        pieces: list[int] = []
        original = work.launch
        work.launch = lambda *arguments, kept=pieces, call=original: (kept.append(arguments[-1]), call(*arguments))
        contiguous(work, seen(work, array))
        work.launch = original
        assert pieces == [size]


def test_many_axes_and_many_elements(work: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """More axes than a launch takes, and more elements: several launches."""
    array = numbers((2, 3, 2, 3, 2, 3, 2), "int16")[::-1, ::2, :, ::-1, ::-1, ::2, ::-1]
    for most in (1 << 30, 30, 7):
        monkeypatch.setattr(strided, "MOST_ELEMENTS", most)
        assert_same(work.read(contiguous(work, seen(work, array))), np.ascontiguousarray(array))


CROSSED = {  # arrays whose neighbours are rows apart when they lie in C order
    "transposed": lambda array: array.T,
    "of whole tiles": lambda array: np.ascontiguousarray(array[:128, :256]).T,
    "rows with a gap": lambda array: array[:, :136].T,
    "aligned rows with a gap": lambda array: array[:, 16:176].T,
    "misaligned": lambda array: array[:, 3:170].T,
    "channels last": lambda array: np.ascontiguousarray(array[:120].reshape(2, 6, 10, 272)).transpose(0, 3, 1, 2),
    "upwards": lambda array: array[::-1].T,
    "many axes": lambda array: array[:128, :256].reshape(2, 2, 32, 2, 2, 64).transpose(3, 1, 4, 0, 5, 2),
    "repeated": lambda array: np.broadcast_to(array[:40, :60].T, (3, 60, 40)),
    "few columns": lambda array: array[:, :5].T,
}


@pytest.mark.parametrize("kind", ["uint8", "int16", "float32"])
@pytest.mark.parametrize("name", CROSSED)
def test_tiles(work: Any, name: str, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Into memory of which nothing else is written: in one launch, and misaligned in many."""
    crossed = CROSSED[name](numbers((150, 272), kind))
    for most, place in ((1 << 30, "c_order"), (9000, "misaligned")):
        monkeypatch.setattr(strided, "MOST_ELEMENTS", most)
        memory, target = PLACES[place](crossed.shape, kind)
        before, garbage = memory.copy(), target.copy()
        there = upload(work.emulated, target)
        work.emulated.launches.clear()
        copy(work, seen(work, crossed, read_only=True), view(there).array)
        if place == "c_order":
            assert {"transpose" in each for each in work.emulated.launches} == {name != "few columns"}
        download_memory(work.emulated, there, target)
        assert_same(target, np.ascontiguousarray(crossed), place)
        target[...] = garbage
        assert_same(memory, before)


REALS = ("float32", "float16", "bfloat16", "float64")
INTEGERS = ("int8", "uint8", "int16", "uint16", "int32", "uint32")
CONVERSIONS = [
    *itertools.product(REALS, ("float32", "float64")),
    *((name, "int32") for name in INTEGERS if name != "uint32"),
    *((name, "int64") for name in INTEGERS),
]


@pytest.mark.parametrize(("source", "target"), CONVERSIONS)
def test_convert(work: Any, source: str, target: str) -> None:
    rng = np.random.default_rng(0)
    bits = rng.integers(0, 256, (4, 6, numpy_dtype(source).itemsize)).astype(np.uint8)
    with np.errstate(all="ignore"):
        array = bits.view(numpy_dtype(source))[..., 0]
        array = np.where(array == array, array, array.dtype.type(1)) if source in REALS else array
        expected = array.astype(target)
        kind = {"kind": DlpackArray} if source == "bfloat16" else {}
        for layout in ("c_order", "fortran_order", "every_second", "misaligned"):
            there = seen(work, INPUT_LAYOUTS[layout](array), **kind)
            assert_same(work.read(convert(work, there, target, array.shape)), expected, layout)
            wide = np.broadcast_to(expected, (3, 4, 6))
            assert_same(work.read(convert(work, there, target, (3, 4, 6))), np.ascontiguousarray(wide), layout)


def test_nothing_is_copied_that_is_fit_to_use(work: Any) -> None:
    there = seen(work, numbers((4, 4), "float32"))
    assert contiguous(work, there) is there
    assert convert(work, there, np.float32, (4, 4)) is there
    assert not work.emulated.launches


@pytest.mark.parametrize("layout", LAYOUTS)
def test_to_host(work: Any, layout: str) -> None:
    for shape in [*SHAPES, (), (0, 3)]:
        array = INPUT_LAYOUTS[layout](numbers(shape, "float32"))
        assert_same(to_host(seen(work, array), 0), np.array(array, order="C"))
