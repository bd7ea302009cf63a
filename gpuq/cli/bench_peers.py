"""The peers of `gpuq bench`, where they are installed: ONNX Runtime, by models of one node, and torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from gpuq.cli.contests import SCALE, ZERO_POINT, Contest, matrices, vector
from gpuq.cpu import threads

# modules, the first of which has the version that is reported
NEEDED = {"onnxruntime": ("onnxruntime", "onnx"), "torch": ("torch",), "cupy": ("cupy",)}
ON_CPU, ON_GPU = ("onnxruntime", "torch"), {"torch": ("torch", "torch, graph"), "cupy": ("cupy",)}


def onnxruntime_way(contest: Contest) -> Callable[[], Any] | None:
    """The operator's session; writing into an array is a bound output, a packed b a constant of the model."""
    name, _, variant = contest.operation.partition(" ")
    if name == "matmul_integer":
        a, b, columns, _ = matrices(*contest.shape)
        constants = {"za": ZERO_POINT, "zb": columns} | ({"b": b} if variant else {})
        session = _session("MatMulInteger", ["a", "b", "za", "zb"], ["y"], constants)
        out = np.empty(contest.shape[::2], np.int32)
        return _running(session, {"a": a} if variant else {"a": a, "b": b}, out)
    if name not in ("quantize_linear", "dequantize_linear", "dynamic_quantize_linear"):
        return None
    x, q, _ = vector(*contest.shape)
    if name == "dynamic_quantize_linear":
        return _running(_session("DynamicQuantizeLinear", ["x"], ["y", "scale", "z"], {}), {"x": x}, None)
    forward = name == "quantize_linear"
    session = _session(
        "QuantizeLinear" if forward else "DequantizeLinear", ["x", "s", "z"], ["y"], {"s": SCALE, "z": ZERO_POINT}
    )
    return _running(session, {"x": x if forward else q}, None if variant else np.empty_like(q if forward else x))


def _session(operator: str, inputs: list[str], outputs: list[str], constants: dict[str, Any]) -> Any:
    """A model of one node; inputs that are no constants are the model's inputs, their types those of the operator."""
    import onnx
    import onnxruntime

    kinds = {"a": onnx.TensorProto.UINT8, "b": onnx.TensorProto.INT8, "x": onnx.TensorProto.FLOAT}
    if operator == "DequantizeLinear":
        kinds["x"] = onnx.TensorProto.UINT8
    results = {
        "MatMulInteger": [onnx.TensorProto.INT32],
        "DequantizeLinear": [onnx.TensorProto.FLOAT],
        "QuantizeLinear": [onnx.TensorProto.UINT8],
        "DynamicQuantizeLinear": [onnx.TensorProto.UINT8, onnx.TensorProto.FLOAT, onnx.TensorProto.UINT8],
    }[operator]
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node(operator, inputs, outputs)],
        operator,
        [onnx.helper.make_tensor_value_info(name, kinds[name], None) for name in inputs if name not in constants],
        [onnx.helper.make_tensor_value_info(name, kind, None) for name, kind in zip(outputs, results, strict=True)],
        [onnx.numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 19)], ir_version=9)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads.num_threads()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])


def _running(session: Any, feeds: dict[str, Any], out: Any) -> Callable[[], Any]:
    if out is None:
        return lambda: session.run(None, feeds)
    import onnxruntime

    binding = session.io_binding()
    for name, value in feeds.items():
        binding.bind_ortvalue_input(name, onnxruntime.OrtValue.ortvalue_from_numpy(value))
    binding.bind_ortvalue_output("y", onnxruntime.OrtValue.ortvalue_from_numpy(out))

    def call() -> Any:
        session.run_with_iobinding(binding)
        return [out]

    return call


def torch_way(contest: Contest) -> Callable[[], Any] | None:
    """int8 products without zero points, and torch's quantized tensors; it has no `out` and packs no b."""
    import torch

    torch.set_num_threads(threads.num_threads())
    if contest.operation.startswith("matmul_integer"):
        a, b, _, _ = (torch.from_numpy(np.ascontiguousarray(part)) for part in matrices(*contest.shape))
        a = (a.to(torch.int16) - int(ZERO_POINT)).to(torch.int8)
        out = torch.empty(contest.shape[::2], dtype=torch.int32)
        return lambda: torch._int_mm(a, b, out=out)
    if not contest.operation.endswith("fresh"):
        return None
    x = torch.from_numpy(vector(*contest.shape)[0])
    scale, zero_point = float(SCALE), int(ZERO_POINT)
    quantized = torch.quantize_per_tensor(x, scale, zero_point, torch.quint8)
    if contest.operation.startswith("dequantize"):
        return lambda: quantized.dequantize()
    return lambda: torch.quantize_per_tensor(x, scale, zero_point, torch.quint8)


WAYS: dict[str, Callable[[Contest], Callable[[], Any] | None]] = {
    "onnxruntime": onnxruntime_way,
    "torch": torch_way,
}
