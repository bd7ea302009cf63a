"""The matrix products against the reference, bit for bit: shapes, types, layouts, and what does not fit."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given, strategies

import gpuq
from compare import assert_same
from gpuq.dtypes import QUANTIZED
from layouts import INPUT_LAYOUTS, PLACES
from products import (
    DEEPEST,
    MIXES,
    PRODUCTS,
    REAL_RESULTS,
    Shape,
    arguments,
    operands,
)
from runner import Runner
from shapes import BATCHED, MATMUL, MATMUL_FEW, MISFITS


@pytest.mark.parametrize("mix", MIXES)
def test_every_shape_and_mix_of_integers(run_each_isa: Runner, mix: tuple[str, str]) -> None:
    """Zero points for each row and each column, both operands in both orders."""
    rng = np.random.default_rng(1)
    for step, (m, k, n) in run_each_isa.part(enumerate(MATMUL), MIXES.index(mix), 4):
        if k > DEEPEST:
            continue  # may overflow: test_the_largest_sums_that_fit and its neighbours
        a, b = operands(rng, mix, (m, k), (k, n))
        a, b = np.asarray(a, order="CF"[step % 2]), np.asarray(b, order="CF"[step // 2 % 2])
        values = arguments(rng, "matmul_integer", a, b, (m,), (n,))
        run_each_isa.check("matmul_integer", **values, what=f"{m, k, n}")


@pytest.mark.parametrize("name", ["scaled_matmul", "qlinear_matmul"])
@pytest.mark.parametrize("mix", MIXES)
def test_every_shape_and_mix(run: Runner, mix: tuple[str, str], name: str) -> None:
    """Parameters for each row and each column."""
    rng = np.random.default_rng(1)
    for m, k, n in run.part(MATMUL, MIXES.index(mix) + PRODUCTS.index(name), 4):
        a, b = operands(rng, mix, (m, k), (k, n))
        run.check(name, **arguments(rng, name, a, b, (m,), (n,)), what=f"{m, k, n}")


@pytest.mark.parametrize("name", PRODUCTS)
@pytest.mark.parametrize("mix", MIXES)
def test_every_shape_of_parameters(run: Runner, mix: tuple[str, str], name: str) -> None:
    rng = np.random.default_rng(2)
    for m, k, n in MATMUL_FEW:
        a, b = operands(rng, mix, (m, k), (k, n))
        shapes = itertools.product(
            ((), (1,), (1, 1, 1), (m,), (m, 1)),
            ((), (1,), (1, 1, 1), (n,), (1, n)),
        )
        for rows, columns in run.part(shapes, MIXES.index(mix) + PRODUCTS.index(name), 4):
            run.check(name, **arguments(rng, name, a, b, rows, columns), what=f"{m, k, n} {rows} {columns}")


@pytest.mark.parametrize("mix", MIXES)
def test_zero_points_of_every_kind(run: Runner, mix: tuple[str, str]) -> None:
    """None, ints, lists, NumPy scalars, the ends of the type: and each of the two without the other."""
    rng = np.random.default_rng(3)
    a, b = operands(rng, mix, (4, 6), (6, 5))
    low, high = ([getattr(QUANTIZED[name], end) for name in mix] for end in ("qmin", "qmax"))
    run.check("matmul_integer", a, b)
    for za in (None, low[0], high[0], a.dtype.type(3), [1, 2, 3, 4], [[1], [2], [3], [4]]):
        for zb in (None, low[1], high[1], b.dtype.type(3), [1, 2, 3, 4, 5], [[1, 2, 3, 4, 5]]):
            run.check("matmul_integer", a, b, za, zb, what=f"{za!r} {zb!r}")


def kinds_of_vectors(batch: Shape, ends: Shape) -> list[Shape]:
    """Shapes of parameters of a batch: one element, a vector, one of each for every matrix, or for some."""
    some_axes = tuple(length if axis % 2 else 1 for axis, length in enumerate(batch))
    length = (max(ends),) if ends != (1, 1) else ()
    return [(), length, (*batch, *ends), (*batch[1:], *ends), (*some_axes, *ends), (*batch, 1, 1)]


@pytest.mark.parametrize("name", PRODUCTS)
@pytest.mark.parametrize(("a_shape", "b_shape"), BATCHED)
def test_batches(run: Runner, name: str, a_shape: Shape, b_shape: Shape) -> None:
    """NumPy's rules for shapes; parameters that differ along all, some or none of the result's batch axes."""
    rng = np.random.default_rng(4)
    batch = np.broadcast_shapes(a_shape[:-2], b_shape[:-2])
    rows = kinds_of_vectors(batch, (a_shape[-2], 1)) if len(a_shape) > 1 else [(), (1,)]
    columns = kinds_of_vectors(batch, (1, b_shape[-1])) if len(b_shape) > 1 else [(), (1,)]
    for step, row in enumerate(rows):
        for column in run.part(columns, step + PRODUCTS.index(name), 2):
            a, b = operands(rng, MIXES[step % 4], a_shape, b_shape)
            run.check(name, **arguments(rng, name, a, b, row, column), what=f"{a_shape} {b_shape} {row} {column}")


@pytest.mark.parametrize("a_layout", INPUT_LAYOUTS)
@pytest.mark.parametrize("b_layout", INPUT_LAYOUTS)
def test_layouts(run: Runner, a_layout: str, b_layout: str) -> None:
    rng = np.random.default_rng(5)
    turn = list(INPUT_LAYOUTS).index(a_layout) + list(INPUT_LAYOUTS).index(b_layout)
    shapes = (((17, 70), (70, 33)), ((2, 5, 9), (2, 9, 6)), ((3, 1, 4, 5), (2, 5, 3)), ((7,), (7,)))
    for step, (a_shape, b_shape) in enumerate(shapes):
        a, b = operands(rng, ("int8", "uint8"), a_shape, b_shape)
        a, b = INPUT_LAYOUTS[a_layout](a), INPUT_LAYOUTS[b_layout](b)
        before = a.copy(), b.copy()
        for name in run.part(PRODUCTS, turn + step, 3):
            run.check(name, **arguments(rng, name, a, b), what=f"{name} {a_shape}")
        assert_same(a, before[0], "a changed")
        assert_same(b, before[1], "b changed")


@pytest.mark.parametrize("layout", INPUT_LAYOUTS)
@pytest.mark.parametrize("name", PRODUCTS)
def test_layouts_of_parameters(run: Runner, name: str, layout: str) -> None:
    rng = np.random.default_rng(6)
    for batch in ((), (2,), (2, 3)):
        a, b = operands(rng, ("uint8", "int8"), (*batch, 5, 9), (*batch, 9, 6))
        values = arguments(rng, name, a, b, (*batch, 5, 1), (*batch, 1, 6))
        moved = {key: value if key in "ab" else INPUT_LAYOUTS[layout](value) for key, value in values.items()}
        run.check(name, **moved, what=f"{batch}")


@pytest.mark.parametrize("place", PLACES)
def test_out(run: Runner, place: str) -> None:
    rng = np.random.default_rng(7)
    shapes = (*BATCHED[::3], ((17, 9), (9, 33)), ((7,), (2, 7, 3)), ((7,), (7,)))
    for step, (a_shape, b_shape) in enumerate(shapes):
        for mix in run.part(MIXES, step + list(PLACES).index(place), 4):
            a, b = operands(rng, mix, a_shape, b_shape)
            for name in PRODUCTS:
                run.check_into(PLACES[place], name, **arguments(rng, name, a, b), what=f"{name} {a_shape}")
            for dtype in REAL_RESULTS:
                values = arguments(rng, "scaled_matmul", a, b)
                run.check_into(PLACES[place], "scaled_matmul", **values, dtype=dtype, what=f"{dtype} {a_shape}")


# ---- what is refused ----


@pytest.mark.parametrize("shape", [(2, 3, 1), (1, 3, 1), (3, 2), (1, 3), (4,), (1, 4), (2, 1, 1)])
def test_row_parameters_never_enlarge_the_result(run: Runner, shape: Shape) -> None:
    point = np.zeros(shape, np.int8)
    a, b = np.zeros((3, 2), np.int8), np.zeros((2, 4), np.int8)
    with pytest.raises(ValueError, match="a_zero_point"):
        run("matmul_integer", a, b, point)
    with pytest.raises(ValueError, match="a_scale"):
        run("scaled_matmul", a, b, point.astype(np.float32) + 1, 1.0)
    with pytest.raises(ValueError, match="y_scale"):
        run("qlinear_matmul", a, 1.0, 0, b, 1.0, 0, point.astype(np.float32) + 1, 0)
    with pytest.raises(ValueError, match="y_zero_point"):
        run("qlinear_matmul", a, 1.0, 0, b, 1.0, 0, 1.0, point)


@pytest.mark.parametrize("shape", [(2, 1, 4), (1, 1, 4), (2, 4), (4, 1), (3,), (3, 1), (2, 1, 1)])
def test_column_parameters_never_enlarge_the_result(run: Runner, shape: Shape) -> None:
    point = np.zeros(shape, np.int8)
    a, b = np.zeros((3, 2), np.int8), np.zeros((2, 4), np.int8)
    with pytest.raises(ValueError, match="b_zero_point"):
        run("matmul_integer", a, b, None, point)
    with pytest.raises(ValueError, match="zero_point"):
        gpuq.prepack(b, zero_point=point)
    with pytest.raises(ValueError, match="b_scale"):
        run("scaled_matmul", a, b, 1.0, point.astype(np.float32) + 1)
    with pytest.raises(ValueError, match="bias"):
        run("scaled_matmul", a, b, 1.0, 1.0, bias=point.astype(np.float32))
    with pytest.raises(ValueError, match="bias"):
        run("qlinear_matmul", a, 1.0, 0, b, 1.0, 0, 1.0, 0, bias=point.astype(np.int32))


def test_a_vector_operand_takes_one_element(run: Runner) -> None:
    vector, matrix = np.zeros(3, np.int8), np.zeros((3, 3), np.int8)
    with pytest.raises(ValueError, match="a_zero_point"):
        run("matmul_integer", vector, matrix, np.zeros(3, np.int8))
    with pytest.raises(ValueError, match="b_zero_point"):
        run("matmul_integer", matrix, vector, None, np.zeros(3, np.int8))
    with pytest.raises(ValueError, match="bias"):
        run("scaled_matmul", matrix, vector, 1.0, 1.0, bias=np.zeros(3, np.float32))


@pytest.mark.parametrize(("a_shape", "b_shape"), [*MISFITS, ((), (2,)), ((2, 2), ())])
def test_shapes_that_do_not_multiply(run: Runner, a_shape: Shape, b_shape: Shape) -> None:
    with pytest.raises(ValueError, match="[ab]: got"):
        run("matmul_integer", np.zeros(a_shape, np.int8), np.zeros(b_shape, np.int8))


@pytest.mark.parametrize(("a_scale", "b_scale"), [(2.0**-100, 2.0**-27), (1e30, 1e30), ([1.0, 2.0**-100], 2.0**-30)])
def test_products_of_scales_that_are_no_normal_float32(run: Runner, a_scale: Any, b_scale: float) -> None:
    a, b = np.ones((2, 3), np.int8), np.ones((3, 2), np.int8)
    with pytest.raises(ValueError, match="a_scale"):
        run("scaled_matmul", a, b, a_scale, b_scale)
    with pytest.raises(ValueError, match="a_scale"):
        run("qlinear_matmul", a, a_scale, 0, b, b_scale, 0, 1.0, 0)


@pytest.mark.parametrize("y_scale", [1e30, [1.0, 1e30], 1e-30])
def test_multipliers_that_are_no_normal_float32(run: Runner, y_scale: Any) -> None:
    scale = 1e-5 if y_scale != 1e-30 else 1e10
    a, b = np.ones((2, 3), np.int8), np.ones((3, 2), np.int8)
    with pytest.raises(ValueError, match="y_scale"):
        run("qlinear_matmul", a, scale, 0, b, scale, 0, y_scale, 0)


def test_scale_products_are_taken_where_scales_meet(run: Runner) -> None:
    """Each matrix of a batch has scales that multiply to normal numbers; those of different matrices never meet."""
    rng = np.random.default_rng(15)
    a, b = operands(rng, ("int8", "int8"), (2, 3, 4), (2, 4, 5))
    a_scale, b_scale = np.float32([1e-30, 1e30]).reshape(2, 1, 1), np.float32([1e30, 1e-30]).reshape(2, 1, 1)
    run.check("scaled_matmul", a, b, a_scale, b_scale)
    run.check("qlinear_matmul", a, a_scale, 0, b, b_scale, 0, 100.0, 0)


sizes = strategies.integers(0, 20)


@given(m=sizes, k=sizes, n=sizes, batch=strategies.lists(strategies.integers(1, 3), max_size=2), seed=sizes)
def test_any_shape(run: Runner, m: int, k: int, n: int, batch: list[int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    a, b = operands(rng, MIXES[seed % 4], (*batch, m, k), (*batch[1:], k, n))
    for name in PRODUCTS:
        run.check(name, **arguments(rng, name, a, b, (*batch, m, 1), (*batch[1:], 1, n)))


@given(shape=strategies.tuples(sizes, sizes, sizes), za=strategies.integers(0, 255), zb=strategies.integers(-128, 127))
def test_the_product_of_integers(run: Runner, shape: tuple[int, int, int], za: int, zb: int) -> None:
    """NumPy's own product of the differences, in int64."""
    m, k, n = shape
    a, b = operands(np.random.default_rng(m), ("uint8", "int8"), (m, k), (k, n))
    expected = (a.astype(np.int64) - za) @ (b.astype(np.int64) - zb)
    assert_same(run("matmul_integer", a, b, za, zb), expected.astype(np.int32))
