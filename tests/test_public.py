"""All that is public, written out: nothing leaks, vanishes or changes its parameters unnoticed."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import pytest

import gpuq
from gpuq import calibration

FUNCTIONS = {
    "choose_qparams": "(rmin, rmax, dtype='int8', *, symmetric=False, narrow_range=False)",
    "dequantize_linear": (
        "(q, scale, zero_point=None, *, axis=1, block_size=0, dtype=float32, out=None, device=None, "
        "stream=None)"
    ),
    "device": "(device)",
    "dynamic_quantize_linear": "(x, *, device=None, stream=None)",
    "error": "(x, qx)",
    "explain": "(x, scale, zero_point=0, *, dtype=None)",
    "fake_quantize": (
        "(x, scale, zero_point=None, *, axis=1, block_size=0, dtype=None, narrow_range=False, "
        "rounding='half_even', out=None, device=None, stream=None)"
    ),
    "last_path": "()",
    "linear": "(x, weight, bias=None, *, activation=None, activations='int8')",
    "load": "(path)",
    "matmul_integer": "(a, b, a_zero_point=None, b_zero_point=None, *, out=None, device=None, stream=None)",
    "prepack": "(b, *, zero_point=None, device=None, stream=None)",
    "qlinear_matmul": (
        "(a, a_scale, a_zero_point, b, b_scale, b_zero_point, y_scale, y_zero_point, *, bias=None, "
        "activation=None, narrow_range=False, rounding='half_even', out=None, device=None, stream=None)"
    ),
    "quantize": (
        "(x, dtype='int8', *, axis=None, block_size=0, symmetric=False, narrow_range=False, "
        "calibration='minmax')"
    ),
    "quantize_linear": (
        "(x, scale, zero_point=None, *, axis=1, block_size=0, dtype=None, narrow_range=False, "
        "rounding='half_even', out=None, device=None, stream=None)"
    ),
    "quantize_multiplier": "(real)",
    "requantize": (
        "(acc, multiplier, zero_point, *, bias=None, activation=None, y_scale=None, axis=-1, dtype='int8', "
        "narrow_range=False, mode='float', out=None, device=None, stream=None)"
    ),
    "save": "(path, tensors)",
    "scaled_matmul": (
        "(a, b, a_scale, b_scale, a_zero_point=None, b_zero_point=None, *, bias=None, activation=None, "
        "dtype=float32, out=None, device=None, stream=None)"
    ),
    "set_device": "(device)",
    "set_num_threads": "(n)",
}
MEMBERS = {
    "Convention": {"name", "programs", "rounded", "code", "real"},
    "DeviceError": set(),
    "Error": {"cosine", "max_abs", "mean_abs", "rmse", "sqnr_db"},
    "Explanation": {"conventions", "reasons"},
    "PackedMatrix": {"shape", "dtype", "ndim", "nbytes"},
    "PackedQTensor": {"unpacked", "parts", "shape", "dtype", "ndim", "nbytes"},
    "QParams": {"scale", "zero_point", "qmin", "qmax"},
    "QTensor": {
        "data", "scale", "zero_point", "axis", "block_size", "dtype", "shape", "ndim", "nbytes", "device", "T",
        "dequantize", "requantize", "prepack", "to",
    },
}  # fmt: skip
OBSERVERS = {
    "MSE": "(*, axis=None)",
    "Entropy": "(*, axis=None)",
    "MinMax": "(*, axis=None)",
    "MovingAverageMinMax": "(momentum=0.9, *, axis=None)",
    "Percentile": "(percentile=99.9, *, axis=None)",
}
OF_OBSERVERS = {"axis", "ignored", "merge", "observe", "qparams", "range"}


def signature_of(function: Any) -> str:
    """Parameters and defaults, without types."""
    signature = inspect.signature(function)
    plain = [parameter.replace(annotation=parameter.empty) for parameter in signature.parameters.values()]
    text = str(signature.replace(parameters=plain, return_annotation=signature.empty))
    return text.replace("<class 'numpy.float32'>", "float32")


def members_of(kind: type) -> set[str]:
    """Public attributes that the class, or its bases in gpuq, define."""
    named = {*getattr(kind, "__annotations__", {}), *(name for base in kind.__mro__[:-1] for name in vars(base))}
    of_bases = set(dir(tuple)) | set(dir(RuntimeError))
    return {name for name in named if not name.startswith("_") and name not in of_bases}


def test_names() -> None:
    assert set(gpuq.__all__) == {*FUNCTIONS, *MEMBERS, "calibration"}
    assert sorted(dir(gpuq)) == sorted([*gpuq.__all__, "__version__"])
    assert set(calibration.__all__) == OBSERVERS.keys()


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions(name: str) -> None:
    function = getattr(gpuq, name)
    assert signature_of(function) == FUNCTIONS[name]
    text = inspect.getdoc(function) or ""
    assert text.partition("\n\n")[0].endswith("."), text
    if FUNCTIONS[name] not in ("()", "(device)"):
        assert "Parameters" in text
        assert "Raises\n------" in text


@pytest.mark.parametrize("name", MEMBERS)
def test_classes(name: str) -> None:
    kind = getattr(gpuq, name)
    assert members_of(kind) == MEMBERS[name]
    assert inspect.getdoc(kind)


@pytest.mark.parametrize("name", OBSERVERS)
def test_observers(name: str) -> None:
    kind = getattr(calibration, name)
    assert signature_of(kind) == OBSERVERS[name]
    public = {member for member in dir(kind()) if not member.startswith("_")}
    own = {"MovingAverageMinMax": {"momentum"}, "Percentile": {"percentile"}}.get(name, set())
    assert public == (OF_OBSERVERS | own) - ({"merge"} if name == "MovingAverageMinMax" else set())


def test_the_contract_s_out_device_and_stream() -> None:
    """Every operator that returns one array takes them, by keyword alone."""
    products = ("matmul_integer", "scaled_matmul", "qlinear_matmul")
    for name in ("quantize_linear", "dequantize_linear", "fake_quantize", "requantize", *products):
        assert FUNCTIONS[name].endswith("out=None, device=None, stream=None)")


def test_the_reference_page_tells_what_the_docstrings_do() -> None:
    """A line for each name: as it is called, then the first sentences of its docstring."""
    lines = (Path(__file__).parent.parent / "docs" / "reference.md").read_text(encoding="utf-8").splitlines()
    calls = {name: (getattr(gpuq, name), own) for name, own in FUNCTIONS.items()}
    calls |= {name: (getattr(gpuq, name), "") for name in MEMBERS}
    calls |= {f"calibration.{name}": (getattr(calibration, name), own) for name, own in OBSERVERS.items()}
    for name, (thing, own) in calls.items():
        said = " ".join((inspect.getdoc(thing) or "").partition("\n\n")[0].split())
        members = "".join(f"`{member}`, " for member in sorted(MEMBERS.get(name, ()))).removesuffix(", ")
        assert f"| `{name}{own}` | {said}{f' Has {members}.' if members else ''} |" in lines, name
    assert sum(line.startswith("| `") for line in lines) == len(calls)
