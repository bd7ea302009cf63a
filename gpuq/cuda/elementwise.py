"""Elementwise kernels: one walk over a contiguous array, 16 elements per thread, parameters by number or by index.

    block b:  elements b · TILE … (b + 1) · TILE         warp: 512 in a row         pair of lanes: 32 in a row

    whole tile:  load ─► words ─► exchange ─► [unpack ─► element(…, own parameters) ─► pack] × 16 ─► exchange ─► store
    else:        one element after the other, neighbouring threads beside each other: ragged ends, arrays that are not
                 aligned to 16 bytes, parameters that change within a quad

A lane fetches its parameters once where a pair of lanes shares them, as most rows and blocks do, else once per quad.
Where neighbours have parameters of their own, the walk goes by columns instead: a lane takes four quads one below the
other, which have the same four parameters.

How lanes share a warp's elements stands in lanes.py, what becomes of one element in elements.py. An operator's
parameters are either the same for all elements and arguments of the kernel ("uniform"), or vectors with a geometry.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from gpuq.arithmetic import BFLOAT16, narrow_half, scalar, widen_half
from gpuq.cuda import ptx
from gpuq.cuda.compile import Kernel
from gpuq.cuda.geometry import BY_COLUMNS, BY_PAIRS, GEOMETRY, Columns, Geometry, parameter_index
from gpuq.cuda.indexing import divide
from gpuq.cuda.lanes import (
    make_exchange,
    make_move,
    make_move_quad,
    make_pack,
    make_unpack,
    quad_in_kernel,
    quads_per_access,
)
from gpuq.cuda.numba_cuda import cuda, types
from gpuq.cuda.tiles import LANE_ELEMENTS, QUAD, QUADS, THREADS, TILE, WARP
from gpuq.cuda.vectors import Vector, make_fetch, make_fetch4, vector_type

SIZES = {"float16": 2, "bfloat16": 2, "float32": 4, "float64": 8, "uint8": 1, "uint16": 2, "uint32": 4, "int32": 4}


@dataclass(frozen=True)
class Operator:
    """What an elementwise kernel is made of.

    `source` and `target` name the stored types; `element` and `settings` are as in elements.py; `parameters` are the
    Numba types of the numbers that belong to an element, and `bind(numbers, settings)` makes of them what `element`
    calls its own.
    """

    name: str
    source: str
    target: str
    element: Callable[..., Any]
    settings: tuple[Any, ...]
    parameters: tuple[Any, ...]
    bind: Callable[..., Any]


class Walk(NamedTuple):
    """The kernel of an operator: (x, y, count, way, parameters, settings); it counts elements, by columns lanes."""

    kernel: Kernel
    uniform: bool

    def parameters(self, geometry: Geometry | Columns, vectors: list[Vector]) -> tuple[Any, ...]:
        """The kernel's argument of that name."""
        return tuple(each.value for each in vectors) if self.uniform else (geometry, *vectors)


def make_walk(operator: Operator, uniform: bool) -> Walk:
    """The walk of an operator, its parameters numbers (uniform) or vectors."""
    if uniform:
        same = SIZES[operator.source] == SIZES[operator.target]
        function = _make_rows(operator, *_make_uniform(operator), WARP if same else 2)
        kind = types.Tuple(operator.parameters)
    else:
        function = _make_indexed_walk(operator)
        kind = types.Tuple((GEOMETRY, *map(vector_type, operator.parameters)))
    arguments = (types.int64, types.int64, types.int32, types.int32, kind, types.Tuple(operator.settings))
    name = f"{operator.name}_{operator.source}_{operator.target}{'_uniform' * uniform}"
    return Walk(Kernel(name, "elementwise", function, arguments, THREADS, (TILE,)), uniform)


# ---- parameters: own(parameters, element, settings), and own_quad(…, shared) where the pair's first has `shared` ----


def _make_uniform(operator: Operator) -> tuple[Callable[..., Any], Callable[..., Any]]:
    bind = operator.bind

    @scalar
    def own(parameters: Any, element: int, settings: Any) -> Any:
        return bind(parameters, settings)

    @scalar
    def own_quad(parameters: Any, element: int, settings: Any, way: int, shared: Any) -> Any:
        return shared

    return own, own_quad


def _make_indexed(operator: Operator) -> tuple[Callable[..., Any], Callable[..., Any]]:
    bind, fetch = operator.bind, _fetch_all(operator.parameters)

    @scalar
    def own(parameters: Any, element: int, settings: Any) -> Any:
        return bind(fetch(parameters[1:], parameter_index(parameters[0], element)), settings)

    @scalar
    def own_quad(parameters: Any, element: int, settings: Any, way: int, shared: Any) -> Any:
        return shared if way == BY_PAIRS else own(parameters, element, settings)

    return own, own_quad


def _fetch_all(kinds: tuple[Any, ...]) -> Callable[..., Any]:
    """`fetch(vectors, p)`: the numbers of index p, one of each vector."""
    first = make_fetch(kinds[0])
    if len(kinds) == 1:
        return scalar(lambda vectors, p: (first(vectors[0], p),))
    rest = _fetch_all(kinds[1:])

    @scalar
    def fetch(vectors: Any, p: int) -> Any:
        return (first(vectors[0], p), *rest(vectors[1:], p))

    return fetch


def _fetch4_all(kinds: tuple[Any, ...]) -> Callable[..., Any]:
    """`fetch4(vectors, p)`: the same for p … p + 3, as four tuples."""
    first = make_fetch4(kinds[0])
    if len(kinds) == 1:

        @scalar
        def fetch_one(vectors: Any, p: int) -> Any:
            a, b, c, d = first(vectors[0], p)
            return (a,), (b,), (c,), (d,)

        return fetch_one
    rest = _fetch4_all(kinds[1:])

    @scalar
    def fetch4(vectors: Any, p: int) -> Any:
        a, b, c, d = first(vectors[0], p)
        e, f, g, h = rest(vectors[1:], p)
        return (a, *e), (b, *f), (c, *g), (d, *h)

    return fetch4


# ---- the walks ----


def _make_rows(
    operator: Operator, own: Callable[..., Any], own_quad: Callable[..., Any], lanes: int = 2
) -> Callable[..., Any]:
    """The walk along rows: by pairs, or by runs of so many lanes where all elements share their parameters; by quads;
    one by one.
    """
    source_size, target_size, element = SIZES[operator.source], SIZES[operator.target], operator.element
    load_lane, _ = make_move(source_size, lanes)
    _, store_lane = make_move(target_size, lanes)
    lane_bits, run = lanes.bit_length() - 1, lanes * LANE_ELEMENTS
    wide = max(source_size, target_size)
    spread, gather = make_exchange(source_size, source_size, wide), make_exchange(target_size, wide, target_size)
    make_quad, storage = _make_quad(operator), _storage(operator.target)
    load_one, store_one = make_load_one(operator.source), _make_store_one(operator.target)
    source_words, target_words = LANE_ELEMENTS * source_size // 4, LANE_ELEMENTS * target_size // 4
    per_access = quads_per_access(wide)

    @scalar
    def own4(position: int, pair: int, odd: int, parameters: Any, settings: Any, way: int, shared: Any) -> Any:
        first = types.int32(pair + QUAD * quad_in_kernel(position, odd, per_access))
        same = own_quad(parameters, first, settings, way, shared)
        return same, same, same, same

    def rows(x: int, y: int, count: int, way: int, parameters: Any, settings: Any) -> None:
        thread = types.int32(cuda.threadIdx.x)
        start = types.int32(types.int32(cuda.blockIdx.x) * TILE)
        if way and count - start >= TILE:
            first, lane = types.int32(start + (thread >> lane_bits) * run), types.int32(thread & (lanes - 1))
            loaded = cuda.local.array(source_words, types.uint32)
            made = cuda.local.array(target_words, types.uint32)
            load_lane(x + types.int64(first) * source_size, lane, loaded)
            shared = own(parameters, first, settings)
            spread(loaded, lane)
            for word in range(target_words):
                made[word] = 0
            # one call after the other: NVVM of CUDA 12 leaves a loop of this size rolled, and both arrays in memory
            make_quad(loaded, 0, made, 0, own4(0, first, lane, parameters, settings, way, shared), settings)
            make_quad(loaded, 1, made, 1, own4(1, first, lane, parameters, settings, way, shared), settings)
            make_quad(loaded, 2, made, 2, own4(2, first, lane, parameters, settings, way, shared), settings)
            make_quad(loaded, 3, made, 3, own4(3, first, lane, parameters, settings, way, shared), settings)
            gather(made, lane)
            store_lane(y + types.int64(first) * target_size, lane, made)
        else:
            end = types.int32(min(count, start + TILE))
            index = types.int32(start + thread)
            while index < end:
                value = element(load_one(x, index), own(parameters, index, settings), settings, storage)
                store_one(y, index, value)
                index = types.int32(index + THREADS)

    return rows


def _make_indexed_walk(operator: Operator) -> Callable[..., Any]:
    """The walk of every way."""
    along_rows, along_columns = scalar(_make_rows(operator, *_make_indexed(operator))), _make_columns(operator)

    def walk(x: int, y: int, count: int, way: int, parameters: Any, settings: Any) -> None:
        if way == BY_COLUMNS:
            along_columns(x, y, count, parameters, settings)
        else:
            along_rows(x, y, count, way, parameters, settings)

    return walk


def _make_columns(operator: Operator) -> Callable[..., Any]:
    """The walk by columns: four parameters for four quads of a lane, one below the other."""
    source_size, target_size, bind = SIZES[operator.source], SIZES[operator.target], operator.bind
    (load_quad, _), (_, store_quad) = make_move_quad(source_size), make_move_quad(target_size)
    fetch4, make_quad = _fetch4_all(operator.parameters), _make_quad(operator)
    words = source_size * QUAD // 4  # of a quad
    loaded_words = QUADS * words

    @scalar
    def make_row(k: int, loaded: Any, y: int, first: int, step: int, rows: int, own: Any, settings: Any) -> None:
        if k < rows:
            made = cuda.local.array(target_size, types.uint32)
            for word in range(target_size):
                made[word] = 0
            make_quad(loaded, k, made, 0, own, settings)
            store_quad(y + types.int64(types.int32(first + k * step)) * target_size, made, 0)

    @scalar
    def walk(x: int, y: int, count: int, parameters: Any, settings: Any) -> None:
        lane = types.int32(types.int32(cuda.blockIdx.x) * THREADS + types.int32(cuda.threadIdx.x))
        if lane < count:
            quads, turn, groups, group, length = parameters[0]
            line, quad = divide(lane, quads)
            unit, row = divide(line, turn)
            outer, before = divide(unit, groups)
            row = types.int32(row + before * group)
            end = types.int32(min(length, before * group + group))
            row_size, step = types.int32(quads[2] * QUAD), types.int32(turn[2] * quads[2] * QUAD)
            first = types.int32((outer * length + row) * row_size + quad * QUAD)
            rows, _ = divide(types.int32(max(0, end - row) + turn[2] - 1), turn)  # of the lane's four
            loaded = cuda.local.array(loaded_words, types.uint32)
            for k in range(QUADS):
                if k < rows:
                    load_quad(x + types.int64(types.int32(first + k * step)) * source_size, loaded, k * words)
            a, b, c, d = fetch4(parameters[1:], types.int32(unit * row_size + quad * QUAD))
            own = bind(a, settings), bind(b, settings), bind(c, settings), bind(d, settings)
            # one call after the other, as above
            make_row(0, loaded, y, first, step, rows, own, settings)
            make_row(1, loaded, y, first, step, rows, own, settings)
            make_row(2, loaded, y, first, step, rows, own, settings)
            make_row(3, loaded, y, first, step, rows, own, settings)

    return walk


def _make_quad(operator: Operator) -> Callable[..., Any]:
    """`make_quad(loaded, i, made, j, own, settings)`: quad j of what is made, of quad i of what is loaded and the
    parameters of its four elements.
    """
    element, storage = operator.element, _storage(operator.target)
    unpack, pack = make_unpack(operator.source), make_pack(operator.target)

    @scalar
    def make_quad(loaded: Any, i: int, made: Any, j: int, own: Any, settings: Any) -> None:
        pack(made, j * QUAD, element(unpack(loaded, i * QUAD), own[0], settings, storage))
        pack(made, j * QUAD + 1, element(unpack(loaded, i * QUAD + 1), own[1], settings, storage))
        pack(made, j * QUAD + 2, element(unpack(loaded, i * QUAD + 2), own[2], settings, storage))
        pack(made, j * QUAD + 3, element(unpack(loaded, i * QUAD + 3), own[3], settings, storage))

    return make_quad


def _storage(name: str) -> Any:
    """The type that `element` gives: halves are made from float32 by what stores them."""
    return np.float32 if name in ("float16", "bfloat16") else np.dtype(name).type


def make_load_one(name: str) -> Callable[..., Any]:
    """`load(address, index)`: one element as elements.py takes it."""
    if name in ("float16", "bfloat16"):
        load_bits, widen = ptx.load[types.uint16], _widen_float16 if name == "float16" else _widen_bfloat16
        return scalar(lambda address, index: widen(load_bits(address + types.int64(index) * 2)))
    load, size = ptx.load[getattr(types, name)], SIZES[name]
    return scalar(lambda address, index: load(address + types.int64(index) * size))


def _make_store_one(name: str) -> Callable[..., Any]:
    """`store(address, index, value)`."""
    if name in ("float16", "bfloat16"):
        store_bits, narrow = ptx.store[types.uint16], _narrow_float16 if name == "float16" else _narrow_bfloat16
        return scalar(lambda address, index, value: store_bits(address + types.int64(index) * 2, narrow(value)))
    store, size = ptx.store[getattr(types, name)], SIZES[name]
    return scalar(lambda address, index, value: store(address + types.int64(index) * size, value))


@scalar
def _widen_float16(bits: int) -> Any:
    return ptx.float32_of_half(bits)


@scalar
def _widen_bfloat16(bits: int) -> Any:
    return widen_half(bits, BFLOAT16)


@scalar
def _narrow_float16(value: Any) -> Any:
    return ptx.half_of_float32(value)


@scalar
def _narrow_bfloat16(value: Any) -> Any:
    return np.uint16(narrow_half(value, BFLOAT16))
