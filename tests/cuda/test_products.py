"""How a product is divided: batches into axes, launches and kernels, against plain NumPy."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import gpuq
from compare import assert_same
from devices import CAPABILITIES
from gpuq.layout import matmul_shape
from products import arguments, operands
from runner import Runner

pytest.importorskip("numba_cuda", reason="needs the package numba-cuda")

from emulated import download, upload  # noqa: E402
from gpuq.cuda import driver, products  # noqa: E402
from gpuq.cuda.pack import Rows  # noqa: E402
from gpuq.cuda.products import _batch_axes, _launches, _plan  # noqa: E402
from gpuq.device_array import device_array  # noqa: E402

Shape = tuple[int, ...]
BATCHES: list[tuple[Shape, Shape, Shape, Shape]] = [  # of a, b, row and column parameters
    ((), (), (), ()), ((4,), (4,), (), ()), ((4,), (), (4,), ()), ((), (4,), (), (4,)), ((2, 3), (2, 3), (2, 3), ()),
    ((2, 1), (1, 3), (2, 1), (3,)), ((2, 3), (3,), (), (1, 3)), ((2, 1, 2, 1, 2), (3, 1, 3, 1), (), (2, 3, 1, 1, 2)),
    ((1, 1), (1, 1), (1, 1), ()), ((5, 1, 2), (5, 3, 2), (5, 3, 2), (2,)),
]  # fmt: skip


def rows_like(batch: Shape, strides: Shape) -> Rows:
    return Rows(0, 16, 16, batch, strides, 0, 0, None, device_array(0, (0,), np.int8))


def c_strides(shape: Shape) -> Shape:
    return tuple(math.prod(shape[place + 1 :]) for place in range(len(shape)))


@pytest.mark.parametrize("most_blocks", [1 << 31, 7, 2])
@pytest.mark.parametrize("batches", BATCHES, ids=str)
def test_every_matrix_finds_its_own(batches: Any, most_blocks: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Offsets that the kernel adds up for matrix i of a launch are those of broadcasting, whatever the strides."""
    monkeypatch.setattr(products, "MOST_BLOCKS", most_blocks)
    a, b, rows, columns = batches
    shape = matmul_shape((*a, 3, 5), (*b, 5, 4))
    a_strides, b_strides = tuple(-100 * step for step in c_strides(a)), tuple(1000 + 10 * step for step in c_strides(b))
    axes = _batch_axes(shape, rows_like(a, a_strides), rows_like(b, b_strides), rows, columns)
    sources = [(a, a_strides), (b, b_strides), *((each, c_strides(each)) for each in (a, b, rows, columns))]
    found: list[tuple[int, ...]] = []
    for first, count, offsets, own_axes in _launches(axes, 2):
        assert first == len(found)
        assert count * 2 <= most_blocks or count == 1
        extents = [divisor.value for divisor, _ in own_axes]
        assert math.prod(extents) == count
        for index in itertools.product(*map(range, extents)):
            steps = [[position * step for step in own] for position, (_, own) in zip(index, own_axes, strict=True)]
            found.append(tuple(offset + sum(each) for offset, *each in zip(offsets, *steps, strict=True)))
    expected = []
    for index in np.ndindex(*shape.batch):
        own = []
        for source, strides in sources:
            place = [
                i if extent != 1 else 0 for i, extent in zip(index[len(index) - len(source) :], source, strict=True)
            ]
            own.append(sum(i * step for i, step in zip(place, strides, strict=True)))
        expected.append(tuple(own))
    assert found == expected


@pytest.mark.parametrize("most_blocks", [1 << 31, 3])
def test_batches_in_several_launches(
    emulate: Callable[..., Any], most_blocks: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    emulate()
    monkeypatch.setattr(products, "MOST_BLOCKS", most_blocks)
    rng = np.random.default_rng(0)
    for a_batch, b_batch, rows, columns in BATCHES:
        for m, k, n in ((2, 5, 3), (17, 20, 18)):
            a, b = operands(rng, ("int8", "uint8"), (*a_batch, m, k), (*b_batch, k, n))
            for name in ("matmul_integer", "qlinear_matmul"):
                Runner("cuda").check(name, **arguments(rng, name, a, b, (*rows, m, 1), (*columns, 1, n)))


@pytest.mark.parametrize(
    ("m", "n", "before_8", "deep"),
    [
        (1, 1, "dots_int32", "dots_int32"),
        (16, 5000, "dots_int32", "dots_int32"),
        (5000, 16, "dots_int32", "dots_int32"),
        (17, 17, "mma_int32_64x64x64_turing", "mma_int32_64x64x128"),
        (17, 100, "mma_int32_64x64x64_turing", "mma_int32_64x64x128"),
    ],
)
def test_which_kernel(emulate: Callable[..., Any], m: int, n: int, before_8: str, deep: str) -> None:
    """Before 8.0 there is one for few and one for the rest; from then on one that is not deep may be any."""
    for capability in CAPABILITIES:
        emulate(capability)
        turing = capability < (8, 0)
        for k in (64, 32_768, 32_769):
            plan = _plan("int32", matmul_shape((m, k), (k, n)), driver.device(0), sums=True)
            assert plan.kernel.since <= capability < plan.kernel.before
            assert plan.kernel.name.endswith("_deep") == (k > 32_768)
            if turing or k > 32_768:
                assert plan.kernel.name == f"gemm_{before_8 if turing else deep}{'_deep' * (k > 32_768)}"


def test_overflow_is_looked_for_where_it_can_be_alone(
    emulate: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Up to k = 33,025 nothing is read back, so a call on device arrays never waits."""
    emulated = emulate()
    waited: list[int] = []
    wait = emulated.cuStreamSynchronize
    monkeypatch.setattr(emulated, "cuStreamSynchronize", lambda number: (waited.append(number), wait(number))[1])
    for k, waits in ((33_025, 0), (33_026, 1)):
        a, b = (upload(emulated, np.ones(shape, np.int8)) for shape in ((1, k), (k, 1)))
        c = gpuq.matmul_integer(a, b)
        assert len(waited) == waits
        assert_same(download(emulated, c), np.int32([[k]]))


def test_a_deep_product_refused_in_a_graph(emulate: Callable[..., Any]) -> None:
    """Before anything is launched; the other products, and shorter ones, may be captured."""
    emulated = emulate()
    import gpuq
    from emulated import download, upload

    a, b = (upload(emulated, np.ones(shape, np.int8)) for shape in ((1, 33_026), (33_026, 1)))
    with driver.device(0).current():
        stream = emulated.cuStreamCreate(1)[1]
        emulated.cuStreamBeginCapture(stream, 0)
        launched = len(emulated.launches)
        with pytest.raises(ValueError, match=r"stream: got one that captures a graph.*k = 33026"):
            gpuq.matmul_integer(a, b, stream=stream)
        assert len(emulated.launches) == launched
        y = gpuq.scaled_matmul(a, b, 0.5, 1.0, stream=stream)
        graph = emulated.cuStreamEndCapture(stream)[1]
        for _ in range(2):
            emulated.cuGraphLaunch(graph, stream)
            assert_same(download(emulated, y), np.float32([[16_513]]))
