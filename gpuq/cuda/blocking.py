"""Which kernel a product gets: candidates → those that are legal → what each costs → the cheapest.

    tiles       a block of tensor cores makes a tile of the result                      gemm_mma.py
    split       the same, k cut in slices for several blocks, added up afterwards       where the result has few tiles
    dots        a warp makes dot products                                               few rows or columns

The cost is time in cycles, from what a card's parts have to move and multiply:

    time = starts + waves · FILL + finish + the slowest of four, and of the others the tenth that is not hidden
        tensor    the products, of the multiprocessor that has most blocks
        shared    its traffic with shared memory
        cache     what it gets from the L2 cache, and its results
        memory    operands and sums; b again for every band of tiles where the cache cannot keep it
    wave      as many blocks as the card holds at a time
    finish    the second kernel of a split product, which adds up the slices' sums

The constants are rounded figures of data sheets. Choosing wrongly costs time, never a bit of the result.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import NamedTuple

from gpuq.cuda.hardware import Capability, Hardware
from gpuq.cuda.tiles import AMPERE_TILES, BAND, CHUNK, DOT_ROWS, EXACT_DEPTH, FEW, THREADS, TURING_TILES, WARP, Tile

START_SECONDS = 2e-6  # from one kernel's end to the next one's first block
FILL = 1_500  # cycles until a block's first codes are there, and until its last results are gone
SHARED_BYTES = 128  # a cycle, of a multiprocessor
DOT_PRODUCTS = 256  # multiply-adds a cycle, of a multiprocessor: 64 dp4a
REGISTERS = 1 << 16  # of a multiprocessor
OTHER_REGISTERS = 112  # of a thread, beside its sums
RESERVED_SHARED = 1 << 10  # bytes for each block
RESULT_BYTES = 4  # of an element; less for halves and codes, which does not change the order
MOST_SPLITS = 16
NOT_HIDDEN = 0.1


class Problem(NamedTuple):
    """A product: m × k times k × n, `batch` times."""

    m: int
    k: int
    n: int
    batch: int = 1


@dataclass(frozen=True)
class Candidate:
    """A way to do it. `tile` is None for dot products; `splits` slices of k; the other numbers are cycles, of the
    multiprocessor that has most to do, and of the memory.
    """

    tile: Tile | None
    splits: int
    blocks: int
    starts: float
    fill: float
    finish: float
    tensor: float
    shared: float
    cache: float
    memory: float

    @property
    def cycles(self) -> float:
        """What it costs."""
        parts = (self.tensor, self.shared, self.cache, self.memory)
        return self.starts + self.fill + self.finish + (1 - NOT_HIDDEN) * max(parts) + NOT_HIDDEN * sum(parts)

    def __str__(self) -> str:
        return "dots" if self.tile is None else f"{self.tile}" + f" split {self.splits}" * (self.splits > 1)


@functools.lru_cache(maxsize=4096)
def choose(problem: Problem, capability: Capability, card: Hardware) -> Candidate:
    """The cheapest candidate; of equals the first."""
    return min(candidates(problem, capability, card), key=lambda each: each.cycles)


def candidates(problem: Problem, capability: Capability, card: Hardware) -> list[Candidate]:
    """All legal candidates with their costs, in the order of the tiles."""
    tiles = AMPERE_TILES if capability >= (8, 0) else TURING_TILES
    found = [
        _tiled(problem, card, tile, splits)
        for tile in tiles
        if tile.shared_bytes <= card.shared_bytes
        for splits in range(1, MOST_SPLITS + 1)
        if _is_legal(problem, tile, splits, tile is tiles[-1])
    ]
    return [*found, _dots(problem, card)] if min(problem.m, problem.n) <= FEW else found


def _is_legal(problem: Problem, tile: Tile, splits: int, takes_any_depth: bool) -> bool:
    """Whether a tile's kernel can have slices of k: alike, of whole chunks, none of less than the tile's depth, and
    with sums that int32 holds but for one tile.
    """
    chunks = -(-problem.k // CHUNK)
    depth = chunks // splits * CHUNK
    if splits > 1 and (chunks % splits != 0 or depth < tile.depth):
        return False
    return depth <= EXACT_DEPTH or (takes_any_depth and splits == 1)


def _tiled(problem: Problem, card: Hardware, tile: Tile, splits: int) -> Candidate:
    m, k, n, batch = problem
    down, across = -(-m // tile.rows), -(-n // tile.columns)
    blocks = batch * down * across * splits
    slabs = -(-k // (tile.depth * splits))
    most = -(-blocks // card.multiprocessors)  # of one multiprocessor
    slab = (tile.rows + tile.columns) * tile.depth  # bytes
    warps = tile.threads // WARP
    fragments = warps * (tile.warp_rows + tile.warp_columns) * tile.depth
    sums = RESULT_BYTES * batch * m * n * splits  # bytes
    fits = sums < card.cache_bytes / 2
    sums_rate = card.cached_bytes * card.multiprocessors if fits else card.memory_bytes
    again = -(-down // BAND) if k * n > card.cache_bytes else 1  # how often b comes from memory: once a band of tiles
    return Candidate(
        tile,
        splits,
        blocks,
        starts=START_SECONDS * card.gigahertz * 1e9 * (1 + (splits > 1)),
        fill=FILL * -(-blocks // (card.multiprocessors * resident_blocks(tile, card))),
        finish=(sums / sums_rate + batch * m * n * RESULT_BYTES / card.memory_bytes) if splits > 1 else 0,
        tensor=most * slabs * tile.rows * tile.columns * tile.depth / card.tensor_products,
        shared=most * slabs * (fragments + slab) / SHARED_BYTES,
        cache=most * (slabs * slab + tile.rows * tile.columns * RESULT_BYTES) / card.cached_bytes,
        memory=(batch * (m * k + n * k * again) + (0 if splits > 1 and fits else sums)) / card.memory_bytes,
    )


def _dots(problem: Problem, card: Hardware) -> Candidate:
    """The long operand comes from memory once and from the cache for every DOT_ROWS of the short one's rows, which it
    meets in a multiprocessor's own cache.
    """
    m, k, n, batch = problem
    long, short = max(m, n), min(m, n)
    sets = -(-short // DOT_ROWS)
    blocks = batch * -(-long // (THREADS // WARP)) * sets
    share = batch * long * sets / card.multiprocessors
    return Candidate(
        None,
        1,
        blocks,
        starts=START_SECONDS * card.gigahertz * 1e9,
        fill=FILL,
        finish=0,
        tensor=share * k * DOT_ROWS / DOT_PRODUCTS,
        shared=share * k * (1 + DOT_ROWS) / SHARED_BYTES,
        cache=share * k / card.cached_bytes,
        memory=batch * (long * k + short * k + m * n * RESULT_BYTES) / card.memory_bytes,
    )


def resident_blocks(tile: Tile, card: Hardware) -> int:
    """How many blocks a multiprocessor holds at a time."""
    registers = tile.threads * (tile.warp_rows * tile.warp_columns // WARP + OTHER_REGISTERS)
    shared = (card.shared_bytes + RESERVED_SHARED) // (tile.shared_bytes + RESERVED_SHARED)
    return max(1, min(REGISTERS // registers, shared))
