"""The cache of machine code: a kernel is compiled once, and nothing that lies on disk can break or change a call."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import inspect
import os
import pickle
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import llvmlite
import numba
import numpy as np
import pytest
from numba.core import event
from numba.core.dispatcher import _dispatcher

from gpuq import arithmetic, code_cache, curves
from gpuq.closures import modules_of
from gpuq.cpu.compile import jit
from subprocesses import finish, run_python, start_python

DIGEST = hashlib.sha256().digest_size

# operators against the reference; prints how many functions Numba compiled
OPERATORS = """
from compare import assert_all_same, assert_same
from numba.core import event
from gpuq import reference
from valid_calls import RESULT_TYPES, call, valid_arguments
import gpuq

with event.install_recorder("numba:compile") as recorder:
    for name in {names}:
        assert_same(call(name), getattr(reference, name)(**valid_arguments(name)), name)
    {more}
print(len(recorder.buffer))
"""
TWO_OPERATORS = OPERATORS.format(names=["quantize_linear", "requantize"], more="")
EVERY_OPERATOR = OPERATORS.format(
    names="RESULT_TYPES",
    more="""
    x = valid_arguments("quantize_linear")["x"]
    assert_all_same(gpuq.dynamic_quantize_linear(x), reference.dynamic_quantize_linear(x))
    assert_same(call("matmul_integer", b=call("prepack"), b_zero_point=None), call("matmul_integer"))
    gpuq.choose_qparams(-1.0, 1.0), gpuq.choose_qparams(-1.0, 1.0, symmetric=True), gpuq.quantize_multiplier(0.3)
""",
)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder as the cache, not made yet."""
    monkeypatch.setenv("GPUQ_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


def twice(x: Any) -> Any:
    return x + x


def thrice(x: Any) -> Any:
    return x + x + x


def make_scaled(factor: Any) -> Callable[..., Any]:
    def scaled(x: Any) -> Any:
        return x * factor

    return scaled


def assert_compiled(function: Callable[..., Any], argument: Any, expected: Any) -> None:
    """A new dispatcher of the function compiles it at its first call."""
    dispatcher = jit(function)
    with event.install_recorder("numba:compile") as recorder:
        assert dispatcher(argument) == expected
    assert len(recorder.buffer) > 0


def assert_loaded(function: Callable[..., Any], argument: Any, expected: Any) -> None:
    """A new dispatcher of the function finds its code on disk and compiles nothing."""
    dispatcher = jit(function)
    with event.install_recorder("numba:compile") as recorder:
        assert dispatcher(argument) == expected
    assert len(recorder.buffer) == 0


def only_file(folder: Path) -> Path:
    (path,) = folder.iterdir()
    return path


# ---- storing and finding ----


def test_the_second_dispatcher_loads(folder: Path) -> None:
    assert_compiled(twice, 21, 42)
    content = only_file(folder).read_bytes()
    assert_loaded(twice, 21, 42)
    assert only_file(folder).read_bytes() == content


def test_a_file_for_each_signature(folder: Path) -> None:
    assert_compiled(twice, 21, 42)
    assert_compiled(twice, 1.25, 2.5)
    assert len(list(folder.iterdir())) == 2
    assert_loaded(twice, 21, 42)
    assert_loaded(twice, 1.25, 2.5)


def test_functions_do_not_share_files(folder: Path) -> None:
    assert_compiled(twice, 21, 42)
    assert_compiled(thrice, 14, 42)
    assert_loaded(twice, 21, 42)


def test_closures_are_told_apart_by_what_they_hold(folder: Path) -> None:
    """In one process and across processes: a factory's functions share their name and their source."""
    assert_compiled(make_scaled(2), 21, 42)
    assert_compiled(make_scaled(3), 14, 42)
    assert_loaded(make_scaled(2), 21, 42)
    inner, other = jit(make_scaled(5)), jit(make_scaled(7))
    assert_compiled(make_scaled_by(inner), 2, 20)
    assert_compiled(make_scaled_by(other), 2, 28)
    assert_loaded(make_scaled_by(jit(make_scaled(5))), 2, 20)


def make_scaled_by(function: Callable[..., Any]) -> Callable[..., Any]:
    def doubled(x: Any) -> Any:
        return function(x) * 2

    return doubled


def test_the_folder_is_looked_up_at_every_call(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert_compiled(twice, 21, 42)
    monkeypatch.setenv("GPUQ_CACHE_DIR", str(tmp_path / "other"))
    assert_compiled(twice, 21, 42)
    assert only_file(tmp_path / "other").name == only_file(folder).name


@pytest.mark.skipif("sys.platform != 'linux'", reason="the user's cache folder is another on this system")
def test_the_default_folder_is_the_user_s(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GPUQ_CACHE_DIR", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert code_cache.cache_folder() == tmp_path / "gpuq"
    monkeypatch.setenv("GPUQ_CACHE_DIR", "")
    assert code_cache.cache_folder() == tmp_path / "gpuq"


def test_a_process_that_finds_its_kernels_leaves_the_compiler_alone(folder: Path) -> None:
    """Numba fills its registries, and imports SciPy's BLAS, to compile: most of a second that loading does not need."""
    script = """
import sys
from valid_calls import call
call("quantize_linear")
print("numba.np.arraymath" in sys.modules)
"""
    assert run_python(script) == "True\n"
    assert run_python(script) == "False\n"


# ---- what the name of a file depends on ----


def test_other_versions_compile_anew(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert_compiled(twice, 21, 42)
    for module in (numba, llvmlite):
        with monkeypatch.context() as patch:
            patch.setattr(module, "__version__", "0.0.1")
            assert_compiled(twice, 21, 42)
    assert len(list(folder.iterdir())) == 3
    assert_loaded(twice, 21, 42)


def test_other_sources_compile_anew(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert_compiled(twice, 21, 42)
    monkeypatch.setattr(code_cache, "source_hash", lambda modules: "other sources")
    assert_compiled(twice, 21, 42)
    assert len(list(folder.iterdir())) == 2


@pytest.mark.parametrize(
    ("module", "covered", "left_out"),
    [
        ("gpuq.cpu.elementwise", "arithmetic closures layout elements cpu.compile", "ops matmul cpu.gemm"),
        ("gpuq.cpu.gemm", "arithmetic layout cpu.microkernel cpu.isa cpu.tiles cpu.epilogue", "ops cuda.gemm"),
        ("gpuq.cuda.gemm_mma", "arithmetic layout cuda.gemm cuda.mma_loop cuda.ptx_tensor cuda.tiles", "ops cpu.gemm"),
    ],
)
def test_the_hash_covers_every_source_of_machine_code(
    module: str, covered: str, left_out: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernels, what they import, and layout.py: kernels read the fields of its tuples by their place. A change of
    any other file leaves the code on disk as good as it was.
    """
    copy = tmp_path / "gpuq"
    shutil.copytree(Path(code_cache.__file__).parent, copy, ignore=shutil.ignore_patterns("__pycache__"))
    known = code_cache.source_hash(frozenset({module}))
    monkeypatch.setattr(code_cache, "__file__", str(copy / "code_cache.py"))
    monkeypatch.setattr(code_cache, "_source", code_cache._source.__wrapped__)
    hash_sources = code_cache.source_hash.__wrapped__
    seen = [known]
    for name in (module.removeprefix("gpuq."), *covered.split()):
        assert hash_sources(frozenset({module})) == seen[-1]
        change(copy, name)
        seen.append(hash_sources(frozenset({module})))
        assert seen[-1] not in seen[:-1], f"{name} is not in the hash"
    for name in left_out.split():
        change(copy, name)
    assert hash_sources(frozenset({module})) == seen[-1]


def change(package: Path, name: str) -> None:
    source = package.joinpath(*name.split(".")).with_suffix(".py")
    source.write_text(source.read_text(encoding="utf-8") + "# changed\n", encoding="utf-8")


def test_a_closure_is_made_of_the_sources_of_what_it_holds(folder: Path) -> None:
    """A kernel of one module around a function of another: a change of either compiles it anew."""
    from gpuq.arithmetic import widen

    assert modules_of(make_scaled(make_scaled(widen))) == {__name__, "gpuq.arithmetic"}


def test_another_processor_compiles_anew(folder: Path) -> None:
    """A folder shared by machines, on a network drive or in an image, holds code for each of them."""
    script = "from test_compile import jit, twice; assert jit(twice)(21) == 42"
    tests = str(Path(__file__).parent)
    for processor in ("", "generic"):
        run_python(
            f"import sys; sys.path.insert(0, {tests!r}); {script}",
            **({"NUMBA_CPU_NAME": processor} if processor else {}),
        )
    assert len(list(folder.iterdir())) == 2


# ---- files that are not what they should be ----


def flipped(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


def signed(code: bytes) -> bytes:
    """Content that carries its right hash and is no code all the same."""
    return hashlib.sha256(code).digest() + code


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda content: b"",
    "one byte": lambda content: b"x",
    "the hash alone": lambda content: content[:DIGEST],
    "one byte short": lambda content: content[:-1],
    "half": lambda content: content[: len(content) // 2],
    "one byte more": lambda content: content + b"\0",
    "one bit flipped": flipped,
    "the hash altered": lambda content: flipped(content[:DIGEST]) + content[DIGEST:],
    "text": lambda content: b"Not found\n" * 100,
    "signed text": lambda content: signed(b"Not found\n" * 100),
    "signed nothing": lambda content: signed(b""),
    "a signed None": lambda content: signed(pickle.dumps(None)),
    "a signed tuple": lambda content: signed(pickle.dumps((1, 2, 3))),
    "a signed class that is gone": lambda content: signed(b"cgpuq.gone\nGone\n."),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_replaced(folder: Path, damage: str) -> None:
    assert_compiled(twice, 21, 42)
    path = only_file(folder)
    path.write_bytes(DAMAGES[damage](path.read_bytes()))
    assert_compiled(twice, 21, 42)
    assert only_file(folder) == path
    assert_loaded(twice, 21, 42)


def test_the_code_of_another_function_is_replaced(folder: Path) -> None:
    """Under the wrong name, sound as it is: running it would give another function's result."""
    assert_compiled(twice, 21, 42)
    path = only_file(folder)
    assert_compiled(thrice, 14, 42)
    (other,) = set(folder.iterdir()) - {path}
    shutil.copy(other, path)
    assert_compiled(twice, 21, 42)
    assert_loaded(twice, 21, 42)


def test_files_of_others_are_left_alone(folder: Path) -> None:
    folder.mkdir()
    others = {
        folder / name: name.encode() for name in ("notes.txt", "twice-0000.code", ".writing-left-behind", "a.nbi")
    }
    for path, content in others.items():
        path.write_bytes(content)
    assert_compiled(twice, 21, 42)
    assert_loaded(twice, 21, 42)
    assert {path: path.read_bytes() for path in others} == others


def test_a_folder_where_the_file_should_be(folder: Path) -> None:
    assert_compiled(twice, 21, 42)
    path = only_file(folder)
    path.unlink()
    path.mkdir()
    assert_compiled(twice, 21, 42)
    assert only_file(folder).is_dir()


# ---- folders that cannot be used ----


def test_a_missing_folder_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GPUQ_CACHE_DIR", str(tmp_path / "a" / "b" / "c"))
    assert_compiled(twice, 21, 42)
    assert_loaded(twice, 21, 42)


def test_a_file_instead_of_the_folder(folder: Path) -> None:
    folder.write_text("mine")
    assert_compiled(twice, 21, 42)
    assert folder.read_text() == "mine"


def test_a_folder_inside_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("mine")
    monkeypatch.setenv("GPUQ_CACHE_DIR", str(tmp_path / "file" / "cache"))
    assert_compiled(twice, 21, 42)


@contextlib.contextmanager
def as_nobody() -> Iterator[None]:
    """The superuser may do everything: inside it is another user; whoever else runs the tests stays what they are."""
    superuser = hasattr(os, "geteuid") and os.geteuid() == 0
    if superuser:
        os.seteuid(65534)
    try:
        yield
    finally:
        if superuser:
            os.seteuid(0)


def test_a_folder_without_permissions(folder: Path) -> None:
    folder.mkdir()
    assert_compiled(thrice, 14, 42)  # loads what compiling takes, which another user may not read
    only_file(folder).unlink()
    for mode in (0o500, 0o000):
        folder.chmod(mode)
        try:
            with as_nobody():
                assert_compiled(twice, 21, 42)
        finally:
            folder.chmod(0o700)
        assert list(folder.iterdir()) == []


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS, errno.ENOSPC, errno.ENAMETOOLONG])
@pytest.mark.parametrize(("module", "function"), [(tempfile, "mkstemp"), (os, "replace"), (os, "fdopen")])
def test_a_folder_that_refuses(
    folder: Path, module: Any, function: str, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Read-only, full or gone in the midst of writing: the call is right, and no part of a file stays."""

    def refuse(*arguments: Any, **options: Any) -> None:
        if function == "fdopen":
            os.close(arguments[0])
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(module, function, refuse)
    assert_compiled(twice, 21, 42)
    assert list(folder.iterdir()) == []


def test_a_folder_that_cannot_be_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert_compiled(twice, 21, 42)

    def refuse(path: Path) -> bytes:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    with monkeypatch.context() as patch:
        patch.setattr(code_cache, "source_hash", lambda modules: "known")
        patch.setattr(Path, "read_bytes", refuse)
        assert_compiled(twice, 21, 42)


# ---- several at once ----

# compiles the kernel of one rounding, and loads or compiles that of another after it
TWO_ROUNDINGS = """
import numpy as np
import gpuq
from compare import assert_same
from gpuq import reference

x = np.arange(-10, 10, dtype=np.float32) / 2
for rounding in {roundings}:
    result = gpuq.quantize_linear(x, 1.0, 20, rounding=rounding)
    assert_same(result, reference.quantize_linear(x, 1.0, 20, rounding=rounding), rounding)
"""


def test_code_from_disk_beside_code_compiled_here(folder: Path) -> None:
    """Sibling closures in one process, one of them loaded: neither may run in place of the other."""
    run_python(TWO_ROUNDINGS.format(roundings=("half_even",)))
    run_python(TWO_ROUNDINGS.format(roundings=("half_away", "half_even", "half_up")))
    run_python(TWO_ROUNDINGS.format(roundings=("half_up", "half_even", "half_away")))


def test_threads_that_compile_the_same_at_once(folder: Path) -> None:
    together, results = threading.Barrier(8), []

    def work() -> None:
        dispatcher = jit(twice)
        together.wait()
        results.append(dispatcher(21))

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [42] * 8
    assert only_file(folder).suffix == ".code"
    assert_loaded(twice, 21, 42)


def test_processes_that_start_at_once_and_one_that_comes_after(folder: Path) -> None:
    """Two on an empty cache get the right bits; the third finds all it needs."""
    first, second = start_python(TWO_OPERATORS), start_python(TWO_OPERATORS)
    assert int(finish(first)) > 0
    assert int(finish(second)) > 0
    files = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert all(name.endswith(".code") for name in files)
    assert run_python(TWO_OPERATORS) == "0\n"
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == files


def test_every_operator_is_compiled_once_and_for_all() -> None:
    """In the cache that all tests share, which need not be empty: a process finds what the one before it needed."""
    run_python(EVERY_OPERATOR)
    assert run_python(EVERY_OPERATOR) == "0\n"


@pytest.mark.parametrize("intrinsic", [arithmetic.fma, arithmetic.bits_of, arithmetic.float_of, curves._power_of_two])
def test_both_compilers_lower_an_intrinsic_in_the_same_way(intrinsic: Any) -> None:
    """Numba before 0.67 looks up, for the CPU, what the compiler for GPUs has made of an intrinsic since: a call on the
    CPU after one on a GPU found no way to lower fma.
    """
    arguments = len(inspect.signature(intrinsic._defn).parameters)
    assert intrinsic._defn(*[None] * arguments)[1] is intrinsic._defn(*[None] * arguments)[1]


def test_numba_tells_long_tuples_of_arrays_apart() -> None:
    """Numba 0.60 took what was left in memory for the first types of so long a tuple of arrays, and `linear` read uint8
    codes as int8 ones: gpuq needs 0.61.
    """
    reals = [np.zeros((1, 70), np.float32)] * 4
    one, other = ((reals[0], np.zeros((300, 70), kind), *reals) for kind in (np.int8, np.uint8))
    assert _dispatcher.compute_fingerprint(one) != _dispatcher.compute_fingerprint(other)
