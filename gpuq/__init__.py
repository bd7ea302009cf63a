"""gpuq: quantize, dequantize and int8 matrix multiplication, exact to the bit on every device."""

from __future__ import annotations

from gpuq import calibration as calibration
from gpuq.block_products import PackedQTensor
from gpuq.checkpoint import load, save
from gpuq.dispatch import device, last_path, set_device, set_num_threads
from gpuq.errors import DeviceError
from gpuq.explaining import Convention, Explanation, explain
from gpuq.layers import linear
from gpuq.matmul import matmul_integer, prepack, qlinear_matmul, scaled_matmul
from gpuq.ops import dequantize_linear, dynamic_quantize_linear, fake_quantize, quantize_linear, requantize
from gpuq.packed import PackedMatrix
from gpuq.parameters import QParams, choose_qparams, quantize_multiplier
from gpuq.qtensor import QTensor
from gpuq.quantizing import Error, error, quantize

__version__ = "0.1.0"
__all__ = [
    "Convention",
    "DeviceError",
    "Error",
    "Explanation",
    "PackedMatrix",
    "PackedQTensor",
    "QParams",
    "QTensor",
    "calibration",
    "choose_qparams",
    "dequantize_linear",
    "device",
    "dynamic_quantize_linear",
    "error",
    "explain",
    "fake_quantize",
    "last_path",
    "linear",
    "load",
    "matmul_integer",
    "prepack",
    "qlinear_matmul",
    "quantize",
    "quantize_linear",
    "quantize_multiplier",
    "requantize",
    "save",
    "scaled_matmul",
    "set_device",
    "set_num_threads",
]


def __dir__() -> list[str]:
    """What is public, and nothing that is merely there."""
    return [*__all__, "__version__"]
