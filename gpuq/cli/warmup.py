"""Compile what this machine will commonly need, and keep it on disk: later processes load it.

That is the common kernels of the CPU, and all CUDA kernels for the GPUs that are found, or for compute capabilities
that are named, which takes no GPU. What is not among it (rarer types, deep products) is compiled at its first call, and
kept as well. What is kept already is not compiled again. It is worth running after a change of gpuq, Numba, numba-cuda,
Python or the processor.

examples:
  gpuq warmup
  gpuq warmup --cc 8.0 --cc 9.0 --jobs 4
  GPUQ_CACHE_DIR=/var/cache/gpuq gpuq warmup
"""

from __future__ import annotations

import argparse
import functools
import itertools
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numba.core import event

import gpuq
from gpuq import code_cache
from gpuq.cli import warmup_kernels
from gpuq.cli.capabilities import kernels_module, parse_capability
from gpuq.cli.progress import progress
from gpuq.cpu import threads

REALS = (np.float32, np.float16, np.float64)  # bfloat16 shares float16's code, as signed codes share that of unsigned
CODES = (np.uint8, np.uint16)
AXES: dict[str, dict[str, Any]] = {"per tensor": {}, "per axis": {"axis": 1}, "per block": {"axis": 1, "block_size": 2}}
ROUNDINGS = ("half_even", "half_away", "half_up", "torch")
MODES = ("float", "float64", "fixed_point", "fixed_point_half_up")
ROWS, COLUMNS = 4, 6  # of the arrays: small ones need the same kernels as large ones
Calls = Iterator[Callable[[], Any]]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `gpuq warmup`."""
    parser.add_argument(
        "--cc",
        metavar="X.Y",
        type=parse_capability,
        action="append",
        help="compile CUDA kernels for this compute capability; may be repeated (default: those of the GPUs found)",
    )
    parser.add_argument(
        "--jobs",
        metavar="N",
        type=_processes,
        default=threads.processors(),
        help="processes that compile CUDA kernels at once, of half a GB each (default: one per core)",
    )


def run(arguments: argparse.Namespace) -> int:
    """Compile for the CPU, then for CUDA; 1 where nothing would be kept, or a kernel failed."""
    if arguments.cc:
        kernels_module(arguments.cc)
    folder = code_cache.cache_folder()
    if not code_cache.cache_writable():
        print(f"gpuq warmup: {folder} cannot be written: nothing would be kept", file=sys.stderr)
        return 1
    _call_all()
    capabilities = sorted(set(arguments.cc or warmup_kernels.capabilities_here()))
    return warmup_kernels.compile_kernels(capabilities, arguments.jobs) if capabilities else 0


def _call_all() -> None:
    """Call everything once on the CPU, and say what that compiled."""
    start = time.monotonic()
    with event.install_recorder("numba:compile") as compiled:
        calls = list(common_calls())
        for call in progress(calls, "compiling"):
            call()
    count, folder = sum(1 for _, each in compiled.buffer if each.is_start), code_cache.cache_folder()
    print(
        f"{len(calls)} calls took {time.monotonic() - start:.1f} s; functions compiled: {count}; cache folder: {folder}"
    )


def common_calls() -> Calls:
    """Calls on the CPU that need all the common kernels."""
    return itertools.chain(_quantizers(), _dequantizers(), _requantizers(), _products(), _layers(), _parameters())


def _quantizers() -> Calls:
    """Roundings other than ONNX's with float32 alone, 16-bit codes and blocks with it alone."""
    x32 = np.ones((ROWS, COLUMNS), np.float32)
    for real, (grain, options), rounding in itertools.product(REALS, AXES.items(), ROUNDINGS):
        if rounding == "half_even" or (real == np.float32 and grain != "per block"):
            x, scale, zero_point = x32.astype(real), *_parameters_of(grain, np.uint8)
            yield _call(gpuq.quantize_linear, x, scale, zero_point, **options, rounding=rounding)
            yield _call(gpuq.fake_quantize, x, scale, zero_point, **options, rounding=rounding)
    yield _call(gpuq.quantize_linear, x32, 0.1, dtype="int16")
    yield from (_call(gpuq.dynamic_quantize_linear, x32.astype(real)) for real in REALS)


def _dequantizers() -> Calls:
    for codes, real, (grain, options) in itertools.product(CODES, REALS, AXES.items()):
        scale, zero_point = _parameters_of(grain, codes)
        yield _call(gpuq.dequantize_linear, np.ones((ROWS, COLUMNS), codes), scale, zero_point, **options, dtype=real)
    yield _call(gpuq.dequantize_linear, np.ones((ROWS, COLUMNS), np.int32), 0.1)


def _parameters_of(grain: str, codes: Any) -> tuple[Any, Any]:
    shape = {"per tensor": (), "per axis": (COLUMNS,), "per block": (ROWS, COLUMNS // 2)}[grain]
    return np.full(shape, 0.1, np.float32), np.ones(shape, codes)


def _requantizers() -> Calls:
    accumulators = np.ones((ROWS, COLUMNS), np.int32)
    for mode, shape in itertools.product(MODES, ((), (COLUMNS,))):
        real = np.full(shape, 0.1)
        multiplier = gpuq.quantize_multiplier(real) if mode.startswith("fixed") else real
        yield _call(gpuq.requantize, accumulators, multiplier, np.ones(shape, np.uint8), dtype="uint8", mode=mode)


def _products() -> Calls:
    """One row and many; all sign mixes where they differ for the kernels, rows and columns that lie either way."""
    for rows, a_kind, b_kind in itertools.product((1, 2 * ROWS), (np.uint8, np.int8), (np.uint8, np.int8)):
        a, b = np.ones((rows, 8), a_kind), np.ones((8, COLUMNS), b_kind)
        for left, right in ((a, b), (np.asfortranarray(a), np.asfortranarray(b))):
            yield _call(gpuq.matmul_integer, left, right, 1, 1)
        packed = gpuq.prepack(b, device="cpu")
        yield _call(gpuq.matmul_integer, a, packed)
        yield _call(gpuq.qlinear_matmul, a, 0.1, 1, packed, 0.1, None, 0.5, np.uint8(1))
        for real in (np.float32, np.float16):
            yield _call(gpuq.scaled_matmul, a, packed, 0.1, 0.1, 1, dtype=real)


def _layers() -> Calls:
    """One row and many, weights by columns and by blocks, activations quantized and real."""
    columns = gpuq.QTensor(np.ones((ROWS, COLUMNS), np.int8), np.full(COLUMNS, 0.1), axis=1)
    blocks = gpuq.QTensor(np.ones((ROWS, COLUMNS), np.uint8), np.full((2, COLUMNS), 0.1), axis=0, block_size=ROWS // 2)
    for rows, weight, kind in itertools.product((1, 2 * ROWS), (columns, blocks), ("int8", "float")):
        x = np.ones((rows, ROWS), np.float32)
        yield functools.partial(gpuq.linear, x, weight.prepack(), 0.5, activations=kind)


def _parameters() -> Calls:
    for symmetric in (False, True):
        yield functools.partial(gpuq.choose_qparams, -1.0, 1.0, symmetric=symmetric)
    yield functools.partial(gpuq.quantize_multiplier, 0.1)


def _call(operator: Callable[..., Any], *arguments: Any, **options: Any) -> Callable[[], Any]:
    return functools.partial(operator, *arguments, **options, device="cpu")


def _processes(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"got {text!r}; accepted: an integer of at least 1")
    return int(text)
