"""`jit`: Numba's `njit` as every CPU kernel uses it, with gpuq's own cache of machine code on disk.

A kernel is compiled at its first call and stored; a later process loads it instead. The cache is one file per kernel
and signature, named by a hash of everything its machine code depends on: gpuq's kernel sources, the versions of
Python, Numba and llvmlite, the CPU and its features, the signature. So nothing in it can be stale, and processes that
write at once write the same bytes under the same name (Numba's own cache shares an index file, which two writers can
leave pointing at the wrong code). A file carries its own hash: a truncated or altered one counts as absent. A folder
that cannot be written costs compile time, never a call.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import pickle
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import llvmlite
import numba
from numba.core.compiler import CompileResult
from numba.misc.appdirs import AppDirs

from gpuq.closures import describe, named_by_contents

_DIGEST_BYTES = hashlib.sha256().digest_size


def jit(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile `function` without the GIL, with IEEE division and without contraction, and keep its code on disk."""
    dispatcher = numba.njit(nogil=True, error_model="numpy")(named_by_contents(function))
    dispatcher._cache = _CodeCache(function)
    return dispatcher


def cache_folder() -> Path:
    """The folder of compiled kernels: `GPUQ_CACHE_DIR`, else the user's cache folder of this operating system."""
    folder = os.environ.get("GPUQ_CACHE_DIR") or AppDirs(appname="gpuq", appauthor=False).user_cache_dir
    return Path(folder)


def cache_writable() -> bool:
    """Whether kernels can be stored there; if not, every process compiles anew."""
    folder = next((path for path in (cache_folder(), *cache_folder().parents) if path.exists()), None)
    return folder is not None and folder.is_dir() and os.access(folder, os.W_OK)


@functools.lru_cache(maxsize=1)
def _source_hash() -> str:
    """A hash of the sources that end up in compiled code."""
    package = Path(__file__).parent.parent
    digest = hashlib.sha256()
    for path in (*sorted(package.glob("*.py")), *sorted((package / "cpu").glob("*.py"))):
        digest.update(path.read_bytes())
    return digest.hexdigest()


class _CodeCache:
    """What a Numba dispatcher asks of its `_cache`: load or save the code of one signature."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function

    @property
    def cache_path(self) -> str:
        return str(cache_folder())

    def load_overload(self, signature: Any, target_context: Any) -> Any:
        target_context.refresh()
        try:
            path = self._path(signature, target_context.codegen())
            stored = path.read_bytes()
            digest, code = stored[:_DIGEST_BYTES], stored[_DIGEST_BYTES:]
            if _digest(path, code) != digest:
                return None
            return CompileResult._rebuild(target_context, *pickle.loads(code))
        except Exception:  # whatever is wrong with the file or the folder: compile
            return None

    def save_overload(self, signature: Any, result: Any) -> None:
        if result.library.has_dynamic_globals:
            return
        code = pickle.dumps(result._reduce(), protocol=pickle.HIGHEST_PROTOCOL)
        with contextlib.suppress(OSError):  # read-only or full: the next process compiles again
            path = self._path(signature, result.codegen)
            _write_whole(path, _digest(path, code) + code)

    def _path(self, signature: Any, codegen: Any) -> Path:
        function = self._function
        depends_on = (
            _source_hash(),
            sys.version,
            numba.__version__,
            llvmlite.__version__,
            codegen.magic_tuple(),
            describe(function),
            str(signature),
        )
        name = hashlib.sha256(repr(depends_on).encode()).hexdigest()[:32]
        return cache_folder() / f"{function.__name__}-{name}.code"


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
