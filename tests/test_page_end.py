"""No operator reads or writes a byte outside an array: every array lies between pages that cannot be touched.

A violation ends the process, so each sweep runs in one of its own, which prints every case before it runs it. What the
sweeps compute is compared with the reference, bit for bit.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import re
import signal
import sys
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pytest
from instruction_sets import fill_kernel, product_kernel

import gpuq
from compare import assert_all_same, assert_same
from gpuq import dispatch, reference
from gpuq.cpu.blocking import MOST_COLUMNS, MOST_ROWS
from gpuq.cpu.isa import INSTRUCTION_SETS, available
from gpuq.cpu.pack import pack_b
from gpuq.cpu.tiles import DEPTH, STRIP
from gpuq.layout import read_only
from guarded import EDGES, LAYOUTS, empty, kernels_between_guards, place
from shapes import BATCHED, BLOCKED, ELEMENTWISE, GRANULARITIES_FEW, PER_AXIS
from subprocesses import start_python
from values import codes, real_values, scales

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="mprotect: Windows has none")

Array = npt.NDArray[Any]
Shape = tuple[int, ...]

CASES = itertools.count()
# layouts of the inputs and of `out`: alike, and those whose kernels walk one array in the order of the other
ALIKE = [(layout, layout) for layout in LAYOUTS]
MIXED = [
    ("row_major", "column_major"),
    ("column_major", "row_major"),
    ("row_major", "every_second"),
    ("column_major", "row_major_backwards"),
    ("row_major_backwards", "row_major"),
]
ROW_MAJOR, WHOLE = ALIKE[:1], ALIKE[:2]  # whole: kernels walk the caller's arrays as they are

SMALL = [shape for shape in ELEMENTWISE if math.prod(shape) < 2_000]
# (x's shape, axis; None for per tensor, block_size; 0 for none)
GRANULARITIES: list[tuple[Shape, int | None, int]] = [
    *((shape, None, 0) for shape in SMALL),
    *((shape, axis, 0) for shape, axis in PER_AXIS),
    *BLOCKED,
]
# (real type, quantized type, rounding): each width of both, with kernels that differ
QUANTIZERS = [("float32", "uint8", "half_even"), ("float16", "int4", "half_even"), ("float64", "int16", "half_away")]
DEQUANTIZERS = [("uint8", "float32"), ("int4", "bfloat16"), ("int32", "float64")]
REQUANTIZERS = [("float", "int8"), ("float64", "uint8"), ("fixed_point", "uint16"), ("fixed_point_half_up", "int8")]


def announce(case: str) -> None:
    next(CASES)
    print(case, flush=True)


def placed(value: Any, layout: str, edge: str) -> Any:
    """An argument of an operator, the arrays in it between guards."""
    if isinstance(value, tuple):
        return tuple(placed(part, layout, edge) for part in value)
    return place(value, layout, edge) if isinstance(value, np.ndarray) else value


def shapes_of(arguments: dict[str, Any]) -> str:
    parts = (f"{name} {value.dtype}{list(value.shape)}" for name, value in arguments.items() if hasattr(value, "dtype"))
    return ", ".join(parts)


def both_ways(layouts: list[tuple[str, str]]) -> Iterator[tuple[str, tuple[str, str], bool]]:
    """Edges, layouts, and whether every array that a kernel gets is guarded, gpuq's own too, or the caller's alone."""
    yield from itertools.product(EDGES, layouts, (False,))
    yield from itertools.product(EDGES, WHOLE, (True,))


def check(name: str, arguments: dict[str, Any], layouts: list[tuple[str, str]], prepacked: bool = False) -> None:
    """Call an operator with guarded arguments and a guarded `out`; then with every array of its kernels guarded."""
    expected = getattr(reference, name)(**arguments)
    for edge, (inputs, output), inside in both_ways(layouts):
        announce(f"{name} {edge} {inputs}->{output} {'kernels' if inside else 'caller'}: {shapes_of(arguments)}")
        own = {key: placed(value, inputs, edge) for key, value in arguments.items()}
        out = empty(expected.shape, expected.dtype, output, edge)
        with kernels_between_guards(edge) if inside else contextlib.nullcontext([name]) as called:
            if prepacked:
                own["b"] = gpuq.prepack(own["b"], zero_point=own["b_zero_point"])
                own["b_zero_point"] = None
            getattr(gpuq, name)(**own, out=out, device="cpu")
        assert called or not expected.size, "no kernel was wrapped"
        assert_same(out, expected)


def parameter_shape(shape: Shape, axis: int | None, block_size: int) -> Shape:
    if axis is None:
        return ()
    if block_size == 0:
        return (shape[axis],)
    return tuple(-(-n // block_size) if i == axis % len(shape) else n for i, n in enumerate(shape))


def quantizer_arguments(
    rng: np.random.Generator, shape: Shape, axis: int | None, block_size: int, kind: str
) -> dict[str, Any]:
    """Scale, zero point, axis and block size."""
    size = parameter_shape(shape, axis, block_size)
    return {
        "scale": scales(rng, size),
        "zero_point": codes(rng, kind, size),
        "axis": 1 if axis is None else axis,
        "block_size": block_size,
    }


def sweep_quantizer(name: str) -> None:
    """quantize_linear or fake_quantize: every granularity, the types in turn; then every layout."""
    rng = np.random.default_rng(1)
    some = zip(GRANULARITIES, itertools.cycle(QUANTIZERS), itertools.repeat(WHOLE))
    every = zip(GRANULARITIES_FEW, itertools.cycle(QUANTIZERS), itertools.repeat(ALIKE + MIXED))
    for (shape, axis, block_size), (real, kind, rounding), layouts in (*some, *every):
        x = real_values(rng, real, shape, 0.1, kind)
        arguments = quantizer_arguments(rng, shape, axis, block_size, kind)
        check(name, {"x": x, **arguments, "rounding": rounding}, layouts)


def sweep_fake_quantize() -> None:
    """Into other memory, and in place."""
    sweep_quantizer("fake_quantize")
    rng = np.random.default_rng(2)
    for length, layout, edge in itertools.product((0, 1, 5, 16, 33), LAYOUTS, EDGES):
        values = real_values(rng, "float32", (length,), 0.1, "uint8")
        x = empty(values.shape, values.dtype, layout, edge)
        x[...] = values
        announce(f"fake_quantize in place {edge} {layout} [{length}]")
        gpuq.fake_quantize(x, 0.1, out=x, device="cpu")
        assert_same(x, reference.fake_quantize(values, 0.1))


def sweep_dequantize_linear() -> None:
    rng = np.random.default_rng(3)
    some = zip(GRANULARITIES, itertools.cycle(DEQUANTIZERS), itertools.repeat(WHOLE))
    every = zip(GRANULARITIES_FEW, itertools.cycle(DEQUANTIZERS), itertools.repeat(ALIKE + MIXED))
    for (shape, axis, block_size), (kind, real), layouts in (*some, *every):
        arguments = quantizer_arguments(rng, shape, axis, block_size, kind)
        check("dequantize_linear", {"q": codes(rng, kind, shape), **arguments, "dtype": real}, layouts)


def sweep_dynamic_quantize_linear() -> None:
    """It has no `out`: its result is in memory of its own, which only its kernels show."""
    rng = np.random.default_rng(4)
    for shape, real in zip(SMALL, itertools.cycle(("float32", "bfloat16"))):
        x = real_values(rng, real, shape, 0.1, "uint8")
        expected = reference.dynamic_quantize_linear(x)
        for edge, (layout, _), inside in both_ways(ALIKE):
            announce(f"dynamic_quantize_linear {edge} {layout} {real}{list(shape)}")
            with kernels_between_guards(edge) if inside else contextlib.nullcontext():
                assert_all_same(gpuq.dynamic_quantize_linear(place(x, layout, edge), device="cpu"), expected)


def sweep_requantize() -> None:
    rng = np.random.default_rng(5)
    grains = [*((shape, None) for shape in SMALL), *PER_AXIS]
    some = zip(grains, itertools.cycle(REQUANTIZERS), itertools.repeat(WHOLE))
    few = [(shape, axis) for shape, axis, block_size in GRANULARITIES_FEW if block_size == 0]
    every = zip(few, itertools.cycle(REQUANTIZERS), itertools.repeat(ALIKE + MIXED))
    for (shape, axis), (mode, kind), layouts in (*some, *every):
        size = parameter_shape(shape, axis, 0)
        multiplier: Any = rng.uniform(1e-4, 1e-2, size)
        arguments = {
            "acc": rng.integers(-(2**20), 2**20, shape).astype(np.int32),
            "multiplier": multiplier if mode.startswith("float") else fixed_point(multiplier),
            "zero_point": codes(rng, kind, size),
            "bias": rng.integers(-(2**20), 2**20, size).astype(np.int32),
            "y_scale": scales(rng, size),
            "activation": "relu6",
            "axis": -1 if axis is None else axis,
            "dtype": kind,
            "mode": mode,
        }
        check("requantize", arguments, layouts)


def fixed_point(reals: Any) -> tuple[Array, Array]:
    multiplier, shift = reference.quantize_multiplier(reals)
    return np.asarray(multiplier), np.asarray(shift)


def product_arguments(name: str, rng: np.random.Generator, a_shape: Shape, b_shape: Shape) -> dict[str, Any]:
    """Every argument of a product, parameters for each row and column, the types of the codes by chance."""
    a_type, b_type, y_type = rng.choice(["int8", "uint8"], 3)
    rows = (*a_shape[:-1], 1) if len(a_shape) > 1 else (1,)
    columns = (*b_shape[:-2], 1, b_shape[-1]) if len(b_shape) > 1 else (1,)
    arguments = {
        "a": codes(rng, a_type, a_shape),
        "a_zero_point": codes(rng, a_type, rows),
        "b": codes(rng, b_type, b_shape),
        "b_zero_point": codes(rng, b_type, columns),
    }
    if name != "matmul_integer":
        arguments["a_scale"] = rng.uniform(0.01, 0.1, rows).astype(np.float32)
        arguments["b_scale"] = rng.uniform(0.01, 0.1, columns).astype(np.float32)
    if name == "scaled_matmul":
        arguments["bias"] = rng.normal(size=columns).astype(np.float32)
    if name == "qlinear_matmul":
        arguments["bias"] = rng.integers(-1000, 1000, columns).astype(np.int32)
        arguments["y_scale"] = rng.uniform(0.1, 1, rows).astype(np.float32)
        arguments["y_zero_point"] = codes(rng, y_type, rows)
    return arguments


PRODUCTS = ("matmul_integer", "scaled_matmul", "qlinear_matmul")


def sweep_sizes() -> None:
    """All sizes at and beside a tile's edge, k beside every group."""
    isa = INSTRUCTION_SETS[dispatch.instruction_set()]
    rng = np.random.default_rng(6)
    m_sizes, n_sizes = ((0, 1, tile - 1, tile, tile + 1) for tile in (isa.rows, isa.columns))
    for m, k, n in itertools.product(m_sizes, (0, 1, 3, 4, 65), n_sizes):
        check("matmul_integer", product_arguments("matmul_integer", rng, (m, k), (k, n)), ROW_MAJOR)
    for rows in range(1, isa.rows + 1):  # each kernel for fewer rows than the tile has
        check("qlinear_matmul", product_arguments("qlinear_matmul", rng, (rows, 9), (9, 7)), ROW_MAJOR)


def sweep_products() -> None:
    """Every product: layouts, b packed before, sizes beside a tile, a block and a pass along k, batches."""
    isa = INSTRUCTION_SETS[dispatch.instruction_set()]
    rng = np.random.default_rng(7)
    sizes = ((1, 1, 1), (3, 0, 2), (isa.rows - 1, 3, isa.columns - 1), (isa.rows + 1, 66, isa.columns + 1))
    for name, (m, k, n) in itertools.product(PRODUCTS, sizes):
        check(name, product_arguments(name, rng, (m, k), (k, n)), ALIKE + MIXED)
        check(name, product_arguments(name, rng, (m, k), (k, n)), ALIKE, prepacked=True)
    for name, (m, k, n) in itertools.product(PRODUCTS, ((MOST_ROWS + 1, 7, 2 * MOST_COLUMNS + 1), (2, DEPTH + 1, 3))):
        check(name, product_arguments(name, rng, (m, k), (k, n)), WHOLE)
    for name, (a_shape, b_shape) in zip(itertools.cycle(PRODUCTS), BATCHED):
        check(name, product_arguments(name, rng, a_shape, b_shape), WHOLE)


def sweep_tiles() -> None:
    """The kernels that work on addresses, with every number of rows: strips filled and multiplied."""
    isa = INSTRUCTION_SETS[dispatch.instruction_set()]
    rng = np.random.default_rng(8)
    for panels, k, rows, edge in itertools.product((1, 3), (0, 1, 5, 129), range(1, isa.rows + 1), EDGES):
        announce(f"tile {isa.name} {edge}: {rows} rows of {k}, {panels} panels")
        a, b = codes(rng, "int8", (rows, k)), codes(rng, "int8", (k, panels * isa.columns))
        packed = pack_b(b[np.newaxis], isa)
        steps, group = packed.panels.shape[2], packed.panels.shape[4]
        strip = empty((isa.rows, STRIP), f"i{isa.a_bytes}", "row_major", edge)
        own = place(a.view(np.uint8), "row_major", edge), empty((rows,), np.int32, "row_major", edge)
        fill_kernel(isa)(own[0], 0, k, steps * group, np.uint8(0), strip, own[1])
        sums = empty((isa.rows, b.shape[1]), np.int32, "row_major", edge)
        product_kernel(isa)(rows, strip, place(packed.panels[0], "row_major", edge), 0, steps, sums, False)
        expected = a.astype(np.int64) @ (b.astype(np.int64) - packed.shift)
        assert_same(sums[:rows], expected.astype(np.int32))


def sweep_all_products() -> None:
    """The micro-kernel by itself first."""
    sweep_tiles()
    sweep_sizes()
    sweep_products()


def overrun_array(edge: str) -> Array:
    """An array one byte longer than its memory."""
    array = empty((5,), np.uint8, "row_major", edge)
    return np.lib.stride_tricks.as_strided(array if edge == "end" else array[::-1], (6,))


def lengthened(array: Array) -> Array:
    """The array, put before a guard, as if it had one more along its first axis."""
    return np.lib.stride_tricks.as_strided(place(array, "row_major", "end"), (len(array) + 1, *array.shape[1:]))


def overrun_tiles(short: str) -> None:
    """A row of a, a strip or a panel one shorter than it is said to be, or sums one row short of a tile."""
    isa = INSTRUCTION_SETS[dispatch.instruction_set()]
    packed = pack_b(np.zeros((1, 20, isa.columns), np.int8), isa)
    rows, steps = isa.rows - (short == "sums"), packed.panels.shape[2] + isa.steps * (short == "b")
    a, strip = np.zeros((isa.rows, 20), np.uint8), np.zeros((isa.rows, STRIP), f"i{isa.a_bytes}")
    if short == "a":
        a = lengthened(a[1:])
    strip = lengthened(strip[1:]) if short == "strip" else strip
    fill_kernel(isa)(read_only(a), 0, 20, 20, np.uint8(0), np.zeros_like(strip), np.zeros(isa.rows, np.int32))
    panels = place(packed.panels[0], "row_major", "end")
    sums = empty((rows, isa.columns), np.int32, "row_major", "end")
    product_kernel(isa)(isa.rows, read_only(strip), panels, 0, steps, sums, False)


ELEMENTWISE_SWEEPS: dict[str, Callable[[], None]] = {
    "quantize_linear": lambda: sweep_quantizer("quantize_linear"),
    "fake_quantize": sweep_fake_quantize,
    "dequantize_linear": sweep_dequantize_linear,
    "dynamic_quantize_linear": sweep_dynamic_quantize_linear,
    "requantize": sweep_requantize,
}
OVERRUNS: dict[str, Callable[[], Any]] = {
    "read beyond the start": lambda: overrun_array("start").sum(),
    "read beyond the end": lambda: overrun_array("end").sum(),
    "write beyond the end": lambda: overrun_array("end").fill(0),
    "write into an input": lambda: place(np.zeros(3), "row_major", "end").fill(0),
    "codes of a too short": lambda: overrun_tiles("a"),
    "a strip too short": lambda: overrun_tiles("strip"),
    "panels of b too short": lambda: overrun_tiles("b"),
    "sums too short": lambda: overrun_tiles("sums"),
}
SWEEPS = {**ELEMENTWISE_SWEEPS, "products": sweep_all_products, **OVERRUNS}


def sweep(name: str) -> None:
    """What the processes run."""
    announce(name)
    SWEEPS[name]()
    print(f"{next(CASES)} cases passed")


class Outcome(NamedTuple):
    """How a process ended, what it printed, the last line of that, and what it complained about."""

    code: int
    printed: str
    last_case: str
    complaints: str


def run_sweep(name: str, isa: str = "") -> Outcome:
    """The sweep in a process of its own, on one instruction set."""
    process = start_python(f"import test_page_end; test_page_end.sweep({name!r})", GPUQ_ISA=isa, PYTHONFAULTHANDLER="1")
    printed, complaints = process.communicate()
    return Outcome(process.returncode, printed, printed.rstrip().rpartition("\n")[2], complaints)


def assert_passed(outcome: Outcome) -> None:
    code = outcome.code
    end = signal.Signals(-code).name if code < 0 else f"exit status {code}"
    assert code == 0, f"{end} in the case: {outcome.last_case}\n{outcome.complaints}"
    assert re.fullmatch(r"[1-9]\d* cases passed", outcome.last_case)


@pytest.mark.parametrize("name", OVERRUNS)
def test_the_guards_work(name: str) -> None:
    """A deliberate access outside ends the process by a signal, and its case is the last that was printed."""
    outcome = run_sweep(name)
    assert outcome.code in (-signal.SIGSEGV, -signal.SIGBUS), outcome.complaints
    with pytest.raises(AssertionError, match=rf"SIG(SEGV|BUS) in the case: {name}"):
        assert_passed(outcome)


@pytest.mark.parametrize("isa", available())
def test_products(isa: str) -> None:
    assert_passed(run_sweep("products", isa))


@pytest.mark.parametrize("name", ELEMENTWISE_SWEEPS)
def test_elementwise(name: str) -> None:
    assert_passed(run_sweep(name))
