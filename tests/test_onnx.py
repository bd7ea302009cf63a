"""ONNX's own node tests for the operators that gpuq shares with it, on the reference and on the library.

The cases are built in memory by `onnx.backend.test.case.node`; the names that must run are written out below, so that
an empty or smaller collection fails.
"""
from __future__ import annotations

import warnings
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import gpuq
from compare import assert_all_same, assert_same
from devices import DEVICES, name_of, runner_on
from gpuq import reference

onnx = pytest.importorskip("onnx", reason="the package onnx is not installed")
pytest.importorskip("ml_dtypes", reason="the package ml-dtypes is not installed (int4 arrays)")

from onnx import helper, numpy_helper  # noqa: E402
from onnx.backend.test.case.node import collect_testcases  # noqa: E402

OPERATORS = ("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "MatMulInteger", "QLinearMatMul")
# types that gpuq does not have, and the operators spelt out as graphs of float ones
LEFT_OUT = ("_e4m3fn", "_e5m2", "_float4e2m1", "_int2", "_uint2", "_expanded")
EXPECTED_CASES = {
    "test_quantizelinear", "test_quantizelinear_axis", "test_quantizelinear_blocked_asymmetric",
    "test_quantizelinear_blocked_symmetric", "test_quantizelinear_int16", "test_quantizelinear_int4",
    "test_quantizelinear_uint16", "test_quantizelinear_uint4",
    "test_dequantizelinear", "test_dequantizelinear_axis", "test_dequantizelinear_blocked",
    "test_dequantizelinear_int16", "test_dequantizelinear_int4", "test_dequantizelinear_uint16",
    "test_dequantizelinear_uint4",
    "test_dynamicquantizelinear", "test_dynamicquantizelinear_max_adjusted", "test_dynamicquantizelinear_min_adjusted",
    "test_matmulinteger",
    "test_qlinearmatmul_2D_int8_float16", "test_qlinearmatmul_2D_int8_float32", "test_qlinearmatmul_2D_uint8_float16",
    "test_qlinearmatmul_2D_uint8_float32", "test_qlinearmatmul_3D_int8_float16", "test_qlinearmatmul_3D_int8_float32",
    "test_qlinearmatmul_3D_uint8_float16", "test_qlinearmatmul_3D_uint8_float32",
}


def _collect() -> dict[str, Any]:
    """The cases of the five operators by name; ONNX's generators of other operators warn, which is not our matter."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        cases = collect_testcases(None)
    return {
        case.name: case for case in cases
        if case.model.graph.node[0].op_type in OPERATORS and not any(part in case.name for part in LEFT_OUT)
    }


CASES = _collect()


@pytest.fixture(params=["reference", *DEVICES], ids=name_of)
def library(request: pytest.FixtureRequest) -> Iterator[ModuleType]:
    """The module whose operators are tested: the reference, or gpuq on a device."""
    if request.param == "reference":
        yield reference
        return
    with runner_on(request.param) as runner, gpuq.device(runner.device):
        yield gpuq


def to_array(value: Any) -> npt.NDArray[Any]:
    """An input or output of a case as a NumPy array; types NumPy has not come as tensor messages."""
    return numpy_helper.to_array(value) if isinstance(value, onnx.TensorProto) else np.asarray(value)


def call(library: ModuleType, node: Any, inputs: list[Any]) -> tuple[Any, ...]:
    """Run one ONNX node with the library's operators; attributes are checked to be ones gpuq can follow."""
    attributes = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
    assert attributes.pop("saturate", 1) == 1
    assert attributes.pop("precision", 0) in (0, onnx.TensorProto.FLOAT)
    output_dtype = attributes.pop("output_dtype", 0)
    options: dict[str, Any] = {name: attributes.pop(name) for name in ("axis", "block_size") if name in attributes}
    assert not attributes, f"unknown attributes {attributes}"
    if output_dtype:
        options["dtype"] = helper.tensor_dtype_to_np_dtype(output_dtype)
    if node.op_type == "QuantizeLinear":
        return (library.quantize_linear(*inputs, **options),)
    if node.op_type == "DequantizeLinear":
        options.setdefault("dtype", inputs[1].dtype)  # ONNX: the type of the scale
        return (library.dequantize_linear(*inputs, **options),)
    assert not options, f"unknown attributes {options}"
    if node.op_type == "DynamicQuantizeLinear":
        return tuple(library.dynamic_quantize_linear(*inputs))
    return (library.matmul_integer(*inputs) if node.op_type == "MatMulInteger" else library.qlinear_matmul(*inputs),)


def test_the_expected_cases_run() -> None:
    missing = EXPECTED_CASES - set(CASES)
    assert not missing, f"onnx {onnx.__version__} has not: {sorted(missing)}"


@pytest.mark.parametrize("name", sorted(CASES))
def test_node(library: ModuleType, name: str) -> None:
    case = CASES[name]
    assert len(case.model.graph.node) == 1
    assert case.data_sets
    for inputs, outputs in case.data_sets:
        actual = call(library, case.model.graph.node[0], [to_array(value) for value in inputs])
        assert_all_same(actual, tuple(to_array(value) for value in outputs), name)


def test_zero_point_per_row(library: ModuleType) -> None:
    """a_zero_point of shape (M,), which ONNX allows and ONNX Runtime refuses."""
    a = np.array([[11, 7, 3], [10, 6, 2], [9, 5, 1], [8, 4, 0]], np.uint8)
    b = np.array([[1, 4], [2, 5], [3, 6]], np.uint8)
    zero_points = np.array([12, 0, 255, 1], np.uint8)
    expected = np.array([
        [sum((int(a[row, k]) - int(zero_points[row])) * int(b[k, column]) for k in range(3)) for column in range(2)]
        for row in range(4)
    ], np.int32)
    assert_same(library.matmul_integer(a, b, zero_points), expected)
    assert_same(library.matmul_integer(a, b, zero_points[:, np.newaxis]), expected)
