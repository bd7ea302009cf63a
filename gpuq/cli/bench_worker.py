"""A contender of `gpuq bench` in a process of its own, and the bench's end of the line to it.

    bench                                        process of the contender
    {"operation": …, "shape": […]}      ──►      prepares its call, makes it once
                                        ◄──      {"takes_part": …, "path": …}
    {}                                  ──►      a turn: calls in a row (timing.py), then waits for its own threads
                                        ◄──      {"seconds": …}

One line of JSON each; the end of the input ends the process.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from typing import IO, Any

import gpuq
from gpuq.cli import bench_ceilings, bench_peers, timing
from gpuq.cli.contests import Contest, gpuq_way, numpy_way

Way = tuple[Callable[[], Any], float]  # a call, and how many times the work of the contest it does


def ways(device: str) -> dict[str, Callable[[Contest], Way | Callable[[], Any] | None]]:
    """What each contender prepares for a contest: None where it takes no part."""
    if device != "cpu":
        from gpuq.cli import bench_gpu

        return {name: _on(device, way) for name, way in bench_gpu.WAYS.items()}
    return {
        "gpuq": gpuq_way,
        "numpy": numpy_way,
        "peak": bench_ceilings.peak_way,
        "peak, 1 thread": lambda contest: bench_ceilings.peak_way(contest, 1),
        "stream": bench_ceilings.stream_way,
        "stream, non-temporal": lambda contest: bench_ceilings.stream_way(contest, True),
        **bench_peers.WAYS,
    }


def _on(device: str, way: Callable[[Contest, str], Way | None]) -> Callable[[Contest], Way | None]:
    return lambda contest: way(contest, device)


class Contender:
    """The bench's end of the line: a process that runs inside of `with`."""

    def __init__(self, name: str, device: str) -> None:
        self.name = name
        command = [sys.executable, "-W", "ignore", "-c", f"from {__name__} import main; main()", name, device]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ask(self, **question: Any) -> dict[str, Any]:
        """One question, one answer."""
        sent, received = self._process.stdin, self._process.stdout
        if sent is None or received is None:
            raise OSError(f"the process of {self.name} has no pipes")
        try:
            print(json.dumps(question), file=sent, flush=True)
            answer: dict[str, Any] = json.loads(received.readline())
        except ValueError:  # an empty line: it has ended, and said why on standard error
            raise OSError(f"the process of {self.name} has ended") from None
        return answer

    def __enter__(self) -> Contender:
        return self

    def __exit__(self, *error: object) -> None:
        self._process.kill()
        self._process.communicate()


def serve(name: str, device: str, questions: IO[str], answers: IO[str]) -> None:
    """The contender's end."""
    prepare = ways(device)[name]
    call, factor, seconds = _nothing, 1.0, 0.0
    for line in questions:
        question = json.loads(line)
        answer: dict[str, Any]
        if question:
            call, seconds = _nothing, 0.0  # drops the arrays of the last contest
            way = prepare(Contest(question["operation"], tuple(question["shape"])))
            answer = {"takes_part": way is not None, "path": None}
            if way is not None:
                call, factor = way if isinstance(way, tuple) else (way, 1.0)
                call()
                path = gpuq.last_path() if name.startswith("gpuq") else None
                answer["path"] = path and path._asdict()
        else:
            seconds = timing.turn(call, seconds)
            timing.settle()
            answer = {"seconds": seconds / factor}
        print(json.dumps(answer), file=answers, flush=True)


def _nothing() -> None:
    """The call before the first contest."""


def main() -> None:
    """Serve the bench that started this process: arguments are the contender's name and the device."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever else is printed goes to standard error
    serve(sys.argv[1], sys.argv[2], sys.stdin, answers)
