"""Compute capabilities as commands take them, and the list of CUDA kernels, for which numba-cuda must be there."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterable
from types import ModuleType


def parse_capability(text: str) -> tuple[int, int]:
    """The type of an option: "8.0" is (8, 0)."""
    match = re.fullmatch(r"(\d+)\.(\d)", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"got {text!r}; accepted: a compute capability such as 8.0")
    return int(match[1]), int(match[2])


def kernels_module(named: Iterable[tuple[int, int]] = ()) -> ModuleType:
    """The module `gpuq.cuda.kernels`.

    Raises
    ------
    ValueError
        numba-cuda is missing, or gpuq has no kernels for a capability that was named.
    """
    try:
        from gpuq.cuda import kernels
    except ImportError as error:
        raise ValueError(f"numba-cuda is needed to compile CUDA kernels ({error}): pip install 'gpuq[cu13]'") from None
    for each in named:
        if each not in kernels.CAPABILITIES:
            known = ", ".join("{}.{}".format(*one) for one in kernels.CAPABILITIES)
            raise ValueError("--cc: got {}.{}; accepted: {}".format(*each, known))
    return kernels
