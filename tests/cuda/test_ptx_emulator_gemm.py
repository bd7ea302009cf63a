"""A tensor-core GEMM compiled by Numba, with cp.async, ldmatrix and mma.sync, and faults planted in its PTX."""

from __future__ import annotations

import re

import pytest

from ptx_emulator import EmulationError

pytest.importorskip("numba_cuda", reason="needs the package numba-cuda")

from ptx_emulator.kernels import CASES, check_gemm  # noqa: E402


@pytest.fixture(scope="module")
def text() -> str:
    return CASES["gemm"].compile()


def test_product(text: str) -> None:
    for seed in range(4):
        counters = check_gemm(text, seed)
        assert counters.shared.ratio == 1
        assert counters.opcodes["mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32"] == 4 * 4 * 3


FAULTS = {
    "first barrier": (r"bar\.sync\s+0;", 0, ""),
    "second barrier": (r"bar\.sync\s+0;", 1, ""),
    "wait": (r"cp\.async\.wait_group 1;", 0, ""),
    "weaker wait": (r"cp\.async\.wait_group 1;", 0, "cp.async.wait_group 2;"),
    "commit": (r"cp\.async\.commit_group;", 1, ""),
    "offset of A's fragments": (r"(x4\.shared\.b16 \{[^}]*\}, \[%r\d+)\]", 0, r"\1+16]"),
    "offset of B's fragments": (r"(x2\.shared\.b16 \{[^}]*\}, \[%r\d+)\]", 0, r"\1+16]"),
    "alignment of a fragment": (r"(x4\.shared\.b16 \{[^}]*\}, \[%r\d+)\]", 0, r"\1+8]"),
    "two swapped registers of A": (r"(x4\.shared\.b16 \{)(%r\d+),(%r\d+),", 0, r"\1\3,\2,"),
    "transposed fragment": (r"\.x2\.shared", 0, ".x2.trans.shared"),
    "wrong sign": (r"s32\.s8\.s8\.s32", 0, "s32.u8.s8.s32"),
    "copy's source": (r"(cp\.async\.cg\.shared\.global \[%r\d+\], \[%rd\d+)\]", 0, r"\1+16]"),
    "copy's target": (r"(cp\.async\.cg\.shared\.global \[%r\d+)\]", 0, r"\1+3072]"),
    "store's bound": (r"(st\.global\.u32\s+\[%rd\d+)\]", 0, r"\1+4]"),
}


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("fault", list(FAULTS))
def test_fault_is_caught(text: str, fault: str, seed: int) -> None:
    pattern, index, replacement = FAULTS[fault]
    found = list(re.finditer(pattern, text))[index]
    edited = text[: found.start()] + found.expand(replacement) + text[found.end() :]
    with pytest.raises((EmulationError, AssertionError)):
        check_gemm(edited, seed)
