"""Products with block-wise weights packed as one: the bits of blocks multiplied one by one and added up."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

import gpuq
from compare import assert_same
from gpuq import reference
from gpuq.cpu.block_weight import BlockWeight
from gpuq.cpu.isa import INSTRUCTION_SETS, available
from gpuq.cpu.tiles import DEPTH

SIZES = [(1, 64, 33), (13, 70, 40), (30, 2 * DEPTH + 36, 65), (200, 96, 300)]


def reals(seed: int, *shape: int) -> Any:
    return np.random.default_rng(seed).normal(0.5, 3, shape).astype(np.float32)


@pytest.fixture(params=available())
def isa(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("GPUQ_ISA", request.param)
    return str(request.param)


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int4", "uint4"])
def test_layers(isa: str, dtype: str) -> None:
    """Blocks from one group of the instruction on to all that a strip holds; the last one short; and others, which are
    added up one by one.
    """
    for (m, k, n), length in itertools.product(SIZES, (4, 6, 32, 68, DEPTH, DEPTH + 4)):
        weight = gpuq.quantize(reals(1, k, n), dtype, axis=0, block_size=length)
        packed, bias = weight.prepack(), reals(2, n)
        group = INSTRUCTION_SETS[isa].group
        whole = group > 0 and length % group == 0 and min(length, k) % group == 0 and length <= DEPTH and length < k
        assert isinstance(packed._packed, BlockWeight) == whole
        halves = dtype in ("int4", "uint4") and length % (2 * max(1, group)) == 0
        assert not whole or packed._packed.bits == (4 if halves else 8)
        for activation in (None, "relu6"):
            x = reals(m, m, k)
            expected = reference.linear(x, weight, bias, activation=activation)
            assert_same(gpuq.linear(x, packed, bias, activation=activation), expected, f"{m}x{k}x{n}, {length}")


@pytest.mark.parametrize("a_type", ["int8", "uint8"])
@pytest.mark.parametrize("axis", [None, 0])
def test_products_of_tensors(isa: str, a_type: str, axis: int | None) -> None:
    """Rows with zero points of their own."""
    a = gpuq.quantize(reals(3, 37, 100), a_type, axis=axis)
    for dtype, length in itertools.product(("uint8", "int4"), (8, 32)):
        b = gpuq.quantize(reals(4, 100, 50), dtype, axis=0, block_size=length)
        assert_same(a @ b.prepack(), a @ b)


@pytest.mark.parametrize("extreme", [0, 255])
def test_extreme_codes(isa: str, extreme: int) -> None:
    """The largest sums of a block that there are, of each sign."""
    k = 4 * DEPTH
    a = gpuq.QTensor(np.full((14, k), 255, np.uint8), np.float32(0.5), np.uint8(extreme))
    codes = np.where(np.arange(k)[:, np.newaxis] % 2 > np.arange(40) % 3, 0, 255).astype(np.uint8)
    points = np.full((4, 40), extreme, np.uint8)
    b = gpuq.QTensor(codes, np.full((4, 40), 0.25, np.float32), points, 0, DEPTH)
    assert_same(a @ b.prepack(), a @ b)


def test_scales_whose_product_is_no_normal_number() -> None:
    a = gpuq.QTensor(np.ones((3, 64), np.int8), np.float32(1e-20))
    b = gpuq.QTensor(np.ones((64, 5), np.int8), np.full((2, 5), 1e-20, np.float32), None, 0, 32)
    with pytest.raises(ValueError, match="a_scale, b_scale"):
        a @ b.prepack()


@pytest.mark.skipif(available() == ("portable",), reason="no instruction set with a kernel for blocks")
def test_bytes_of_the_packed_form() -> None:
    """Codes of 4 bits took a byte each; of each block and column there are a scale, a sum and a zero point."""
    b = gpuq.quantize(reals(1, 256, 96), "int4", axis=0, block_size=32)
    assert b.prepack().nbytes == 256 * 96 // 2 + 8 * 96 * 12


@pytest.mark.skipif(available() == ("portable",), reason="no instruction set with a kernel for blocks")
def test_blocks_are_no_matrix_of_codes() -> None:
    """What a product of matrices would have made of them, without their parameters, is no product of anything."""
    (part,) = gpuq.quantize(reals(1, 64, 8), "int4", axis=0, block_size=32).prepack().parts
    with pytest.raises(TypeError, match="^b: got the blocks of a packed QTensor"):
        gpuq.matmul_integer(np.zeros((2, 64), np.int8), part)
