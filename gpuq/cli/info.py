"""Say what gpuq finds here: versions, devices, instruction set, settings.

examples:
  gpuq info
  gpuq info --json
  gpuq info --tiles 128x768x3072 --cc 9.0
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
from typing import Any

import llvmlite
import llvmlite.binding
import numba
import numpy as np

import gpuq
from gpuq import code_cache, crossover, dispatch
from gpuq.cli import tiles
from gpuq.cpu import isa, threads
from gpuq.cuda import driver

ENVIRONMENT = ("GPUQ_DEVICE", "GPUQ_ISA", "GPUQ_NUM_THREADS", "GPUQ_CACHE_DIR", "GPUQ_CHECK")

# optional package: the extra of gpuq that installs it (None: none does), and what it adds
OPTIONAL = {
    "torch": (None, "torch tensors as arguments and results"),
    "cupy": (None, "CuPy arrays as arguments and results"),
    "jax": (None, "JAX arrays as arguments and results"),
    "ml-dtypes": ("ml", "NumPy arrays of bfloat16, int4 and uint4"),
    "numba-cuda": ("cu12 or cu13", "CUDA devices, with a driver and a GPU; gpuq kernels without"),
    "scikit-learn": ("demo", "the data and the training of gpuq demo"),
    "matplotlib": ("demo", "the picture of gpuq demo"),
    "rich": ("demo", "the tables of gpuq demo"),
}
# the names under which it is installed, where there are several: CuPy is built for each CUDA version
DISTRIBUTIONS = {"cupy": ("cupy", "cupy-cuda12x", "cupy-cuda13x")}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `gpuq info`."""
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of text")
    tiles.add_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    """Print the report."""
    if arguments.tiles is not None:
        return tiles.run(arguments)
    found = report()
    if arguments.json:
        print(json.dumps(found, indent=2))
    else:
        for key, value in found.items():
            _print_entry(key.replace("_", " "), value)
    return 0


def report() -> dict[str, Any]:
    """Everything `gpuq info` says, as JSON can hold it."""
    return {
        "versions": {
            "gpuq": gpuq.__version__,
            "python": platform.python_version(),
            "numpy": np.__version__,
            "numba": numba.__version__,
            "llvmlite": llvmlite.__version__,
        },
        "platform": platform.platform(),
        "cpu": {
            "name": numba.config.CPU_NAME or llvmlite.binding.get_host_cpu_name(),
            "cores": os.cpu_count(),
            "features": _cpu_features(),
        },
        "devices": {"cpu": "available", "cuda": dispatch.cuda_unavailable_reason() or "available", **_cards()},
        "instruction_set": dispatch.instruction_set(),
        "instruction_sets": {name: _instruction_set_text(name) for name in isa.INSTRUCTION_SETS},
        "threads": threads.num_threads(),
        "crossover_sizes": {
            "smallest_square_product_on_a_gpu": crossover.smallest_square("matmul_integer"),
            "elementwise_on_a_gpu": "only arrays that are there",
            **crossover.CONSTANTS,
        },
        "cache_folder": str(code_cache.cache_folder()),
        "cache_writable": code_cache.cache_writable(),
        "environment": {name: os.environ.get(name) for name in ENVIRONMENT},
        "optional_packages": {name: _optional_package(name) for name in OPTIONAL},
    }


def _cpu_features() -> list[str]:
    """The features that Numba compiles for."""
    return sorted(isa.target_features())


def _cards() -> dict[str, str]:
    """Each device that the driver sees, and what is wrong with it."""
    texts = {}
    for index, (name, capability) in enumerate(driver.cards()):
        reason = dispatch.cuda_unavailable_reason(index)
        text = "{}, compute capability {}.{}".format(name, *capability)
        texts[f"cuda:{index}"] = text if reason is None else f"{text}; not available: {reason}"
    return texts


def _instruction_set_text(name: str) -> str:
    """Whether it is there, and if not, why."""
    absence = isa.INSTRUCTION_SETS[name].absence()
    return f"absent: {absence}" if absence else "available"


def _optional_package(name: str) -> dict[str, str | None]:
    extra, adds = OPTIONAL[name]
    versions = [version for each in DISTRIBUTIONS.get(name, (name,)) if (version := _version(each)) is not None]
    return {"version": versions[0] if versions else None, "extra": extra, "adds": adds}


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _print_entry(key: str, value: Any, indent: str = "") -> None:
    if key == "optional packages":
        value = {name: _optional_text(**package) for name, package in value.items()}
    if isinstance(value, dict):
        print(f"{indent}{key}:")
        for inner_key, inner in value.items():
            _print_entry(inner_key, inner, indent + "  ")
    else:
        text = " ".join(value) if isinstance(value, list) else "not set" if value is None else value
        print(f"{indent}{key}: {text}")


def _optional_text(version: str | None, extra: str | None, adds: str) -> str:
    if version is not None:
        return f"{version} - {adds}"
    source = f"; pip install 'gpuq[{extra}]'" if extra else ""
    return f"not installed - would add {adds}{source}"
