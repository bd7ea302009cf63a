"""Products of QTensors on emulated GPUs: whatever varies along k, nothing is brought to the host."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import gpuq
from compare import assert_same
from gpuq import block_products
from gpuq.transfer import to_host

pytest.importorskip("numba_cuda", reason="needs the package numba-cuda")

from emulated import InterfaceArray, upload  # noqa: E402
from gpuq.cuda import repeat  # noqa: E402

Array = npt.NDArray[Any]
Emulate = Callable[..., Any]
Grain = tuple[int | None, int]
CAPABILITIES = [(7, 5), (8, 0), (9, 0), (12, 0)]
TYPES = [("int8", "int8"), ("uint8", "int4"), ("uint4", "uint8")]


def tensors(
    a_type: str, a_grain: Grain, b_type: str, b_grain: Grain, symmetric: bool = False
) -> tuple[gpuq.QTensor, gpuq.QTensor]:
    """Matrices (6, 40) and (40, 5)."""
    rng = np.random.default_rng(1)
    values = rng.normal(0.2, 1, (6, 40)).astype(np.float32), rng.normal(0.2, 1, (40, 5)).astype(np.float32)
    a, b = (
        gpuq.quantize(each, kind, axis=axis, block_size=block_size, symmetric=symmetric)
        for each, kind, (axis, block_size) in zip(values, (a_type, b_type), (a_grain, b_grain), strict=True)
    )
    return a, b


A_GRAINS: list[Grain] = [(None, 0), (0, 0), (1, 0), (1, 16), (1, 7), (1, 100), (1, 8)]
B_GRAINS: list[Grain] = [(None, 0), (1, 0), (0, 0), (0, 16), (0, 7), (0, 100)]


@pytest.mark.parametrize("b_grain", B_GRAINS, ids=str)
@pytest.mark.parametrize("a_grain", A_GRAINS, ids=str)
def test_products_of_matrices(
    emulate: Emulate, a_grain: Grain, b_grain: Grain, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What varied along k was multiplied on the host, and parameters per axis were read back."""
    emulated = emulate()
    for a_type, b_type in TYPES:
        a, b = tensors(a_type, a_grain, b_type, b_grain)
        expected, there_a, there_b = a @ b, a.to("cuda"), b.to("cuda")
        for right in (there_b, there_b.prepack()):
            with monkeypatch.context() as patch:
                patch.setattr(emulated, "cuStreamSynchronize", lambda number: pytest.fail("waits"))
                y = there_a @ right
            assert not isinstance(y, np.ndarray)
            assert_same(to_host(y), expected, f"{a_type} {b_type} {right!r}")


def test_one_product_that_comes_again_is_not_looked_at(emulate: Emulate, monkeypatch: pytest.MonkeyPatch) -> None:
    """What one kernel or two multiply has the steps of the first such product; a sum of many products has none, which
    would be kept in memory all at once.
    """
    emulate()
    looks, length = [], block_products.block_length
    monkeypatch.setattr(block_products, "block_length", lambda *given: (looks.append(given), length(*given))[1])
    for a_grain, b_grain, again in (((0, 0), (1, 0), 0), ((1, 16), (0, 16), 0), ((1, 16), (0, 7), 1)):
        a, b = tensors("uint8", a_grain, "int8", b_grain)
        expected, there_a, there_b = a @ b, a.to("cuda"), b.to("cuda").prepack()
        for number in range(3):
            looks.clear()
            assert_same(to_host(there_a @ there_b), expected, f"{a_grain} {b_grain}")
            assert bool(looks) == (number == 0 or bool(again))


@pytest.mark.parametrize("capability", CAPABILITIES, ids=str)
def test_one_kernel_for_blocks(emulate: Emulate, capability: tuple[int, int]) -> None:
    """Blocks of one operand or the same of both, signed codes and unsigned ones, with zero points and without: x was
    brought to the host for them.
    """
    emulated = emulate(capability)
    for a_type, b_type in (*TYPES, ("int8", "uint4"), ("uint8", "uint8")):
        for a_grain, b_grain in (((None, 0), (0, 16)), ((0, 0), (0, 7)), ((1, 16), (0, 16)), ((1, 7), (1, 0))):
            for symmetric in (False, True):
                a, b = tensors(a_type, a_grain, b_type, b_grain, symmetric)
                before = len(emulated.launches)
                y = a.to("cuda") @ b.to("cuda")
                launched = emulated.launches[before:]
                assert sum("make_blocks" in entry for entry in launched) == 1
                assert not any("gemm" in entry for entry in launched)
                assert_same(to_host(y), a @ b, f"{a!r} {b!r}")


@pytest.mark.parametrize(
    ("a_grain", "b_grain"), [((0, 4), (0, 16)), ((1, 16), (1, 2)), ((0, 4), (1, 2)), ((1, 16), (0, 8))]
)
def test_blocks_that_go_one_by_one(emulate: Emulate, a_grain: Grain, b_grain: Grain) -> None:
    """Blocks along rows or columns, and cuts at other places of k: products of parts, and their sums."""
    emulated = emulate()
    a, b = tensors("uint8", a_grain, "int8", b_grain)
    for right in (b.to("cuda"), b.to("cuda").prepack()):
        before = len(emulated.launches)
        y = a.to("cuda") @ right
        launched = emulated.launches[before:]
        assert any("make_add" in entry for entry in launched)
        assert not any("make_blocks" in entry for entry in launched)
        assert_same(to_host(y), a @ b, repr(right))


def test_a_parameter_for_each_step_of_a_square_matrix(emulate: Emulate) -> None:
    """Those of a matrix (k, k) along k were taken for one of each column."""
    emulate()
    x = np.random.default_rng(2).normal(size=(6, 6)) * np.exp(np.arange(6.0))[:, None]
    a = gpuq.quantize(x.astype(np.float32), symmetric=True)
    b = gpuq.quantize(x.astype(np.float32), axis=0, symmetric=True)
    for right in (b.to("cuda"), b.to("cuda").prepack()):
        assert_same(to_host(a.to("cuda") @ right), a @ b)


def test_products_of_batches_and_vectors(emulate: Emulate) -> None:
    emulate()
    rng = np.random.default_rng(3)
    a_values, b_values = rng.normal(size=(3, 4, 10)).astype(np.float32), rng.normal(size=(3, 10, 6)).astype(np.float32)
    for a_axis in (None, 0, 1, 2):
        for b_axis in (None, 0, 1, 2):
            a, b = gpuq.quantize(a_values, axis=a_axis), gpuq.quantize(b_values, "uint8", axis=b_axis)
            for right in (b.to("cuda"), b.to("cuda").prepack()):
                assert_same(to_host(a.to("cuda") @ right), a @ b, f"{a_axis} {b_axis}")
    for axis, block_size in ((None, 0), (0, 0), (0, 4)):
        vector, matrix = (
            gpuq.quantize(each[0], "uint8", axis=axis, block_size=block_size) for each in (a_values[0], b_values)
        )
        assert_same(to_host(vector.to("cuda") @ matrix.to("cuda")), vector @ matrix)
        assert_same(to_host(matrix.T.to("cuda") @ vector.to("cuda")), matrix.T @ vector)
        assert_same(to_host(vector.to("cuda") @ vector.to("cuda")), vector @ vector)


def test_blocks_at_the_limits_of_int32(emulate: Emulate) -> None:
    """The largest sums of 33,025 codes; one more may take 64 bits, and does."""
    emulated = emulate()
    for length, one_kernel in ((33_025, True), (33_026, False)):
        k = length + 3
        a = gpuq.QTensor(np.full((1, k), 255, np.uint8), 1.0, np.uint8(0))
        codes, points = np.full((k, 1), -128, np.int8), np.full((2, 1), 127, np.int8)
        b = gpuq.QTensor(codes, np.ones((2, 1), np.float32), points, 0, length)
        before = len(emulated.launches)
        assert_same(to_host(a.to("cuda") @ b.to("cuda")), a @ b)
        assert any("make_blocks" in entry for entry in emulated.launches[before:]) == one_kernel


@pytest.mark.parametrize(
    ("a_grain", "b_grain", "operators"), [((0, 0), (1, 0), 1), ((0, 0), (0, 16), 1), ((0, 4), (0, 16), 40 + 39)]
)
def test_products_that_come_again(
    emulate: Emulate, a_grain: Grain, b_grain: Grain, operators: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Parameters in another shape, and parts of arrays, through the steps that the second call noted: of a product for
    each step along k, and their sums, too.
    """
    emulated, rng, taken = emulate(), np.random.default_rng(4), list[int]()
    _, b = tensors("uint8", a_grain, "int8", b_grain)
    there, take = b.to("cuda"), repeat._take

    def count(*given: Any) -> Any:
        result = take(*given)
        taken[-1] += result is not None
        return result

    monkeypatch.setattr(repeat, "_take", count)
    for _ in range(4):
        taken.append(0)
        a = gpuq.quantize(rng.normal(size=(6, 40)).astype(np.float32), "uint8", axis=a_grain[0], block_size=a_grain[1])
        own = (upload(emulated, array, kind=InterfaceArray) for array in (a.data, a.scale, a.zero_point))
        assert_same(to_host(gpuq.QTensor(*own, *a_grain) @ there), a @ b)
    assert taken[2:] == [operators, operators]
