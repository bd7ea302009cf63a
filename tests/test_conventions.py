"""The named conventions against the programs whose names they bear, bit for bit on finite values."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import gpuq
from compare import assert_all_same, assert_same
from gpuq.dtypes import QUANTIZED
from runner import Runner

Array = npt.NDArray[Any]
SCALES = (0.5, 0.125, 0.1, 1 / 3, 0.0123, 2000 / 255, 3e-5)
RNG = np.random.default_rng(0)


def finite_values(scale: float, size: int = 4000) -> Array:
    """Ties of x / scale and of x · (1 / scale) and their neighbours, noise, and numbers that saturate."""
    halves = RNG.integers(-600, 600, size // 4) / 2
    ties = (halves * scale).astype(np.float32)
    beside = np.nextafter(ties, RNG.choice([-np.inf, np.inf], ties.size)).astype(np.float32)
    noise = RNG.normal(0, 60 * scale, size // 4).astype(np.float32)
    far = (RNG.normal(0, 1, size // 4) * 10.0 ** RNG.integers(-30, 6, size // 4)).astype(np.float32)
    return np.concatenate([ties, beside, noise, far])


# ---- TensorFlow ----

# of FakeQuantWithMinMaxVars: min and max, whether narrow, and the range and step that they are nudged to; from
# tensorflow/compiler/tests/fake_quant_ops_test.py, FakeQuantWithMinMaxVarsTest, its cases of 8 bits
NUDGED = [
    (0.0, 255.0, False, 0.0, 255.0, 1.0),
    (0.5, 128.0, False, 0.0, 127.5, 0.5),
    (-128.0, -0.5, False, -127.5, 0.0, 0.5),
    (-0.1, 127.4, False, 0.0, 127.5, 0.5),
    (0.0, 254.0, True, 0.0, 254.0, 1.0),
    (0.1, 127.1, True, 0.0, 127.0, 0.5),
    (-127.1, -0.1, True, -127.0, 0.0, 0.5),
    (-0.1, 126.9, True, 0.0, 127.0, 0.5),
]


@pytest.mark.parametrize(("low", "high", "narrow", "nudged_low", "nudged_high", "step"), NUDGED)
def test_fake_quantizing_as_tensorflow(
    run: Runner, low: float, high: float, narrow: bool, nudged_low: float, nudged_high: float, step: float
) -> None:
    """A range that does not hold 0 is shifted there, as TensorFlow says, where choose_qparams would widen it."""
    shift = max(low, 0.0) + min(high, 0.0)
    params = gpuq.choose_qparams(low - shift, high - shift, "uint8", narrow_range=narrow)
    assert params.scale == np.float32(step)
    ends = [nudged_low - step, nudged_low - 0.01, nudged_low, nudged_low + 0.01], [nudged_high - 0.01, nudged_high]
    near = [nudged_low + step - 0.01, nudged_low + step, nudged_low + step + 0.01]
    x = np.float32([*ends[0], *near, *ends[1], nudged_high + 0.01, nudged_high + step])
    expected = np.float32([nudged_low] * 4 + [nudged_low + step] * 3 + [nudged_high] * 4)
    result = run("fake_quantize", x, params.scale, params.zero_point, dtype="uint8", narrow_range=narrow)
    assert_same(result, expected)


# ---- ONNX Runtime ----


def onnx_model(node: str, inputs: dict[str, Array], outputs: int, **attributes: Any) -> Callable[[], tuple[Array, ...]]:
    """A session of one node on these inputs, on the CPU, as it is written: no optimizations."""
    onnx = pytest.importorskip("onnx", reason="the package onnx is not installed")
    runtime = pytest.importorskip("onnxruntime", reason="the package onnxruntime is not installed")
    helper = onnx.helper
    names = [f"y{index}" for index in range(outputs)]
    given = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(value.dtype), value.shape)
        for name, value in inputs.items()
    ]
    made = [helper.make_empty_tensor_value_info(name) for name in names]
    graph = helper.make_graph([helper.make_node(node, list(inputs), names, **attributes)], "one", given, made)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    options = runtime.SessionOptions()
    options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    session = runtime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return lambda: tuple(session.run(None, inputs))


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "uint16"])
def test_quantizing_as_onnx_runtime(dtype: str) -> None:
    kind = QUANTIZED[dtype]
    for scale in SCALES:
        x = finite_values(scale)
        for z in (0, kind.qmin, kind.qmax, 3):
            inputs = {"x": x, "s": np.array(scale, np.float32), "z": np.array(z, kind.storage)}
            (expected,) = onnx_model("QuantizeLinear", inputs, 1)()
            assert_same(gpuq.quantize_linear(*inputs.values()), expected, f"{scale} {z}")
            (expected,) = onnx_model("DequantizeLinear", {"q": expected, **dict(list(inputs.items())[1:])}, 1)()
            assert_same(gpuq.fake_quantize(*inputs.values()), expected, f"{scale} {z}")


def test_quantizing_per_axis_as_onnx_runtime() -> None:
    x = np.stack([finite_values(scale) for scale in SCALES])
    points = np.arange(-3, 4).astype(np.int8)
    inputs = {"x": x, "s": np.float32(SCALES), "z": points}
    (expected,) = onnx_model("QuantizeLinear", inputs, 1, axis=0)()
    assert_same(gpuq.quantize_linear(*inputs.values(), axis=0), expected)


def test_dynamic_quantizing_as_onnx_runtime() -> None:
    for scale in SCALES:
        for x in (finite_values(scale), np.abs(finite_values(scale)), -np.abs(finite_values(scale))):
            assert_all_same(gpuq.dynamic_quantize_linear(x), onnx_model("DynamicQuantizeLinear", {"x": x}, 3)())


@pytest.mark.parametrize("b_type", ["int8", "uint8"])
def test_products_as_onnx_runtime(b_type: str) -> None:
    """MatMulInteger, and QLinearMatMul with scales of which some make ties.

    With int8 b, codes of a stay below 128: on AVX2 without VNNI ONNX Runtime saturates sums of two products to 16 bits,
    which any larger code may reach, and then its product is not the exact one.
    """
    a = RNG.integers(0, 128 if b_type == "int8" else 256, (13, 70)).astype(np.uint8)
    b = RNG.integers(QUANTIZED[b_type].qmin, QUANTIZED[b_type].qmax + 1, (70, 9)).astype(b_type)
    za, zb = np.array(131, np.uint8), np.array(7, b_type)
    (expected,) = onnx_model("MatMulInteger", {"a": a, "b": b, "za": za, "zb": zb}, 1)()
    assert_same(gpuq.matmul_integer(a, b, za, zb), expected)
    for y_scale in (0.5, 4.0, 1.7, 0.37):
        inputs = {"a": a, "sa": np.float32(0.03125), "za": za, "b": b, "sb": np.float32(0.0625), "zb": zb}
        inputs |= {"sy": np.float32(y_scale), "zy": np.array(120, np.uint8)}
        inputs = {name: np.asarray(value) for name, value in inputs.items()}
        (expected,) = onnx_model("QLinearMatMul", inputs, 1)()
        assert_same(gpuq.qlinear_matmul(*inputs.values()), expected, f"{y_scale}")


# ---- torch ----

DEPRECATED = "ignore:torch.quantize_per_tensor"  # torch 2.13 says that they are to go


@pytest.mark.filterwarnings(DEPRECATED)
def test_quantizing_as_torch() -> None:
    """Its three formulas: quantize_per_tensor, quantize_per_channel, fake_quantize."""
    torch = pytest.importorskip("torch", reason="torch is not installed")
    for dtype, own in (("int8", torch.qint8), ("uint8", torch.quint8)):
        kind = QUANTIZED[dtype]
        for scale in SCALES:
            s = float(np.float32(scale))
            x = finite_values(scale)
            tensor = torch.from_numpy(x)
            for z in (0, 3, 100):
                options: dict[str, Any] = {"dtype": dtype, "rounding": "torch"}
                expected = torch.quantize_per_tensor(tensor, s, z, own).int_repr().numpy()
                assert_same(gpuq.quantize_linear(x, s, z, **options), expected, f"per tensor, {scale} {z}")
                fake = torch.fake_quantize_per_tensor_affine(tensor, s, z, kind.qmin, kind.qmax).numpy()
                assert_same(gpuq.fake_quantize(x, s, z, **options), fake, f"fake, {scale} {z}")


@pytest.mark.filterwarnings(DEPRECATED)
def test_quantizing_per_channel_as_torch() -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    x = np.stack([finite_values(scale) for scale in SCALES])
    points = np.arange(-3, 4)
    scales = torch.tensor(SCALES, dtype=torch.float32)
    for tensor, axis in ((torch.from_numpy(x), 0), (torch.from_numpy(x.T.copy()), 1)):
        options: dict[str, Any] = {"axis": axis, "dtype": "int8", "rounding": "torch"}
        expected = torch.quantize_per_channel(tensor, scales.double(), torch.from_numpy(points), axis, torch.qint8)
        actual = gpuq.quantize_linear(tensor.numpy(), np.float32(SCALES), points.tolist(), **options)
        assert_same(actual, expected.int_repr().numpy(), f"axis {axis}")
        fake = torch.fake_quantize_per_channel_affine(tensor, scales, torch.from_numpy(points).int(), axis, -128, 127)
        assert_same(gpuq.fake_quantize(tensor.numpy(), np.float32(SCALES), points.tolist(), **options), fake.numpy())


# ---- LiteRT ----


def litert_model(
    operator: str,
    x: Array,
    parameters: list[tuple[Array, Array] | None],
    types: tuple[str, str],
    kernels: str,
    constants: tuple[tuple[Array, tuple[Array, Array]], ...] = (),
) -> Array:
    """One operator, with (scale, zero point) of input and output and with constants between them, run by LiteRT with
    its reference kernels, its optimized ones, or XNNPACK's.
    """
    schema = pytest.importorskip("ai_edge_litert.schema_py_generated", reason="ai-edge-litert is not installed")
    flatbuffers = pytest.importorskip("flatbuffers", reason="flatbuffers is not installed")

    model, graph = schema.ModelT(), schema.SubGraphT()
    model.version, model.subgraphs, model.buffers = 3, [graph], [schema.BufferT()]
    code, node = schema.OperatorCodeT(), schema.OperatorT()
    code.builtinCode = code.deprecatedBuiltinCode = getattr(schema.BuiltinOperator, operator)
    code.version, model.operatorCodes = 1, [code]
    shape = (len(x), len(constants[0][0])) if constants else x.shape
    graph.tensors = [_litert_tensor(schema, x.shape, types[0], parameters[0])]
    for values, own in constants:
        graph.tensors.append(_litert_tensor(schema, values.shape, values.dtype.name, own))
        graph.tensors[-1].buffer = len(model.buffers)
        model.buffers.append(schema.BufferT())
        model.buffers[-1].data = np.frombuffer(values.tobytes(), np.uint8)
    graph.tensors.append(_litert_tensor(schema, shape, types[1], parameters[1]))
    if operator == "FULLY_CONNECTED":
        node.builtinOptionsType = schema.BuiltinOptions.FullyConnectedOptions
        node.builtinOptions = schema.FullyConnectedOptionsT()
        code.version = 4
    last = len(graph.tensors) - 1
    node.opcodeIndex, node.inputs, node.outputs = 0, list(range(last)), [last]
    graph.inputs, graph.outputs, graph.operators = [0], [last], [node]
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    return _litert_run(bytes(builder.Output()), x, kernels)


def _litert_run(model: bytes, x: Array, kernels: str) -> Array:
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    resolver = {
        "reference": OpResolverType.BUILTIN_REF,
        "optimized": OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
        "XNNPACK": OpResolverType.BUILTIN,  # with its default delegate
    }[kernels]
    interpreter = Interpreter(model_content=model, experimental_op_resolver_type=resolver, num_threads=1)
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], x)
    interpreter.invoke()
    return interpreter.get_tensor(interpreter.get_output_details()[0]["index"])


def _litert_tensor(schema: Any, shape: Any, dtype: str, parameters: tuple[Array, Array] | None) -> Any:
    tensor = schema.TensorT()
    tensor.shape, tensor.type, tensor.buffer = list(shape), getattr(schema.TensorType, dtype.upper()), 0
    if parameters is not None:
        tensor.quantization = schema.QuantizationParametersT()
        tensor.quantization.scale, tensor.quantization.zeroPoint = (each.tolist() for each in parameters)
    return tensor


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16"])
def test_quantizing_as_litert(dtype: str) -> None:
    """Its reference kernels: halves away from zero, before the zero point is added.

    Numbers from 2^31 scales on are left out: it turns the quotient into an int32 before it saturates, and wraps.
    """
    for scale in SCALES:
        x = finite_values(scale)
        x = x[np.abs(x) < 2.0**30 * scale]
        for z in (0,) if dtype == "int16" else (0, 3, 100):
            own = (np.float32([scale]), np.int64([z]))
            expected = litert_model("QUANTIZE", x, [None, own], ("float32", dtype), "reference")
            actual = gpuq.quantize_linear(x, scale, z, dtype=dtype, rounding="half_away")
            assert_same(actual, expected, f"{scale} {z}")


def test_requantizing_as_litert() -> None:
    """QUANTIZE from int8 to int8 by its reference kernel: gemmlowp's fixed point."""
    codes = np.arange(-128, 128).astype(np.int8)
    for given, wanted in ((0.5, 0.25), (0.1, 0.3), (0.0123, 0.02), (1.0, 1 / 3), (0.3, 0.7)):
        for z_in, z_out in ((0, 0), (-5, 17)):
            pairs = [(np.float32([given]), np.int64([z_in])), (np.float32([wanted]), np.int64([z_out]))]
            expected = litert_model("QUANTIZE", codes, pairs, ("int8", "int8"), "reference")
            real = float(np.float32(given)) / float(np.float32(wanted))
            accumulators = codes.astype(np.int32) - np.int32(z_in)
            actual = gpuq.requantize(accumulators, gpuq.quantize_multiplier(real), z_out, mode="fixed_point")
            assert_same(actual, expected, f"{given} {wanted} {z_in} {z_out}")


@pytest.mark.parametrize("kernels", ["reference", "optimized", "XNNPACK"])
def test_fully_connected_as_litert(kernels: str) -> None:
    """Products of int8 with an int32 bias: by its reference kernel in float64, halves away from zero; by its optimized
    one (ruy on x86) in fixed point, halves upward; by XNNPACK in float32, halves to even.
    """
    rng = np.random.default_rng(1)
    x, weight = (rng.integers(-127, 128, shape).astype(np.int8) for shape in ((500, 24), (9, 24)))
    bias = rng.integers(-3000, 3000, 9).astype(np.int32)
    for sx, sw, sy, zx, zy in ((0.5, 0.25, 64.0, 0, 0), (0.1, 0.03, 0.7, -5, 17), (0.0123, 0.3, 0.9, 100, -100)):
        scales = [np.float32([value]) for value in (sx, sw, sy)]
        pairs = [(scales[0], np.int64([zx])), (scales[2], np.int64([zy]))]
        product = np.float32([float(scales[0][0]) * float(scales[1][0])])
        constants = ((weight, (scales[1], np.int64([0]))), (bias, (product, np.int64([0]))))
        expected = litert_model("FULLY_CONNECTED", x, pairs, ("int8", "int8"), kernels, constants)
        accumulators = gpuq.matmul_integer(x, weight.T, np.int8(zx)) + bias
        real = float(scales[0][0]) * float(scales[1][0]) / float(scales[2][0])
        multiplier, mode = {
            "reference": (real, "float64"),
            "optimized": (gpuq.quantize_multiplier(real), "fixed_point_half_up"),
            "XNNPACK": ((scales[0] * scales[1] / scales[2])[0], "float"),
        }[kernels]
        actual = gpuq.requantize(accumulators, multiplier, zy, mode=mode)
        assert_same(actual, expected, f"{sx} {sw} {sy}")
