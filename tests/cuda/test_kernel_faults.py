"""Random faults in the compiled kernels: the emulator's checks and the operators' results must notice nearly all.

Each edit of a kernel's PTX (tests/ptx_emulator/edits.py) is loaded in its place; then its operators run on shapes that
take every path through it: whole tiles and ragged ends, aligned and not, parameters of every granularity, extreme
scales. What is left over is equivalent, or nearly: the sum of a row that is not asked for, which meets a zero point of
0; the order in which a range sees its elements; the way in which packing divides rows among threads; a register that
nobody reads again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import gpuq
import values
from compare import assert_within_ulp
from gpuq import reference
from layouts import INPUT_LAYOUTS
from products import arguments, operands
from ptx_emulator import EmulationError
from ptx_emulator.edits import Edit, random_edits
from runner import Runner

pytest.importorskip("numba_cuda", reason="needs the package numba-cuda")

import gpuq.cuda.compile  # noqa: E402
from emulated import Driver, InterfaceArray, download, install, upload  # noqa: E402
from gpuq.cuda import kernels, products  # noqa: E402
from gpuq.cuda.compile import Code, Kernel  # noqa: E402
from gpuq.cuda.tiles import AMPERE_TILES, Tile  # noqa: E402

EDITS = [6, pytest.param(20, marks=pytest.mark.thorough)]  # of each kernel
MISSED = 0.05  # share of edits that nobody may notice
CAPABILITY = (8, 0)
Check = Callable[[Runner], None]


class DeviceRunner(Runner):
    """The operators on arrays that lie on the emulated device."""

    def __init__(self, driver: Driver) -> None:
        super().__init__("cuda")
        self.driver = driver

    def __call__(self, name: str, *given: Any, **options: Any) -> Any:
        there = [self._there(value) for value in given]
        result = super().__call__(name, *there, **{key: self._there(value) for key, value in options.items()})
        found = tuple(download(self.driver, each) for each in (result if isinstance(result, tuple) else (result,)))
        return found if isinstance(result, tuple) else found[0]

    def _there(self, value: Any) -> Any:
        if not isinstance(value, np.ndarray):
            return value
        return upload(self.driver, value, kind=InterfaceArray, read_only=True)


def reals(shape: tuple[int, ...], scale: float, seed: int = 0) -> Any:
    return values.real_values(np.random.default_rng(seed), "float32", shape, scale, "uint8")


def check_quantize_uniform(run: Runner) -> None:
    run.check("quantize_linear", reals((4096 + 300,), 0.3), 0.3, np.uint8(7))
    run.check("quantize_linear", reals((8193,), 0.3)[1:], 0.3, np.uint8(200), narrow_range=True)
    for scale in (2.0**-120, 2.0**127):
        run.check("quantize_linear", reals((300,), scale), scale, np.uint8(7))


def check_quantize(run: Runner) -> None:
    rng = np.random.default_rng(1)
    for shape, axis, block in (
        ((129, 64), 1, 0),
        ((70, 60), 0, 0),
        ((64, 96), 1, 32),
        ((40, 37, 11), 1, 5),
        ((8, 40, 16), 1, 5),
        ((2, 4500), 0, 0),
    ):
        size = (shape[axis],) if not block else tuple(-(-n // block) if i == axis else n for i, n in enumerate(shape))
        scale, point = values.scales(rng, size), values.codes(rng, "uint8", size)
        scale.flat[::5] = 2.0**-120
        run.check("quantize_linear", reals(shape, 0.3), scale, point, axis=axis, block_size=block)
        for one_scale, one_point in (
            (np.float32([0.3]), point),
            (scale, np.uint8([9])),
            (np.float32([0.3]), np.uint8([9])),
        ):
            options = {"axis": axis, "block_size": block}
            run.check("quantize_linear", reals(shape, 0.3), one_scale, one_point, **options)
        run.check("quantize_linear", reals(shape, 0.3), scale, 9, axis=axis, block_size=block)
        run.check("quantize_linear", reals(shape, 0.3), 0.3, point, axis=axis, block_size=block)


def check_dequantize(run: Runner) -> None:
    rng = np.random.default_rng(2)
    for shape, axis, block in (
        ((129, 64), 1, 0),
        ((70, 60), 0, 0),
        ((64, 96), 1, 32),
        ((40, 37, 11), 1, 5),
        ((8, 40, 16), 1, 5),
    ):
        size = (shape[axis],) if not block else tuple(-(-n // block) if i == axis else n for i, n in enumerate(shape))
        q, point = values.codes(rng, "int8", shape), values.codes(rng, "int8", size)
        for scale in (values.scales(rng, size), np.float32([0.3]), 0.3):
            for zero_point in (point, np.int8([9]), 9):
                run.check("dequantize_linear", q, scale, zero_point, axis=axis, block_size=block)


def check_requantize(run: Runner) -> None:
    rng = np.random.default_rng(3)
    for shape in ((129, 64), (13, 37), (200, 37)):
        accumulator = rng.integers(-(2**20), 2**20, shape).astype(np.int32)
        for activation in (None, "relu", "relu6"):
            multiplier, bias = rng.random(shape[1]) * 1e-4, rng.integers(-(2**31), 2**31 - 1, shape[1]).astype(np.int32)
            bias[::2] //= 2**12
            y_scale = np.float32(rng.random(shape[1]) * 0.2 + 0.02)
            options = {"bias": bias, "activation": activation, "y_scale": y_scale, "dtype": "uint8"}
            point = values.codes(rng, "uint8", shape[1:])
            run.check("requantize", accumulator, multiplier, point, **options)
            for name, one in (
                ("bias", np.int32([77])),
                ("bias", 77),
                ("y_scale", np.float32([0.1])),
                ("y_scale", 12.0),
            ):
                run.check("requantize", accumulator, multiplier, point, **options | {name: one})
            ties = np.resize(np.float32([4.0, 12.0, 0.8]), shape[1])  # 6 / y_scale is 1.5, 0.5 and 7.5
            run.check("requantize", accumulator, multiplier, point, **options | {"y_scale": ties})
            run.check("requantize", accumulator, np.float32([1e-3]), np.uint8([3]), **options)
            run.check("requantize", accumulator, 1e-3, 3, **options)
    for shape in ((20, 512), (300, 60)):  # parameters of a row: for pairs of lanes, for quads
        accumulator = rng.integers(-(2**20), 2**20, shape).astype(np.int32)
        multiplier, bias = rng.random(shape[0]) * 1e-4, rng.integers(-(2**20), 2**20, shape[0]).astype(np.int32)
        y_scale, point = np.float32(rng.random(shape[0]) * 0.2 + 0.02), values.codes(rng, "uint8", shape[:1])
        options = {"bias": bias, "activation": "relu6", "y_scale": y_scale, "dtype": "uint8", "axis": 0}
        for changed in ({}, {"activation": None}, {"bias": 77}, {"y_scale": 0.1}):
            run.check("requantize", accumulator, multiplier, point, **options | changed)


def check_range(run: Runner) -> None:
    for size in (1, 300, 4096 * 3 + 70, 4096 * 40):
        for sign in (1, -1):
            x = np.abs(reals((size,), 0.3, size)) * np.float32(sign)
            run.check("dynamic_quantize_linear", x)
    run.check("dynamic_quantize_linear", reals((8193,), 0.3)[1:])
    for index in (*range(0, 32, 3), 255, 256, 260, 4095, 4096, 4361, 4699):  # of the one element of which the range is
        for value in (-5.0, 5.0):
            x = np.zeros(4701, np.float32)
            x[index] = value
            run.check("dynamic_quantize_linear", x[:-1])
            run.check("dynamic_quantize_linear", np.roll(x, 1)[1:])  # not aligned: one element after the other


def check_copy(run: Runner) -> None:
    rng = np.random.default_rng(4)
    for kind in ("int8", "int16", "int32"):
        for layout in ("rotated_axes", "every_second", "backwards", "misaligned", "gaps_between_rows"):
            q = INPUT_LAYOUTS[layout](values.codes(rng, kind, (3, 5, 7, 16)))
            run.check("dequantize_linear", q, 0.5, 3)
    for width, gap in ((32, 16), (8, 16), (4, 4), (2, 4), (5, 2)):  # pieces of 16 bytes down to one
        q = values.codes(rng, "uint8", (5, 300, width + gap))[:, :, :width]
        run.check("dequantize_linear", q, 0.5, 3)


def check_pack(run: Runner) -> None:
    rng = np.random.default_rng(5)
    for m, k, n in ((40, 150, 20), (3, 32, 70), (33, 16, 17)):
        for mix in (("int8", "uint8"), ("uint8", "int8")):
            a, b = operands(rng, mix, (m, k), (k, n))
            for left, right in ((a, b), (np.asfortranarray(a), np.asfortranarray(b))):
                point = values.codes(rng, mix[0], (m,)), values.codes(rng, mix[1], (n,))
                run.check("matmul_integer", left, right, *point)


def check_row_sums(run: Runner) -> None:
    """Rows that stay where they are: some more than those of a block, chunks that go together and some more."""
    rng = np.random.default_rng(7)
    for m, k, n in ((9, 16 * (4 * 128 + 37), 9), (17, 16 * 31, 5), (3, 16, 2)):
        for mix in (("int8", "uint8"), ("uint8", "int8")):
            a, b = operands(rng, mix, (2, m, k), (k, n))
            point = values.codes(rng, mix[0], (m,)), values.codes(rng, mix[1], (n,))
            run.check("matmul_integer", a, np.asfortranarray(b), *point)


def make_check_product(name: str, shapes: tuple[tuple[int, int, int], ...], batch: tuple[int, int, int]) -> Check:
    """Of all shapes with vectors, single numbers on the device and on the host as parameters; `batch` with axes that
    cannot be joined.
    """

    def check(run: Runner) -> None:
        rng = np.random.default_rng(6)
        for m, k, n in shapes:
            a, b = operands(rng, ("int8", "uint8"), (2, m, k), (2, k, n))
            given = arguments(rng, name, a, b, (m,), (n,))
            run.check(name, **given)
            if name == "qlinear_matmul":
                bias = rng.integers(-1000, 1000, n).astype(np.int32)
                run.check(name, **given, bias=bias, activation="relu6", rounding="half_away")
                halves = {"a_scale": 1.0, "b_scale": 2.0**-9, "y_scale": 1.0}  # ties, both signs, in range
                for rounding in ("half_away", "half_up"):
                    run.check(name, **given | halves, rounding=rounding)
            for mix, one in ((("uint8", "int8"), ()), (("uint8", "uint8"), (1,))):
                a, b = operands(rng, mix, (m, k), (k, n))
                run.check(name, **arguments(rng, name, a, b, one, one))
        m, k, n = batch
        a, b = operands(rng, ("int8", "int8"), (2, 1, 2, m, k), (3, 1, k, n))
        run.check(name, **arguments(rng, name, a, b, (2, 3, 1, m, 1), (3, 2, 1, n)))

    return check


def make_check_layer(dtype: str, shapes: tuple[tuple[int, int, int, int], ...]) -> Check:
    """Of unsigned weights with blocks of so many codes, (rows, k, n): whole steps and slabs, and what is left over."""

    def check(run: Runner) -> None:
        assert isinstance(run, DeviceRunner)
        rng = np.random.default_rng(7)
        for block_size, m, k, n in shapes:
            w, x = (rng.normal(0.2, 1, shape).astype(np.float32) for shape in ((k, n), (m, k)))
            weight = gpuq.quantize(w, dtype, axis=0, block_size=block_size)
            codes = weight.data.astype(np.uint8)
            own = (run._there(each) for each in (codes, weight.scale, weight.zero_point.astype(np.uint8)))
            there = gpuq.QTensor(*own, axis=0, block_size=block_size, dtype=dtype)
            for activation in (None, "gelu", "silu"):
                y = download(run.driver, gpuq.linear(run._there(x), there, 0.5, activation=activation))
                assert_within_ulp(y, reference.linear(x, weight, 0.5, activation=activation), 4 if activation else 0)

    return check


LARGER, SLICED = AMPERE_TILES[-1], Tile(16, 32, 256, 6, 16, 32, 4)
TILES, DOTS = ((65, 150, 70), (130, 64, 68), (17, 16, 17)), ((3, 700, 70), (70, 48, 5), (1, 16, 9), (12, 33, 18))
STREAMS = ((17, 300, 33), (16, 1800, 64), (5, 16, 7), (1, 48, 40))
CHECKS: dict[str, Check] = {
    "quantize_even_float32_uint8_uniform": check_quantize_uniform,
    "quantize_even_float32_uint8": check_quantize,
    "dequantize_uint8_float32": check_dequantize,
    "requantize_float_int32_uint8": check_requantize,
    "finite_range_float32": check_range,
    "copy": check_copy,
    "pack": check_pack,
    "row_sums": check_row_sums,
    "gemm_dots_int32": make_check_product("matmul_integer", DOTS, (2, 20, 3)),
    "gemm_dots_quantized": make_check_product("qlinear_matmul", DOTS, (2, 20, 3)),
    f"gemm_mma_int32_{LARGER}": make_check_product("matmul_integer", TILES, (17, 20, 18)),
    f"gemm_mma_quantized_{LARGER}": make_check_product("qlinear_matmul", TILES, (17, 20, 18)),
    "layer_mma_4bit_32x32_points": make_check_layer("uint4", ((32, 17, 640, 40), (64, 35, 300, 33))),
    "layer_mma_8bit_64x64_points": make_check_layer("uint8", ((32, 65, 200, 140), (96, 70, 480, 130))),
    f"gemm_mma_int32_{SLICED}": make_check_product("matmul_integer", STREAMS, (17, 20, 18)),
}
TILE_OF = {f"gemm_mma_{finish}_{tile}": tile for finish in ("int32", "quantized") for tile in (LARGER, SLICED)}


def run_with(check: Check, name: str, text: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """The check on a device that loads this PTX for the kernel of that name."""
    load = gpuq.cuda.compile.compiled_code

    def edited(kernel: Kernel, capability: tuple[int, int], form: str) -> Code:
        code = load(kernel, capability, form)
        return code if kernel.name != name or text is None else Code(text.encode(), code.entry)

    with monkeypatch.context() as patch:
        driver = Driver(CAPABILITY)
        install(patch, driver)
        patch.setattr(gpuq.cuda.compile, "compiled_code", edited)
        if name.startswith(("gemm", "row_sums")):  # those of a's rows are made for dot products
            patch.setattr(products, "_tile", lambda *_: TILE_OF.get(name))
        check(DeviceRunner(driver))


def missed_edits(name: str, edits: list[Edit], monkeypatch: pytest.MonkeyPatch) -> list[Edit]:
    """The edits that neither the emulator nor a result tells."""
    missed = []
    for edit in edits:
        try:
            run_with(CHECKS[name], name, edit.text, monkeypatch)
        except (EmulationError, AssertionError):
            continue
        missed.append(edit)
    return missed


@pytest.mark.parametrize("name", CHECKS)
def test_the_kernels_as_they_are_pass(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    run_with(CHECKS[name], name, None, monkeypatch)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # faults seen as an array is freed
@pytest.mark.parametrize("count", EDITS)
def test_random_edits_are_noticed(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    missed: list[str] = []
    for name in CHECKS:
        (kernel,) = (each for each in kernels.all_kernels() if each.name == name)
        edits = random_edits(kernels.ptx_of(kernel, CAPABILITY)[0], count, seed=1)
        assert len(edits) == count
        missed += [f"{name}: {edit}" for edit in missed_edits(name, edits, monkeypatch)]
    assert len(missed) <= MISSED * count * len(CHECKS), "\n".join(missed)


def test_the_reference_is_what_results_are_compared_with(monkeypatch: pytest.MonkeyPatch) -> None:
    """A check whose comparison fails must not pass for an edit that was noticed by chance: it fails unedited, too."""
    monkeypatch.setattr(reference, "quantize_linear", lambda x, *_, **__: np.zeros(x.shape, np.uint8))
    with pytest.raises(AssertionError, match="elements differ"):
        run_with(check_quantize_uniform, "quantize_even_float32_uint8_uniform", None, monkeypatch)
