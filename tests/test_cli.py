"""The command line, as a user runs it: in a process of its own, and through `main` where that says as much."""

from __future__ import annotations

import importlib.metadata
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import gpuq
from gpuq import crossover, reference
from gpuq.cli import demo, info, main, selftest
from gpuq.cli.cases import Case
from gpuq.cli.difference import first_difference

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """`python -m gpuq` with these arguments."""
    return subprocess.run(
        [sys.executable, "-m", "gpuq", *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
        stdin=subprocess.DEVNULL,
    )


def assert_one_line_error(finished: subprocess.CompletedProcess[str], *words: str) -> None:
    """Exit code 2, no traceback, and every word in what was said."""
    assert finished.returncode == 2
    assert "Traceback" not in finished.stderr
    for word in words:
        assert word in finished.stderr


def test_help_lists_every_command_with_examples() -> None:
    finished = run("--help")
    assert finished.returncode == 0
    for word in ("info", "selftest", "demo", "bench", "warmup", "quantize", "dequantize", "inspect", "examples:"):
        assert word in finished.stdout


@pytest.mark.parametrize(
    "command", ["info", "selftest", "demo", "bench", "warmup", "quantize", "dequantize", "inspect"]
)
def test_help_of_a_command_has_examples(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main([command, "--help"])
    assert stopped.value.code == 0
    assert f"  gpuq {command}" in capsys.readouterr().out.partition("examples:")[2]


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["--version"])
    assert stopped.value.code == 0
    assert capsys.readouterr().out == f"gpuq {gpuq.__version__}\n"


# ---- info ----


def test_info_json_holds_what_the_contract_promises() -> None:
    finished = run("info", "--json", GPUQ_CACHE_DIR="somewhere")
    assert finished.returncode == 0
    report = json.loads(finished.stdout)
    assert report["versions"].keys() == {"gpuq", "python", "numpy", "numba", "llvmlite"}
    assert report["versions"]["gpuq"] == gpuq.__version__
    assert report["devices"]["cpu"] == "available"
    assert report["cpu"]["name"]
    assert report["instruction_set"] == gpuq.dispatch.instruction_set()
    assert report["threads"] >= 1
    assert Path(report["cache_folder"]) == Path("somewhere")
    assert report["environment"]["GPUQ_CACHE_DIR"] == "somewhere"
    assert report["environment"].keys() == set(info.ENVIRONMENT)
    assert report["optional_packages"]["ml-dtypes"]["extra"] == "ml"
    sizes = report["crossover_sizes"]
    assert sizes["smallest_square_product_on_a_gpu"] == crossover.smallest_square("scaled_matmul")
    assert crossover.CONSTANTS.items() <= sizes.items()


def test_info_says_the_same_in_words(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info"]) == 0
    text = capsys.readouterr().out
    for word in ("instruction set:", "cache folder:", "GPUQ_DEVICE:", "ml-dtypes:", gpuq.__version__):
        assert word in text


def test_info_finds_cupy_under_the_name_that_it_was_installed_by(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The wheels are called cupy-cuda12x and cupy-cuda13x: it was "not installed" beside a CuPy that worked."""
    known = importlib.metadata.version
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "14.2" if name == "cupy-cuda13x" else known(name))
    assert main(["info", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["optional_packages"]["cupy"]["version"] == "14.2"


def test_info_says_why_there_is_no_cuda(capsys: pytest.CaptureFixture[str]) -> None:
    main(["info", "--json"])
    assert json.loads(capsys.readouterr().out)["devices"]["cuda"] == gpuq.dispatch.cuda_unavailable_reason()


# ---- selftest ----


def test_selftest_passes(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["selftest", "--device", "cpu"]) == 0
    text = capsys.readouterr().out
    for operator in selftest.cases.GENERATORS:
        assert operator in text
    assert "FAILED" not in text


def test_selftest_fails_on_a_wrong_bit(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    right = reference.dynamic_quantize_linear

    def wrong(x: object) -> tuple[object, ...]:
        y, scale, zero_point = right(x)
        return y, np.nextafter(scale, np.float32(2)), zero_point

    monkeypatch.setattr(reference, "dynamic_quantize_linear", wrong)
    monkeypatch.setattr(
        selftest.cases, "GENERATORS", {"dynamic_quantize_linear": selftest.cases.GENERATORS["dynamic_quantize_linear"]}
    )
    assert main(["selftest"]) == 1
    shown = capsys.readouterr()
    assert "FAILED" in shown.out
    assert "dynamic_quantize_linear(float32[7]): result 1: 1 of 1 differ" in shown.err


def test_selftest_counts_a_raise(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def broken(real: object) -> None:
        raise RuntimeError("broken on purpose")

    monkeypatch.setattr(gpuq, "quantize_multiplier", broken)
    monkeypatch.setattr(selftest.cases, "GENERATORS", {"quantize_multiplier": lambda seed: iter([Case((0.5,))])})
    assert main(["selftest"]) == 1
    assert "quantize_multiplier(0.5): raised RuntimeError: broken on purpose" in capsys.readouterr().err


# ---- demo ----


def test_demo_runs_and_writes_its_picture(tmp_path: Path) -> None:
    for package in demo.NEEDED:
        pytest.importorskip(package)
    finished = run("demo", "--out", str(tmp_path / "new" / "folder"))
    assert finished.returncode == 0, finished.stdout + finished.stderr
    picture = tmp_path / "new" / "folder" / "demo.png"
    assert picture.read_bytes().startswith(PNG_SIGNATURE)
    output = "".join(finished.stdout.split())  # a terminal's width may break lines anywhere
    assert "".join(f"picture: {picture.resolve()}".split()) in output
    assert output.count("equalbitforbit") == 2
    for word in ("float32", "static", "dynamic", "quantize_linear", "qlinear_matmul", "GOPS", "GB/s"):
        assert word in output


def test_demo_names_the_extra_it_needs(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(demo, "NEEDED", ("a_package_that_is_not_there",))
    assert main(["demo"]) == 2
    assert "a_package_that_is_not_there not installed: pip install 'gpuq[demo]'" in capsys.readouterr().err


def test_demo_refuses_a_file_as_folder(tmp_path: Path) -> None:
    for package in demo.NEEDED:
        pytest.importorskip(package)
    (tmp_path / "taken").write_text("")
    assert_one_line_error(run("demo", "--out", str(tmp_path / "taken")), "taken")


def test_demo_judges_agreement_and_bits(capsys: pytest.CaptureFixture[str]) -> None:
    exact = np.eye(100, 10, dtype=np.float32)
    other = np.roll(exact, 1, axis=1)
    assert demo.judge(exact, [demo.network.Scheme("static", [exact], None, None)]) == 0
    assert demo.judge(exact, [demo.network.Scheme("static", [other], None, None)]) == 1
    assert demo.judge(exact, [demo.network.Scheme("static", [exact], None, "1 of 9 differ")]) == 1
    assert "static: agrees with float32 on 90.00%, required is 99%" in capsys.readouterr().err


# ---- mistakes ----


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), ("COMMAND",)),
        (("nonsense",), ("nonsense", "demo")),
        (("info", "--nonsense"), ("--nonsense",)),
        (("selftest", "--seed", "many"), ("--seed", "many")),
        (("selftest", "--seed", "-1"), ("--seed", "-1")),
        (("selftest", "--device", "tpu"), ("device", "tpu", "cuda")),
        (("selftest", "--device", "cuda"), ("cuda", "not available")),
    ],
)
def test_mistakes_are_said_in_one_line(arguments: tuple[str, ...], words: tuple[str, ...]) -> None:
    assert_one_line_error(run(*arguments), *words)


def test_a_bad_environment_is_said_in_one_line() -> None:
    assert_one_line_error(run("info", GPUQ_ISA="nonsense"), "GPUQ_ISA", "nonsense")


def test_an_interrupt_ends_quietly(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupt(arguments: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(info, "run", interrupt)
    assert main(["info"]) == 130
    assert capsys.readouterr().err == "gpuq: interrupted\n"


# ---- the comparison that selftest and demo rest on ----


@pytest.mark.parametrize(
    ("expected", "actual", "ulp", "words"),
    [
        (np.int8([1, 2]), np.int8([1, 2]), 0, None),
        (np.int8([1, 2]), np.int8([1, 3]), 0, "1 of 2 differ, first (1,): expected 2, got 3"),
        (np.int8([1]), np.int16([1]), 0, "dtype"),
        (np.int8([1]), np.int8([[1]]), 0, "shape"),
        (np.float32([np.nan]), -np.float32([np.nan]), 0, None),
        (np.float32([np.nan]), np.float32([1]), 4, "1 of 1"),
        (np.float32([0.0]), np.float32([-0.0]), 0, "1 of 1"),
        (np.float32([1.0]), np.nextafter(np.float32([1]), np.float32(2)), 0, "1 of 1"),
        (np.float32([1.0]), np.nextafter(np.float32([1]), np.float32(2)), 1, None),
        (np.float64([-1e308]), np.float64([1e308]), 0, "1 of 1"),
        ((np.int8(1), np.int8(2)), (np.int8(1), np.int8(4)), 0, "result 1"),
    ],
)
def test_first_difference(expected: object, actual: object, ulp: int, words: str | None) -> None:
    found = first_difference(expected, actual, ulp)
    if words is None:
        assert found is None
    else:
        assert found is not None
        assert words in found
