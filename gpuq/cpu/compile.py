"""`jit`: Numba's `njit` as every CPU kernel uses it, with gpuq's own cache of machine code on disk.

A kernel is compiled at its first call and stored (code_cache.py); a later process loads it instead. Its code depends
on the sources of the kernel and of all that it calls, the versions of Python, Numba and llvmlite, the CPU and its
features, and the signature. (Numba's own cache shares an index file, which two writers can leave pointing at the wrong
code.)
"""

from __future__ import annotations

import pickle
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import llvmlite
import numba
from numba.core.compiler import CompileResult
from numba.core.runtime import rtsys

from gpuq import code_cache
from gpuq.closures import describe, modules_of, named_by_contents


def jit(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile `function` without the GIL, with IEEE division and without contraction, and keep its code on disk."""
    dispatcher = numba.njit(nogil=True, error_model="numpy")(named_by_contents(function))
    dispatcher._cache = _CodeCache(function)
    return dispatcher


class _CodeCache:
    """What a Numba dispatcher asks of its `_cache`: load or save the code of one signature."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function

    @property
    def cache_path(self) -> str:
        return str(code_cache.cache_folder())

    def load_overload(self, signature: Any, target_context: Any) -> Any:
        rtsys.initialize(target_context)  # the symbols that code refers to; a refresh of all is for compiling
        try:
            code = code_cache.read(self._path(signature, target_context.codegen()))
            return None if code is None else CompileResult._rebuild(target_context, *pickle.loads(code))
        except Exception:  # whatever is wrong with the file or the folder: compile
            return None

    def save_overload(self, signature: Any, result: Any) -> None:
        if not result.library.has_dynamic_globals:
            code = pickle.dumps(result._reduce(), protocol=pickle.HIGHEST_PROTOCOL)
            code_cache.write(self._path(signature, result.codegen), code)

    def _path(self, signature: Any, codegen: Any) -> Path:
        depends_on = (
            code_cache.source_hash(modules_of(self._function) | {__name__}),
            sys.version,
            numba.__version__,
            llvmlite.__version__,
            codegen.magic_tuple(),
            describe(self._function),
            str(signature),
        )
        return code_cache.path_of(self._function.__name__, depends_on)
