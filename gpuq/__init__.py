"""gpuq: quantize, dequantize and int8 matrix multiplication, exact to the bit on every device."""

from __future__ import annotations

from gpuq.dispatch import device, last_path, set_device, set_num_threads
from gpuq.errors import DeviceError
from gpuq.matmul import matmul_integer, prepack, qlinear_matmul, scaled_matmul
from gpuq.ops import dequantize_linear, dynamic_quantize_linear, fake_quantize, quantize_linear, requantize
from gpuq.packed import PackedMatrix
from gpuq.parameters import QParams, choose_qparams, quantize_multiplier

__version__ = "0.1.0"
__all__ = [
    "DeviceError",
    "PackedMatrix",
    "QParams",
    "choose_qparams",
    "dequantize_linear",
    "device",
    "dynamic_quantize_linear",
    "fake_quantize",
    "last_path",
    "matmul_integer",
    "prepack",
    "qlinear_matmul",
    "quantize_linear",
    "quantize_multiplier",
    "requantize",
    "scaled_matmul",
    "set_device",
    "set_num_threads",
]
