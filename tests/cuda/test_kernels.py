"""All CUDA kernels, compiled here for every compute capability: nothing in local memory, no call, one PTX for many.

A run of the tests takes a share of them, spread over all: of the products by tensor cores, which take longest to
compile, two of the six of each tile, and of each kernel the capabilities that compiled.py names. The tests marked
`thorough` take all of both (`bash ci/test.sh -m thorough`).
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

import gpuq.cli

pytest.importorskip("numba_cuda", reason="needs the package numba-cuda")

from compiled import BLACKWELL, code_of, compiled_for, own_capabilities, ptx_of  # noqa: E402
from gpuq.cuda import kernels  # noqa: E402
from gpuq.cuda.compile import Kernel  # noqa: E402
from gpuq.cuda.numba_cuda import Capability, Compiled, find_tool  # noqa: E402
from gpuq.cuda.reduce import reciprocal_kernel  # noqa: E402
from machine_code import disassemble, main_loop  # noqa: E402
from machine_code.paths import is_wide, main_path  # noqa: E402

KERNELS = kernels.all_kernels()
ROLES = {"elementwise", "reduce", "copy", "pack", "gemm"}
# who quantizes or dequantizes 8-bit codes in float32, ties to even: what users call
NARROW = "(float32|float16|bfloat16)"
MAIN = re.compile(rf"(fake_)?quantize_even_{NARROW}_.*|dequantize_uint8_{NARROW}.*")
GENERATIONS = [(8, 0), (12, 0)]  # whose PTX differs
FORBIDDEN = re.compile(r"(DADD|DMUL|DFMA|DSETP|DMNMX|CALL|LDL|STL)\b|.*\.F64\b")
PRODUCT = re.compile(r"gemm_mma_(float32|half|curved_float32|curved_half|quantized|int32)_(.*)")
TILES = list(dict.fromkeys(match[2] for kernel in KERNELS if (match := PRODUCT.fullmatch(kernel.name))))
FINISHES = ("quantized", "float32", "half", "curved_float32", "curved_half")  # one of them for each tile, by turns
LEFT_OUT = {
    f"gemm_mma_{finish}_{tile}"
    for number, tile in enumerate(TILES)
    for step, finish in enumerate(FINISHES)
    if step != number % len(FINISHES)
}
SHARE = [kernel for kernel in KERNELS if kernel.name not in LEFT_OUT]


@pytest.fixture(scope="module")
def ptxas() -> str:
    path = kernels.find_ptxas()
    if path is None:
        pytest.skip("needs ptxas: the package nvidia-cuda-nvcc")
    return path


def comparable(ptx: str) -> str:
    """The PTX but for the lines that name its version and its target, for the numbers that Numba puts into names, which
    count what a process has compiled before, and for the lines that name what Numba keeps of a function: they come in
    an order of their own.
    """
    kept = re.sub(r"^(\.(version|target) .*|.*_ZN08NumbaEnv.*)$", "", ptx, flags=re.MULTILINE)
    return re.sub(r"B\d+v\d+B", "B1vB", re.sub(r"_cudapy_smem_\d+", "_cudapy_smem", kept))


def test_names_are_unique_and_roles_known() -> None:
    assert len({kernel.name for kernel in KERNELS}) == len(KERNELS) > 80
    assert {kernel.role for kernel in KERNELS} == ROLES


def most_registers(kernel: Kernel) -> int:
    """What lets a multiprocessor hold as many blocks as the kernel is to have there, in steps of 8; one that has it to
    itself may take 240, one tile 248, and on 7.5, where what is loaded flies to registers, all.
    """
    if kernel.resident == 1:
        return 255 if kernel.since < (8, 0) else 248 if kernel.tile == (128, 128, 128) else 240
    return (1 << 16) // (kernel.resident * kernel.threads) // 8 * 8


def check_machine_code(kernel: Kernel, found: dict[Capability, tuple[str, str]], ptxas: str) -> None:
    """No stack, no spilled register, no array that NVVM could not keep in registers, no call; one text for all
    capabilities of a generation, which compiled.py relies on. Every float multiplication and addition names its
    rounding, but for exact ones; ptxas fuses none of those. `found`: PTX and the name of its entry.
    """
    for capability, (ptx, entry) in found.items():
        assert f".entry {entry}(" in ptx
        assert not re.search(r"\.local|\bcall\b", ptx), capability
        assert not re.search(r"\b(mul|add|sub|mad)(\.ftz)?\.f(32|64)\b", ptx), capability
        assembled = kernels.assemble(ptx, capability, ptxas)
        assert (assembled.stack, assembled.spills) == (0, 0), capability
        assert 0 < assembled.registers <= most_registers(kernel), capability
        assert assembled.cubin.startswith(b"\x7fELF")
    for generation in (False, True):
        of_one = {comparable(ptx) for capability, (ptx, _) in found.items() if (capability >= BLACKWELL) == generation}
        assert len(of_one) <= 1


@pytest.mark.parametrize("kernel", SHARE, ids=lambda kernel: kernel.name)
def test_machine_code(kernel: Kernel, ptxas: str) -> None:
    check_machine_code(kernel, {capability: ptx_of(kernel, capability) for capability in compiled_for(kernel)}, ptxas)


@pytest.mark.thorough
@pytest.mark.parametrize("kernel", KERNELS, ids=lambda kernel: kernel.name)
def test_machine_code_of_every_capability(kernel: Kernel, ptxas: str) -> None:
    compiled = Compiled(kernel.function, kernel.arguments, kernel.threads, kernel.resident)
    found = {capability: (compiled.ptx(capability), compiled.entry) for capability in own_capabilities(kernel)}
    check_machine_code(kernel, found, ptxas)


def test_kernels_from_several_processes_compare() -> None:
    """One capability of a kernel came from the cache on disk, where another process had left it, and one was compiled
    here: their entries differed by Numba's count of functions, and the test of machine code failed.
    """
    kernel = reciprocal_kernel()
    first, second = (Compiled(kernel.function, kernel.arguments, kernel.threads, kernel.resident) for _ in range(2))
    assert first.entry != second.entry
    text = comparable(first.ptx((8, 0)))
    assert text == comparable(second.ptx((8, 6)))
    assert ".entry " in text
    assert comparable(re.sub(r"add\.s64", "sub.s64", first.ptx((8, 0)), count=1)) != text


def test_the_share_has_something_of_everything() -> None:
    """Every tile, every finish, every capability; where a kernel has PTX of two generations, both."""
    parts = [kernel.name.split("_") for kernel in SHARE]
    assert {part for names in parts for part in names} == {part for each in KERNELS for part in each.name.split("_")}
    drawn = [capability for kernel in SHARE for capability in compiled_for(kernel)]
    assert min(drawn.count(capability) for capability in kernels.CAPABILITIES) >= 3
    assert len(KERNELS) - len(SHARE) == len(LEFT_OUT) == 4 * len(TILES) > 0


def test_the_main_kernels_have_no_float64_and_no_division() -> None:
    main = [kernel for kernel in KERNELS if MAIN.fullmatch(kernel.name)]
    assert len(main) == 18
    for kernel in main:
        for capability in ((8, 0), (12, 0)):
            ptx, _ = ptx_of(kernel, capability)
            assert not re.search(r"\.f64|\bdiv\.|\brcp\.", ptx), kernel.name


@pytest.mark.parametrize("kernel", [each for each in KERNELS if MAIN.fullmatch(each.name)], ids=lambda each: each.name)
def test_the_main_path(kernel: Kernel, ptxas: str) -> None:
    """Between its loads and its stores an elementwise kernel moves 16 bytes at a time, but for parameters per index;
    nowhere has it float64 or a call.
    """
    if find_tool("nvdisasm") is None:
        pytest.skip("needs nvdisasm: the package nvidia-cuda-nvdisasm")
    uniform = kernel.name.endswith("_uniform")
    for capability in GENERATIONS if uniform else [(8, 0)]:
        ptx, entry = ptx_of(kernel, capability)
        function = disassemble(kernels.assemble(ptx, capability, ptxas).cubin).functions[entry]
        accesses = [each for each in main_path(function) if each.name in ("LDG", "STG")]
        assert {each.name for each in accesses} == {"LDG", "STG"}, capability
        assert {each.name for each in accesses if not is_wide(each)} == (set() if uniform else {"LDG"}), capability
        assert [each.opcode for each in function.instructions if FORBIDDEN.match(each.opcode)] == [], capability


# the least share of tensor instructions in a main loop, and the most cycles that a warp stalls for each of them
LOOPS = [
    ("128x256x64_turing", (7, 5), 0.73, 4.3),
    ("128x256x64", (8, 0), 0.5, 8.1),
    ("128x256x64", (8, 6), 0.5, 8.1),
    ("128x256x64", (8, 9), 0.5, 8.1),
    ("128x256x64", (9, 0), 0.5, 6.15),
    ("128x256x64", (12, 0), 0.5, 12.2),
    ("128x256x128", (8, 0), 0.55, 8.1),
    ("128x256x128", (9, 0), 0.55, 6.15),
]


@pytest.mark.parametrize(("tile", "capability", "ratio", "stall"), LOOPS, ids=str)
def test_main_loops(tile: str, capability: Capability, ratio: float, stall: float, ptxas: str) -> None:
    """Little but products, whatever they end in: a slab takes a barrier, and 16 fragments of four matrices for 64
    products of 16 x 8 x 32 by a warp; no division, no call, nothing in memory of its own.
    """
    if find_tool("nvdisasm") is None:
        pytest.skip("needs nvdisasm: the package nvidia-cuda-nvdisasm")
    for finish in ("int32", "quantized"):
        (kernel,) = (each for each in KERNELS if each.name == f"gemm_mma_{finish}_{tile}")
        code = code_of(kernel, capability)
        cubin = kernels.assemble(code.image.decode(), capability, ptxas).cubin
        loop = main_loop(disassemble(cubin).functions[code.entry])
        assert loop is not None
        products, slabs = 64 if capability > (7, 5) else 256, kernel.tile[2] // 64
        assert (loop.mix["IMMA"], loop.mix["LDSM"], loop.mix["BAR"]) == (products * slabs, 16 * slabs, 1), finish
        assert loop.ratio >= ratio, finish
        assert loop.stall <= stall, finish
        assert not {"CALL", "LDL", "STL", "MUFU"} & set(loop.mix), finish


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """On a share of the kernels: test_machine_code reads what it writes of all of them."""
    monkeypatch.setattr(kernels, "all_kernels", lambda: tuple(SHARE[::8]))
    assert gpuq.cli.main(["kernels", "--cc", "8.0", "--out", str(tmp_path / "new")]) == 0
    printed = capsys.readouterr().out.splitlines()
    own = kernels.kernels_of((8, 0))
    assert len(printed) == len(own) + 1
    assert len({len(line) for line in printed}) == 1
    listed: list[dict[str, Any]] = json.loads((tmp_path / "new" / "kernels.json").read_text(encoding="utf-8"))
    assert [each["name"] for each in listed] == [kernel.name for kernel in own]
    for each, kernel in zip(listed, own, strict=True):
        assert (each["role"], each["threads"], tuple(each["tile"])) == (kernel.role, kernel.threads, kernel.tile)
        ptx = (tmp_path / "new" / f"{kernel.name}.ptx").read_text(encoding="utf-8")
        assert f".entry {each['entry']}(" in ptx
        assert each["dynamic_shared_bytes"] == kernel.shared_bytes
        if kernels.find_ptxas() is not None:
            assert (each["stack"], each["spills"]) == (0, 0)
            assert (tmp_path / "new" / f"{kernel.name}.cubin").stat().st_size > 1000


@pytest.mark.parametrize("capability", ["8", "80", "8.0.0", "x"])
def test_what_is_no_capability(capability: str) -> None:
    with pytest.raises(SystemExit) as caught:
        gpuq.cli.main(["kernels", "--cc", capability])
    assert caught.value.code == 2


def test_an_unknown_capability(capsys: pytest.CaptureFixture[str]) -> None:
    assert gpuq.cli.main(["kernels", "--cc", "3.5"]) == 2
    assert "--cc: got 3.5; accepted: 7.5, 8.0" in capsys.readouterr().err
