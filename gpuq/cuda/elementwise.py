"""Elementwise kernels: one walk over a contiguous array, 16 elements per thread, parameters by number or by index.

    block b:  elements b · TILE … (b + 1) · TILE         warp: 512 in a row         pair of lanes: 32 in a row

    whole tile:  load ─► words ─► exchange ─► [unpack ─► element(…, own parameters) ─► pack] × 16 ─► exchange ─► store
    else:        one element after the other, neighbouring threads beside each other: ragged ends, arrays that are not
                 aligned to 16 bytes, parameters that change within a quad

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
from gpuq.cuda.geometry import GEOMETRY, Geometry, parameter_index
from gpuq.cuda.lanes import make_exchange, make_move, make_pack, make_unpack, quad_in_kernel, quads_per_access
from gpuq.cuda.numba_cuda import cuda, types
from gpuq.cuda.tiles import LANE_ELEMENTS, PAIR_ELEMENTS, QUAD, THREADS, TILE
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
    """The kernel of an operator: (x, y, count, whole, parameters, settings)."""

    kernel: Kernel
    uniform: bool

    def parameters(self, geometry: Geometry, vectors: list[Vector]) -> tuple[Any, ...]:
        """The kernel's argument of that name."""
        return tuple(each.value for each in vectors) if self.uniform else (geometry, *vectors)


def make_walk(operator: Operator, uniform: bool) -> Walk:
    """The walk of an operator, its parameters numbers (uniform) or vectors."""
    if uniform:
        given, kind = _make_uniform(operator), types.Tuple(operator.parameters)
    else:
        given, kind = _make_indexed(operator), types.Tuple((GEOMETRY, *map(vector_type, operator.parameters)))
    function = _make_function(operator, *given)
    arguments = (types.int64, types.int64, types.int32, types.int32, kind, types.Tuple(operator.settings))
    name = f"{operator.name}_{operator.source}_{operator.target}{'_uniform' * uniform}"
    return Walk(Kernel(name, "elementwise", function, arguments, THREADS, (TILE,)), uniform)


# ---- parameters: own(parameters, element, settings) for one, own4(…) for a quad ----


def _make_uniform(operator: Operator) -> tuple[Callable[..., Any], Callable[..., Any]]:
    bind = operator.bind

    @scalar
    def own(parameters: Any, element: int, settings: Any) -> Any:
        return bind(parameters, settings)

    @scalar
    def own4(parameters: Any, element: int, settings: Any) -> Any:
        same = bind(parameters, settings)
        return same, same, same, same

    return own, own4


def _make_indexed(operator: Operator) -> tuple[Callable[..., Any], Callable[..., Any]]:
    bind, fetch, fetch4 = operator.bind, _fetch_all(operator.parameters), _fetch4_all(operator.parameters)

    @scalar
    def own(parameters: Any, element: int, settings: Any) -> Any:
        return bind(fetch(parameters[1:], parameter_index(parameters[0], element)), settings)

    @scalar
    def own4(parameters: Any, element: int, settings: Any) -> Any:
        p = parameter_index(parameters[0], element)
        if parameters[0][4]:  # varying
            first, second, third, fourth = fetch4(parameters[1:], p)
            return bind(first, settings), bind(second, settings), bind(third, settings), bind(fourth, settings)
        same = bind(fetch(parameters[1:], p), settings)
        return same, same, same, same

    return own, own4


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


# ---- the walk ----


def _make_function(operator: Operator, own: Callable[..., Any], own4: Callable[..., Any]) -> Callable[..., Any]:
    source_size, target_size, element = SIZES[operator.source], SIZES[operator.target], operator.element
    load_lane, _ = make_move(source_size)
    _, store_lane = make_move(target_size)
    wide = max(source_size, target_size)
    spread, gather = make_exchange(source_size, source_size, wide), make_exchange(target_size, wide, target_size)
    unpack, pack, storage = make_unpack(operator.source), make_pack(operator.target), _storage(operator.target)
    load_one, store_one = make_load_one(operator.source), _make_store_one(operator.target)
    source_words, target_words = LANE_ELEMENTS * source_size // 4, LANE_ELEMENTS * target_size // 4
    per_access = quads_per_access(wide)

    @scalar
    def make_quad(position: int, loaded: Any, made: Any, pair: int, odd: int, parameters: Any, settings: Any) -> None:
        first = types.int32(pair + QUAD * quad_in_kernel(position, odd, per_access))
        own0, own1, own2, own3 = own4(parameters, first, settings)
        i = position * QUAD
        pack(made, i, element(unpack(loaded, i), own0, settings, storage))
        pack(made, i + 1, element(unpack(loaded, i + 1), own1, settings, storage))
        pack(made, i + 2, element(unpack(loaded, i + 2), own2, settings, storage))
        pack(made, i + 3, element(unpack(loaded, i + 3), own3, settings, storage))

    def walk(x: int, y: int, count: int, whole: int, parameters: Any, settings: Any) -> None:
        thread = types.int32(cuda.threadIdx.x)
        start = types.int32(types.int32(cuda.blockIdx.x) * TILE)
        if whole and count - start >= TILE:
            pair, odd = types.int32(start + (thread >> 1) * PAIR_ELEMENTS), types.int32(thread & 1)
            loaded = cuda.local.array(source_words, types.uint32)
            made = cuda.local.array(target_words, types.uint32)
            load_lane(x + types.int64(pair) * source_size, odd, loaded)
            spread(loaded, odd)
            for word in range(target_words):
                made[word] = 0
            # one call after the other: NVVM of CUDA 12 leaves a loop of this size rolled, and both arrays in memory
            make_quad(0, loaded, made, pair, odd, parameters, settings)
            make_quad(1, loaded, made, pair, odd, parameters, settings)
            make_quad(2, loaded, made, pair, odd, parameters, settings)
            make_quad(3, loaded, made, pair, odd, parameters, settings)
            gather(made, odd)
            store_lane(y + types.int64(pair) * target_size, odd, made)
        else:
            end = types.int32(min(count, start + TILE))
            index = types.int32(start + thread)
            while index < end:
                value = element(load_one(x, index), own(parameters, index, settings), settings, storage)
                store_one(y, index, value)
                index = types.int32(index + THREADS)

    return walk


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
