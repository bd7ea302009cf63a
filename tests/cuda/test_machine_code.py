"""The readers of machine code in ci/machine_code: on listings written by hand, and on kernels assembled here."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("numba_cuda", reason="needs the package numba-cuda")

from gpuq.cuda import kernels  # noqa: E402
from gpuq.cuda.numba_cuda import find_tool  # noqa: E402
from machine_code import busy_share, figures_of, main_loop  # noqa: E402
from machine_code.__main__ import main  # noqa: E402
from machine_code.disassembly import Function, parse  # noqa: E402
from machine_code.main_loop import Loop, loops  # noqa: E402
from machine_code.paths import main_path  # noqa: E402
from machine_code.resources import Resources  # noqa: E402
from machine_code.resources import parse as parse_resources  # noqa: E402

NOTHING = 7  # of the counters
Word = tuple[int, int, int, int]  # stall, counters raised by the result and by the operands, mask of those waited for


def listing(*lines: str | tuple[str, Word], name: str = "kernel") -> str:
    """What nvdisasm prints for these labels (ending in a colon) and instructions, which stall for one cycle where no
    scheduling word is given.
    """
    printed, address = [f"\t.target\tsm_80\n.text.{name}:"], 0
    for line in lines:
        text, (stall, written, read, waits) = (line, (1, NOTHING, NOTHING, 0)) if isinstance(line, str) else line
        if text.endswith(":"):
            printed.append(text)
            continue
        word = (stall | written << 5 | read << 8 | waits << 11) << 41
        printed.append(f"        /*{address:04x}*/                   {text} ;   /* 0x{7:016x} */")
        printed.append(f"{' ' * 60}/* 0x{word:016x} */")
        address += 16
    return "\n".join(printed)


def function(*lines: str | tuple[str, Word]) -> Function:
    return parse(listing(*lines)).functions["kernel"]


def loop_of(*lines: str | tuple[str, Word]) -> Loop:
    found = main_loop(function(".L_x_1:", *lines))
    assert found is not None
    return found


@pytest.fixture(scope="module")
def tools() -> str:
    """The path of ptxas, where the others are there as well."""
    missing = [f"nvidia-cuda-{name}" for name in ("nvdisasm", "cuobjdump") if find_tool(name) is None]
    path = kernels.find_ptxas()
    if path is None or missing:
        pytest.skip(f"needs the packages {', '.join([*missing, *['nvidia-cuda-nvcc'] * (path is None)])}")
    return path


# ---- a listing ----

RECORDED = """
	.target	sm_80
//--------------------- .text.first --------------------------
.text.first:
        .type           first,@function
        /*0000*/                   IADD3 R3, P1, RZ, -R6, RZ ;                   /* 0x80000006ff037210 */
                                                                                 /* 0x000fe40007f3e0ff */
.L_x_0:
        /*0010*/                   MUFU.RCP R0, R0 ;                             /* 0x0000000000007308 */
                                                                                 /* 0x000e240000001000 */
        /*0020*/              @!P0 IADD3 R10, R0, 0x1ffffffe, RZ ;               /* 0x1ffffffe000a7810 */
                                                                                 /* 0x001fcc0007ffe0ff */
        /*0030*/              @P1  BRA `(.L_x_0) ;                               /* 0x0000000000007947 */
                                                                                 /* 0x000fea000383ffff */
.text.second:
.L_x_9:
        /*0000*/                   EXIT ;                                        /* 0x000000000000794d */
                                                                                 /* 0x000fea0003800000 */
"""


def test_a_recorded_listing() -> None:
    target, functions = parse(RECORDED)
    assert target == "sm_80"
    assert list(functions) == ["first", "second"]
    first = functions["first"]
    assert [each.address for each in first.instructions] == [0, 16, 32, 48]
    assert [each.opcode for each in first.instructions] == ["IADD3", "MUFU.RCP", "IADD3", "BRA"]
    assert [each.name for each in first.instructions] == ["IADD3", "MUFU", "IADD3", "BRA"]
    assert [each.guard for each in first.instructions] == ["", "", "@!P0", "@P1"]
    assert first.instructions[0].operands == "R3, P1, RZ, -R6, RZ"
    assert first.labels == {".L_x_0": 16}
    assert first.target_of(first.instructions[3]) == 16
    assert functions["second"].labels == {".L_x_9": 0}


def test_recorded_scheduling_words() -> None:
    """The reciprocal raises counter 0, which what follows waits for."""
    schedules = [each.schedule for each in parse(RECORDED).functions["first"].instructions]
    assert schedules[0] == (2, None, None, ())
    assert schedules[1] == (2, 0, None, ())
    assert schedules[2] == (6, None, None, (0,))


def test_what_is_no_listing() -> None:
    with pytest.raises(ValueError, match=r"^text: got a listing without \.target"):
        parse("nvdisasm fatal: not a cubin")


def test_recorded_resources() -> None:
    text = """
Resource usage:
 Common:
  GLOBAL:8
 Function _ZN4gpuq4walkE:
  REG:223 STACK:16 SHARED:1024 LOCAL:0 CONSTANT[0]:824 TEXTURE:0 SURFACE:0 SAMPLER:0
"""
    assert parse_resources(text) == {"_ZN4gpuq4walkE": Resources(223, 16, 1024)}


# ---- the main loop ----


def test_the_main_loop_is_the_innermost_with_most_tensor_instructions() -> None:
    code = function(
        ".L_x_1:", "IADD3 R0, R0, 0x1, RZ",
        ".L_x_2:", "IMMA.16832.S8.S8 R0, R0, R0, R0", "@P0 BRA `(.L_x_2)",
        ".L_x_3:", "IMMA.16832.S8.S8 R0, R0, R0, R0", "IMMA.16832.S8.S8 R0, R0, R0, R0", "IADD3 R0, R0, R0, RZ",
        "@P0 BRA `(.L_x_3)",
        "@P0 BRA `(.L_x_1)",
        ".L_x_4:", "IADD3 R0, R0, R0, RZ", "@P0 BRA `(.L_x_4)",
        "EXIT",
    )  # fmt: skip
    assert [len(loop.instructions) for loop in loops(code)] == [2, 4, 8, 2]
    found = main_loop(code)
    assert found is not None
    assert found.mix == {"IMMA": 2, "IADD3": 1, "BRA": 1}
    assert (found.products, found.ratio, found.stall) == (2, 0.5, 2.0)


def test_without_tensor_instructions_dp4a_counts() -> None:
    loop = loop_of("IDP.4A.S8.S8 R0, R1, R2, R0", "IDP.4A.S8.S8 R0, R1, R2, R0", "@P0 BRA `(.L_x_1)")
    assert (loop.products, loop.ratio) == (2, 2 / 3)


def test_a_branch_forwards_is_no_loop() -> None:
    assert main_loop(function("@P0 BRA `(.L_x_1)", "IMMA.8816.S8.S8 R0, R0, R0, R0", ".L_x_1:", "EXIT")) is None


# ---- the issue model ----

FOUR_CYCLES = ("IMMA.8816.S8.S8 R0, R0, R0, R0", (4, NOTHING, NOTHING, 0))
EIGHT_CYCLES = ("IMMA.8816.S8.S8 R0, R0, R0, R0", (8, NOTHING, NOTHING, 0))
AGAIN = "BRA `(.L_x_1)"


def test_instructions_that_wait_as_long_as_the_pipe_keep_it_busy() -> None:
    assert busy_share(loop_of(*[FOUR_CYCLES] * 63, AGAIN), 4, 1) == pytest.approx(63 * 4 / (63 * 4 + 1))


def test_two_warps_take_turns_where_one_waits_too_long() -> None:
    loop = loop_of(*[EIGHT_CYCLES] * 8, AGAIN)
    assert busy_share(loop, 4, 1) == pytest.approx(8 * 4 / (8 * 8 + 1))
    assert busy_share(loop, 4, 2) == pytest.approx(2 * 8 * 4 / (8 * 8 + 1))


def test_the_pipe_takes_no_more_than_it_can() -> None:
    assert busy_share(loop_of(*[FOUR_CYCLES] * 8, AGAIN), 8, 1) == pytest.approx(1)


def test_a_product_waits_for_its_operands() -> None:
    """33 cycles after LDSM its counter is back; then come the product and the branch, of one cycle each."""
    load = ("LDSM.16.M88.4 R0, [R1]", (1, 0, NOTHING, 0))
    product = ("IMMA.8816.S8.S8 R0, R0, R0, R0", (1, NOTHING, NOTHING, 1))
    assert busy_share(loop_of(load, product, AGAIN), 4, 1) == pytest.approx(4 / (33 + 2))


def test_warps_wait_for_each_other_at_a_barrier() -> None:
    """One warp passes in a cycle; two, whose products come one after the other, lose what they could overlap."""
    meet = "BAR.SYNC.DEFER_BLOCKING 0x0"
    assert busy_share(loop_of(EIGHT_CYCLES, meet, AGAIN), 4, 1) == pytest.approx(4 / 10)
    apart, together = (busy_share(loop_of(EIGHT_CYCLES, each, AGAIN), 4, 2) for each in ("NOP", meet))
    assert apart == pytest.approx(8 / 10)
    assert together < apart


# ---- paths ----


def test_the_main_path_leaves_out_what_does_not_move_whole_accesses() -> None:
    code = function(
        "@P0 BRA `(.L_x_1)",
        "LDG.E.128 R0, [R8.64]", "IADD3 R0, R0, 0x1, RZ", "STG.E.128 [R8.64], R0", "EXIT",
        ".L_x_1:", "LDG.E.U8 R0, [R8.64]", "STG.E.U8 [R8.64], R0", "@P1 BRA `(.L_x_1)", "EXIT",
    )  # fmt: skip
    assert [each.opcode for each in main_path(code)] == ["LDG.E.128", "IADD3", "STG.E.128"]


def test_the_main_path_follows_every_way_between_load_and_store() -> None:
    """Lanes that part at a branch and meet again; one of the ways stores a byte."""
    code = function(
        "LDG.E.128 R0, [R8.64]", "BSSY B0, `(.L_x_2)", "@P0 BRA `(.L_x_1)", "STG.E.U8 [R8.64], R0",
        ".L_x_1:", "BSYNC B0", ".L_x_2:", "STG.E.128 [R8.64], R0", "EXIT",
    )  # fmt: skip
    assert [each.opcode for each in main_path(code) if each.name == "STG"] == ["STG.E.U8", "STG.E.128"]


def test_a_call_belongs_to_the_path_that_makes_it() -> None:
    code = function("LDG.E.128 R0, [R8.64]", "CALL.REL.NOINC `(div)", "STG.E.128 [R8.64], R0", "EXIT")
    assert [each.name for each in main_path(code)] == ["LDG", "CALL", "STG"]


def test_an_indirect_branch_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^function: got kernel with BRX;"):
        main_path(function("LDG.E.128 R0, [R8.64]", "BRX R2 -0x50", "STG.E.128 [R8.64], R0"))


# ---- kernels assembled here ----

TENSOR_PTX = """
.version 8.7
.target sm_80
.address_size 64
.visible .entry multiply(.param .u64 out, .param .u32 steps) .maxntid 32, 1, 1
{
    .reg .b32 a<4>, b<2>, c<16>, step, last; .reg .b64 at; .reg .pred again;
    ld.param.u64 at, [out]; ld.param.u32 last, [steps]; mov.u32 step, 0;
    mov.u32 a0, %tid.x; mov.u32 a1, a0; mov.u32 a2, a0; mov.u32 a3, a0; mov.u32 b0, a0; mov.u32 b1, a0;
    CLEAR
LOOP:
    PRODUCTS
    add.u32 step, step, 1; setp.lt.u32 again, step, last; @again bra LOOP;
    STORES
    ret;
}
"""


def tensor_ptx() -> str:
    """A loop of four independent products."""
    sums = [f"{{c{4 * i}, c{4 * i + 1}, c{4 * i + 2}, c{4 * i + 3}}}" for i in range(4)]
    operation = "mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32"
    products = "\n    ".join(f"{operation} {each}, {{a0, a1, a2, a3}}, {{b0, b1}}, {each};" for each in sums)
    text = TENSOR_PTX.replace("CLEAR", " ".join(f"mov.u32 c{i}, 0;" for i in range(16)))
    stores = " ".join(f"st.global.u32 [at+{4 * i}], c{i};" for i in range(16))
    return text.replace("PRODUCTS", products).replace("STORES", stores)


@pytest.mark.parametrize("capability", [(8, 0), (9, 0), (12, 0)])
def test_a_loop_of_tensor_instructions(tools: str, capability: kernels.Capability) -> None:
    """All of it products and what counts the steps; ptxas may unroll it."""
    assembled = kernels.assemble(tensor_ptx().replace("sm_80", "sm_{}{}".format(*capability)), capability, tools)
    figures = figures_of(assembled.cubin, "multiply")
    assert figures.target == "sm_{}{}".format(*capability)
    assert figures.resources[:2] == (assembled.registers, 0)
    assert figures.local_accesses == 0
    assert figures.loop is not None
    assert figures.loop.mix["IMMA"] == figures.loop.products
    assert figures.loop.products % 4 == 0
    assert figures.loop.ratio > 0.3
    assert figures.share is not None
    assert 0 < figures.share <= 1


def test_the_table(
    tools: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A kernel with a main loop, one without, and one of another name, which is left out."""
    short = ".version 8.7\n.target sm_80\n.address_size 64\n.visible .entry short() { ret; }\n"
    listed = []
    for name, ptx in (("multiply", tensor_ptx()), ("much_shorter", short), ("other", short)):
        (tmp_path / f"{name}.cubin").write_bytes(kernels.assemble(ptx, (8, 0), tools).cubin)
        listed.append({"name": name, "entry": "short" if ptx is short else name})
    (tmp_path / "kernels.json").write_text(json.dumps(listed), encoding="utf-8")
    monkeypatch.setattr("sys.argv", ["machine_code", "--names", "mu*", str(tmp_path)])
    main()
    titles, first, second = (line.split() for line in capsys.readouterr().out.splitlines())
    assert titles[:6] == ["kernel", "target", "registers", "stack", "local", "loop"]
    assert first[:2] == ["multiply", "sm_80"]
    assert second[:2] == ["much_shorter", "sm_80"]
    assert second[3:] == ["0", "0", *["-"] * 6]


def test_missing_tools_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("machine_code.disassembly.find_tool", lambda name: None)
    with pytest.raises(FileNotFoundError, match="nvdisasm was not found: pip install nvidia-cuda-nvdisasm"):
        figures_of(b"")
