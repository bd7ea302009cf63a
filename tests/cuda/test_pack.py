"""Rows of codes as the GEMM reads them, against NumPy: in place or packed, signed, filled up with zeros, summed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from compare import assert_same
from layouts import INPUT_LAYOUTS

pytest.importorskip("numba_cuda", reason="needs the package numba-cuda")

from emulated import upload  # noqa: E402
from gpuq.arrays import view  # noqa: E402
from gpuq.cuda.pack import Rows, pack_rows, rows_of  # noqa: E402
from gpuq.cuda.strided import contiguous  # noqa: E402
from gpuq.device_array import address_of, device_array  # noqa: E402

SHAPES = [(1, 1), (3, 5), (33, 16), (31, 48), (32, 127), (65, 130), (2, 5, 7), (2, 1, 3, 32), (3, 0), (0, 4)]


def codes(kind: str, shape: tuple[int, ...]) -> Any:
    low, high = (-128, 128) if kind == "int8" else (0, 256)
    return np.random.default_rng(len(shape)).integers(low, high, shape).astype(kind)


def assert_rows(work: Any, rows: Rows, expected: Any, native: bool) -> None:
    """The rows hold these codes: signed or, natively, as they are, then zeros up to a whole chunk; and their sums."""
    *batch, count, k = expected.shape
    moved = expected.astype(np.int64) - rows.shift
    assert rows.depth % 16 == 0
    assert k <= rows.depth < k + 16
    unsigned = expected.dtype == np.uint8
    assert (rows.shift, rows.batch_shape) == (128 if unsigned and not native else 0, tuple(batch))
    assert rows.mask != 0 or not (unsigned and native)
    if expected.size:
        shape, strides = (*batch, count, rows.depth), (*rows.batch_strides, rows.stride, 1)
        held = work.read(contiguous(work, device_array(rows.address, shape, np.uint8, strides))).astype(np.int64)
        if not (unsigned and native):
            held = ((held ^ (rows.mask & 0xFF)) ^ 0x80) - 0x80  # the sign bit
        assert (held[..., :k] == moved).all()
        assert not held[..., k:].any()
    if rows.sums is not None:
        assert_same(work.read(rows.sums), moved.sum(axis=-1))


@pytest.mark.parametrize(
    "layout", ["c_order", "fortran_order", "every_second", "backwards", "misaligned", "rotated_axes"]
)
@pytest.mark.parametrize("kind", ["int8", "uint8"])
def test_packed(work: Any, kind: str, layout: str) -> None:
    for shape in SHAPES:
        array = INPUT_LAYOUTS[layout](codes(kind, shape))
        there = view(upload(work.emulated, array, read_only=True))
        assert there is not None
        rows = pack_rows(work, there.array)
        assert (rows.mask, rows.sums is not None) == (0, True)
        assert_rows(work, rows, array, native=False)


@pytest.mark.parametrize("native", [True, False])
@pytest.mark.parametrize("with_sums", [True, False])
@pytest.mark.parametrize("kind", ["int8", "uint8"])
def test_in_place(work: Any, kind: str, with_sums: bool, native: bool) -> None:
    """Aligned rows of whole chunks are not copied, in any batch; everything else is."""
    for shape in [(5, 32), (2, 3, 16), (1, 64)]:
        there = view(upload(work.emulated, codes(kind, (*shape[:-1], shape[-1] + 16))))
        assert there is not None
        part = there.array[..., : shape[-1]]
        rows = rows_of(work, part, with_sums, native)
        assert (rows.address, rows.sums is not None) == (address_of(part), with_sums)
        assert_rows(work, rows, codes(kind, (*shape[:-1], shape[-1] + 16))[..., : shape[-1]], native)
    for array in (
        codes(kind, (5, 31)),
        codes(kind, (5, 33))[:, 1:],
        codes(kind, (32, 5)).T,
        codes(kind, (5, 64))[:, ::2],
    ):
        there = view(upload(work.emulated, array))
        assert there is not None
        rows = rows_of(work, there.array, with_sums, native)
        assert rows.address != address_of(there.array)
        assert_rows(work, rows, array, native)


def test_from_the_host(work: Any) -> None:
    for array in (codes("int8", (7, 20)), codes("uint8", (20, 7)).T):
        for native in (True, False):
            assert_rows(work, rows_of(work, array, True, native), array, native)
