"""The demo's network: two hidden layers of relu on 8 x 8 pixel digits, in float32 and in 8 bit by two schemes.

With h_0 the input and W_i, b_i the weights and biases of layer i = 1, 2, 3:

    float32   h_i = relu(h_{i-1} @ W_i + b_i), without relu in the last layer, which gives the logits
    static    every h_i is uint8 with one scale and zero point, fixed beforehand from the training set; W_i is int8 with
              a scale and a zero point per column. `qlinear_matmul` takes codes of h_{i-1} to codes of h_i.
    dynamic   every row of h_{i-1} gets an int8 scale of its own from its largest value as it comes; `scaled_matmul`
              gives h_i in float32. The weights are the same.

relu alone would give the hidden layers the zero point 0. Here the range of a layer is that of its values before relu:
zero then lies inside the codes, and relu clamps at the zero point, not at the end of the type. That is the general
case, and what it costs (about one bit) the demo's figures include.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

import gpuq


class Data(NamedTuple):
    """Standardized images (rows of 64 float32) and their digits."""

    train: Any
    train_digits: Any
    test: Any
    test_digits: Any


class FloatLayer(NamedTuple):
    """float32 weight (in, out) and bias (out,)."""

    weight: Any
    bias: Any


@dataclass(frozen=True)
class Layer:
    """A layer in 8 bit: what both schemes need of it, and the activation it ends in."""

    weight: Any  # int8 (in, out)
    weight_scale: Any  # float32 (out,)
    weight_zero_point: Any  # int8 (out,)
    bias: Any  # float32 (out,), for the dynamic scheme
    accumulator_bias: Any  # int32 (out,) in units of input_scale * weight_scale, for the static scheme
    input_scale: Any
    input_zero_point: Any
    output_scale: Any
    output_zero_point: Any
    activation: str | None


class Scheme(NamedTuple):
    """What one 8-bit scheme gave on the test set."""

    name: str
    outputs: list[Any]  # every layer's, float32
    path: Any
    difference: str | None  # from gpuq.reference, in the logits


def load_data(seed: int) -> Data:
    """scikit-learn's handwritten digits, half to train on, half to test."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    pixels, digits = load_digits(return_X_y=True)
    train, test, train_digits, test_digits = train_test_split(
        pixels.astype(np.float32), digits, test_size=0.5, random_state=seed, stratify=digits
    )
    mean, deviation = train.mean(axis=0), train.std()
    return Data((train - mean) / deviation, train_digits, (test - mean) / deviation, test_digits)


def train_network(data: Data, seed: int) -> list[FloatLayer]:
    """The float32 network."""
    from sklearn.neural_network import MLPClassifier

    network = MLPClassifier((64, 32), alpha=1e-2, max_iter=400, random_state=seed)
    network.fit(data.train, data.train_digits)
    return [
        FloatLayer(np.float32(weight), np.float32(bias))
        for weight, bias in zip(network.coefs_, network.intercepts_, strict=True)
    ]


def forward_float(layers: list[FloatLayer], x: Any) -> list[Any]:
    """The output of every layer in float32, the logits last."""
    outputs = []
    for index, layer in enumerate(layers):
        x = x @ layer.weight + layer.bias
        if index < len(layers) - 1:
            x = np.maximum(x, np.float32(0))
        outputs.append(x)
    return outputs


def quantize_network(layers: list[FloatLayer], x: Any) -> list[Layer]:
    """The network in 8 bit; x, the training set, tells the range of every layer."""
    quantized = []
    scale, zero_point = _range_parameters(x)
    for index, layer in enumerate(layers):
        before_activation = x @ layer.weight + layer.bias
        output_scale, output_zero_point = _range_parameters(before_activation)
        weight_scale, weight_zero_point = _column_parameters(layer.weight)
        last = index == len(layers) - 1
        quantized.append(
            Layer(
                weight=gpuq.quantize_linear(layer.weight, weight_scale, weight_zero_point, axis=1),
                weight_scale=weight_scale,
                weight_zero_point=weight_zero_point,
                bias=layer.bias,
                accumulator_bias=np.rint(layer.bias / (scale * weight_scale)).astype(np.int32),
                input_scale=scale,
                input_zero_point=zero_point,
                output_scale=output_scale,
                output_zero_point=output_zero_point,
                activation=None if last else "relu",
            )
        )
        x, scale, zero_point = np.maximum(before_activation, 0), output_scale, output_zero_point
    return quantized


def _range_parameters(values: Any) -> tuple[Any, Any]:
    """uint8 scale and zero point of all values."""
    chosen = gpuq.choose_qparams(values.min(), values.max(), "uint8")
    return chosen.scale, chosen.zero_point


def _column_parameters(weight: Any) -> tuple[Any, Any]:
    """int8 scale and zero point of each column, never 0: a range that centres on 0 is widened upward by two steps."""
    low, high = weight.min(axis=0), weight.max(axis=0)
    centred = gpuq.choose_qparams(low, high, "int8").zero_point == 0
    chosen = gpuq.choose_qparams(low, np.where(centred, high + (high - low) * np.float32(2 / 255), high), "int8")
    return chosen.scale, chosen.zero_point


def forward_static(layers: list[Layer], x: Any, operators: Any) -> list[Any]:
    """uint8 codes of every layer's output: quantized once on the way in, then never out of 8 bit.

    `operators` is gpuq, or gpuq.reference for the same by definition.
    """
    codes = operators.quantize_linear(x, layers[0].input_scale, layers[0].input_zero_point)
    outputs = []
    for layer in layers:
        codes = operators.qlinear_matmul(
            codes,
            layer.input_scale,
            layer.input_zero_point,
            layer.weight,
            layer.weight_scale,
            layer.weight_zero_point,
            layer.output_scale,
            layer.output_zero_point,
            bias=layer.accumulator_bias,
            activation=layer.activation,
        )
        outputs.append(codes)
    return outputs


def forward_dynamic(layers: list[Layer], x: Any, operators: Any) -> list[Any]:
    """float32 output of every layer, from inputs quantized row by row; `operators` as in `forward_static`."""
    outputs = []
    for layer in layers:
        largest = np.abs(x).max(axis=1)
        scale = np.where(largest > 0, largest / np.float32(127), np.float32(1))
        codes = operators.quantize_linear(x, scale, axis=0, dtype="int8")
        x = operators.scaled_matmul(
            codes,
            layer.weight,
            scale,
            layer.weight_scale,
            None,
            layer.weight_zero_point,
            bias=layer.bias,
            activation=layer.activation,
        )
        outputs.append(x)
    return outputs


def dequantize_outputs(layers: list[Layer], outputs: list[Any]) -> list[Any]:
    """What the codes of `forward_static` stand for, in float32."""
    return [
        gpuq.dequantize_linear(codes, layer.output_scale, layer.output_zero_point)
        for layer, codes in zip(layers, outputs, strict=True)
    ]


def signal_to_noise(exact: Any, approximate: Any) -> float:
    """Signal-to-quantization-noise ratio in dB: 10 log10 of the sum of exact^2 over the sum of error^2."""
    exact = exact.astype(np.float64)
    return float(10 * np.log10((exact**2).sum() / ((exact - approximate) ** 2).sum()))


def agreement(exact: Any, logits: Any) -> float:
    """The share of rows in which both logits predict the same."""
    return float((exact.argmax(axis=1) == logits.argmax(axis=1)).mean())
