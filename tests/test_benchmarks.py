"""The benchmarks run, and write what they say: in a process of their own, as a user starts them, on small shapes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from subprocesses import TESTS, run_python

BENCHMARKS = TESTS.parent / "benchmarks"


def test_emulator(tmp_path: Path) -> None:
    pytest.importorskip("numba_cuda", reason="needs the package numba-cuda")
    file = tmp_path / "figures.json"
    printed = run_python(
        f"import sys; sys.path.insert(0, {str(BENCHMARKS)!r})\n"
        "import emulator\n"
        "emulator.ELEMENTS, emulator.EXTENT = 5000, 32\n"
        f"emulator.main(['--repeats', '1', '--json', {str(file)!r}])\n"
    )
    figures = json.loads(file.read_text(encoding="utf-8"))
    assert list(figures) == [
        "tensor-core product 32x32x32", "quantize_linear 5000", "dequantize_linear 5000", "matmul_integer 32x32x32"
    ]  # fmt: skip
    assert [line.rsplit(maxsplit=2)[0].strip() for line in printed.splitlines()] == list(figures)
    assert min(figures.values()) > 0


def test_layers() -> None:
    """Peers that are missing are named, and left out."""
    command = [sys.executable, str(BENCHMARKS / "layers.py"), "--rounds", "1", "--rows", "1", "3", "--width", "64"]
    lines = subprocess.check_output(command, text=True).splitlines()
    start = next(place for place, line in enumerate(lines) if line.startswith("ms "))
    assert lines[start].split()[1:] == ["1", "rows", "3", "rows"]
    told = {line[:28].strip(): [float(number) for number in line[28:].split()] for line in lines[start + 1 :]}
    assert {"8 bits, int8: gpuq", "8 bits, float: gpuq", "4 bits, int8: gpuq", "4 bits, float: gpuq"} <= set(told)
    assert all(len(times) == 2 and min(times) > 0 for times in told.values())
    assert len(told) + start == 8


SENTENCES = """
import sys
sys.path.insert(0, {folder!r})
import types
import numpy as np
import sentences

rng, width = np.random.default_rng(0), 24
weights = {{
    "embeddings.word_embeddings.weight": (30, width), "embeddings.position_embeddings.weight": (16, width),
    "embeddings.token_type_embeddings.weight": (2, width),
}}
linears = {{"attention.self.query": (width, width), "attention.self.key": (width, width)}}
linears |= {{"attention.self.value": (width, width), "attention.output.dense": (width, width)}}
linears |= {{"intermediate.dense": (2 * width, width), "output.dense": (width, 2 * width)}}
norms = ["embeddings.LayerNorm"]
for number in range(6):
    weights |= {{f"encoder.layer.{{number}}.{{name}}.weight": shape for name, shape in linears.items()}}
    norms += [f"encoder.layer.{{number}}.{{part}}output.LayerNorm" for part in ("attention.", "")]
tensors = {{name: rng.normal(0, 0.2, shape).astype(np.float32) for name, shape in weights.items()}}
tensors |= {{name[:-6] + "bias": np.zeros(len(x), np.float32) for name, x in tensors.items() if "layer" in name}}
for name in norms:
    tensors |= {{name + ".weight": np.ones(width, np.float32), name + ".bias": np.zeros(width, np.float32)}}
texts = sentences.sentences(64)
masks = [[1] * (4 + i % 5) + [0] * (4 - i % 5) for i in range(64)]
made = [types.SimpleNamespace(ids=[1 + i % 29] * 8, attention_mask=mask) for i, mask in enumerate(masks)]
tokenizer = types.SimpleNamespace(encode_batch=lambda given: made[: len(given)])
sentences.load = lambda folder: (tensors, tokenizer)
sys.argv = ["sentences.py", "--sentences", "64", "--rounds", "1", "--json", {file!r}]
sentences.main()
"""


def test_sentences(tmp_path: Path) -> None:
    """On a model of random numbers, whose layers are as many."""
    pytest.importorskip("torch", reason="torch is not installed")
    pytest.importorskip("ml_dtypes", reason="ml_dtypes is not installed")
    file = tmp_path / "figures.json"
    printed = run_python(SENTENCES.format(folder=str(BENCHMARKS), file=str(file)))
    figures = json.loads(file.read_text(encoding="utf-8"))
    assert figures["sentences"] == 64
    assert len(figures["layers"]["gpuq int8"]) == 36
    assert figures["cosine"]["gpuq int8"]["mean"] > 0.99
    assert min(figures["times"]["1"].values()) > 0
    assert [line.rsplit(maxsplit=8)[0] for line in printed.splitlines() if line.startswith("gpuq")]
