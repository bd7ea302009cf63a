"""Products with a packed b against the reference with b itself."""

from __future__ import annotations

import numpy as np
import pytest

import gpuq
from compare import assert_same
from gpuq import reference
from gpuq.cpu.isa import available
from layouts import INPUT_LAYOUTS
from products import (
    BYTES,
    MIXES,
    PRODUCTS,
    Shape,
    arguments,
    operands,
)
from runner import Runner
from shapes import BATCHED


@pytest.mark.parametrize("name", PRODUCTS)
@pytest.mark.parametrize(("a_shape", "b_shape"), [*BATCHED, ((17, 70), (70, 33)), ((130, 3), (3, 131))])
def test_prepacked(run: Runner, name: str, a_shape: Shape, b_shape: Shape) -> None:
    """A packed b with its own zero points gives what b gives with them, again and again."""
    rng = np.random.default_rng(13)
    for step, mix in run.part(enumerate(MIXES), sum(a_shape) + sum(b_shape) + PRODUCTS.index(name), 2):
        a, b = operands(rng, mix, a_shape, b_shape)
        columns = [(), (1,), b_shape[-1:], (*b_shape[:-2], 1, b_shape[-1])][step] if len(b_shape) > 1 else ()
        values = arguments(rng, name, a, b, (), columns)
        if step == 0:
            values["b_zero_point"] = None
        expected = getattr(reference, name)(**values)
        packed = run("prepack", b, zero_point=values["b_zero_point"])
        for _ in range(2):
            assert_same(run(name, **values | {"b": packed, "b_zero_point": None}), expected, f"{mix} {columns}")


@pytest.mark.parametrize("layout", INPUT_LAYOUTS)
def test_prepacked_layouts(run: Runner, layout: str) -> None:
    rng = np.random.default_rng(16)
    for b_shape in ((70, 33), (2, 9, 6), (7,)):
        a, b = operands(rng, ("int8", "uint8"), (4, b_shape[0] if len(b_shape) < 3 else b_shape[1]), b_shape)
        b = INPUT_LAYOUTS[layout](b)
        packed = run("prepack", b, zero_point=7)
        assert_same(run("matmul_integer", a, packed), reference.matmul_integer(a, b, None, 7))


def test_a_packed_b_keeps_its_instruction_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is multiplied with the instructions it was packed for, whatever set is chosen later."""
    a, b = operands(np.random.default_rng(17), ("int8", "uint8"), (13, 70), (70, 33))
    expected = reference.matmul_integer(a, b, 3, 7)
    for packed_for in available():
        monkeypatch.setenv("GPUQ_ISA", packed_for)
        packed = gpuq.prepack(b, zero_point=7)
        for chosen in available():
            monkeypatch.setenv("GPUQ_ISA", chosen)
            assert_same(gpuq.matmul_integer(a, packed, 3), expected, f"{packed_for} {chosen}")
            path = gpuq.last_path()
            assert path is not None
            assert path.isa == packed_for


def test_prepacked_copies(run: Runner) -> None:
    a, b = operands(np.random.default_rng(14), ("int8", "int8"), (3, 5), (5, 4))
    expected = reference.matmul_integer(a, b, 0, 3)
    packed = run("prepack", b, zero_point=3)
    b[...] = 0
    assert_same(run("matmul_integer", a, packed), expected)


def test_prepacked_attributes(run: Runner) -> None:
    for dtype in BYTES:
        for shape in ((5, 4), (2, 5, 4), (5,), (0, 4), (0, 5, 4)):
            packed = run("prepack", np.zeros(shape, dtype))
            assert isinstance(packed, gpuq.PackedMatrix)
            assert (packed.shape, packed.ndim, packed.dtype) == (shape, len(shape), np.dtype(dtype))
            assert packed.nbytes >= np.prod(shape)
            assert dtype in repr(packed)


def test_a_packed_b_takes_no_second_zero_point(run: Runner) -> None:
    a, packed = np.zeros((2, 3), np.int8), run("prepack", np.zeros((3, 2), np.int8), zero_point=1)
    with pytest.raises(ValueError, match="b_zero_point"):
        run("matmul_integer", a, packed, None, 1)
    with pytest.raises(ValueError, match="b_zero_point"):
        run("scaled_matmul", a, packed, 1.0, 1.0, None, 1)
    with pytest.raises(ValueError, match="b_zero_point"):
        run("qlinear_matmul", a, 1.0, 0, packed, 1.0, 1, 1.0, 0)
