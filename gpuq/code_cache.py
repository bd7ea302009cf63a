"""The cache of compiled kernels on disk, shared by both backends: one file per kernel and whatever its code depends on.

A file is named by a hash of everything its code is made from, so nothing in it can be stale, and processes that write
at once write the same bytes under the same name. A file carries its own hash: a truncated or altered one counts as
absent. A folder that cannot be written costs compile time, never a call.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import re
import tempfile
from pathlib import Path

from numba.misc.appdirs import AppDirs

_IMPORT = re.compile(r"^\s*(?:from|import) (gpuq[\w.]*)(?: import (\([^)]*\)|[^\n]*))?", re.MULTILINE)
ON_HOST = frozenset({"gpuq.cuda.launch", "gpuq.device_array"})  # what launches kernels, and is in the code of none
_DIGEST_BYTES = hashlib.sha256().digest_size


def cache_folder() -> Path:
    """The folder of compiled kernels: `GPUQ_CACHE_DIR`, else the user's cache folder of this operating system."""
    folder = os.environ.get("GPUQ_CACHE_DIR") or AppDirs(appname="gpuq", appauthor=False).user_cache_dir
    return Path(folder)


def cache_writable() -> bool:
    """Whether kernels can be stored there; if not, every process compiles anew."""
    folder = next((path for path in (cache_folder(), *cache_folder().parents) if path.exists()), None)
    return folder is not None and folder.is_dir() and os.access(folder, os.W_OK)


@functools.cache
def source_hash(modules: frozenset[str]) -> str:
    """A hash of the sources that end up in the code of functions of these modules: of gpuq's files among them, all that
    those import but the launch layer, and layout.py, of whose tuples kernels read the fields by their place.
    """
    found: dict[str, bytes] = {}
    waiting = [*modules, "gpuq.layout"]
    while waiting:
        module = waiting.pop()
        if module not in found:
            found[module], imported = _source(module)
            waiting += imported - ON_HOST
    return hashlib.sha256(repr(sorted(found.items())).encode()).hexdigest()


@functools.cache
def _source(module: str) -> tuple[bytes, frozenset[str]]:
    """A hash of a file of gpuq, and the names that it imports from gpuq, modules and others, wherever in the file it
    does; nothing for a package, for a name in a module, and for what is not gpuq's.
    """
    package, *names = module.split(".")
    path = Path(__file__).parent.joinpath(*names).with_suffix(".py")
    if package != "gpuq" or not names or not path.is_file():
        return b"", frozenset()
    text, imported = path.read_text(encoding="utf-8"), set()
    for parent, inside in _IMPORT.findall(text):
        imported |= {parent, *(f"{parent}.{name}" for name in re.findall(r"\w+", inside))}
    return hashlib.sha256(text.encode()).digest(), frozenset(imported)


def path_of(name: str, depends_on: tuple[object, ...]) -> Path:
    """The file of the code `name`, named by a hash of everything it depends on."""
    return cache_folder() / f"{name}-{hashlib.sha256(repr(depends_on).encode()).hexdigest()[:32]}.code"


def read(path: Path) -> bytes | None:
    """The code stored there; None where there is none, or none that is whole."""
    try:
        stored = path.read_bytes()
    except OSError:
        return None
    digest, code = stored[:_DIGEST_BYTES], stored[_DIGEST_BYTES:]
    return code if _digest(path, code) == digest else None


def write(path: Path, code: bytes) -> None:
    """Store code; where the folder is read-only or full, nothing."""
    with contextlib.suppress(OSError):
        _write_whole(path, _digest(path, code) + code)


def _digest(path: Path, code: bytes) -> bytes:
    """A hash of the code and of the name it is stored under: code under the name of other code does not pass."""
    return hashlib.sha256(path.name.encode() + code).digest()


def _write_whole(path: Path, data: bytes) -> None:
    """Write under another name and rename, so that no reader ever sees a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".writing-")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        os.replace(temporary, path)
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
