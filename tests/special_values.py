"""Prints what other programs quantize special values to, with scale 1: `python tests/special_values.py`. No test:
docs/conventions.md quotes it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from test_conventions import litert_model, onnx_model

VALUES = np.float32([0.5, 1.5, 2.5, -0.5, -1.5, -2.5, np.nan, np.inf, -np.inf, 3e9, -3e9, 1e30, -1e30])
ZERO_POINT = 3


def torch_codes(x: Any, z: int) -> dict[str, Any]:
    """What torch's three formulas give."""
    ones, points = torch.ones(len(x), dtype=torch.float64), torch.full((len(x),), z)
    fake = torch.fake_quantize_per_tensor_affine(x, 1.0, z, -128, 127)
    return {
        "torch per tensor": torch.quantize_per_tensor(x, 1.0, z, torch.qint8).int_repr().numpy(),
        "torch per channel": torch.quantize_per_channel(x, ones, points, 0, torch.qint8).int_repr().numpy(),
        "torch fake_quantize": fake.numpy().astype(np.int64) + z,
    }


def main() -> None:
    """One line a program: its codes of VALUES in int8."""
    own = (np.float32([1]), np.int64([ZERO_POINT]))
    inputs = {"x": VALUES, "s": np.array(1, np.float32), "z": np.array(ZERO_POINT, np.int8)}
    found = {"ONNX Runtime": onnx_model("QuantizeLinear", inputs, 1)()[0]}
    for kernels in ("reference", "optimized"):
        found[f"LiteRT {kernels}"] = litert_model("QUANTIZE", VALUES, [None, own], ("float32", "int8"), kernels)
    found |= torch_codes(torch.from_numpy(VALUES), ZERO_POINT)
    for name, codes in {"value": VALUES, **found}.items():
        print(f"{name:20}", *(f"{code:>6g}" for code in codes))


if __name__ == "__main__":
    main()
