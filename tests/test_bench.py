"""`gpuq bench`: what is timed computes what it should, turns and limits, the ceilings' kernels, the report."""

from __future__ import annotations

import functools
import io
import json
import sys
import threading
import time
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_cli import PNG_SIGNATURE, assert_one_line_error, run

from gpuq.cli import bench, bench_ceilings, bench_peers, bench_report, bench_worker, main, timing
from gpuq.cli.contests import ELEMENTWISE, PRODUCTS, ZERO_POINT, Contest, gpuq_way, matrices, numpy_way
from gpuq.cpu import ceilings
from gpuq.cpu.isa import INSTRUCTION_SETS, available
from gpuq.cpu.spread import ALONE
from gpuq.cpu.streaming import VECTOR
from gpuq.layout import aligned

CONTESTS = [*(Contest(name, (1000,)) for name in ELEMENTWISE), *(Contest(name, (5, 7, 3)) for name in PRODUCTS)]
PEERS_TAKE_PART = ("quantize_linear fresh", "dequantize_linear fresh", "matmul_integer packed", "matmul_integer")


def operation_of(contest: Contest) -> str:
    return contest.operation


@pytest.mark.parametrize("contest", CONTESTS, ids=operation_of)
def test_numpy_does_the_same_as_gpuq(contest: Contest) -> None:
    """Up to a code, where NumPy gives codes; calls that write into an array give it back, or nothing."""
    ours, theirs = gpuq_way(contest)(), numpy_way(contest)()
    if contest.operation.startswith("dynamic"):
        ours = ours[0]
    if theirs is not None and contest.unit == "GB/s":
        assert theirs.dtype == ours.dtype
        assert np.abs(theirs.astype(np.float64) - ours).max() <= 1


@pytest.mark.parametrize("operation", [*PEERS_TAKE_PART, "dynamic_quantize_linear"])
def test_onnxruntime_does_the_same_as_gpuq(operation: str) -> None:
    for package in bench_peers.NEEDED["onnxruntime"]:
        pytest.importorskip(package)
    contest = Contest(operation, (5, 7, 3) if operation.startswith("matmul") else (1000,))
    way = bench_peers.onnxruntime_way(contest)
    assert way is not None
    ours = gpuq_way(contest)()
    expected = ours if isinstance(ours, tuple) else (ours,)
    for own, their in zip(expected, way(), strict=True):
        assert their.dtype == own.dtype
        assert their.tolist() == own.tolist()


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor")
@pytest.mark.parametrize("operation", PEERS_TAKE_PART)
def test_torch_takes_part(operation: str) -> None:
    pytest.importorskip("torch")
    contest = Contest(operation, (5, 7, 3) if operation.startswith("matmul") else (1000,))
    way = bench_peers.torch_way(contest)
    assert way is not None
    if operation.startswith("matmul"):
        a, b, _, _ = matrices(5, 7, 3)
        assert way().tolist() == ((a.astype(int) - int(ZERO_POINT)) @ b.astype(int)).tolist()
    else:
        assert way().shape == (1000,)


@pytest.mark.parametrize("contest", CONTESTS, ids=operation_of)
def test_cupy_is_asked_for_what_numpy_is(contest: Contest, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a module of its name that has NumPy's functions, as CuPy has, and a device that is waited for."""
    pytest.importorskip("numba_cuda", reason="needs the package numba-cuda")
    from gpuq.cli import bench_gpu

    said: list[str] = []

    class Device:
        def __init__(self, number: int) -> None:
            said.append(f"device {number}")

        def use(self) -> None:
            said.append("used")

        def synchronize(self) -> None:
            said.append("waited")

    class Counting(types.ModuleType):
        cuda = types.SimpleNamespace(Device=Device)

        def __getattr__(self, name: str) -> Any:
            said.append(name)
            return getattr(np, name)

    monkeypatch.setitem(sys.modules, "cupy", Counting("cupy"))
    run, times = bench_gpu.cupy_row(contest, "cuda:1")
    before = len(said)
    run()
    assert said[:2] == ["device 1", "used"]
    assert said[-1] == "waited"
    assert "asarray" in said[:before]
    assert (len(said) - 1 - before) % times == 0
    assert len(said) - 1 > before


def test_who_takes_part(monkeypatch: pytest.MonkeyPatch) -> None:
    """CuPy was left out; ONNX Runtime has no GPU here, CuPy nothing else."""
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
    assert bench.contenders_on("cpu", peers=True)[:4] == ("gpuq", "numpy", "onnxruntime", "torch")
    assert bench.contenders_on("cuda", peers=True) == ("gpuq", "gpuq, graph", "torch", "torch, graph", "cupy", "copy")
    assert bench.contenders_on("cuda", peers=False) == ("gpuq", "gpuq, graph", "copy")


def test_the_version_of_a_module_whose_package_has_another_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """CuPy's packages are called after the CUDA that they are for."""
    monkeypatch.setattr("importlib.metadata.packages_distributions", lambda: {"cupy": ["cupy-cuda13x"]})
    monkeypatch.setattr("importlib.metadata.version", {"cupy-cuda13x": "14.0"}.__getitem__)
    assert bench._version("cupy") == "14.0"


def test_peers_take_no_part_in_what_they_do_not_have() -> None:
    assert bench_peers.onnxruntime_way(Contest("requantize", (10,))) is None
    pytest.importorskip("torch")
    assert bench_peers.torch_way(Contest("quantize_linear", (10,))) is None


# ---- ceilings ----


@pytest.mark.parametrize("name", available())
def test_the_dot_instruction_alone(name: str) -> None:
    run, found = ceilings.dot_peak(name), np.zeros((2, 3), np.int64)
    if INSTRUCTION_SETS[name].group == 0:
        assert run is None
    else:
        assert run is not None
        for steps in (3, 4):
            run(ALONE, (steps, found[steps - 3]), 3, 1)
        assert len(set(found[0])) == len(set(found[1])) == 1
        assert (found[0] != found[1]).all()
        assert ceilings.operations_per_step(INSTRUCTION_SETS[name]) > 0


@pytest.mark.parametrize("non_temporal", [False, True])
@pytest.mark.parametrize(("reads", "writes"), [(4, 1), (1, 4), (1, 1)])
def test_a_stream_reads_and_writes_every_byte(reads: int, writes: int, non_temporal: bool) -> None:
    source = np.random.default_rng(0).integers(0, 256, 3 * reads * VECTOR, dtype=np.uint8)
    target = aligned((3 * writes * VECTOR,), np.uint8, VECTOR)
    ceilings.stream(reads, writes, non_temporal)(ALONE, (source, target), 3, 1)
    joined = functools.reduce(np.bitwise_or, np.moveaxis(source.reshape(3, reads, VECTOR), 1, 0))
    assert (target.reshape(3, writes, VECTOR) == joined[:, np.newaxis]).all()


def test_reading_sees_every_word() -> None:
    words = np.uint64(1) << np.arange(61, dtype=np.uint64)
    found = np.zeros(4, np.uint64)
    ceilings.read(ALONE, (words, found), 4, 1)
    assert [int(seen).bit_count() for seen in found] == [15, 15, 15, 16]
    assert np.bitwise_or.reduce(found) == 2**61 - 1


def test_what_a_ceiling_reads_was_written_before() -> None:
    """New pages that are only read are one page of zeros, in the nearest cache: 190 GB/s where memory gives 60."""
    assert (bench_ceilings._source(10_000) == 1).all()


@pytest.mark.parametrize("contest", CONTESTS, ids=operation_of)
def test_every_contest_has_a_ceiling(contest: Contest) -> None:
    prepared = [
        bench_ceilings.peak_way(contest),
        bench_ceilings.stream_way(contest),
        bench_ceilings.stream_way(contest, True),
    ]
    ways = [way for way in prepared if way is not None]
    assert ways
    for call, factor in ways:
        call()
        assert factor > 0


def test_a_turn_waits_for_threads_that_spin() -> None:
    """Looked at every 2 ms, a spinning thread seemed idle between two ticks of the system: peers that came after
    one had half a machine.
    """
    end = time.perf_counter() + 0.1

    def spin() -> None:
        while time.perf_counter() < end:
            pass

    thread = threading.Thread(target=spin)
    thread.start()
    timing.settle()
    assert time.perf_counter() >= end
    thread.join()


# ---- turns, limits, what is chosen ----


class Constant:
    """A contender that says what it is told to say, and counts its turns."""

    def __init__(self, name: str, seconds: float, takes_part: bool = True) -> None:
        self.name, self.seconds, self.takes_part, self.turns = name, seconds, takes_part, 0

    def ask(self, **question: Any) -> dict[str, Any]:
        if question:
            return {"takes_part": self.takes_part, "path": {"device": "cpu"} if self.name == "gpuq" else None}
        self.turns += 1
        return {"seconds": self.seconds}


class Slower(Constant):
    """Its turns take 2, 3, 4, 5 and 1 seconds."""

    def ask(self, **question: Any) -> dict[str, Any]:
        answer = super().ask(**question)
        return answer if question else {"seconds": self.turns % 5 + 1.0}


def race(contest: Contest, *contenders: Constant, seconds: float = 60.0) -> dict[str, Any]:
    return bench.race(contest, contenders, seconds)  # type: ignore[arg-type]


def test_contenders_take_turns_and_the_slower_ceiling_of_a_product_holds() -> None:
    contenders = [Constant("gpuq", 4.0), Constant("torch", 1.0, False), Constant("peak", 2.0), Constant("stream", 1.0)]
    result = race(Contest("matmul_integer", (1000, 1000, 1000)), *contenders)
    assert [contender.turns for contender in contenders] == [30, 0, 30, 30]
    assert result["rates"] == {"gpuq": 0.5, "peak": 1.0, "stream": 2.0}
    assert (result["share_of_ceiling"], result["ceiling"], result["rounds"]) == (0.5, 1.0, 30)
    assert result["path"] == {"device": "cpu"}


def test_the_faster_copy_is_the_ceiling_of_an_elementwise_operator() -> None:
    contenders = [Constant("gpuq", 4.0), Constant("stream", 2.0), Constant("stream, non-temporal", 1.0)]
    assert race(Contest("quantize_linear", (1000,)), *contenders)["share_of_ceiling"] == 0.25


def test_the_spread_is_that_of_the_middle_half_of_the_rounds() -> None:
    """Quartiles 2 and 4 around a median of 3; one round alone has none."""
    result = race(Contest("quantize_linear", (1000,)), Slower("gpuq", 0.0))
    assert result["spread"] == {"gpuq": pytest.approx(1 / 3)}
    assert race(Contest("quantize_linear", (1000,)), Slower("gpuq", 0.0), seconds=0.0)["spread"] == {"gpuq": None}


def test_a_ceiling_is_its_fastest_round() -> None:
    """Where the system left both its threads on one core for most rounds, gpuq had 160 % of the ceiling."""
    contenders = [Slower("gpuq", 0.0), Slower("peak", 0.0)]
    assert race(Contest("matmul_integer", (1000, 1000, 1000)), *contenders)["share_of_ceiling"] == 1 / 3


def test_a_contest_stops_within_its_limit() -> None:
    assert race(Contest("quantize_linear", (1000,)), Constant("gpuq", 1.0), seconds=0.0)["rounds"] == 1


def test_what_is_timed_by_default_and_by_choice() -> None:
    everything = bench.contests_of(None, None)
    assert {contest.shape for contest in everything} >= {(4096, 4096, 4096), (1, 4096, 4096), (1 << 24,)}
    assert {contest.operation for contest in everything} == {*ELEMENTWISE, "matmul_integer packed", "matmul_integer"}
    assert {contest.shape for contest in bench.contests_of([(1, 2, 3)], None)} == {(1, 2, 3)}
    assert {contest.shape for contest in bench.contests_of(None, [5])} == {(5,)}


def test_a_worker_answers_line_by_line() -> None:
    questions = io.StringIO('{"operation": "quantize_linear", "shape": [9]}\n{}\n')
    answers = io.StringIO()
    bench_worker.serve("gpuq", "cpu", questions, answers)
    prepared, timed = map(json.loads, answers.getvalue().splitlines())
    assert prepared["takes_part"]
    assert prepared["path"]["kernel"] == "quantize_linear"
    assert timed["seconds"] > 0


def test_a_process_that_ends_is_named() -> None:
    with bench_worker.Contender("nobody", "cpu") as contender, pytest.raises(OSError, match="nobody has ended"):
        contender.ask(operation="quantize_linear", shape=[9])


# ---- the command ----


def test_the_command_writes_figures_and_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("matplotlib")
    monkeypatch.setattr(bench, "ROUNDS", 2)
    monkeypatch.setattr(bench, "MACHINE", bench.MACHINE[:1])
    figures, picture = tmp_path / "bench.json", tmp_path / "bench.png"
    options = ["--shapes", "3x4x5", "--elements", "64,128", "--json", str(figures), "--plot", str(picture)]
    assert main(["bench", *options]) == 0
    report = json.loads(figures.read_text())
    assert report["machine"]["versions"]["gpuq"]
    assert report["device"] == "cpu"
    assert len(report["results"]) == 1 + 2 + 2 * len(ELEMENTWISE)
    for result in report["results"][1:]:
        assert {"gpuq", "numpy"} <= result["rates"].keys()
        assert result["rounds"] in (1, 2)  # one where the machine was too busy for more
        assert result["share_of_ceiling"] > 0
    assert picture.read_bytes().startswith(PNG_SIGNATURE)


def test_the_table_without_rich(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for module in [name for name in sys.modules if name.partition(".")[0] == "rich"]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "rich", None)
    machine = {"cpu": {"name": "some"}, "instruction_set": "portable", "threads": 1, "devices": {"cpu": "available"}}
    contenders = [Constant("gpuq", 4.0), Constant("peak", 2.0)]
    results = [race(Contest("matmul_integer", (1000, 1000, 1000)), *contenders[start:]) for start in (0, 1)]
    bench_report.show(
        {"device": "cpu", "machine": machine, "contenders": {"gpuq": "1", "peak": None}, "results": results}
    )
    text = capsys.readouterr().out
    for word in ("1000x1000x1000", "50.0%", "gpuq of it", "dot instruction: peak 1 GOPS", "0.5 ±0%", "quartiles"):
        assert word in text


@pytest.mark.parametrize(
    ("option", "value"),
    [("device", "cuda:99"), ("device", "gpu"), ("shapes", "3x4"), ("shapes", "3x4xk"), ("elements", "0")],
)
def test_mistakes_are_said_in_one_line(option: str, value: str) -> None:
    assert_one_line_error(run("bench", f"--{option}", value), option, value)
