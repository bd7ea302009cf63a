"""The faults that the emulator finds: one exception per kind, all of them EmulationError."""

from __future__ import annotations


class EmulationError(Exception):
    """A kernel did what PTX forbids, or asked for what the emulator does not know.

    The message names the instruction with its line and, where one is to blame, the thread and the address.
    """


class ParseError(EmulationError):
    """The PTX text holds something that the parser does not know."""


class UnsupportedError(EmulationError):
    """An instruction, modifier or operand that the emulator does not execute."""


class ContractionError(EmulationError):
    """A product and a sum that ptxas may fuse: the result is not determined by the PTX."""


class LaunchError(EmulationError):
    """The launch itself is wrong: arguments, grid, shared memory size or compute capability."""


class AccessError(EmulationError):
    """An address outside every buffer, misaligned, or a write to a read-only buffer."""


class UninitializedError(EmulationError):
    """A read of memory that nobody has written."""


class RaceError(EmulationError):
    """Two threads on one shared byte without a barrier, or two blocks on one global byte."""


class BarrierError(EmulationError):
    """A barrier or warp-wide instruction that not all of its threads reach together."""


class AsyncCopyError(EmulationError):
    """Shared memory touched while a cp.async copy into it is in flight."""


class StepLimitError(EmulationError):
    """A kernel ran longer than the limit: most likely a loop that never ends."""
