"""The command line where there are CUDA devices, which are emulated."""

from __future__ import annotations

import io
import itertools
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import gpuq
from gpuq import reference
from gpuq.cli import bench, bench_gpu, bench_worker, cases, main

Emulate = Callable[..., Any]
EVERY = 11  # one in so many of the cases of `gpuq selftest`; they come in cycles of even lengths


@pytest.fixture
def fewer_cases(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not all 3,000 of them, which the emulator takes two minutes for."""

    def thinned(generate: Callable[[int], Any]) -> Callable[[int], Any]:
        return lambda seed: itertools.islice(generate(seed), 0, None, EVERY)

    thinned_generators = {name: thinned(generate) for name, generate in cases.GENERATORS.items()}
    monkeypatch.setattr(cases, "GENERATORS", thinned_generators)


def test_selftest(fewer_cases: None, emulate: Emulate, capsys: pytest.CaptureFixture[str]) -> None:
    emulated = emulate((8, 0))
    assert main(["selftest", "--device", "cuda", "--seed", "5"]) == 0
    assert "all equal gpuq.reference bit for bit" in capsys.readouterr().out
    assert len(emulated.launches) > 200


def test_selftest_finds_a_wrong_bit(
    fewer_cases: None, emulate: Emulate, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    emulate((8, 0))
    right = reference.dequantize_linear

    def wrong(*arguments: Any, **keywords: Any) -> Any:
        result = right(*arguments, **keywords)
        return np.nextafter(result, result.dtype.type(9)) if result.dtype == np.float32 else result

    generators = {"dequantize_linear": cases.GENERATORS["dequantize_linear"]}
    monkeypatch.setattr(cases, "GENERATORS", generators)
    monkeypatch.setattr(reference, "dequantize_linear", wrong)
    assert main(["selftest", "--device", "cuda"]) == 1
    assert "FAILED" in capsys.readouterr().out


def test_selftest_on_an_absent_device(emulate: Emulate, capsys: pytest.CaptureFixture[str]) -> None:
    emulate((8, 0))
    assert main(["selftest", "--device", "cuda:1"]) == 2
    assert "the NVIDIA driver sees 1 device" in capsys.readouterr().err


def test_info_lists_the_devices(emulate: Emulate, capsys: pytest.CaptureFixture[str]) -> None:
    emulate((8, 0), (6, 1))
    assert main(["info", "--json"]) == 0
    devices = json.loads(capsys.readouterr().out)["devices"]
    assert (devices["cpu"], devices["cuda"]) == ("available", "available")
    assert devices["cuda:0"] == "Emulated 8.0, compute capability 8.0"
    assert devices["cuda:1"].startswith("Emulated 6.1, compute capability 6.1; not available: ")


def test_a_large_product_of_numpy_arrays_goes_to_the_gpu(emulate: Emulate, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not one that large here: the rule is told that a GPU starts at once."""
    monkeypatch.setitem(gpuq.crossover.CONSTANTS, "seconds_to_start", 0)
    monkeypatch.setitem(gpuq.crossover.CONSTANTS, "copied_bytes_per_second", 1e15)
    emulate((8, 0))
    a, b = np.ones((3, 5), np.uint8), np.ones((5, 4), np.int8)
    result = gpuq.matmul_integer(a, b)
    assert isinstance(result, np.ndarray)
    assert result.tolist() == [[5] * 4] * 3
    assert gpuq.last_path()[::2] == ("cuda:0", "sm_80")
    gpuq.quantize_linear(np.ones(3, np.float32), 0.1)
    assert gpuq.last_path().device == "cpu"
    gpuq.matmul_integer(a, gpuq.prepack(b))
    assert gpuq.last_path().device == "cpu"


def test_bench_calls_operators_there(emulate: Emulate, monkeypatch: pytest.MonkeyPatch) -> None:
    """All of gpuq's arrays lie on the device that was named; there are no ceilings."""
    monkeypatch.setattr(bench_gpu, "_torch_with_gpu", lambda: None)
    emulated = emulate((7, 5), (8, 0))
    entered = [("quantize_linear", [1000]), ("matmul_integer packed", [3, 40, 5])]
    questions = "".join(json.dumps({"operation": name, "shape": shape}) + "\n" for name, shape in entered)
    answers = io.StringIO()
    bench_worker.serve("gpuq", "cuda:1", io.StringIO(questions + "{}\n"), answers)
    *prepared, timed = map(json.loads, answers.getvalue().splitlines())
    assert [answer["path"]["device"] for answer in prepared] == ["cuda:1"] * len(entered)
    assert {answer["path"]["isa"] for answer in prepared} == {"sm_80"}
    assert timed["seconds"] > 0
    assert len(emulated.launches) > len(entered)
    assert bench.contenders_on("cuda:1", False) == ("gpuq", "gpuq, graph", "copy")


@pytest.mark.parametrize("name", ["gpuq, graph", "copy"])
def test_bench_captures_calls(emulate: Emulate, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """All that a graph holds is done at every turn, on several sets of arrays; calls that make arrays stay outside."""
    monkeypatch.setattr(bench_gpu, "_torch_with_gpu", lambda: None)  # its tensors would lie on a real GPU
    emulated = emulate((8, 0))
    entered = [("quantize_linear", [1000]), ("matmul_integer packed", [3, 40, 5]), ("quantize_linear fresh", [1000])]
    questions = "".join(json.dumps({"operation": each, "shape": shape}) + "\n{}\n" for each, shape in entered)
    answers = io.StringIO()
    bench_worker.serve(name, "cuda", io.StringIO(questions), answers)
    prepared = [json.loads(line)["takes_part"] for line in answers.getvalue().splitlines()[::2]]
    assert prepared == [True, name != "copy", False]
    assert name == "copy" or len(emulated.launches) > 2 * bench_gpu.IN_A_GRAPH
