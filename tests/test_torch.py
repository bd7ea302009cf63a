"""torch's CPU tensors: tensors in, tensors out, of the same bits as NumPy's result and without touching autograd."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import pytest

import gpuq
from compare import assert_all_same, assert_same
from refusals import GARBAGE, assert_says
from valid_calls import OPERATORS, RESULT_TYPES, SHAPE, call, converted, valid_arguments

torch = pytest.importorskip("torch", reason="torch is not installed")

Array = npt.NDArray[Any]
HALF_TYPES = ("float16", "bfloat16")


def from_tensor(tensor: Any) -> Array:
    """The tensor's values as a NumPy array of the same type; asserts that it is a plain tensor on the CPU."""
    assert type(tensor) is torch.Tensor
    assert tensor.device.type == "cpu"
    assert not tensor.requires_grad
    if tensor.dtype == torch.bfloat16:
        return tensor.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    return tensor.numpy()


def to_tensor(values: Array) -> Any:
    if values.dtype == ml_dtypes.bfloat16:
        return torch.from_numpy(values.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(values.copy())


def assert_same_tensor(actual: Any, expected: Any) -> None:
    assert_same(from_tensor(actual), expected)


@pytest.mark.parametrize("operator", [name for name in OPERATORS if name != "prepack"])
def test_tensors_in_tensors_out(operator: str) -> None:
    result, expected = getattr(gpuq, operator)(**converted(operator, to_tensor)), call(operator)
    if isinstance(expected, tuple):
        assert_all_same(tuple(map(from_tensor, result)), tuple(np.asarray(value) for value in expected))
    else:
        assert_same_tensor(result, expected)


def test_packed_tensors() -> None:
    packed = gpuq.prepack(
        torch.from_numpy(valid_arguments("prepack")["b"]), zero_point=torch.tensor([-2], dtype=torch.int8)
    )
    assert_same(call("matmul_integer", b=packed, b_zero_point=None), call("matmul_integer"))
    a = torch.from_numpy(valid_arguments("matmul_integer")["a"])
    assert_same_tensor(call("matmul_integer", a=a, b=packed, b_zero_point=None), call("matmul_integer"))


@pytest.mark.parametrize("dtype", [*HALF_TYPES, "float32", "float64"])
def test_every_real_type(dtype: str) -> None:
    x = torch.tensor([-2.6, -1.0, 0.0, 0.3, 7.9, float("nan"), float("inf")]).to(getattr(torch, dtype))
    values = from_tensor(x)
    assert_same_tensor(gpuq.fake_quantize(x, 0.5, 3), gpuq.fake_quantize(values, 0.5, 3))
    assert_same_tensor(gpuq.quantize_linear(x, 0.5, 3), gpuq.quantize_linear(values, 0.5, 3))
    q = torch.arange(7, dtype=torch.int8)
    for given in (dtype, getattr(torch, dtype)):
        assert_same_tensor(
            gpuq.dequantize_linear(q, 0.3, dtype=given), gpuq.dequantize_linear(q.numpy(), 0.3, dtype=dtype)
        )
    results, expected = gpuq.dynamic_quantize_linear(x), gpuq.dynamic_quantize_linear(values)
    assert_all_same(tuple(map(from_tensor, results)), expected)


@pytest.mark.parametrize("dtype", [*HALF_TYPES, "float32"])
def test_every_result_type_of_scaled_matmul(dtype: str) -> None:
    a = torch.from_numpy(valid_arguments("scaled_matmul")["a"])
    assert_same_tensor(call("scaled_matmul", a=a, dtype=getattr(torch, dtype)), call("scaled_matmul", dtype=dtype))


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "uint16", "int32", "uint32"])
def test_every_quantized_type(dtype: str) -> None:
    x = torch.tensor([-1e12, -3.0, 0.0, 2.0, 1e12])
    for given in (dtype, getattr(torch, dtype)):
        codes = gpuq.quantize_linear(x, 0.5, dtype=given)
        assert_same_tensor(codes, gpuq.quantize_linear(x.numpy(), 0.5, dtype=dtype))
    assert_same_tensor(gpuq.dequantize_linear(codes, 0.5), gpuq.dequantize_linear(codes.numpy(), 0.5))


@pytest.mark.parametrize(("dtype", "storage"), [("int4", "int8"), ("uint4", "uint8")])
def test_4_bit_codes_are_8_bit_tensors(dtype: str, storage: str) -> None:
    x = torch.linspace(-20, 20, 33)
    expected = gpuq.quantize_linear(x.numpy(), 1.0, 3, dtype=dtype).astype(storage)
    for point in (
        3,
        torch.tensor(3, dtype=getattr(torch, storage)),
        torch.tensor([3] * 33, dtype=getattr(torch, storage)),
    ):
        codes = gpuq.quantize_linear(x, 1.0, point, dtype=dtype, axis=0)
        assert_same_tensor(codes, expected)
    out = torch.full((33,), GARBAGE, dtype=getattr(torch, storage))
    assert gpuq.quantize_linear(x, 1.0, 3, dtype=dtype, out=out) is out
    assert_same_tensor(out, expected)
    with pytest.raises(ValueError, match=r"zero_point: got the value 16"):
        gpuq.quantize_linear(x, 1.0, torch.tensor(16, dtype=getattr(torch, storage)), dtype=dtype)


LAYOUTS = {
    "transposed": lambda x: x.t(),
    "strided": lambda x: x[::2, 1::3],
    "offset": lambda x: x[1:, 2:],
    "expanded": lambda x: x[:1].expand(5, -1),
    "expanded with a new axis": lambda x: x.expand(2, *x.shape),
    "channels last": lambda x: x.reshape(1, 2, 3, 8).to(memory_format=torch.channels_last),
    "permuted": lambda x: x.reshape(2, 3, 8).permute(2, 0, 1),
    "column": lambda x: x[:, 1],
    "no elements": lambda x: x[:0],
    "no axes": lambda x: x[0, 0],
}


@pytest.mark.parametrize("dtype", [*HALF_TYPES, "float32"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(layout: str, dtype: str) -> None:
    x = LAYOUTS[layout](torch.linspace(-3, 3, 48).reshape(6, 8).to(getattr(torch, dtype)))
    values = from_tensor(x.contiguous())
    assert_same_tensor(gpuq.quantize_linear(x, 0.5, 3), gpuq.quantize_linear(values, 0.5, 3))
    assert_same_tensor(gpuq.fake_quantize(x, 0.5, 3), gpuq.fake_quantize(values, 0.5, 3))


def test_a_tensor_that_is_negated_lazily() -> None:
    """The imaginary part of a conjugate: the memory holds the numbers with the other sign."""
    x = torch.complex(torch.zeros(5), torch.linspace(-3, 3, 5)).conj().imag
    assert x.is_neg()
    expected = gpuq.quantize_linear(np.linspace(3, -3, 5, dtype=np.float32), 0.5, 7)
    assert_same_tensor(gpuq.quantize_linear(x, 0.5, 7), expected)


def test_layouts_of_products() -> None:
    a, b = torch.arange(30, dtype=torch.uint8).reshape(5, 6), torch.arange(-20, 22, dtype=torch.int8).reshape(7, 6)
    for left, right in [
        (a, b.t()),
        (a[::2], b.t()[:, ::3]),
        (a[:, :3], b[:3]),
        (a.expand(2, 5, 6), b.t()),
        (a[0], b[0]),
    ]:
        left_copy, right_copy = left.contiguous().numpy(), right.contiguous().numpy()
        assert_same_tensor(gpuq.matmul_integer(left, right, 3), gpuq.matmul_integer(left_copy, right_copy, 3))


def test_weights_that_require_gradients() -> None:
    values = np.linspace(-1, 1, 12, dtype=np.float32).reshape(SHAPE)
    scale = torch.full((4,), 0.1, requires_grad=True)
    for x in (
        torch.tensor(values, requires_grad=True),
        torch.nn.Parameter(torch.tensor(values)),
        torch.tensor(values) * scale / scale,
    ):
        before = x.detach().clone()
        expected = gpuq.quantize_linear(before.numpy(), np.full(4, 0.1, np.float32), 3)
        assert_same_tensor(gpuq.quantize_linear(x, scale, 3), expected)
        assert_same_tensor(gpuq.fake_quantize(x, 0.5), gpuq.fake_quantize(before.numpy(), 0.5))
        assert torch.equal(x.detach(), before)
    assert_same(gpuq.quantize_multiplier(torch.tensor(0.5, requires_grad=True))[0].numpy(), np.array(2**30, np.int32))


# ---- out ----


@pytest.mark.parametrize("operator", RESULT_TYPES)
def test_out_is_written_in_place(operator: str) -> None:
    dtype = getattr(torch, RESULT_TYPES[operator])
    memory = torch.full((2 * SHAPE[1], 2 * SHAPE[0]), GARBAGE, dtype=dtype)
    for out in (torch.full(SHAPE, GARBAGE, dtype=dtype), memory[::2, ::2].t()):
        result = getattr(gpuq, operator)(**converted(operator, to_tensor), out=out)
        assert result is out
        assert_same_tensor(out, call(operator))
    assert (memory[1::2] == GARBAGE).all()
    assert (memory[:, 1::2] == GARBAGE).all()


@pytest.mark.parametrize("dtype", HALF_TYPES)
def test_out_of_half_precision(dtype: str) -> None:
    x = torch.linspace(-3, 3, 12).to(getattr(torch, dtype))
    expected = gpuq.fake_quantize(from_tensor(x), 0.5)
    out = torch.full((24,), GARBAGE, dtype=x.dtype)[::2]
    assert gpuq.fake_quantize(x, 0.5, out=out) is out
    assert_same_tensor(out.contiguous(), expected)
    assert gpuq.fake_quantize(x, 0.5, out=x) is x
    assert_same_tensor(x, expected)


def test_out_that_is_refused() -> None:
    x = torch.linspace(-3, 3, 12).reshape(SHAPE)
    overlapping = x.view(torch.uint8)[:, 2:6]
    cases = [
        (torch.full(SHAPE, GARBAGE, dtype=torch.int8), TypeError, "int8", "uint8"),
        (torch.full((4, 3), GARBAGE, dtype=torch.uint8), ValueError, "(4, 3)", "(3, 4)"),
        (torch.full((1, 4), GARBAGE, dtype=torch.uint8).expand(SHAPE), ValueError, "overlap", "distinct"),
        (overlapping, ValueError, "overlaps x", "memory of its own"),
        (torch.full(SHAPE, GARBAGE, dtype=torch.uint8).to_sparse(), TypeError, "", ""),
    ]
    for out, error, came, accepted in cases:
        before = out.clone()
        with pytest.raises(error) as caught:
            gpuq.quantize_linear(x, 0.5, out=out)
        assert_says(str(caught.value), "out", came, accepted)
        assert torch.equal(out.to_dense(), before.to_dense())


# ---- mixed kinds ----


@pytest.mark.parametrize("operator", OPERATORS)
def test_numpy_parameters_beside_tensors(operator: str) -> None:
    """The result is of the kind of x, q, acc or a, whatever the other arguments are."""
    if operator == "prepack":
        return
    first = next(iter(valid_arguments(operator)))
    tensor = to_tensor(valid_arguments(operator)[first])
    result, expected = call(operator, **{first: tensor}), call(operator)
    if isinstance(expected, tuple):
        result, expected = result[0], expected[0]
    assert_same_tensor(result, expected)


def test_tensor_parameters_beside_numpy_arrays() -> None:
    scale, point = torch.tensor([0.5, 0.25, 1.0, 2.0], dtype=torch.bfloat16), torch.tensor([3], dtype=torch.uint8)
    result = call("quantize_linear", scale=scale, zero_point=point)
    assert_same(result, call("quantize_linear", scale=np.float32([0.5, 0.25, 1, 2])))
    b = torch.from_numpy(valid_arguments("matmul_integer")["b"])
    assert_same(call("matmul_integer", b=b), call("matmul_integer"))


# ---- what is refused ----


@pytest.mark.parametrize(
    ("x", "came"),
    [
        (torch.zeros(3, dtype=torch.bool), "bool"),
        (torch.zeros(3, dtype=torch.int32), "int32"),
        (torch.zeros(3, dtype=torch.complex64), "complex64"),
        (torch.zeros(3).to(torch.float8_e4m3fn), "float8_e4m3fn"),
        (torch.eye(3).to_sparse(), "sparse"),
        (torch.zeros(3).to_mkldnn(), "mkldnn"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_tensors_of_another_type_or_layout(x: Any, came: str) -> None:
    with pytest.raises(TypeError) as caught:
        gpuq.quantize_linear(x, 0.5)
    assert_says(str(caught.value), "x", came, "float32")


@pytest.mark.parametrize("argument", ["scale", "zero_point"])
def test_sparse_parameters(argument: str) -> None:
    value = torch.tensor([1, 0, 1, 1]).to(torch.float32 if argument == "scale" else torch.uint8).to_sparse()
    with pytest.raises(TypeError) as caught:
        call("quantize_linear", **{argument: value})
    assert_says(str(caught.value), argument, "sparse", "")
