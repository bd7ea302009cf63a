"""What `import gpuq` loads, starts, compiles and writes: NumPy and Numba, nothing, nothing and nothing."""

from __future__ import annotations

import inspect
import json
import types
from pathlib import Path

import gpuq
from subprocesses import run_python

MODULES = """
import json, sys
{imports}
names = {{name.partition(".")[0] for name in sys.modules}}
print(json.dumps(sorted(names - set(sys.stdlib_module_names))))
"""
EFFECTS = """
import json, os, sys, threading
import numpy, numba
from numba.core import event

def system_threads():
    return len(os.listdir("/proc/self/task")) if os.path.isdir("/proc/self/task") else threading.active_count()

WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT
NEVER = ("os.mkdir", "os.rename", "os.fork", "subprocess.Popen", "os.system", "socket.connect", "ctypes.dlopen")
seen = []

def watch(name, arguments):
    if name in NEVER or (name == "open" and arguments[2] & WRITING):
        seen.append([name, str(arguments[0])])

threads = system_threads()
environment = dict(os.environ)
sys.addaudithook(watch)
with event.install_recorder("numba:compile") as compiled:
    import gpuq
seen = list(seen)
print(json.dumps({
    "effects": seen,
    "compiled": len(compiled.buffer),
    "threads": system_threads() - threads,
    "python threads": threading.active_count(),
    "environment": dict(os.environ) == environment,
    "numba.cuda": "numba.cuda" in sys.modules or "numba_cuda" in sys.modules,
}))
"""


def loaded(imports: str) -> set[str]:
    """The top-level modules outside the standard library after these imports, in a process of its own."""
    return set(json.loads(run_python(MODULES.format(imports=imports))))


def test_numpy_and_numba_alone_are_loaded() -> None:
    assert loaded("import gpuq") - loaded("import numpy, numba") == {"gpuq"}


def test_importing_has_no_effects() -> None:
    """No file is opened for writing, no library loaded by hand, no process or thread started, nothing compiled."""
    assert json.loads(run_python(EFFECTS)) == {
        "effects": [],
        "compiled": 0,
        "threads": 0,
        "python threads": 1,
        "environment": True,
        "numba.cuda": False,
    }


def test_importing_leaves_no_file(tmp_path: Path) -> None:
    folders = {
        "HOME": "home",
        "GPUQ_CACHE_DIR": "cache",
        "XDG_CACHE_HOME": "xdg",
        "TMPDIR": "tmp",
        "LOCALAPPDATA": "local",
    }
    for name in folders.values():
        (tmp_path / name).mkdir()
    places = {variable: str(tmp_path / name) for variable, name in folders.items()}
    run_python(f"import os; os.chdir({str(tmp_path)!r}); import gpuq", **places)
    assert {path.name for path in tmp_path.rglob("*")} == set(folders.values())


def test_the_public_names_are_those_of_all() -> None:
    public = {
        name
        for name, value in vars(gpuq).items()
        if not name.startswith("_") and not isinstance(value, types.ModuleType)
    }
    assert (public - {"annotations"}) | {"calibration"} == set(gpuq.__all__)
    assert sorted(gpuq.__all__) == gpuq.__all__


def test_a_star_import_gives_the_public_names() -> None:
    names: dict[str, object] = {}
    exec("from gpuq import *", names)
    assert set(names) - {"__builtins__"} == set(gpuq.__all__)


def test_every_public_name_says_what_it_is() -> None:
    for name in gpuq.__all__:
        assert inspect.getdoc(getattr(gpuq, name)), name


def test_the_contract_s_names_are_public() -> None:
    promised = {
        "quantize_linear",
        "dequantize_linear",
        "dynamic_quantize_linear",
        "fake_quantize",
        "matmul_integer",
        "qlinear_matmul",
        "scaled_matmul",
        "requantize",
        "quantize_multiplier",
        "prepack",
        "choose_qparams",
        "set_device",
        "device",
        "last_path",
        "PackedMatrix",
        "QParams",
        "DeviceError",
    }
    assert promised <= set(gpuq.__all__)
    assert gpuq.__version__.count(".") == 2
