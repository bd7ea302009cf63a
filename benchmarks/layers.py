"""Prints what a linear layer takes on the CPU: 4096 → 4096 in float32, its weight in 8 and in 4 bits, for few rows.

    python benchmarks/layers.py [--rounds N] [--rows 1 4 16 64] [--width 4096]

Weights in 8 bits have a scale for each column, those in 4 bits one for each block of 32 along the input. "int8" is with
activations quantized row by row, "float" with activations as they are. Beside gpuq stand torch and ONNX Runtime
(MatMulNBits), where they are installed. Each contender has a process of its own, with as many threads as there are
processors; they take turns, each when the threads of the last one are at rest, and a figure is the median over the
rounds, in milliseconds.
"""

from __future__ import annotations

import argparse
import functools
import multiprocessing
import statistics
import warnings
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

from gpuq.cli.timing import settle, turn

BLOCK = 32
Layer = Callable[[np.ndarray], Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=30, help="turns of each contender (default: %(default)s)")
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 4, 16, 64], help="rows of x (default: %(default)s)")
    parser.add_argument("--width", type=int, default=4096, help="of both sides, blocks of 32 (default: %(default)s)")
    arguments = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    workers: dict[str, Connection] = {}
    for name in CONTENDERS:
        ours, theirs = context.Pipe()
        context.Process(target=serve, args=(name, arguments.width, theirs), daemon=True).start()
        missing = ours.recv()
        if missing is None:
            workers[name] = ours
        else:
            print(f"{name}: {missing}")
    print(f"{'ms':28}" + "".join(f"{f'{rows} rows':>12}" for rows in arguments.rows))
    times = {rows: measure(workers, rows, arguments.rounds) for rows in arguments.rows}
    for name in workers:
        print(f"{name:28}" + "".join(f"{times[rows][name]:12.3f}" for rows in arguments.rows))


def measure(workers: dict[str, Connection], rows: int, rounds: int) -> dict[str, float]:
    """The median time of one call of each contender, in milliseconds."""
    times: dict[str, list[float]] = {name: [] for name in workers}
    for _ in range(rounds):
        for name, worker in workers.items():
            worker.send(rows)
            times[name].append(worker.recv())
    return {name: statistics.median(each) for name, each in times.items()}


def serve(name: str, width: int, pipe: Connection) -> None:
    """A contender's process: makes its layer, then answers numbers of rows by the milliseconds of a call."""
    warnings.simplefilter("ignore")
    rng = np.random.default_rng(0)
    try:
        layer = CONTENDERS[name](rng.normal(0, width**-0.5, (width, width)).astype(np.float32))
        layer(np.zeros((1, width), np.float32))
    except Exception as error:  # not installed, or without this operator
        pipe.send(f"{type(error).__name__}: {error}")
        return
    pipe.send(None)
    while True:
        try:
            x = rng.normal(size=(pipe.recv(), width)).astype(np.float32)
        except EOFError:
            return
        milliseconds = turn(functools.partial(layer, x), 0.0) * 1e3
        settle()
        pipe.send(milliseconds)


# ---- the contenders: what makes a layer of a weight (in, out) ----


def of_gpuq(activations: str, **options: Any) -> Callable[[np.ndarray], Layer]:
    def make(weight: np.ndarray) -> Layer:
        import gpuq

        packed = gpuq.quantize(weight, symmetric=True, **options).prepack()
        return lambda x: gpuq.linear(x, packed, activations=activations)

    return make


def of_torch(weight: np.ndarray) -> Layer:
    import torch

    w = torch.from_numpy(np.ascontiguousarray(weight.T))
    return lambda x: torch.nn.functional.linear(torch.from_numpy(x), w)


def of_torch_dynamic(weight: np.ndarray) -> Layer:
    import torch

    layer = torch.nn.Linear(*weight.shape, bias=False)
    layer.load_state_dict({"weight": torch.from_numpy(np.ascontiguousarray(weight.T))})
    quantized = torch.ao.quantization.quantize_dynamic(torch.nn.Sequential(layer), {torch.nn.Linear})[0]
    return lambda x: quantized(torch.from_numpy(x))


def of_onnxruntime(accuracy_level: int) -> Callable[[np.ndarray], Layer]:
    """MatMulNBits with codes around 8; `accuracy_level` 4 quantizes activations, 1 does not."""

    def make(weight: np.ndarray) -> Layer:
        import onnx
        import onnxruntime

        blocks, width = weight.T.reshape(len(weight), -1, BLOCK), len(weight)
        scale = np.abs(blocks).max(axis=2) / np.float32(7)
        codes = (np.rint(blocks / scale[..., np.newaxis]) + 8).astype(np.uint8)
        packed = codes[..., ::2] | codes[..., 1::2] << 4
        tensors = {"b": packed, "s": scale.reshape(-1)}
        node = onnx.helper.make_node(
            "MatMulNBits", ["x", "b", "s"], ["y"], domain="com.microsoft",
            K=width, N=width, bits=4, block_size=BLOCK, accuracy_level=accuracy_level,
        )  # fmt: skip
        real = onnx.TensorProto.FLOAT
        graph = onnx.helper.make_graph(
            [node],
            "layer",
            [onnx.helper.make_tensor_value_info("x", real, [None, width])],
            [onnx.helper.make_tensor_value_info("y", real, None)],
            [onnx.numpy_helper.from_array(value, name) for name, value in tensors.items()],
        )
        sets = [onnx.helper.make_opsetid("", 19), onnx.helper.make_opsetid("com.microsoft", 1)]
        model = onnx.helper.make_model(graph, opset_imports=sets, ir_version=9)
        session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        return lambda x: session.run(None, {"x": x})

    return make


CONTENDERS: dict[str, Callable[[np.ndarray], Layer]] = {
    "torch, float32": of_torch,
    "8 bits, int8: torch": of_torch_dynamic,
    "8 bits, int8: gpuq": of_gpuq("int8", axis=1),
    "8 bits, float: gpuq": of_gpuq("float", axis=1),
    "4 bits, int8: ONNX Runtime": of_onnxruntime(4),
    "4 bits, int8: gpuq": of_gpuq("int8", dtype="int4", axis=0, block_size=BLOCK),
    "4 bits, float: ONNX Runtime": of_onnxruntime(1),
    "4 bits, float: gpuq": of_gpuq("float", dtype="int4", axis=0, block_size=BLOCK),
}

if __name__ == "__main__":
    main()
