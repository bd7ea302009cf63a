"""mma.sync and ldmatrix against plain matrix products, with fragments laid out by the PTX manual's formulas in
loops."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from ptx_emulator import BarrierError, Memory, UnsupportedError, launch
from ptx_emulator.texts import kernel

Array = npt.NDArray[Any]
WARPS = 3


def a_place(shape: str, lane: int, i: int) -> tuple[int, int]:
    """Row and column of byte i of A, as in "Matrix Fragments for mma.…"."""
    group, member = lane >> 2, lane % 4
    if shape == "m8n8k16":
        return group, member * 4 + i
    row = group if i < 4 or 8 <= i < 12 else group + 8
    return row, member * 4 + (i & 3) + (0 if i < 8 else 16)


def b_place(shape: str, lane: int, i: int) -> tuple[int, int]:
    """Row and column of byte i of B."""
    return lane % 4 * 4 + (i & 3) + (0 if i < 4 else 16), lane >> 2


def c_place(shape: str, lane: int, i: int) -> tuple[int, int]:
    """Row and column of element i of C and D."""
    return (lane >> 2) + (8 if i >= 2 else 0), lane % 4 * 2 + (i & 1)


def pack(place: Any, shape: str, matrices: Array, count: int) -> Array:
    """Lanes' elements of matrices (warps, rows, columns): (warps · 32, count)."""
    return np.array(
        [[matrix[place(shape, lane, i)] for i in range(count)] for matrix in matrices for lane in range(32)],
        matrices.dtype,
    )


def multiply(shape: str, first: str, second: str, a: Array, b: Array, c: Array, limit: str = "") -> Array:
    """d = a · b + c by one mma per warp; a, b, c are (warps, rows, columns)."""
    na, nb, nc = (4, 4, 2) if shape == "m8n8k16" else (16, 8, 4)
    fragments = [
        pack(a_place, shape, a, na).view(np.int32),
        pack(b_place, shape, b, nb).view(np.int32),
        pack(c_place, shape, c, nc),
    ]
    names, loads = [], "mov.u32 t, %tid.x;\n"
    for letter, fragment in zip("abc", fragments, strict=False):
        size = fragment.shape[1]
        names.append(", ".join(f"{letter}{i}" for i in range(size)))
        loads += f".reg .b32 {names[-1]}; ld.param.u64 p, [{letter}]; mad.wide.u32 at, t, {4 * size}, p;\n"
        loads += "".join(f"ld.global.b32 {letter}{i}, [at+{4 * i}];\n" for i in range(size))
    result = ", ".join(f"d{i}" for i in range(nc))
    loads += f".reg .b32 {result}; mma.sync.aligned.{shape}.row.col{limit}.s32.{first}.{second}.s32 "
    loads += "{{{}}}, {{{}}}, {{{}}}, {{{}}};\n".format(result, *names)
    loads += f"ld.param.u64 p, [d]; mad.wide.u32 at, t, {4 * nc}, p;\n"
    loads += "".join(f"st.global.b32 [at+{4 * i}], d{i};\n" for i in range(nc))
    module = kernel(".reg .b64 p, at; .reg .b32 t;\n" + loads, "u64 a, u64 b, u64 c, u64 d", target=80)
    memory = Memory()
    out = memory.empty((len(a) * 32, nc), np.int32)
    launch(module, "test", 1, 32 * len(a), [*(memory.upload(each).buffer for each in fragments), out.buffer])
    elements = out.numpy().reshape(len(a), 32, nc)
    found = np.empty_like(c)
    for lane in range(32):
        for i in range(nc):
            found[(slice(None), *c_place(shape, lane, i))] = elements[:, lane, i]
    return found


@pytest.mark.parametrize("shape", ["m8n8k16", "m16n8k32"])
@pytest.mark.parametrize("first", ["s8", "u8"])
@pytest.mark.parametrize("second", ["s8", "u8"])
@pytest.mark.parametrize("limit", ["", ".satfinite"])
def test_matrix_product(shape: str, first: str, second: str, limit: str) -> None:
    rng = np.random.default_rng(0)
    m, n, k = (8, 8, 16) if shape == "m8n8k16" else (16, 8, 32)
    a = rng.integers(0, 256, (WARPS, m, k), np.uint8).view("i1" if first == "s8" else "u1")
    b = rng.integers(0, 256, (WARPS, k, n), np.uint8).view("i1" if second == "s8" else "u1")
    c = rng.integers(-1000, 1000, (WARPS, m, n)).astype(np.int32)
    c[:, 0], c[:, 1] = 2**31 - 1, -(2**31)
    exact = a.astype(np.int64) @ b.astype(np.int64) + c
    wanted = exact.clip(-(2**31), 2**31 - 1) if limit else exact
    assert (multiply(shape, first, second, a, b, c, limit) == wanted.astype(np.int32)).all()


def test_extreme_operands() -> None:
    for value, kind in ((-128, "s8"), (255, "u8")):
        a = np.full((1, 16, 32), value, "i1" if kind == "s8" else "u1")
        b = np.full((1, 32, 8), value, a.dtype)
        found = multiply("m16n8k32", kind, kind, a, b, np.zeros((1, 16, 8), np.int32))
        assert (found == 32 * value * value).all()


LDMATRIX = """
.reg .b64 p, at; .reg .b32 t, lane, s, row; .reg .b32 d<4>;
mov.u32 t, %tid.x; mov.u32 lane, %laneid; ld.param.u64 p, [x]; mad.wide.u32 at, t, 16, p;
.reg .b32 v<4>; ld.global.v4.b32 {{v0, v1, v2, v3}}, [at];
mov.u32 s, tile; mad.lo.u32 row, t, 16, s; st.shared.v4.b32 [row], {{v0, v1, v2, v3}};
bar.sync 0;
ldmatrix.sync.aligned.m8n8.x{count}{trans}.shared.b16 {{{names}}}, [row];
ld.param.u64 p, [y]; mad.wide.u32 at, t, {size}, p;
{stores}
"""


@pytest.mark.parametrize("count", [1, 2, 4])
@pytest.mark.parametrize("trans", ["", ".trans"])
def test_ldmatrix(count: int, trans: str) -> None:
    names = ", ".join(f"d{i}" for i in range(count))
    stores = "".join(f"st.global.b32 [at+{4 * i}], d{i};" for i in range(count))
    body = LDMATRIX.format(count=count, trans=trans, names=names, size=4 * count, stores=stores)
    module = kernel(body, "u64 x, u64 y", ".shared .align 16 .b8 tile[2048];")
    rows = np.random.default_rng(1).integers(0, 1 << 16, (128, 8), np.uint16)
    memory = Memory()
    out = memory.empty((128, count, 2), np.uint16)
    counters = launch(module, "test", 1, 128, [memory.upload(rows).buffer, out.buffer])
    matrices = rows.reshape(4, 4, 8, 8)[:, :count]
    matrices = matrices.transpose(0, 1, 3, 2) if trans else matrices
    found = out.numpy().reshape(4, 32, count, 2)
    for lane in range(32):
        row, column = lane // 4, lane % 4 * 2
        assert (found[:, lane] == matrices[:, :, row, column : column + 2]).all()
    assert counters.shared.ratio == 1


def test_wrong_fragment_is_seen() -> None:
    a, b = (
        np.random.default_rng(seed).integers(-9, 9, shape).astype(np.int8)
        for seed, shape in ((1, (1, 16, 32)), (2, (1, 32, 8)))
    )
    right = a[0].astype(int) @ b[0]
    swapped = a[:, np.r_[8:16, 0:8]]
    assert (multiply("m16n8k32", "s8", "s8", a, b, np.zeros((1, 16, 8), np.int32)) == right).all()
    assert (multiply("m16n8k32", "s8", "s8", swapped, b, np.zeros((1, 16, 8), np.int32)) != right).any()


def test_needs_whole_warps() -> None:
    body = """.reg .b32 a, t; .reg .pred p; mov.u32 t, %tid.x; mov.b32 a, 0; setp.lt.u32 p, t, 31; @!p bra END;
    mma.sync.aligned.m8n8k16.row.col.s32.s8.s8.s32 {a, a}, {a}, {a}, {a, a}; END:"""
    with pytest.raises(BarrierError, match="31 are active"):
        launch(kernel(body), "test", 1, 32, [])


@pytest.mark.parametrize(
    "line",
    [
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {a, a}, {a}, {a}, {a, a};",
        "mma.sync.aligned.m8n8k16.row.col.s32.s8.s8.s32 {a, a, a}, {a}, {a}, {a, a};",
        "ldmatrix.sync.aligned.m8n8.x3.shared.b16 {a, a, a}, [a];",
    ],
)
def test_unknown_forms_name_themselves(line: str) -> None:
    with pytest.raises(UnsupportedError, match=line.split()[0]):
        launch(kernel(".reg .b32 a; mov.b32 a, 0;" + line), "test", 1, 32, [])


def test_capability() -> None:
    line = "mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {a, a, a, a}, {a, a, a, a}, {a, a}, {a, a, a, a};"
    with pytest.raises(UnsupportedError, match="needs compute capability 8.0, this is 7.5"):
        launch(kernel(".reg .b32 a; mov.b32 a, 0;" + line), "test", 1, 32, [], capability=(7, 5))
