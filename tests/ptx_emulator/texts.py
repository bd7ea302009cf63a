"""Hand-written PTX for tests: one instruction applied to arrays, and small kernels around a body."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from .launch import launch
from .memory import Memory
from .parser import parse
from .ptxtypes import BITS, register_dtype
from .syntax import Module

Array = npt.NDArray[Any]
HEAD = ".version 9.0\n.target sm_75\n.address_size 64\n"


def kernel(body: str, parameters: str = "", before: str = "", target: int = 75) -> Module:
    """A module with entry `test` around `body`; parameters such as "u64 x, u32 n"; `before` declares variables."""
    words = ", ".join(".param ." + each.strip() for each in parameters.split(",")) if parameters else ""
    return parse(f"{HEAD.replace('75', str(target))}{before}\n.visible .entry test({words})\n{{\n{body}\nret;\n}}\n")


def apply(line: str, output: str, **inputs: tuple[str, Array]) -> Array:
    """`line`, PTX that computes register d from registers a, b, c (and scratch p, q, r), on arrays lane by lane.

    `output` is d's PTX type, `inputs` maps register names to their type and values, 1-D arrays of one length. Returns
    d's values in the dtype that a register of that type has.
    """
    count = len(next(iter(inputs.values()))[1])
    memory = Memory()
    result = memory.empty(count, register_dtype(output))
    names = ", ".join(f"u64 {name}_pointer" for name in inputs)
    declared = "".join(f".reg .{kind} {name};\n" for name, (kind, _) in (*inputs.items(), ("d", (output, None))))
    loads = "".join(_load(name, kind) for name, (kind, _) in inputs.items())
    body = f"""{declared}.reg .pred p, q, outside; .reg .b32 r, tid, block, i, n; .reg .b64 at, base, wide;
        mov.u32 tid, %tid.x; mov.u32 block, %ctaid.x; mad.lo.s32 i, block, 64, tid; ld.param.u32 n, [count];
        setp.ge.s32 outside, i, n; @outside bra END; cvt.s64.s32 wide, i;
        {loads} {line}
        ld.param.u64 base, [result]; mad.lo.s64 at, wide, {BITS[output] // 8}, base; st.global.b{BITS[output]} [at], d;
        END:"""
    module = kernel(body, f"u64 result, u32 count, {names}", target=90)
    arrays = [memory.upload(np.ascontiguousarray(values)).buffer for _, values in inputs.values()]
    launch(module, "test", -(-count // 64), 64, [result.buffer, count, *arrays], capability=(9, 0))
    return result.numpy()


def _load(name: str, kind: str) -> str:
    return (
        f"ld.param.u64 base, [{name}_pointer]; mad.lo.s64 at, wide, {BITS[kind] // 8}, base; "
        f"ld.global.b{BITS[kind]} {name}, [at];\n"
    )


def integers(kind: str, count: int, seed: int) -> Array:
    """`count` integers of PTX type `kind`, in a register's dtype: edges first, then random ones of all magnitudes."""
    rng = np.random.default_rng(seed)
    bits = BITS[kind]
    edges = [0, 1, 2, 3, (1 << bits - 1) - 1, 1 << bits - 1, (1 << bits - 1) + 1, (1 << bits) - 1, (1 << bits) - 2]
    numbers = edges + [int(rng.integers(0, 1 << 63)) >> int(rng.integers(0, 63)) for _ in range(count - len(edges))]
    signs = rng.integers(0, 2, count)
    values = [(-number if sign else number) % (1 << bits) for number, sign in zip(numbers, signs, strict=True)]
    found = np.array(values, np.uint64).astype(f"u{bits // 8}").view(register_dtype(kind))
    return found[rng.permutation(count)]


def floats(dtype: npt.DTypeLike, count: int, seed: int) -> Array:
    """`count` floats: special values first, then random bit patterns and ordinary numbers, NaN left to the caller."""
    rng = np.random.default_rng(seed)
    dtype = np.dtype(dtype)
    info = np.finfo(dtype)
    ordinary = [0.0, -0.0, 1.0, -1.0, 0.5, 1.5, 2.5, -2.5, np.inf, -np.inf]
    extremes = [info.max, info.min, info.tiny, -info.tiny, info.smallest_subnormal, info.eps, 1 + info.eps]
    edges = np.array([*ordinary, *extremes], dtype)
    bits = rng.integers(0, 1 << 64, count, np.uint64).astype(f"u{dtype.itemsize}")
    found = np.where(np.arange(count) % 2 == 0, bits.view(dtype), rng.normal(0, 100, count).astype(dtype))
    found[: edges.size] = edges
    found[np.isnan(found)] = 7
    return found[rng.permutation(count)]
