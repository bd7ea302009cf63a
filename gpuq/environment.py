"""The environment variables that are read at every call, so that a change between two calls counts.

`os.environ.get` takes close to a microsecond for a variable that is not set, as it raises and catches an exception on
the way; a call of gpuq reads two, and lasts a few. CPython keeps the variables in a dictionary behind `os.environ`,
which every change made through it reaches; that dictionary is read where it is there, else `os.environ`.
"""

from __future__ import annotations

import os

_ENVIRON = type(os.environ)
_STORED = isinstance(getattr(os.environ, "_data", None), dict)


def _stored_name(name: str) -> str | bytes:
    """The name as that dictionary has it: bytes, on Windows a string in upper case."""
    encoded: str | bytes = os.environ.encodekey(name) if _STORED else name
    return encoded


DEVICE, ISA = "GPUQ_DEVICE", "GPUQ_ISA"
NAMES = {name: _stored_name(name) for name in (DEVICE, ISA, "GPUQ_NUM_THREADS", "GPUQ_CHECK")}

_STORED_DEVICE, _STORED_ISA = NAMES[DEVICE], NAMES[ISA]


def read(name: str) -> str | None:
    """`os.environ.get(name)` of one of NAMES."""
    environ = os.environ
    if not _STORED or type(environ) is not _ENVIRON:
        return environ.get(name)
    value = environ._data.get(NAMES[name])  # type: ignore[attr-defined]
    return None if value is None else environ.decodevalue(value)


def choices() -> tuple[object, object]:
    """What GPUQ_DEVICE and GPUQ_ISA are, as they are stored: the same choices are equal."""
    environ = os.environ
    if not _STORED or type(environ) is not _ENVIRON:
        return environ.get(DEVICE), environ.get(ISA)
    stored = environ._data  # type: ignore[attr-defined]
    return stored.get(_STORED_DEVICE), stored.get(_STORED_ISA)
