"""Planted errors: each is put into a copy of the package, where the test that tells of it must fail, and it alone is
asked.

A test that cannot fail proves nothing. A trap replaces one piece of source text; if the text is no longer there the
trap says so instead of passing.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

CHECKOUT = Path(__file__).parent.parent
PROMISES = CHECKOUT / "tests" / "test_promises.py"


ZERO_POINT_TERMS = "test_every_zero_point_term_counts"


class Trap(NamedTuple):
    """A piece of source, what stands there instead, and the test of test_promises.py that must notice."""

    file: str
    right: str
    wrong: str
    test: str


TRAPS = {
    "no term of the rows": Trap(
        "arithmetic.py", "int32(row_sum - int32(k * a_zero_point))", "int32(-int32(k * a_zero_point))", ZERO_POINT_TERMS
    ),
    "no term of the columns": Trap("arithmetic.py", " - int32(a_zero_point * column_sum)", "", ZERO_POINT_TERMS),
    "no term of both zero points": Trap("arithmetic.py", " - int32(k * a_zero_point)", "", ZERO_POINT_TERMS),
    "no term of the rows where k is large": Trap("arithmetic.py", " - b_zero_point * row_sum", "", ZERO_POINT_TERMS),
    "no term of the columns where k is large": Trap(
        "arithmetic.py", " - a_zero_point * column_sum", "", ZERO_POINT_TERMS
    ),
    "no term of both zero points where k is large": Trap(
        "arithmetic.py", " + k * a_zero_point * b_zero_point", "", ZERO_POINT_TERMS
    ),
    "ties upward instead of to even": Trap(
        "arithmetic.py",
        "return v + GRID32 if x == x else GRID32",
        "return np.float32(math.floor(v + 0.5) + GRID32) if x == x else GRID32",
        "test_ties_go_where_the_rounding_says",
    ),
    "ties toward zero instead of away": Trap(
        "arithmetic.py",
        "(d == 0.5 and clamped > 0) or (d == -0.5 and clamped < 0)",
        "(d == 0.5 and clamped < 0) or (d == -0.5 and clamped > 0)",
        "test_ties_go_where_the_rounding_says",
    ),
    "times the inverse instead of divided": Trap(
        "cpu/quantizing.py",
        "corrected(np.float32(near * reciprocal), near, scale, reciprocal)",
        "np.float32(near * reciprocal)",
        "test_quantization_divides_and_does_not_multiply_by_the_inverse",
    ),
    "scales applied one after the other": Trap(
        "arithmetic.py",
        "np.float32(accumulator) * (a_scale * b_scale)",
        "np.float32(accumulator) * a_scale * b_scale",
        "test_scales_are_multiplied_with_each_other_first",
    ),
    "multiply and add contracted": Trap(
        "arithmetic.py",
        "np.float32(accumulator) * (a_scale * b_scale) + bias",
        "fma(np.float32(accumulator), a_scale * b_scale, bias)",
        "test_the_product_is_rounded_before_the_bias_is_added",
    ),
    "accumulators saturated": Trap(
        "arithmetic.py",
        "return dot - a_zero_point * column_sum - b_zero_point * row_sum + k * a_zero_point * b_zero_point",
        "return saturate(dot - a_zero_point * column_sum - b_zero_point * row_sum + k * a_zero_point * b_zero_point, "
        "INT32_MIN, INT32_MAX)",
        "test_accumulators_beyond_int32_stay_exact_in_float_and_8_bit_outputs",
    ),
    "overflow not reported": Trap(
        "cpu/epilogue.py", "value > INT32_MAX", "False", "test_an_accumulator_that_does_not_fit_int32_is_an_error"
    ),
    "accumulator rounded before the bias": Trap(
        "cpu/requantizing.py",
        "v = (high_half * elements.HALVES + low_half)",
        "v = (np.float32(accumulator) + (high_bias + GRID32) * elements.HALVES + (low_bias + GRID32))",
        "test_an_int32_bias_is_added_exactly_before_the_one_rounding",
    ),
    "short last block left out": Trap(
        "cpu/elementwise.py",
        "end = min(start + step, (outer + 1) * row)",
        "end = start + step",
        "test_the_last_short_block_has_its_own_scale",
    ),
    "NaN saturates": Trap(
        "arithmetic.py",
        "return nearest if v == v else low - low",
        "return nearest if v == v else low",
        "test_nan_becomes_the_zero_point_and_infinities_saturate",
    ),
    "relu6 knows no upper bound": Trap(
        "arithmetic.py",
        "if activation != RELU6:",
        "if activation != SILU:",
        "test_relu6_clamps_at_the_codes_of_0_and_6",
    ),
    "gemmlowp's shift rounds upward": Trap(
        "arithmetic.py",
        "(1 if high < 0 else 0)",
        "0",
        "test_fixed_point_halves_go_up_in_the_product_and_away_from_zero_in_the_shift",
    ),
}


def run_promises(package: Path, test: str, cache: Path) -> subprocess.CompletedProcess[str]:
    """Run one test of test_promises.py against the package copied to `package`, on the instruction set that compiles
    soonest: no error is planted in what only one of them has.
    """
    environment = {
        **os.environ,
        "PYTHONPATH": str(package),
        "GPUQ_CACHE_DIR": str(cache),
        "GPUQ_ISA": "portable",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"{PROMISES}::{test}"]
    return subprocess.run(command, cwd=package, env=environment, capture_output=True, text=True, check=False)


def copy_package(folder: Path) -> Path:
    shutil.copytree(CHECKOUT / "gpuq", folder / "gpuq", ignore=shutil.ignore_patterns("__pycache__"))
    return folder


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache for all copies: what a planted error changes is compiled anew, or the error would not be noticed."""
    return tmp_path_factory.mktemp("cache")


@pytest.mark.parametrize("name", TRAPS)
def test_planted_error_is_noticed(name: str, tmp_path: Path, cache: Path) -> None:
    trap = TRAPS[name]
    path = copy_package(tmp_path) / "gpuq" / trap.file
    source = path.read_text(encoding="utf-8")
    assert source.count(trap.right) == 1, f"{trap.file} no longer holds, once: {trap.right}"
    changed = source.replace(trap.right, trap.wrong)
    path.write_text(changed, encoding="utf-8")
    outcome = run_promises(tmp_path, trap.test, cache)
    assert outcome.returncode == 1, outcome.stdout + outcome.stderr
    assert "AssertionError" in outcome.stdout or "DID NOT RAISE" in outcome.stdout, outcome.stdout


def test_the_copy_without_a_planted_error_passes(tmp_path: Path) -> None:
    """The traps speak of the planted errors alone, and of the copy, not of the checkout."""
    package = copy_package(tmp_path)
    outcome = run_promises(package, "test_every_zero_point_term_counts", package / "cache")
    assert outcome.returncode == 0, outcome.stdout + outcome.stderr
    assert any((package / "cache").iterdir())
