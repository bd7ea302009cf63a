"""Prints the fixed cost of a call: each operator on arrays so small that nothing but the call itself takes time.

    python benchmarks/calls.py [--rounds N] [--device cuda]

Beside gpuq stand torch and ONNX Runtime, where they are installed, with the operator that comes nearest; none of the
three may use more than one thread. Contenders take turns; a figure is the median over the rounds, in microseconds. On a
GPU arrays are torch tensors, and no call is waited for: that is what Python takes until the next one may begin.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np

import gpuq

CALLS = 200  # in one turn
ELEMENTS, SIDE = 16, 64
SCALE, ZERO_POINT = 0.1, np.uint8(3)
Contenders = dict[str, Callable[[], Any]]

X = np.linspace(-1, 1, ELEMENTS, dtype=np.float32)
Q = np.arange(ELEMENTS, dtype=np.uint8)
ACCUMULATORS = np.arange(ELEMENTS, dtype=np.int32)
A, B = np.ones((SIDE, SIDE), np.uint8), np.ones((SIDE, SIDE), np.int8)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=50, help="turns of each contender (default: %(default)s)")
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N (default: %(default)s)")
    arguments = parser.parse_args()
    rounds, device = arguments.rounds, arguments.device
    gpuq.set_num_threads(1)
    contests = of_gpuq(placing(device))
    for others in (of_torch(), of_onnxruntime()) if device == "cpu" else (of_torch_there(device),):
        for operator, contenders in others.items():
            contests[operator] |= contenders
    names = list(dict.fromkeys(name for contenders in contests.values() for name in contenders))
    print(f"{'µs per call':36}" + "".join(f"{name:>14}" for name in names))
    for operator, contenders in contests.items():
        times = measure(contenders, rounds)
        print(f"{operator:36}" + "".join(f"{times[name]:14.1f}" if name in times else " " * 14 for name in names))


def measure(contenders: Contenders, rounds: int) -> dict[str, float]:
    """The median time of one call of each contender, in microseconds."""
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, contender in contenders.items():
            contender()
            begin = time.perf_counter()
            for _ in range(CALLS):
                contender()
            times[name].append((time.perf_counter() - begin) / CALLS * 1e6)
    return {name: statistics.median(measured) for name, measured in times.items()}


def placing(device: str) -> Callable[[Any], Any]:
    """What puts an array on the device."""
    if device == "cpu":
        return np.asarray
    import torch

    return lambda array: torch.from_numpy(array).to(device)


def of_gpuq(place: Callable[[Any], Any] = np.asarray) -> dict[str, Contenders]:
    """Each operator; products with packed b."""
    x, q, accumulators, a, b = map(place, (X, Q, ACCUMULATORS, A, B))
    packed, codes = gpuq.prepack(b), place(np.empty(ELEMENTS, np.uint8))
    column_scales, bias = place(np.full(SIDE, 0.2, np.float32)), place(np.ones(SIDE, np.float32))
    calls: dict[str, Callable[[], Any]] = {
        "quantize_linear": lambda: gpuq.quantize_linear(x, SCALE, ZERO_POINT),
        "quantize_linear, out": lambda: gpuq.quantize_linear(x, SCALE, ZERO_POINT, out=codes),
        "fake_quantize": lambda: gpuq.fake_quantize(x, SCALE, ZERO_POINT),
        "dequantize_linear": lambda: gpuq.dequantize_linear(q, SCALE, ZERO_POINT),
        "dynamic_quantize_linear": lambda: gpuq.dynamic_quantize_linear(x),
        "requantize": lambda: gpuq.requantize(accumulators, SCALE, 3),
        "matmul_integer": lambda: gpuq.matmul_integer(a, packed),
        "matmul_integer, a_zero_point": lambda: gpuq.matmul_integer(a, packed, ZERO_POINT),
        "scaled_matmul": lambda: gpuq.scaled_matmul(a, packed, SCALE, 0.2),
        "scaled_matmul, scales, bias": lambda: gpuq.scaled_matmul(a, packed, SCALE, column_scales, bias=bias),
        "qlinear_matmul": lambda: gpuq.qlinear_matmul(a, SCALE, 3, packed, 0.2, None, 0.3, ZERO_POINT),
    }
    return {operator: {"gpuq": call} for operator, call in calls.items()}


def of_torch() -> dict[str, Contenders]:
    """The operators that torch has for plain tensors, if it is installed."""
    try:
        import torch
    except ImportError:
        return {}
    torch.set_num_threads(1)
    x, a = torch.from_numpy(X), torch.ones((SIDE, SIDE), dtype=torch.int8)
    q = torch.quantize_per_tensor(x, SCALE, 3, torch.quint8)
    return {
        "quantize_linear": {"torch": lambda: torch.quantize_per_tensor(x, SCALE, 3, torch.quint8)},
        "fake_quantize": {"torch": lambda: torch.fake_quantize_per_tensor_affine(x, SCALE, 3, 0, 255)},
        "dequantize_linear": {"torch": lambda: torch.dequantize(q)},
        "matmul_integer": {"torch": lambda: torch._int_mm(a, a)},
    }


def of_torch_there(device: str) -> dict[str, Contenders]:
    """The same on a GPU, where quantized tensors are not."""
    import torch

    x, a = torch.from_numpy(X).to(device), torch.ones((SIDE, SIDE), dtype=torch.int8, device=device)
    return {
        "fake_quantize": {"torch": lambda: torch.fake_quantize_per_tensor_affine(x, SCALE, 3, 0, 255)},
        "matmul_integer": {"torch": lambda: torch._int_mm(a, a)},
    }


def of_onnxruntime() -> dict[str, Contenders]:
    """The ONNX operators as models of one node, parameters and b constant, if ONNX Runtime is installed."""
    try:
        import onnxruntime
        from onnx import TensorProto, helper, numpy_helper
    except ImportError:
        return {}

    def session(operator: str, given: tuple[str, Any], result: int, constants: dict[str, Any]) -> Callable[[], Any]:
        name, value = given
        kind = helper.np_dtype_to_tensor_dtype(value.dtype)
        node = helper.make_node(operator, [name, *constants], ["result"])
        graph = helper.make_graph(
            [node],
            "one_node",
            [helper.make_tensor_value_info(name, kind, value.shape)],
            [helper.make_tensor_value_info("result", result, None)],
            [numpy_helper.from_array(np.asarray(constant), other) for other, constant in constants.items()],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        run = onnxruntime.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"]).run
        return lambda: run(None, {name: value})

    scales = {"scale": np.float32(SCALE), "zero_point": ZERO_POINT}
    return {
        "quantize_linear": {"ONNX Runtime": session("QuantizeLinear", ("x", X), TensorProto.UINT8, scales)},
        "dequantize_linear": {"ONNX Runtime": session("DequantizeLinear", ("x", Q), TensorProto.FLOAT, scales)},
        "matmul_integer": {"ONNX Runtime": session("MatMulInteger", ("a", A), TensorProto.INT32, {"b": B})},
    }


if __name__ == "__main__":
    main()
