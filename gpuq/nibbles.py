"""4-bit codes two per byte, the earlier one in the low half, as ONNX and files have them.

codes   c0 c1 c2 c3 c4        in C order, one per byte in memory
bytes   c1c0  c3c2  0c4       an odd number of codes leaves the last high half 0
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


def pack(codes: Array) -> Array:
    """Codes of int8 or uint8, of which the low halves count, as flat bytes."""
    flat = np.ascontiguousarray(codes).reshape(-1).view(np.uint8)
    packed = flat[0::2] & np.uint8(15)
    packed[: flat.size // 2] |= flat[1::2] << np.uint8(4)
    return packed


def unpack(packed: Array, count: int, signed: bool) -> Array:
    """`count` codes as int8 or uint8."""
    codes = np.empty(2 * packed.size, np.uint8)
    codes[0::2], codes[1::2] = packed & np.uint8(15), packed >> np.uint8(4)
    if not signed:
        return codes[:count]
    return ((codes ^ np.uint8(8)) - np.uint8(8)).view(np.int8)[:count]  # flips the sign bit, moves 0 … 15 to −8 … 7
