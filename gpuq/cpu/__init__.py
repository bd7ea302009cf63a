"""The CPU backend: elementwise loops and one int8 GEMM, compiled by Numba's `njit`."""
