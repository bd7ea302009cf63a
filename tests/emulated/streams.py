"""Streams whose work is done as late as the rules allow: when somebody waits for it.

A task knows the tasks it comes after. In a stream these are the one before it, for an event that of the event; the
legacy stream 0 comes after all other streams' tasks and before their later ones, but for streams made non-blocking.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field


@dataclass(eq=False)
class Task:
    """One piece of work, and what must be done before it."""

    run: Callable[[], None]
    after: list[Task] = field(default_factory=list)
    done: bool = False


@dataclass(eq=False)
class Graph:
    """What a stream has been asked for while it captured; `replay` asks for it again."""

    pieces: list[Callable[[], None]] = field(default_factory=list)


@dataclass(eq=False)
class Stream:
    """A queue of tasks, known by the last of them."""

    blocking: bool = True
    last: Task | None = None
    capturing: Graph | None = None
    waits: list[Task] = field(default_factory=list)


class Streams:
    """The streams of one device; number 0 is the legacy stream."""

    def __init__(self) -> None:
        self.streams: dict[int, Stream] = {0: Stream()}

    def add(self, stream: Stream, run: Callable[[], None]) -> None:
        """Put work at a stream's end, or into the graph that it captures."""
        if stream.capturing is not None:
            stream.capturing.pieces.append(run)
            return
        legacy = self.streams[0]
        others = self.streams.values() if stream is legacy else [legacy]
        after = [other.last for other in others if other.blocking and stream.blocking]
        task = Task(run, [each for each in (*after, stream.last, *stream.waits) if each is not None and not each.done])
        stream.last, stream.waits = task, []

    def add_after_all(self, run: Callable[[], None]) -> None:
        """Put work behind all that any stream has been asked for."""
        legacy = self.streams[0]
        legacy.waits += [stream.last for stream in self.streams.values() if stream.last is not None]
        self.add(legacy, run)

    def replay(self, graph: Graph, stream: Stream) -> None:
        """Ask for a graph's work on a stream."""
        for piece in graph.pieces:
            self.add(stream, piece)

    def finish(self, streams: Iterable[Stream]) -> None:
        """Do all work of these streams, and what it comes after; once a task has failed, all others are forgotten, as a
        device does no more after an error.
        """
        try:
            for stream in list(streams):
                while (last := stream.last) is not None:
                    finish(last)
                    if stream.last is last:
                        stream.last = None
        except BaseException:
            for stream in self.streams.values():
                stream.last, stream.waits = None, []
            raise


_running: list[Task] = []


def in_a_task() -> bool:
    """Whether a task is being done: a garbage collection in its midst may ask for something, but not for its end."""
    return bool(_running)


def finish(task: Task) -> None:
    """Do a task, after all that comes before it."""
    waiting = [task]
    while waiting:
        current = waiting[-1]
        before = [each for each in current.after if not each.done]
        if before:
            waiting.extend(before)
            continue
        waiting.pop()
        if not current.done:
            current.done, current.after = True, []
            _running.append(current)
            try:
                current.run()
            finally:
                _running.remove(current)
