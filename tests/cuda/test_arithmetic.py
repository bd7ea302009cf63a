"""The scalar functions of gpuq.arithmetic compiled for CUDA, run on the emulator: the bits that the CPU's code gives.

    columns (float64, one row per argument) ──element──► y      the same element, by cuda.compile_ptx and by jit

float64 holds every argument exactly: float32 numbers, and integers below 2^53.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import values
from compare import assert_same, assert_within_ulp
from gpuq import arithmetic, curves, elements
from gpuq.arithmetic import BFLOAT16, FLOAT16, GRID32, GRID64, INT32_MAX, INT32_MIN, scalar
from gpuq.cpu.compile import jit

pytest.importorskip("numba_cuda", reason="needs the package numba-cuda")

import numba.cuda.dispatcher  # noqa: E402
from numba import cuda  # noqa: E402
from numba.cuda import types  # noqa: E402
from numba.cuda.cudadrv import nvvm  # noqa: E402

from ptx_emulator import Memory  # noqa: E402
from ptx_emulator.kernels import run as launch_only  # noqa: E402

Array = npt.NDArray[Any]
Element = Callable[[Any, Any], Any]
COUNT = 2000
CAPABILITIES = ((7, 5), (8, 0), (9, 0), (12, 0))
FLOATS, INTEGERS, HALVES = np.float32, np.int64, np.uint16
ROUNDINGS = {
    "half_even": arithmetic.HALF_EVEN,
    "half_away": arithmetic.HALF_AWAY,
    "half_up": arithmetic.HALF_UP,
    "torch_per_tensor": arithmetic.TORCH_PER_TENSOR,
    "torch_fake": arithmetic.TORCH_FAKE,
}


@pytest.fixture(autouse=True)
def no_device_no_stale_code(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """numba-cuda asks the current device for its capability when a kernel calls a device function, even where
    compile_ptx names one; the CPU's cache knows gpuq's sources, not the elements of this file."""
    device = SimpleNamespace(compute_capability=CAPABILITIES[0])
    monkeypatch.setattr(numba.cuda.dispatcher, "get_current_device", lambda: device)
    monkeypatch.setenv("GPUQ_CACHE_DIR", str(tmp_path))


def on_cpu(element: Element, columns: Array, result: Any) -> Array:
    @jit
    def walk(columns: Any, y: Any) -> None:
        for i in range(y.shape[0]):
            y[i] = element(columns, i)

    y = np.empty(columns.shape[1], result)
    walk(columns, y)
    return y


def on_emulator(element: Element, columns: Array, result: Any, capability: tuple[int, int], **options: Any) -> Array:
    def kernel(columns: Any, y: Any) -> None:
        i = cuda.grid(1)
        if i < y.size:
            y[i] = element(columns, i)

    kinds = {np.float32: types.float32, np.float64: types.float64, np.int64: types.int64, np.uint16: types.uint16}
    text, _ = cuda.compile_ptx(kernel, (types.float64[:, ::1], kinds[result][::1]), cc=capability)
    memory = Memory()
    y = memory.empty(columns.shape[1], result)
    blocks = -(-columns.shape[1] // 256)
    launch_only(str(text), blocks, 256, [memory.upload(columns), y], capability=capability, **options)
    return y.numpy()


def columns_of(*rows: Any) -> Array:
    """The arguments as rows of one length."""
    with np.errstate(invalid="ignore"):  # signaling NaN
        return np.ascontiguousarray(np.broadcast_arrays(*(np.asarray(row, np.float64) for row in rows)))


def reals(seed: int = 0) -> Array:
    """float32 numbers: special ones, integers and halves with their neighbours, any bits at all."""
    rng = np.random.default_rng(seed)
    some = values.real_values(rng, "float32", (COUNT // 2,), 1.0, "int8")
    bits = rng.integers(0, 2**32, COUNT - len(some), np.uint32).view(np.float32)
    return np.concatenate([some, bits])


def integers(seed: int, low: int, high: int) -> Array:
    """Integers of a range, its ends among them."""
    drawn = np.random.default_rng(seed).integers(low, high, COUNT, endpoint=True)
    drawn[::5], drawn[1::7], drawn[2::11] = low, high, np.clip(0, low, high)
    return drawn


# ---- offsets ----


@scalar
def divide(x: Any, scale: Any) -> Any:
    return x / scale


@scalar
def invert(scale: Any) -> Any:
    return np.float32(1) / np.float32(scale)


def make_quantize(real: Any, grid: Any, rounding: int) -> Element:
    own, offset_of = type(grid), elements.make_offset(divide, invert, rounding)

    @scalar
    def element(c: Any, i: Any) -> Any:
        settings = own(c[3, i]), own(c[4, i]), grid, 0, 0
        return offset_of(real(c[0, i]), real(c[1, i]), own(c[2, i]), settings)

    return element


def quantize_columns(real: Any, kind: str, low: int, high: int) -> Array:
    parts = []
    for seed, scale in enumerate(values.SCALES):
        x = values.real_values(np.random.default_rng(seed), np.dtype(real).name, (250,), scale, kind)
        zero_points = np.resize([low, high, (low + high) // 3, 0 if low <= 0 else low], 250)
        parts.append(columns_of(x, np.float64(np.float32(scale)), zero_points, low, high))
    return np.concatenate(parts, axis=1)


@pytest.mark.parametrize("rounding", ROUNDINGS)
@pytest.mark.parametrize(
    ("real", "grid", "kind", "low", "high"),
    [
        (np.float32, GRID32, "int8", -128, 127),
        (np.float32, GRID64, "int32", INT32_MIN, INT32_MAX),
        (np.float64, GRID64, "uint8", 0, 255),
    ],
)
def test_offsets(real: Any, grid: Any, kind: str, low: int, high: int, rounding: str) -> None:
    columns, result = quantize_columns(real, kind, low, high), type(grid)
    element = make_quantize(real, grid, ROUNDINGS[rounding])
    assert_same(on_emulator(element, columns, result, (8, 0)), on_cpu(element, columns, result), rounding)


# ---- the rest: name, element, its arguments, what it gives ----


@scalar
def dequantize32(c: Any, i: Any) -> Any:
    return arithmetic.dequantize(np.int64(c[0, i]), np.float32(c[1, i]))


@scalar
def dequantize64(c: Any, i: Any) -> Any:
    return arithmetic.dequantize(np.int64(c[0, i]), np.float64(c[1, i]))


@scalar
def correct(c: Any, i: Any) -> Any:
    return arithmetic.correct(
        np.int64(c[0, i]), np.int64(c[1, i]), np.int64(c[2, i]), np.int64(c[3, i]), np.int64(c[4, i]), np.int64(c[5, i])
    )


@scalar
def requantize_multiplier(c: Any, i: Any) -> Any:
    return arithmetic.requantize_multiplier(np.float32(c[0, i]), np.float32(c[1, i]), np.float32(c[2, i]))


def make_requantize_float(rounding: int) -> Element:
    @scalar
    def requantize_float(c: Any, i: Any) -> Any:
        low, high = np.float32(-128), np.float32(127)
        return arithmetic.requantize_float(np.int64(c[0, i]), np.float32(c[1, i]), low, high, rounding)

    return requantize_float


@scalar
def requantize_float64(c: Any, i: Any) -> Any:
    return arithmetic.requantize_float64(np.int64(c[0, i]), c[1, i], np.float64(-128), np.float64(127))


@scalar
def fixed_point(c: Any, i: Any) -> Any:
    return arithmetic.requantize_fixed_point(np.int64(c[0, i]), np.int64(c[1, i]), np.int64(c[2, i]))


@scalar
def fixed_point_half_up(c: Any, i: Any) -> Any:
    return arithmetic.requantize_fixed_point_half_up(np.int64(c[0, i]), np.int64(c[1, i]), np.int64(c[2, i]))


@scalar
def lowest_code(c: Any, i: Any) -> Any:
    return np.int64(arithmetic.lowest_code(np.int64(c[0, i]), np.int64(c[1, i]), np.int64(c[3, i])))


@scalar
def highest_code(c: Any, i: Any) -> Any:
    return np.int64(
        arithmetic.highest_code(np.int64(c[0, i]), np.int64(c[1, i]), np.float32(c[2, i]), np.int64(c[3, i]))
    )


@scalar
def relu(c: Any, i: Any) -> Any:
    return arithmetic.relu(np.float32(c[0, i]))


@scalar
def relu6(c: Any, i: Any) -> Any:
    return arithmetic.relu6(np.float32(c[0, i]))


@scalar
def gelu(c: Any, i: Any) -> Any:
    return curves.gelu(np.float32(c[0, i]))


@scalar
def silu(c: Any, i: Any) -> Any:
    return curves.silu(np.float32(c[0, i]))


@scalar
def order_key(c: Any, i: Any) -> Any:
    return np.int64(arithmetic.order_key(np.float32(c[0, i])))


@scalar
def from_order_key(c: Any, i: Any) -> Any:
    return arithmetic.from_order_key(np.int32(c[0, i]))


@scalar
def dynamic_scale(c: Any, i: Any) -> Any:
    return arithmetic.dynamic_scale(np.float32(c[0, i]), np.float32(c[1, i]))


@scalar
def dynamic_zero_point(c: Any, i: Any) -> Any:
    low, high = np.float32(c[0, i]), np.float32(c[1, i])
    return arithmetic.dynamic_zero_point(low, arithmetic.dynamic_scale(low, high))


def make_widen(real: int) -> Element:
    @scalar
    def widen_half(c: Any, i: Any) -> Any:
        return arithmetic.widen_half(np.int64(c[0, i]), real)

    return widen_half


def make_narrow(real: int) -> Element:
    @scalar
    def narrow_half(c: Any, i: Any) -> Any:
        number = arithmetic.float_of(np.uint32(np.int64(c[0, i])))  # a conversion on a GPU drops the sign of NaN
        return np.uint16(arithmetic.narrow_half(number, real))

    return narrow_half


def finite_range() -> Array:
    """low ≤ 0 ≤ high, finite."""
    drawn = np.nan_to_num(reals(5), nan=0.0, posinf=arithmetic.FLOAT32_MAX, neginf=-arithmetic.FLOAT32_MAX)
    return columns_of(-np.abs(drawn), np.abs(np.roll(drawn, 7)))


def half_neighbours() -> Array:
    """Bits of float32 numbers on and beside the middle of two float16 or bfloat16 numbers, and of any."""
    rng = np.random.default_rng(6)
    halves = rng.integers(0, 2**16, 400, np.uint16)
    with np.errstate(invalid="ignore"):  # signaling NaN
        float16 = halves.view(np.float16).astype(np.float32).view(np.int32).astype(np.int64) + 0x1000
    bfloat16 = (halves.astype(np.int64) << 16) + 0x8000
    bits = np.concatenate([float16 + step for step in (-1, 0, 1)] + [bfloat16 + step for step in (-1, 0, 1)])
    return columns_of(np.concatenate([bits % 2**32, reals(7).view(np.uint32)]))


SCALES = np.random.default_rng(1).choice(np.array([*values.SCALES, 1e-30, 1e30, 2.0**-126], np.float32), (3, COUNT))
ACCUMULATORS = integers(2, 2 * INT32_MIN, 2 * INT32_MAX)
NEAR = np.where(np.arange(COUNT) % 2 == 0, ACCUMULATORS, integers(3, -600, 600))
MULTIPLIERS = np.resize(np.array([0.5, 2.0**-8, 2.0**-31, 1.0, 0.1, 1 / 3, 1e-9], np.float32), COUNT)
FIXED = columns_of(NEAR, np.where(np.arange(COUNT) % 3, integers(4, 2**30, INT32_MAX), 2**30), integers(8, -31, 30))
CODES = columns_of(127, integers(9, -128, 127), np.resize([0.1, 4.0, 12.0, 2.4, 1e-6, 1e30], COUNT), integers(10, 0, 2))
CORRECTED = columns_of(
    integers(11, -(2**40), 2**40), *(integers(s, -(2**24), 2**24) for s in (12, 13)),
    *(integers(s, -128, 255) for s in (14, 15)), integers(16, 1, 2**24),
)  # fmt: skip
HALF_BITS = columns_of(np.concatenate([np.arange(0, 2**16, 31), [0x7C00, 0xFC00, 0x7F80, 1, 0x8001, 0x3FF, 0x7FFF]]))
CASES: dict[str, tuple[Element, Array, Any]] = {
    "dequantize32": (dequantize32, columns_of(integers(17, -(2**33), 2**33), SCALES[0]), np.float32),
    "dequantize64": (dequantize64, columns_of(integers(17, -(2**33), 2**33), SCALES[0]), np.float64),
    "correct": (correct, CORRECTED, INTEGERS),
    "requantize_multiplier": (requantize_multiplier, columns_of(*SCALES), FLOATS),
    "requantize_float64": (requantize_float64, columns_of(NEAR, MULTIPLIERS), np.float64),
    "fixed_point": (fixed_point, FIXED, INTEGERS),
    "fixed_point_half_up": (fixed_point_half_up, FIXED, INTEGERS),
    "lowest_code": (lowest_code, CODES, INTEGERS),
    "highest_code": (highest_code, CODES, INTEGERS),
    "relu": (relu, columns_of(reals()), FLOATS),
    "relu6": (relu6, columns_of(reals()), FLOATS),
    "order_key": (order_key, columns_of(reals()), INTEGERS),
    "from_order_key": (from_order_key, columns_of(integers(18, INT32_MIN, INT32_MAX)), FLOATS),
    "dynamic_scale": (dynamic_scale, finite_range(), FLOATS),
    "dynamic_zero_point": (dynamic_zero_point, finite_range(), INTEGERS),
    "widen_float16": (make_widen(FLOAT16), HALF_BITS, FLOATS),
    "widen_bfloat16": (make_widen(BFLOAT16), HALF_BITS, FLOATS),
    "narrow_float16": (make_narrow(FLOAT16), half_neighbours(), HALVES),
    "narrow_bfloat16": (make_narrow(BFLOAT16), half_neighbours(), HALVES),
} | {
    f"requantize_float_{name}": (make_requantize_float(ROUNDINGS[name]), columns_of(NEAR, MULTIPLIERS), FLOATS)
    for name in ("half_even", "half_away", "half_up")
}


@pytest.mark.parametrize("name", CASES)
def test_bits(name: str) -> None:
    element, columns, result = CASES[name]
    assert_same(on_emulator(element, columns, result, (8, 0)), on_cpu(element, columns, result), name)


@pytest.mark.parametrize("capability", CAPABILITIES)
def test_each_capability(capability: tuple[int, int]) -> None:
    quantize = make_quantize(np.float32, GRID32, arithmetic.TORCH_PER_TENSOR)
    chosen = [CASES[name] for name in ("dequantize32", "fixed_point", "narrow_float16", "requantize_float_half_even")]
    chosen.append((quantize, quantize_columns(np.float32, "int8", -128, 127), np.float32))
    for element, columns, result in chosen:
        assert_same(on_emulator(element, columns, result, capability), on_cpu(element, columns, result))


@pytest.mark.parametrize("element", [gelu, silu])
def test_gelu_and_silu(element: Element) -> None:
    """libdevice's erfc and exp are products and sums that ptxas may fuse; their authors allow for it, and the contract
    asks for 4 ulp, not for bits."""
    columns = columns_of(np.concatenate([reals(), np.linspace(-20, 20, 501, dtype=np.float32)]))
    actual = on_emulator(element, columns, FLOATS, (8, 0), contraction=True)
    assert_within_ulp(actual, on_cpu(element, columns, FLOATS), 4)


# ---- hazards: NVVM itself fuses these into fma.rn, so no ContractionError can warn of them; see the bits ----


@scalar
def scale_accumulator(c: Any, i: Any) -> Any:
    return arithmetic.scale_accumulator(
        np.int64(c[0, i]), np.float32(c[1, i]), np.float32(c[2, i]), np.float32(c[3, i])
    )


PER_AXIS = arithmetic.TORCH_PER_AXIS
HAZARDS: dict[str, tuple[Element, Array, Any]] = {
    "per_axis": (
        make_quantize(np.float32, GRID32, PER_AXIS),
        quantize_columns(np.float32, "int8", -128, 127),
        np.float32,
    ),
    "per_axis_wide": (
        make_quantize(np.float32, GRID64, PER_AXIS),
        quantize_columns(np.float32, "int8", -128, 127),
        np.float64,
    ),
    "per_axis_float64": (
        make_quantize(np.float64, GRID64, PER_AXIS),
        quantize_columns(np.float64, "uint8", 0, 255),
        np.float64,
    ),
    "scale_accumulator": (scale_accumulator, columns_of(ACCUMULATORS, *SCALES), FLOATS),
}


@pytest.mark.parametrize("name", HAZARDS)
def test_a_fused_product_and_sum_gives_other_bits(name: str) -> None:
    """Compiled as numba-cuda does by default; when this fails, the CUDA kernels need no guard any more."""
    element, columns, result = HAZARDS[name]
    actual, expected = on_emulator(element, columns, result, (8, 0)), on_cpu(element, columns, result)
    with pytest.raises(AssertionError, match="elements differ"):
        assert_same(actual, expected)


@pytest.mark.parametrize("name", HAZARDS)
@pytest.mark.parametrize("capability", CAPABILITIES)
def test_without_fusing_the_bits_are_the_same(
    name: str, capability: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """NVVM's option fma=0 writes mul.rn and add.rn, which ptxas may not fuse either."""
    compile_ir, (element, columns, result) = nvvm.compile_ir, HAZARDS[name]
    monkeypatch.setattr(nvvm, "compile_ir", lambda code, **options: compile_ir(code, **(options | {"fma": 0})))
    assert_same(on_emulator(element, columns, result, capability), on_cpu(element, columns, result), name)
