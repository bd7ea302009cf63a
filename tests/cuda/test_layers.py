"""`linear` on emulated GPUs where it is more than a product of matrices: weights with blocks, real activations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import gpuq
from compare import assert_same, assert_within_ulp
from gpuq import device_views, layers, reference
from gpuq.dtypes import numpy_dtype
from gpuq.transfer import to_host

pytest.importorskip("numba_cuda", reason="needs the package numba-cuda")

from emulated import DlpackArray, InterfaceArray, upload  # noqa: E402
from gpuq.cuda import layers as cuda_layers  # noqa: E402
from gpuq.cuda import products  # noqa: E402
from gpuq.cuda.columns import Blocks, columns_of  # noqa: E402
from gpuq.cuda.tiles import Tile  # noqa: E402

Array = npt.NDArray[Any]
Emulate = Callable[..., Any]
TYPES = ("int8", "uint8", "int4", "uint4")
GRAINS: list[tuple[int | None, int]] = [(None, 0), (1, 0), (0, 32), (0, 16), (0, 7), (0, 1)]
CAPABILITIES = [(7, 5), (8, 0), (9, 0), (12, 0)]


def there(emulated: Any, array: Array) -> Any:
    return upload(emulated, array, kind=DlpackArray if array.dtype.name == "bfloat16" else InterfaceArray)


def weight_of(
    rng: np.random.Generator, dtype: str, axis: int | None, block_size: int, k: int, n: int, symmetric: bool = False
) -> Any:
    x = rng.normal(0.1, 1, (k, n)).astype(np.float32)
    return gpuq.quantize(x, dtype, axis=axis, block_size=block_size, symmetric=symmetric)


def activations_of(rng: np.random.Generator, shape: tuple[int, ...], real: str = "float32") -> Array:
    x: Array = (rng.normal(size=shape) * np.exp(rng.normal(0, 2, (*shape[:-1], 1)))).astype(numpy_dtype(real))
    return x


def assert_near(y: Array, x: Array, weight: Any, bias: float, what: str) -> None:
    """Within the bound of float32 sums, and of rounding to y's type."""
    k, wide = weight.shape[0], weight.dequantize(np.float64)
    exact = x.astype(np.float64) @ wide + bias
    bound = k * 2.0**-23 * (np.abs(x.astype(np.float64)) @ np.abs(wide)) + 1e-6
    unit = {"float32": 2.0**-24, "float16": 2.0**-11, "bfloat16": 2.0**-8}[y.dtype.name]
    assert np.all(np.abs(y.astype(np.float64) - exact) <= bound + 2 * unit * np.abs(exact)), what


@pytest.mark.parametrize("capability", CAPABILITIES, ids=str)
@pytest.mark.parametrize("dtype", TYPES)
def test_blocks_have_the_bits_of_the_definition(emulate: Emulate, dtype: str, capability: tuple[int, int]) -> None:
    """Whole chunks, ragged ones, blocks beyond a round of 32, tiles with rows and columns left over."""
    emulated, rng = emulate(capability), np.random.default_rng(1)
    for number, (block_size, k, n, rows) in enumerate(
        ((32, 96, 40, 1), (32, 70, 17, 5), (16, 560, 33, 4), (7, 300, 9, 3), (1, 40, 5, 2), (64, 64, 8, 9))
    ):
        real = ("float32", "float16", "bfloat16")[number % 3]
        weight, x = weight_of(rng, dtype, 0, block_size, k, n), activations_of(rng, (rows, k), real)
        bias, activation = rng.normal(size=n).astype(np.float32), (None, "relu", "relu6")[number % 3]
        expected = reference.linear(x, weight, bias, activation=activation)
        device_weight = weight.to("cuda")
        for given in (device_weight, device_weight.prepack()):
            y = gpuq.linear(there(emulated, x), given, there(emulated, bias), activation=activation)
            assert_same(to_host(y), expected, f"{dtype} {block_size} {k} {n} {rows} {real}")


@pytest.mark.parametrize("capability", CAPABILITIES[1:], ids=str)
@pytest.mark.parametrize("filled", [0.0, 1e9], ids=["large tiles", "small tiles"])
@pytest.mark.parametrize("symmetric", [True, False])
def test_many_rows_by_tensor_cores(
    emulate: Emulate, capability: tuple[int, int], filled: float, symmetric: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Blocks of one step along k and of several, slabs that end within, rows and columns left over, more slabs than
    there is room for.
    """
    monkeypatch.setattr(cuda_layers, "FILLED", filled)
    emulated, rng = emulate(capability), np.random.default_rng(3)
    for number, (dtype, block_size, k, n, rows) in enumerate(
        (
            ("int8", 32, 96, 40, 17),
            ("int4", 32, 608, 70, 33),
            ("uint4", 64, 300, 37, 70),
            ("uint8", 128, 384, 130, 66),
            ("int8", 25, 70, 17, 20),
        )
    ):
        real = ("float32", "float16", "bfloat16")[number % 3]
        weight, x = weight_of(rng, dtype, 0, block_size, k, n, symmetric), activations_of(rng, (rows, k), real)
        expected, device_weight = reference.linear(x, weight, 0.5, activation="relu"), weight.to("cuda")
        for given in (device_weight, device_weight.prepack()):
            y = gpuq.linear(there(emulated, x), given, 0.5, activation="relu")
            assert "layer_mma" in emulated.launches[-1]
            assert_same(to_host(y), expected, f"{dtype} {block_size} {k} {n} {rows} {real}")


def test_tensor_cores_are_for_many_rows_and_whole_steps(emulate: Emulate) -> None:
    for capability, rows, block_size, expected in (
        ((7, 5), 40, 32, False),
        ((8, 0), 16, 32, False),
        ((8, 0), 17, 32, True),
        ((8, 0), 40, 16, False),
    ):
        emulated, rng = emulate(capability), np.random.default_rng(4)
        weight, x = weight_of(rng, "int8", 0, block_size, 64, 8), activations_of(rng, (rows, 64))
        assert_same(to_host(gpuq.linear(there(emulated, x), weight.to("cuda"))), reference.linear(x, weight))
        assert ("layer_mma" in emulated.launches[-1]) == expected


@pytest.mark.parametrize("dtype", ["int8", "int4"])
@pytest.mark.parametrize("filled", [0.0, 1e9], ids=["large tiles", "small tiles"])
def test_tensor_cores_wait_for_no_bank(
    emulate: Emulate, dtype: str, filled: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whole tiles: what goes through shared memory takes the cycles that its bytes need."""
    monkeypatch.setattr(cuda_layers, "FILLED", filled)
    emulated, rng = emulate(counting=True), np.random.default_rng(5)
    weight, x = weight_of(rng, dtype, 0, 32, 256, 64, symmetric=True), activations_of(rng, (64, 256))
    to_host(gpuq.linear(there(emulated, x), weight.to("cuda").prepack()))
    name, counters = emulated.costs[-1]
    assert "layer_mma" in name
    assert counters.shared.ratio == 1
    assert counters.stores.ratio == 1


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize(("axis", "block_size"), GRAINS)
def test_real_activations(emulate: Emulate, dtype: str, axis: int | None, block_size: int) -> None:
    for number, capability in enumerate(CAPABILITIES):
        emulated, rng = emulate(capability), np.random.default_rng(number)
        k, n, rows = ((300, 33, 5), (64, 8, 1), (1100, 17, 1), (45, 70, 9))[number]
        real = ("float32", "float16", "bfloat16", "float32")[number]
        weight, x = weight_of(rng, dtype, axis, block_size, k, n), activations_of(rng, (rows, k), real)
        device_weight = weight.to("cuda")
        for given in (device_weight, device_weight.prepack()):
            y = to_host(gpuq.linear(there(emulated, x), given, 0.25, activations="float"))
            assert_near(y, x, weight, 0.25, f"{capability} {given!r}")


@pytest.mark.parametrize("activations", ["int8", "float"])
@pytest.mark.parametrize("activation", ["gelu", "silu"])
def test_curves(emulate: Emulate, activation: str, activations: str) -> None:
    emulated, rng = emulate(), np.random.default_rng(2)
    weight, x = weight_of(rng, "int8", 0, 32, 64, 9), activations_of(rng, (5, 64))
    y = to_host(gpuq.linear(there(emulated, x), weight.to("cuda"), activation=activation, activations=activations))
    if activations == "int8":
        assert_within_ulp(y, reference.linear(x, weight, activation=activation), 4)
    else:
        before = to_host(gpuq.linear(there(emulated, x), weight.to("cuda"), activations="float"))
        assert_within_ulp(y, reference._activate(before, activation), 4)


@pytest.mark.parametrize("activations", ["int8", "float"])
def test_nothing_waits_and_few_kernels_run(emulate: Emulate, activations: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """x was brought to the host and the result taken back. Of a packed weight, whole chunks and float32, the product is
    one kernel; int8 activations take one more before it.
    """
    emulated, rng = emulate(), np.random.default_rng(3)
    for axis, block_size, dtype in ((0, 32, "int4"), (0, 64, "uint8"), (1, 0, "int8")):
        weight, x = weight_of(rng, dtype, axis, block_size, 128, 24), activations_of(rng, (2, 3, 128))
        packed, given = weight.to("cuda").prepack(), there(emulated, x)
        bias = there(emulated, np.zeros(24, np.float32))
        before = len(emulated.launches)
        with monkeypatch.context() as patch:
            patch.setattr(emulated, "cuStreamSynchronize", lambda number: pytest.fail("waits"))
            y = gpuq.linear(given, packed, bias, activations=activations)
        assert len(emulated.launches) - before == (2 if activations == "int8" else 1), dtype
        if activations == "int8":
            assert_same(to_host(y), reference.linear(x, weight))


@pytest.mark.parametrize("symmetric", [True, False])
def test_rows_are_added_up_for_zero_points_alone(
    emulate: Emulate, symmetric: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A symmetric weight on a GPU has zero points there, all 0: rows of x were added up for them, by a kernel of its
    own where tiles are large.
    """
    emulated, rng = emulate(), np.random.default_rng(12)
    monkeypatch.setattr(products, "_tile", lambda *_: Tile(128, 128, 64, 4, 64, 64))
    weight, x = weight_of(rng, "int8", 1, 0, 96, 24, symmetric), activations_of(rng, (20, 96))
    packed, before = weight.to("cuda").prepack(), len(emulated.launches)
    assert_same(to_host(gpuq.linear(there(emulated, x), packed)), reference.linear(x, weight))
    assert len(emulated.launches) - before == (2 if symmetric else 3)


def test_a_packed_weight_of_4_bits_takes_half_a_byte_of_each(emulate: Emulate) -> None:
    """Its codes, a scale for each block and column, and zero points where there are any."""
    emulate()
    rng = np.random.default_rng(4)
    for dtype in ("int4", "uint4"):
        symmetric, other = (weight_of(rng, dtype, 0, 32, 256, 64, each).to("cuda").prepack() for each in (True, False))
        assert symmetric.nbytes == 256 * 64 // 2 + 8 * 64 * 4
        assert other.nbytes == symmetric.nbytes + 8 * 64 * 4


@pytest.mark.parametrize("activations", ["int8", "float"])
@pytest.mark.parametrize(("axis", "block_size"), [(None, 0), (1, 0), (0, 32), (0, 7)])
def test_calls_that_come_again(
    emulate: Emulate, activations: str, axis: int | None, block_size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other activations, packed and not, through the steps that the first call noted: all of them at once, where the
    rows' codes and scales were arrays that each operator looked at.
    """
    emulated, rng, looks = emulate(), np.random.default_rng(5), []
    look = layers._weight
    monkeypatch.setattr(layers, "_weight", lambda weight: (looks.append(weight), look(weight))[1])
    weight = weight_of(rng, "uint4", axis, block_size, 70, 12)
    for given in (weight.to("cuda"), weight.to("cuda").prepack()):
        for shape in ((3, 70), (2, 2, 70)):
            looks.clear()
            for _ in range(4):
                x = activations_of(rng, shape)
                y = to_host(gpuq.linear(there(emulated, x), given, 0.5, activations=activations))
                if activations == "int8":
                    assert_same(y, reference.linear(x, weight, 0.5))
                else:
                    assert_near(y, x, weight, 0.5, repr(given))
            assert len(looks) == 1


def test_what_the_parts_leave_to_each_other_is_workspace(emulate: Emulate, monkeypatch: pytest.MonkeyPatch) -> None:
    """Codes and scales of rows were arrays of the caller's library, and those of gpuq's own wait as they are freed."""
    emulated, rng, made = emulate(), np.random.default_rng(7), []
    empty = device_views.empty_like
    monkeypatch.setattr(device_views, "empty_like", lambda *given: (made.append(given[2]), empty(*given))[1])
    weight, memory = weight_of(rng, "int8", 1, 0, 70, 12).to("cuda").prepack(), emulated.devices[0].memory
    x = there(emulated, activations_of(rng, (3, 70)))
    sizes = []
    for _ in range(3):
        made.clear()
        to_host(gpuq.linear(x, weight))
        sizes.append(memory.size)
    assert made == [(3, 12)]
    assert len(set(sizes)) == 1


def test_another_weight_with_the_same_arrays_is_another_call(emulate: Emulate) -> None:
    """Codes of 4 and of 8 bits look alike on a GPU, and so do scales of one column's blocks and of columns."""
    emulated, rng = emulate(), np.random.default_rng(6)
    codes, x = rng.integers(0, 16, (64, 2), np.uint8), activations_of(rng, (3, 64))
    data, scale = there(emulated, codes), there(emulated, np.float32([[0.5, 2], [0.25, 1]]))
    column_scale, given = there(emulated, np.float32([0.5, 2])), there(emulated, x)
    weights = [
        gpuq.QTensor(data, scale, axis=0, block_size=32),
        gpuq.QTensor(data, scale, axis=0, block_size=48),
        gpuq.QTensor(data, scale, axis=0, block_size=32, dtype="uint4"),
        gpuq.QTensor(data, column_scale, axis=1),
    ]
    for _ in range(4):
        for weight in weights:
            assert_same(to_host(gpuq.linear(given, weight)), reference.linear(x, weight.to("cpu")))


def test_weights_of_any_layout(emulate: Emulate) -> None:
    """Transposed, as torch has them, backwards and strided."""
    emulated, rng = emulate(), np.random.default_rng(6)
    weight, x = weight_of(rng, "int8", 0, 32, 64, 20), activations_of(rng, (4, 64))
    expected = reference.linear(x, weight)
    layouts = (np.asfortranarray(weight.data), weight.data[::-1].copy()[::-1], np.repeat(weight.data, 2, 1)[:, ::2])
    for data in layouts:
        codes, scale, points = (there(emulated, array) for array in (data, weight.scale, weight.zero_point))
        own = gpuq.QTensor(codes, scale, points, 0, 32)
        for given in (own, own.prepack()):
            assert_same(to_host(gpuq.linear(there(emulated, x), given)), expected, str(data.strides))


def test_x_of_any_layout(emulate: Emulate) -> None:
    emulated, rng = emulate(), np.random.default_rng(7)
    weight, x = weight_of(rng, "int8", 0, 32, 64, 5), activations_of(rng, (6, 64))
    device_weight = weight.to("cuda").prepack()
    for given in (
        x[::-1],
        x[:, ::-1],
        np.repeat(x, 2, 1)[:, ::2],
        np.asfortranarray(x),
        x[0],
        x[:0],
        x.reshape(2, 3, 64),
    ):
        y = to_host(gpuq.linear(there(emulated, given), device_weight))
        assert_same(y, reference.linear(given, weight), str(given.strides))
        y = to_host(gpuq.linear(there(emulated, given), device_weight, activations="float"))
        assert_near(y, given, weight, 0, str(given.strides))


def test_blocks_that_int32_may_not_hold(emulate: Emulate, monkeypatch: pytest.MonkeyPatch) -> None:
    """The host adds them up, packed one by one or not; real activations are multiplied there all the same. Weights of
    nothing are taken, too.
    """
    from gpuq import device_layers

    emulated, rng = emulate(), np.random.default_rng(8)
    monkeypatch.setattr(device_layers, "LONGEST_BLOCK", 16)
    for k, n in ((64, 5), (0, 5), (64, 0)):
        weight, x = weight_of(rng, "int8", 0, 32, k, n), activations_of(rng, (2, k))
        for given in (weight.to("cuda"), weight.to("cuda").prepack()):
            assert_same(to_host(gpuq.linear(there(emulated, x), given, 0.5)), reference.linear(x, weight, 0.5))
            y = to_host(gpuq.linear(there(emulated, x), given, 0.5, activations="float"))
            assert ("layer_reals" in emulated.launches[-1]) == (k * n > 0)
            assert y.shape == (2, n)
            if n:
                assert_near(y, x, weight, 0.5, repr(given))


def test_products_of_scales_are_checked_where_that_is_asked_for(
    emulate: Emulate, monkeypatch: pytest.MonkeyPatch
) -> None:
    emulated = emulate()
    monkeypatch.setenv("GPUQ_CHECK", "1")
    weight = gpuq.QTensor(np.ones((4, 3), np.int8), np.full((2, 3), 1e-3, np.float32), axis=0, block_size=2)
    x = there(emulated, np.full((2, 4), 1e-37, np.float32))
    with pytest.raises(ValueError, match="^x: got a row whose scale times weight's is"):
        gpuq.linear(x, weight.to("cuda"))


# ---- columns ----


def unpacked(memory: Array, blocks: Blocks, n: int) -> Array:
    """The codes (blocks, chunks · codes of a chunk, n) of packed memory, as the drawing of columns.py has them."""
    chunks = memory.reshape(blocks.count, blocks.chunks, n, 16)
    if blocks.bits == 8:
        return chunks.transpose(0, 1, 3, 2).reshape(blocks.count, -1, n).view(np.int8)
    halves = np.stack([chunks & 15, chunks >> 4], axis=3)  # of a chunk: its low halves, then its high ones
    signed = ((halves ^ 8).astype(np.int16) - 8).astype(np.int8)
    return signed.reshape(*chunks.shape[:3], 32).transpose(0, 1, 3, 2).reshape(blocks.count, -1, n)


@pytest.mark.parametrize("dtype", ["int8", "uint8"])
@pytest.mark.parametrize("bits", [4, 8])
def test_columns(work: Any, dtype: str, bits: int) -> None:
    rng = np.random.default_rng(9)
    for k, n, length in ((64, 40, 32), (70, 5, 32), (33, 33, 33), (9, 3, 2), (1, 1, 1), (130, 2, 40)):
        low = 0 if dtype == "uint8" else -(1 << bits - 1)
        codes = rng.integers(low, low + (1 << bits), (k, n)).astype(dtype)
        scale = np.ones(1, np.float32)
        packed = columns_of(work, codes, scale, None, length, bits)
        actual = unpacked(work.read(packed.memory), packed.blocks, n)
        for block in range(packed.blocks.count):
            part = codes[block * length : (block + 1) * length].astype(np.int16) - packed.shift
            assert_same(actual[block, : len(part)], part.astype(np.int8), f"{k} {n} {length}")
            assert not actual[block, len(part) :].any()


def test_the_products_read_the_weight_by_whole_sectors(emulate: Emulate) -> None:
    """What is read beyond the bytes needed are the rows of x, of which an access takes half a sector, and their
    scales; shared memory has no conflicts.
    """
    emulated, rng = emulate(counting=True), np.random.default_rng(10)
    k, n, threads = 1024, 64, 256
    for dtype, real in ((dtype, real) for dtype in ("int4", "int8") for real in (False, True)):
        weight, x = (
            weight_of(rng, dtype, 0, 32, k, n).to("cuda").prepack(),
            there(emulated, activations_of(rng, (1, k))),
        )
        options = {"activations": "float" if real else "int8"}
        to_host(gpuq.linear(x, weight, there(emulated, np.zeros(n, np.float32)), **options))
        counters, blocks = emulated.costs[-1][1], n // 8
        beyond = counters.loads.moved - counters.loads.needed
        assert beyond <= blocks * (k * (4 if real else 1) + threads * 2), f"{dtype} {options}"
        assert counters.shared.ratio == 1, f"{dtype} {options}"


@pytest.mark.parametrize("dtype", ["int4", "uint4"])
def test_4_bit_codes_keep_their_signs_on_the_way_to_a_gpu_and_back(emulate: Emulate, dtype: str) -> None:
    """NumPy's int4 leaves the upper half of a byte 0: as int8, −1 was 15 on the GPU, and so were the results."""
    emulated, rng = emulate(), np.random.default_rng(11)
    weight, x = weight_of(rng, dtype, 1, 0, 16, 6), activations_of(rng, (3, 16))
    device_weight = weight.to("cuda")
    assert_same(to_host(device_weight.dequantize()), weight.dequantize())
    assert_same(to_host(gpuq.linear(there(emulated, x), device_weight)), reference.linear(x, weight))
    back = device_weight.to("cpu")
    assert_same(back.data.astype(np.int8), weight.data.astype(np.int8))
    assert back.data.tobytes() == weight.data.tobytes()
    assert_same(back.dequantize(), weight.dequantize())
