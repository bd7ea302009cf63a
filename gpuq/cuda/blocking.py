"""Which kernel a product gets: candidates → those that are legal → what each costs → the cheapest.

    tiles       a block makes a tile of the result by tensor cores
    dots        a warp makes dot products: few rows or columns, see gemm_dots.py

The cost is time in cycles, from what a card's parts have to move and multiply:

    time = start + waves · FILL + (blocks − 1) · NEXT + the slowest of five, and of the others the share not hidden
        start     of the kernel, and of another one before it where that adds up rows for zero points
        tensor    the products, of the multiprocessor that has most blocks
        shared    its traffic with shared memory
        cache     what it gets from the L2 cache, and its results
        memory    operands and sums; b again for every band of tiles where the cache cannot keep it
        latency   of the slabs of blocks that follow one another, as many on their way as a block has stages
    wave = as many blocks as the card holds at a time; blocks: of the multiprocessor that has most

The constants are rounded from 35 shapes on an H200. On 24 more, by which two of the tiles were picked from 15, so that
they are no test of them, what is chosen took 0.6 % more than the best of our tiles, and 4.4 % at most, without zero
points; the cost of adding rows up is put together from two shapes. Choosing wrongly costs time, never a bit.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import NamedTuple

from gpuq.cuda.hardware import Capability, Hardware
from gpuq.cuda.tiles import AMPERE_TILES, BAND, CHUNK, DOT_ROWS, EXACT_DEPTH, FEW, THREADS, TURING_TILES, WARP, Tile

AMPERE: Capability = (8, 0)
START_SECONDS = 2e-6  # from one kernel's end to the next one's first block
FILL = 3_000  # cycles until a block's first codes are there, and until its last results are gone
NEXT = 600  # cycles of each further block of a multiprocessor
LATENCY = 1_200  # cycles until a slab is there, with all multiprocessors asking
SHARED_BYTES = 160  # a cycle, of a multiprocessor
DOT_PRODUCTS = 256  # multiply-adds a cycle, of a multiprocessor: 64 dp4a
REGISTERS = 1 << 16  # of a multiprocessor
MOST_WARPS = 32  # that many at least it can hold
OTHER_REGISTERS = 112  # of a thread, beside its sums
RESERVED_SHARED = 1 << 10  # bytes for each block
RESULT_BYTES = 4  # of an element; less for halves and codes, which does not change the order
NOT_HIDDEN = 0.2


class Problem(NamedTuple):
    """A product: m × k times k × n, `batch` times; with `sums` of the rows of a, for zero points of b."""

    m: int
    k: int
    n: int
    batch: int = 1
    sums: bool = False


@dataclass(frozen=True)
class Candidate:
    """A way to do it. `tile` is None for dot products; the other numbers are cycles, of the multiprocessor that has
    most to do, and of the memory.
    """

    tile: Tile | None
    blocks: int
    start: float
    fill: float
    tensor: float
    shared: float
    cache: float
    memory: float
    latency: float

    @property
    def cycles(self) -> float:
        """What it costs."""
        parts = (self.tensor, self.shared, self.cache, self.memory, self.latency)
        return self.start + self.fill + (1 - NOT_HIDDEN) * max(parts) + NOT_HIDDEN * sum(parts)

    def __str__(self) -> str:
        return "dots" if self.tile is None else str(self.tile)


@functools.lru_cache(maxsize=4096)
def choose_tile(problem: Problem, capability: Capability, card: Hardware) -> Tile | None:
    """The cheapest candidate's tile; of equals the first."""
    return min(candidates(problem, capability, card), key=lambda each: each.cycles).tile


def candidates(problem: Problem, capability: Capability, card: Hardware) -> list[Candidate]:
    """All legal candidates with their costs: tiles, and for few rows or columns dot products; before 8.0, whose tiles
    are all large, and for sums beyond int32 those alone.
    """
    few = min(problem.m, problem.n) <= FEW
    if few and (capability < AMPERE or problem.k > EXACT_DEPTH):
        return [_dots(problem, card)]
    tiles = [_tiled(problem, card, tile) for tile in _legal_tiles(problem, capability, card)]
    return [_dots(problem, card), *tiles] if few else tiles


def _legal_tiles(problem: Problem, capability: Capability, card: Hardware) -> list[Tile]:
    """Those that a block has shared memory for; beyond EXACT_DEPTH the one with registers for int64 sums as well."""
    tiles: tuple[Tile, ...] = AMPERE_TILES if capability >= AMPERE else TURING_TILES
    if problem.k > EXACT_DEPTH:
        tiles = tiles[-1:]
    return [tile for tile in tiles if tile.block_bytes <= card.shared_bytes]


def _tiled(problem: Problem, card: Hardware, tile: Tile) -> Candidate:
    m, k, n, batch, _ = problem
    down, across = -(-m // tile.rows), -(-n // tile.columns)
    blocks = batch * down * across
    slabs = -(-k // tile.depth)
    most = -(-blocks // card.multiprocessors)  # of one multiprocessor
    resident = resident_blocks(tile, card)
    slab = (tile.rows + tile.columns) * tile.depth  # bytes
    fragments = tile.warps * (tile.warp_rows + tile.warp_columns) * tile.depth
    again = -(-down // BAND) if k * n > card.cache_bytes else 1  # how often b comes from memory: once a band of tiles
    return Candidate(
        tile,
        blocks,
        start=_start(problem, card, tile.sums_rows(k > EXACT_DEPTH)),
        fill=FILL * -(-blocks // (card.multiprocessors * resident)) + NEXT * (most - 1),
        tensor=most * slabs * tile.rows * tile.columns * tile.depth / card.tensor_products,
        shared=most * slabs * (fragments + slab) / SHARED_BYTES,
        cache=most * (slabs * slab + tile.rows * tile.columns * RESULT_BYTES) / card.cached_bytes,
        memory=batch * (m * k + n * k * again + m * n * RESULT_BYTES) / card.memory_bytes,
        latency=most / min(most, resident) * slabs * LATENCY / (tile.stages - 1),
    )


def _start(problem: Problem, card: Hardware, sums_rows: bool) -> float:
    """Of the kernel, and of one before it that adds the rows of a up, where that one is needed."""
    own = START_SECONDS * card.gigahertz * 1e9
    return own + own + FILL if problem.sums and not sums_rows else own


def _dots(problem: Problem, card: Hardware) -> Candidate:
    """The long operand comes from memory once and from the cache for every DOT_ROWS of the short one's rows, which it
    meets in a multiprocessor's own cache.
    """
    m, k, n, batch, _ = problem
    long, short = max(m, n), min(m, n)
    sets = -(-short // DOT_ROWS)
    blocks = batch * -(-long // (THREADS // WARP)) * sets
    share = batch * long * sets / card.multiprocessors
    return Candidate(
        None,
        blocks,
        start=_start(problem, card, False),
        fill=FILL,
        tensor=share * k * DOT_ROWS / DOT_PRODUCTS,
        shared=share * k * (1 + DOT_ROWS) / SHARED_BYTES,
        cache=share * k / card.cached_bytes,
        memory=batch * (long * k + short * k + m * n * RESULT_BYTES) / card.memory_bytes,
        latency=LATENCY * -(-k // (WARP * CHUNK)) * -(-batch * long * sets // (card.multiprocessors * MOST_WARPS)),
    )


def resident_blocks(tile: Tile, card: Hardware) -> int:
    """How many blocks a multiprocessor holds at a time."""
    registers = tile.threads * (tile.sums + OTHER_REGISTERS)
    shared = (card.shared_bytes + RESERVED_SHARED) // (tile.block_bytes + RESERVED_SHARED)
    return max(1, min(REGISTERS // registers, shared, MOST_WARPS * WARP // tile.threads))
