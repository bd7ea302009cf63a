"""Calls on NumPy arrays that come again go straight to the kernel: with the same bits, errors and memory; or do not."""

from __future__ import annotations

import gc
import inspect
import threading
import weakref
from typing import Any

import numpy as np
import pytest

import gpuq
from compare import assert_all_same, assert_same
from gpuq import layers, reference
from gpuq.cpu import repeat
from gpuq.cpu.isa import available
from gpuq.remembered import Recent
from repeated_calls import CALLS, POINT, codes, positive, reals


@pytest.fixture(autouse=True)
def nothing_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test begins with calls that nobody has made."""
    monkeypatch.setattr(repeat, "_recipes", Recent(repeat.MOST_CALLS))


def call(name: str, given: dict[str, Any], **options: Any) -> Any:
    """The operator, as many arguments as can be by position."""
    operator = getattr(gpuq, name)
    bound = inspect.signature(operator).bind(**given, **options)
    return operator(*bound.args, **bound.kwargs)


def check(result: Any, expected: Any) -> None:
    several = isinstance(expected, tuple)
    assert_all_same(result if several else (result,), expected if several else (expected,))


@pytest.mark.parametrize("name", CALLS)
def test_a_call_that_comes_again(asked: list[str], name: str) -> None:
    """Other memory, other contents: the operator is asked twice, and again where a parameter has other elements."""
    operator, make, options = CALLS[name]
    told = []
    for seed in (1, 2, 3, 4):
        arrays = {each: array if each in repeat.DATA_NAMES else make(1)[each] for each, array in make(seed).items()}
        kept = {each: array.copy(order="K") for each, array in arrays.items()}
        check(call(operator, arrays, **options), getattr(reference, operator)(**kept, **options))
        told.append(gpuq.last_path())
        for each, array in arrays.items():
            assert_same(array, kept[each], f"{each}, which is an input,")
    assert asked == [operator] * 2
    assert told[0] is not None
    assert set(told) == {told[0]}


@pytest.mark.parametrize("name", CALLS)
def test_parameters_with_other_elements(name: str) -> None:
    """Also where they are other elements of the same array."""
    operator, make, options = CALLS[name]
    arrays = make(1)
    for seed in (1, 1, 2, 2, 3, 1):
        for each, array in make(seed).items():
            arrays[each][...] = array
        check(call(operator, arrays, **options), getattr(reference, operator)(**arrays, **options))


@pytest.mark.parametrize("name", CALLS)
def test_parameters_that_the_caller_overwrites_are_not_those_that_are_kept(name: str) -> None:
    """The same elements in other memory are the same call, whatever became of the first memory."""
    operator, make, options = CALLS[name]
    first, others = make(1), make(2)
    for _ in range(3):
        check(call(operator, first, **options), getattr(reference, operator)(**first, **options))
    for each, array in first.items():
        array[...] = others[each]
    again = make(1)
    check(call(operator, again, **options), getattr(reference, operator)(**again, **options))


@pytest.mark.parametrize("name", [name for name in CALLS if name != "dynamic"])
def test_into_memory_that_the_caller_gives(asked: list[str], name: str) -> None:
    operator, make, options = CALLS[name]
    for seed in (1, 2, 3):
        arrays = {each: array if each in repeat.DATA_NAMES else make(1)[each] for each, array in make(seed).items()}
        expected = getattr(reference, operator)(**arrays, **options)
        out = np.zeros_like(expected)
        assert call(operator, arrays, **options, out=out) is out
        assert_same(out, expected)
    assert asked == [operator] * 2


def test_an_out_of_every_layout(asked: list[str]) -> None:
    x, memory = reals(1, 6, 8), np.zeros((12, 17), np.uint8)
    expected = reference.quantize_linear(x, 0.5)
    places = [
        memory[:6, :8], memory[::2, 1::2], memory[:8, :6].T, np.zeros((6, 8), np.uint8),
        np.zeros((6, 8), np.uint8, order="F"),
    ]  # fmt: skip
    for _ in range(3):
        for out in places:
            out[...] = 7
            assert gpuq.quantize_linear(x, 0.5, out=out) is out
            assert_same(out, expected)
    out = np.zeros((6, 8), np.uint8)
    out.setflags(write=False)
    with pytest.raises(ValueError, match="out: got a read-only array"):
        gpuq.quantize_linear(x, 0.5, out=out)


def test_in_place(asked: list[str]) -> None:
    for seed in (1, 2, 3):
        content = reals(seed, 5, 9)
        x = content.copy()
        assert gpuq.fake_quantize(x, 0.5, out=x) is x
        assert_same(x, reference.fake_quantize(content, 0.5))
    out = np.zeros_like(content)
    gpuq.fake_quantize(content, 0.5, out=out)  # another call: its result lies elsewhere
    assert_same(out, reference.fake_quantize(content, 0.5))
    assert len(asked) == 3


def test_an_out_that_overlaps_is_looked_at_each_time() -> None:
    memory = np.linspace(-3, 3, 24, dtype=np.float32)
    apart, near = memory[12:], memory[4:16]
    for _ in range(3):
        gpuq.fake_quantize(memory[:12], 0.5, out=apart)
        with pytest.raises(ValueError, match="out: got an array that overlaps x"):
            gpuq.fake_quantize(memory[:12], 0.5, out=near)
        scale = np.ones(12, np.float32)
        gpuq.fake_quantize(memory[:12], scale, axis=0, out=np.empty(12, np.float32))
        with pytest.raises(ValueError, match="out: got an array that overlaps scale"):
            gpuq.fake_quantize(memory[:12], scale, axis=0, out=scale)


@pytest.mark.parametrize("kind", ["float16", "float32", "float64", "bfloat16"])
@pytest.mark.parametrize("order", ["C", "F", "strided"])
def test_every_real_type_and_order(asked: list[str], kind: str, order: str) -> None:
    if kind == "bfloat16":
        kind = pytest.importorskip("ml_dtypes", reason="ml_dtypes is not installed").bfloat16
    for seed in (1, 2, 3):
        content = reals(seed, 6, 20).astype(kind)
        x = content[:, ::2] if order == "strided" else np.array(content, order=order)
        for scale in (0.5, positive(1, x.shape[1])):
            q = gpuq.quantize_linear(x, scale, POINT)
            assert_same(q, reference.quantize_linear(x, scale, POINT))
            assert_same(gpuq.fake_quantize(x, scale), reference.fake_quantize(x, scale))
            real = gpuq.dequantize_linear(q, scale, POINT, dtype=kind)
            assert_same(real, reference.dequantize_linear(q, scale, POINT, dtype=kind))
        assert q.flags.f_contiguous == (order == "F")
    assert len(asked) == 2 * 6


def test_byte_swapped_and_4_bit_arrays_are_asked_each_time(asked: list[str]) -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes", reason="ml_dtypes is not installed")
    x, four = reals(1, 12).astype(">f4"), codes(1, 12).astype(ml_dtypes.int4)
    for _ in range(3):
        assert_same(gpuq.quantize_linear(x, 0.5), reference.quantize_linear(x, 0.5))
        assert_same(gpuq.dequantize_linear(four, 0.5), reference.dequantize_linear(four, 0.5))
        assert_same(gpuq.quantize_linear(x, 0.5, dtype="int4"), reference.quantize_linear(x, 0.5, dtype="int4"))
    assert len(asked) == 9


def test_whatever_a_result_depends_on(asked: list[str]) -> None:
    """Equal values of other types, zeros of both signs, and other shapes are other arguments."""
    x = reals(1, 6, 8)
    changes: list[dict[str, Any]] = [
        {"scale": 1.0}, {"scale": 1}, {"scale": np.float32(1)}, {"scale": np.float64(1)}, {"scale": 2.0},
        {"scale": np.ones(8)}, {"scale": np.ones((8,), np.float32)}, {"scale": np.ones((1, 1))},
        {"zero_point": 1}, {"zero_point": np.int8(1)}, {"zero_point": np.uint8(1)}, {"zero_point": np.int16(1)},
        {"dtype": "int8"}, {"dtype": np.int8}, {"dtype": np.dtype(np.int8)}, {"dtype": np.int16},
        {"narrow_range": True, "dtype": "int8"}, {"rounding": "half_up"}, {"axis": 0}, {"x": x.T},
        {"x": x.astype(np.float64)}, {"x": x.astype(np.float16)}, {"x": x[:5]}, {"x": x.reshape(-1)},
    ]  # fmt: skip
    for _ in range(3):
        for change in changes:
            arguments = {"x": x, "scale": 1.0, "zero_point": None, **change}
            check(call("quantize_linear", arguments), reference.quantize_linear(**arguments))
    assert len(asked) == 2 * len(changes)


def test_a_zero_is_not_the_other_zero() -> None:
    """0.0 == -0.0, but a bias of one or the other gives another zero."""
    a, b = np.zeros((2, 4), np.int8), np.ones((4, 3), np.int8)
    for bias in (0.0, -0.0, np.float32(0), np.float32(-0.0)) * 3:
        assert_same(gpuq.scaled_matmul(a, b, 1.0, 1.0, bias=bias), reference.scaled_matmul(a, b, 1.0, 1.0, bias=bias))


def test_what_is_refused_is_refused_again() -> None:
    x, a, b = reals(1, 8), codes(1, 4, 8), codes(2, 8, 4)
    for _ in range(3):
        gpuq.quantize_linear(x, 1.0, dtype="int8", narrow_range=True)
        for options, argument in (
            ({"narrow_range": 1}, "narrow_range"), ({"scale": True}, "scale"), ({"scale": -1.0}, "scale"),
            ({"scale": float("nan")}, "scale"), ({"scale": np.float32([1, 0] * 4), "axis": 0}, "scale"),
            ({"axis": 1.0}, "axis"), ({"stream": 0}, "stream"), ({"device": "gpu"}, "device"),
            ({"out": np.zeros(8, np.int8).tolist()}, "out"), ({"out": np.zeros(7, np.int8)}, "out"),
        ):  # fmt: skip
            arguments = {"x": x, "scale": 1.0, "dtype": "int8", "narrow_range": True, **options}
            with pytest.raises((TypeError, ValueError), match=f"^{argument}: got"):
                call("quantize_linear", arguments)
        gpuq.matmul_integer(a, b, 0)
        for wrong in ((a, b, int, "0"), (a, b.astype(np.int16)), (a, b[1:]), (a, b, 0.0), (a, b, False)):
            with pytest.raises((TypeError, ValueError), match="_zero_point|b: got"):
                gpuq.matmul_integer(*wrong)


def test_sums_that_do_not_fit_are_told_each_time() -> None:
    a, b = np.full((2, 70_000), 255, np.uint8), np.full((70_000, 2), 255, np.uint8)
    for _ in range(3):
        with pytest.raises(OverflowError, match="k = 70000"):
            gpuq.matmul_integer(a, b)
        small = gpuq.matmul_integer(a // 255, b // 255)
        assert small.tolist() == [[70_000] * 2] * 2


def test_another_instruction_set_and_device_between_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = codes(1, 13, 40), codes(2, 40, 9)
    expected = reference.matmul_integer(a, b)
    for _ in range(3):
        for isa in available():
            monkeypatch.setenv("GPUQ_ISA", isa)
            assert_same(gpuq.matmul_integer(a, b), expected)
            path = gpuq.last_path()
            assert path is not None
            assert path.isa == isa
        monkeypatch.setenv("GPUQ_ISA", "none")
        with pytest.raises(gpuq.DeviceError, match="GPUQ_ISA"):
            gpuq.matmul_integer(a, b)
        monkeypatch.delenv("GPUQ_ISA")
        monkeypatch.setenv("GPUQ_DEVICE", "gpu")
        with pytest.raises(ValueError, match="GPUQ_DEVICE"):
            gpuq.matmul_integer(a, b)
        monkeypatch.delenv("GPUQ_DEVICE")


def test_a_packed_matrix_is_neither_kept_nor_taken_for_another() -> None:
    a = codes(1, 5, 32)
    for seed in range(4):
        b = codes(seed, 32, 9)
        packed = gpuq.prepack(b, zero_point=np.int8(seed))
        for _ in range(3):
            assert_same(gpuq.matmul_integer(a, packed), reference.matmul_integer(a, b, None, np.int8(seed)))
        gone = weakref.ref(packed), weakref.ref(packed._packed)
        del packed
        gc.collect()
        assert [reference() for reference in gone] == [None, None]


def test_from_many_threads(asked: list[str]) -> None:
    failures: list[BaseException] = []

    def work(seed: int) -> None:
        try:
            for again in range(20):
                a, b = codes(seed + again, 7, 33), codes(seed, 33, 12)
                check(gpuq.matmul_integer(a, b, seed), reference.matmul_integer(a, b, np.int8(seed)))
        except BaseException as failure:  # noqa: BLE001 - told by the test's thread
            failures.append(failure)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def test_what_is_known_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(repeat, "_recipes", Recent(8))
    x = reals(1, 16)
    for scale in [*np.linspace(1, 2, 40).tolist()] * 2:
        assert_same(gpuq.quantize_linear(x, scale), reference.quantize_linear(x, scale))
    known = repeat._recipes
    assert len(known._young) + len(known._old) <= 16


def test_the_bytes_of_what_is_known_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A product keeps its parameters at full length, megabytes for many rows: last batches of 200 sizes took 700 MB."""
    monkeypatch.setattr(repeat, "_recipes", Recent(repeat.MOST_CALLS, 1 << 20, repeat._bytes_kept))
    rng = np.random.default_rng(0)
    b = rng.integers(-128, 128, (3, 2)).astype(np.int8)
    for m in range(20_000, 20_030):
        a = rng.integers(0, 256, (m, 3)).astype(np.uint8)
        for _ in range(3):
            assert_same(gpuq.scaled_matmul(a, b, 0.5, 0.5, 3), reference.scaled_matmul(a, b, 0.5, 0.5, 3))
    known = [*repeat._recipes._young.values(), *repeat._recipes._old.values()]
    assert any(type(recipe) is repeat.Recipe for recipe in known)
    assert sum(map(repeat._bytes_kept, known)) <= 2 << 20


def test_what_is_too_large_alone_is_not_kept() -> None:
    recent: Recent[int, str] = Recent(3, 10, len)
    for key, value in enumerate(("aaaa", "b" * 11, "cccccc", "d" * 10)):
        recent[key] = value
    assert recent.get(1) is None
    assert (recent._young, recent._old) == ({3: "d" * 10}, {0: "aaaa", 2: "cccccc"})


@pytest.mark.parametrize("activations", ["int8", "float"])
@pytest.mark.parametrize("block_size", [0, 8])
def test_a_known_call_of_a_layer_keeps_no_codes_of_its_weight(block_size: int, activations: str) -> None:
    """A weight's memory lived on as a slice without elements, until 1,024 other calls were made."""
    weight = gpuq.quantize(reals(2, 64, 48), "int8", axis=0 if block_size else 1, block_size=block_size)
    packed, x = weight.prepack(), reals(3, 5, 64)
    for _ in range(4):
        gpuq.linear(x, packed, activations=activations)
    owners = [owner for part in packed.parts for owner in _owners(part._packed.panels)]
    gone = [weakref.ref(owner) for owner in owners]
    if block_size:
        known = [*repeat._recipes._young.values(), *repeat._recipes._old.values()]
        assert max(repeat._bytes_kept(recipe) for recipe in known) <= 4 * 48  # no scales either: the bias alone
    assert gone
    del packed, owners
    gc.collect()
    assert [reference() for reference in gone] == [None] * len(gone)


def _owners(array: Any) -> list[Any]:
    """The array and all whose memory it is a view of."""
    found = [array]
    while isinstance(found[-1].base, np.ndarray):
        found.append(found[-1].base)
    return found


def test_a_parameter_too_large_to_be_compared(asked: list[str]) -> None:
    x = reals(1, 2, 5000)
    scale = positive(1, 5000)
    for _ in range(3):
        assert_same(gpuq.quantize_linear(x, scale), reference.quantize_linear(x, scale))
    assert len(asked) == 3


@pytest.mark.parametrize("kind", ["float32", "float16"])
@pytest.mark.parametrize("activations", ["int8", "float"])
@pytest.mark.parametrize(("weight_type", "axis", "block_size"), [("int8", 1, 0), ("uint8", 1, 0), ("int4", 0, 8)])
def test_layers(
    monkeypatch: pytest.MonkeyPatch, kind: str, weight_type: str, axis: int, block_size: int, activations: str
) -> None:
    """Each row of x has another scale in every call: what is kept does not hold it."""
    looked: list[str] = []
    prepare = layers._weight
    monkeypatch.setattr(layers, "_weight", lambda weight: (looked.append("once"), prepare(weight))[1])
    weight = gpuq.quantize(reals(9, 40, 11), weight_type, axis=axis, block_size=block_size)
    packed, bias = weight.prepack(), reals(8, 11)
    for seed in range(1, 6):
        x = (reals(seed, 3, 2, 40) * 10.0**seed / 100).astype(kind)
        given = x, weight, bias
        expected = gpuq.linear(*given, activation="relu", activations=activations)
        count = len(looked)
        assert_same(gpuq.linear(x, packed, bias, activation="relu", activations=activations), expected)
        assert len(looked) == count + (seed < 3)
        assert_same(
            gpuq.linear(x[:, ::-1], packed, bias, activations=activations),
            gpuq.linear(x[:, ::-1], weight, bias, activations=activations),
        )
    bias += 1
    assert_same(
        gpuq.linear(x, packed, bias, activation="relu", activations=activations),
        gpuq.linear(x, weight, bias, activation="relu", activations=activations),
    )
    gone = weakref.ref(packed)
    del packed
    gc.collect()
    assert gone() is None


def test_a_layer_s_scales_are_looked_at_each_time() -> None:
    """A row so small that its scale times the weight's is no normal number, after others."""
    packed = gpuq.quantize(reals(1, 8, 4) * np.float32(1e-4), "int8").prepack()
    for _ in range(3):
        x = reals(2, 5, 8)
        y = gpuq.linear(x, packed)
        x[3] = 1e-36
        with pytest.raises(ValueError, match="x: got a row whose scale times weight's is"):
            gpuq.linear(x, packed)
        x[3] = 0
        assert (gpuq.linear(x, packed)[[0, 1, 2, 4]] == y[[0, 1, 2, 4]]).all()


def test_a_batch_that_lies_otherwise_than_the_one_before() -> None:
    """Of neither order, and so alike to a key: transposed matrices, every second column. The latter were read as if
    they lay like the former, without a copy.
    """
    rng = np.random.default_rng(0)
    a = rng.integers(0, 256, (2, 5, 40)).astype(np.uint8)
    transposed = rng.integers(-128, 128, (2, 30, 40)).astype(np.int8).swapaxes(1, 2)
    strided = rng.integers(-128, 128, (2, 40, 60)).astype(np.int8)[:, :, ::2]
    for first, second in ((transposed, strided), (strided, transposed)):
        for b in (first, first, first, second):
            np.testing.assert_array_equal(gpuq.matmul_integer(a, b), a.astype(np.int64) @ b)
