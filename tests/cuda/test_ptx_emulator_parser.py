"""What the emulator's parser makes of PTX text, what it refuses, and where branches meet again."""

from __future__ import annotations

from typing import Any

import numpy.typing as npt
import pytest

from ptx_emulator import ParseError, UnsupportedError, launch, parse
from ptx_emulator.flow import plan, post_dominators
from ptx_emulator.syntax import Address, Immediate, Register, Vector
from ptx_emulator.texts import HEAD, kernel

Array = npt.NDArray[Any]


def test_post_dominators() -> None:
    # 0 → {1, 2}, 1 → 3, 2 → {3, 5}, 3 → {0, 4}, 4 → 5 = exit
    assert post_dominators([(1, 2), (3, 3), (3, 5), (0, 4), (5, 5), (5, 5)]) == [5, 3, 5, 5, 5, 5]
    # a diamond in a loop: 0 → {1, 2} → 3 → {0, 4 = exit}
    assert post_dominators([(1, 2), (3, 3), (3, 3), (0, 4), (4, 4)]) == [3, 3, 3, 4, 4]
    assert post_dominators([(1, 2), (1, 1), (2, 2)])[1] == 2
    blocks = plan(kernel(".reg .pred p; @p bra A; bar.sync 0; A: mov.pred p, p; @p bra A;").functions["test"])
    assert [(each.target, each.following, each.join) for each in blocks] == [
        (2, 1, 2),
        (2, 2, 2),
        (2, 3, 3),
        (4, 4, 4),
        (4, 4, 4),
    ]


def test_parser() -> None:
    module = kernel(
        """{ .reg .b32 a; .reg .pred p; L: @!p bra L; ld.global.v2.f32 {a, a}, [%rd1+-4]; }
    .reg .b64 %rd<3>; { .reg .pred a; setp.eq.f32 a|a, 0f3F800000, -1.5; }""".replace("[%rd1+-4]", "[12]"),
        "u64 x",
    )
    function = module.functions["test"]
    assert [each.name for each in function.instructions] == ["bra", "ld.global.v2.f32", "setp.eq.f32", "ret"]
    branch, load, compare, _ = function.instructions
    assert branch.guard is not None
    assert branch.guard.negated
    assert list(function.labels.values()) == [0]
    assert isinstance(load.operands[0], Vector)
    assert load.operands[1] == Address(Immediate("12"), 0)
    assert isinstance(compare.operands[0], Vector)
    assert isinstance(compare.operands[0].parts[0], Register)
    assert compare.operands[1:] == (Immediate("0f3F800000"), Immediate("-1.5"))
    assert set(function.registers.values()) == {"b32", "pred", "b64"}
    assert len(function.registers) == 6
    assert "[at-8]" in str(
        kernel(".reg .b64 at; ld.global.b64 at, [at+-8];").functions["test"].instructions[0]
    ).replace("+-", "-")


@pytest.mark.parametrize(
    "text",
    [
        HEAD + ".entry f() { .reg .q32 a; }",
        HEAD + ".frobnicate 3",
        HEAD + ".entry f() { mov.b32 \\ }",
        HEAD + ".entry f() { ret",
        HEAD + ".shared .align 4 .zz tile[4];",
        HEAD + ".entry f() { .loc 1 2 3 }",
    ],
)
def test_unknown_text_is_an_error(text: str) -> None:
    with pytest.raises(ParseError, match="line"):
        parse(text)


@pytest.mark.parametrize(
    ("line", "error"),
    [
        ("bra NOWHERE;", ParseError),
        ("brx.idx t, T;", UnsupportedError),
        ("bar.sync 0, 64;", UnsupportedError),
        ("bar.red.popc.u32 t, 0, p;", UnsupportedError),
        ("@p bar.sync 0;", UnsupportedError),
        ("call.uni f, (t);", (UnsupportedError, ParseError)),
        ("mov.u32 t, %clock;", UnsupportedError),
        ("mov.b64 t, 0;", None),
        ("mov.b32 t, p;", UnsupportedError),
        ("ld.param.b32 t, [nothing];", UnsupportedError),
    ],
)
def test_unknown_statements_are_errors(line: str, error: Any) -> None:
    with pytest.raises(error or UnsupportedError):
        launch(kernel(".reg .b32 t; .reg .pred p; " + line), "test", 1, 32, [])
