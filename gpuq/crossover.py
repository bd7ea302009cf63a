"""From which size on NumPy arrays are worth copying to a GPU, when nobody chose a device: one pure function.

Its constants are what such machines are known for, not measurements of the one at hand: the same call takes the same
way everywhere. `gpuq info` shows them.
"""

from __future__ import annotations

CONSTANTS = {
    "cpu_multiply_adds_per_second": 1e12,  # eight cores with VNNI, at half of their peak
    "gpu_multiply_adds_per_second": 1e13,  # dp4a on a card of compute capability 7.5
    "copied_bytes_per_second": 6e9,  # between pageable memory and the card
    "seconds_to_start": 1e-4,  # the copies' and the launches' fixed cost
}
PRODUCTS = ("matmul_integer", "scaled_matmul", "qlinear_matmul")
LARGEST = 1 << 20  # where smallest_square stops looking


def prefers_gpu(operator: str, size: int, multiply_adds: int) -> bool:
    """Whether a call is quicker on a GPU, the copies of `size` bytes there and back included.

    Elementwise operators never are: the CPU is through with their elements before they are copied.
    """
    on_gpu = (
        CONSTANTS["seconds_to_start"]
        + size / CONSTANTS["copied_bytes_per_second"]
        + multiply_adds / CONSTANTS["gpu_multiply_adds_per_second"]
    )
    return operator in PRODUCTS and multiply_adds / CONSTANTS["cpu_multiply_adds_per_second"] > on_gpu


def smallest_square(operator: str) -> int | None:
    """The smallest m = k = n whose product of 8-bit matrices, with a result of four bytes, goes to a GPU."""
    low, high = 0, LARGEST
    if not _square_prefers_gpu(operator, high):
        return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if _square_prefers_gpu(operator, middle) else (middle, high)
    return high


def _square_prefers_gpu(operator: str, m: int) -> bool:
    return prefers_gpu(operator, 6 * m * m, m**3)
