"""Whatever speaks DLPack: in any kind, out the same kind where that can be made, with the bits of NumPy's result."""

from __future__ import annotations

import gc
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import exporter
import gpuq
from compare import assert_all_same, assert_same
from exporter import CudaArray, Exporter, NamespaceArray, OnDevice
from gpuq import arrays
from gpuq.cuda import driver
from gpuq.dtypes import numpy_dtype
from refusals import GARBAGE, assert_says
from valid_calls import OPERATORS, RESULT_TYPES, SHAPE, call, converted, valid_arguments


@pytest.mark.parametrize("operator", OPERATORS)
def test_an_unknown_kind_of_array_gives_numpy_arrays(operator: str) -> None:
    if operator == "prepack":
        packed = gpuq.prepack(**converted(operator, Exporter))
        assert_same(call("matmul_integer", b=packed, b_zero_point=None), call("matmul_integer"))
        return
    result = getattr(gpuq, operator)(**converted(operator, Exporter))
    expected = call(operator)
    compare = assert_all_same if isinstance(expected, tuple) else assert_same
    compare(result, expected)


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "uint16", "int32", "uint32"])
def test_every_quantized_type_over_dlpack(dtype: str) -> None:
    q = np.array([0, 1, np.iinfo(dtype).min, np.iinfo(dtype).max], dtype)
    assert_same(gpuq.dequantize_linear(Exporter(q), 0.5, Exporter(q[1:2])), gpuq.dequantize_linear(q, 0.5, q[1:2]))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_every_real_type_over_dlpack(dtype: str) -> None:
    x = np.array([-1.5, 0, 2.5, np.nan, np.inf]).astype(numpy_dtype(dtype))
    exported = Exporter(x.view(np.uint16), code=exporter.BFLOAT16_CODE) if dtype == "bfloat16" else Exporter(x)
    assert_same(gpuq.fake_quantize(exported, 0.5, 3), gpuq.fake_quantize(x, 0.5, 3))


@pytest.mark.parametrize(
    "view",
    [np.s_[:], np.s_[::2, 1:], np.s_[::-1, ::-2], np.s_[:, 1], np.s_[1, 1], np.s_[:0], np.s_[:, :0], np.s_[None]],
    ids=repr,
)
@pytest.mark.parametrize("offset", [0, 24, 3])
def test_layouts_over_dlpack(view: Any, offset: int) -> None:
    """Strides, NULL strides, a byte offset, no elements and NULL data, no axes."""
    x = valid_arguments("quantize_linear")["x"]
    for array in (x[view], np.asfortranarray(x)[view]):
        assert_same(
            gpuq.quantize_linear(Exporter(np.asarray(array), offset=offset), 0.5), gpuq.quantize_linear(array, 0.5)
        )


@pytest.mark.parametrize(
    "value",
    [
        Exporter(np.zeros(3, bool)),
        Exporter(np.zeros(3, np.complex64)),
        Exporter(np.zeros(3, np.float32), lanes=2),
        Exporter(np.zeros(3, np.uint8), code=3),
        OnDevice(exporter.ROCM),
    ],
    ids=["bool", "complex", "vectors", "handles", "another device"],
)
def test_what_dlpack_may_carry_and_gpuq_does_not_know(value: object) -> None:
    with pytest.raises(TypeError) as caught:
        gpuq.quantize_linear(value, 0.5)
    assert_says(str(caught.value), "x", "", "float32")


@pytest.mark.parametrize("operator", RESULT_TYPES)
def test_memory_that_may_be_read_only_is_not_written(operator: str) -> None:
    """A capsule of DLPack 0 does not say whether its memory may be written."""
    memory = np.full(SHAPE, GARBAGE, RESULT_TYPES[operator])
    with pytest.raises(ValueError, match="out: got a read-only array; accepted: a writable array"):
        call(operator, out=Exporter(memory))
    assert (memory == GARBAGE).all()


def test_read_only_memory_is_read() -> None:
    x = valid_arguments("quantize_linear")["x"]
    x.flags.writeable = False
    assert_same(call("quantize_linear", x=Exporter(x)), call("quantize_linear"))


def test_a_result_does_not_alias_an_exported_argument() -> None:
    codes = np.zeros(SHAPE, np.float32)
    result = gpuq.fake_quantize(Exporter(codes), 0.5)
    assert not np.shares_memory(result, codes)


@pytest.mark.usefixtures("quick_collection")
def test_exported_memory_lives_as_long_as_its_view_and_no_longer() -> None:
    gc.collect()
    before = exporter.capsules_alive()
    view = arrays.view(Exporter(np.arange(5, dtype=np.float32)))
    assert view is not None
    part = view.array[1:3]
    del view
    gc.collect()
    assert exporter.capsules_alive() == before + 1
    assert part.tolist() == [1.0, 2.0]
    del part
    gc.collect()
    assert exporter.capsules_alive() == before


@pytest.mark.usefixtures("quick_collection")
@pytest.mark.parametrize("operator", OPERATORS)
def test_a_call_keeps_no_exported_memory(operator: str) -> None:
    gc.collect()
    before = exporter.capsules_alive()
    result = getattr(gpuq, operator)(**converted(operator, Exporter))
    gc.collect()
    assert exporter.capsules_alive() == before
    del result


@pytest.mark.usefixtures("quick_collection")
def test_a_refused_call_keeps_no_exported_memory() -> None:
    gc.collect()
    before = exporter.capsules_alive()
    for value in (Exporter(np.zeros(3, np.int32)), Exporter(np.zeros(3, bool))):
        with pytest.raises(TypeError):
            gpuq.quantize_linear(value, 0.5)
    gc.collect()
    assert exporter.capsules_alive() == before


@pytest.mark.parametrize("operator", [name for name in OPERATORS if name != "prepack"])
def test_an_array_api_library_gets_its_own_kind_on_its_own_device(operator: str) -> None:
    results = getattr(gpuq, operator)(**converted(operator, NamespaceArray))
    expected = call(operator)
    if not isinstance(results, tuple):
        results, expected = (results,), (expected,)
    for result in results:
        assert isinstance(result, NamespaceArray)
        assert result.device == "its own"
    assert_all_same(tuple(result.array for result in results), expected)


# ---- arrays on a GPU, where there is none ----


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without a GPU, whatever this one has."""
    monkeypatch.setattr(driver, "_start_driver", lambda: ([], "no NVIDIA driver was found on this machine"))
    monkeypatch.setattr(driver, "_process", None)


@pytest.mark.usefixtures("no_gpu")
@pytest.mark.parametrize("array", [CudaArray(), OnDevice(exporter.CUDA)], ids=["array interface", "dlpack"])
@pytest.mark.parametrize("operator", OPERATORS)
def test_an_array_on_an_absent_gpu(operator: str, array: object) -> None:
    """With Python and NumPy scalars and one-element arrays beside it: they may accompany device arrays."""
    arguments = converted(operator, lambda value: array)
    for changes in ({}, {"zero_point": np.uint8([3])} if "zero_point" in arguments else {}):
        with pytest.raises(
            gpuq.DeviceError, match="device 'cuda:[01]' is not available: no NVIDIA driver was found on this machine"
        ):
            getattr(gpuq, operator)(**{**arguments, **changes})


@pytest.mark.parametrize(
    ("operator", "argument"),
    [
        ("quantize_linear", "scale"),
        ("quantize_linear", "zero_point"),
        ("quantize_linear", "out"),
        ("matmul_integer", "b"),
        ("scaled_matmul", "bias"),
        ("qlinear_matmul", "y_scale"),
        ("requantize", "multiplier"),
        ("requantize", "bias"),
    ],
)
def test_arrays_on_two_devices(operator: str, argument: str) -> None:
    first = next(iter(valid_arguments(operator)))
    with pytest.raises(ValueError, match=rf"{argument}: .*cuda:1.*{first}.*cpu.*accepted") as caught:
        call(operator, **{argument: OnDevice(exporter.CUDA)})
    assert type(caught.value) is ValueError


@pytest.mark.usefixtures("no_gpu")
def test_an_array_on_a_gpu_is_not_computed_on_the_cpu() -> None:
    with pytest.raises(ValueError, match="device: got 'cpu', but x is on cuda:0"):
        gpuq.quantize_linear(CudaArray(), 0.5, device="cpu")


# ---- JAX ----


@pytest.mark.parametrize("operator", OPERATORS)
def test_jax_arrays_in_jax_arrays_out(operator: str) -> None:
    jax = pytest.importorskip("jax", reason="jax is not installed")
    if operator == "prepack":
        packed = gpuq.prepack(**converted(operator, jax.numpy.asarray))
        assert_same(call("matmul_integer", b=packed, b_zero_point=None), call("matmul_integer"))
        return
    results = getattr(gpuq, operator)(**converted(operator, jax.numpy.asarray))
    expected = call(operator)
    if not isinstance(results, tuple):
        results, expected = (results,), (expected,)
    for result, right in zip(results, expected, strict=True):
        assert isinstance(result, jax.Array)
        assert_same(np.asarray(result), right)


def test_jax_arrays_of_bfloat16_and_4_bit() -> None:
    jax = pytest.importorskip("jax", reason="jax is not installed")
    x = np.array([-1.5, 0, 2.5]).astype(ml_dtypes.bfloat16)
    assert_same(np.asarray(gpuq.fake_quantize(jax.numpy.asarray(x), 0.5, 3)), gpuq.fake_quantize(x, 0.5, 3))
    codes = gpuq.quantize_linear(jax.numpy.asarray(x), 0.5, dtype="int4")
    assert_same(np.asarray(codes).astype(np.int8), np.int8([-3, 0, 5]))


def test_jax_arrays_are_not_written() -> None:
    jax = pytest.importorskip("jax", reason="jax is not installed")
    out = jax.numpy.full(SHAPE, GARBAGE, jax.numpy.uint8)
    with pytest.raises(ValueError, match="out: got a read-only array"):
        call("quantize_linear", out=out)
    assert (np.asarray(out) == GARBAGE).all()
