"""What the choice of a kernel has to know of a card: how much of it there is, and how fast its parts are.

A device says itself how many multiprocessors, how much shared memory and cache it has, and what its memory's clock and
bus are; other rates come from the table, by compute capability: one card that many have stands for each.
"""

from __future__ import annotations

from typing import NamedTuple

Capability = tuple[int, int]
SCHEDULERS = 4  # of a multiprocessor, each with a tensor pipe
PRODUCTS_OF_MMA = 16 * 8 * 32  # of m16n8k32, the instruction of a warp; 7.5 makes it of four
KIBI, MEBI = 1 << 10, 1 << 20


class Hardware(NamedTuple):
    """A card: its name; multiprocessors; bytes of shared memory that a block may ask for; bytes of L2 cache; cycles of
    a tensor pipe per m16n8k32 as mma.sync gets them; bytes of the L2 cache that a multiprocessor gets in a cycle;
    gigahertz; gigabytes per second of its memory.
    """

    name: str
    multiprocessors: int
    shared_bytes: int
    cache_bytes: int
    mma_cycles: int
    cached_bytes: int
    gigahertz: float
    gigabytes_per_second: float

    @property
    def tensor_products(self) -> float:
        """Multiply-adds per cycle of a multiprocessor's tensor cores."""
        return SCHEDULERS * PRODUCTS_OF_MMA / self.mma_cycles

    @property
    def memory_bytes(self) -> float:
        """Bytes of memory per cycle of the whole card."""
        return self.gigabytes_per_second / self.gigahertz


# From data sheets; cycles from machine code, as ptxas paces mma.sync, but for 10.0's, which are taken to be 9.0's; the
# bytes from the cache are measured on 9.0, elsewhere estimates.
REPRESENTATIVES: dict[Capability, Hardware] = {
    (7, 5): Hardware("T4", 40, 64 * KIBI, 4 * MEBI, 16, 16, 1.59, 320),
    (8, 0): Hardware("A100", 108, 163 * KIBI, 40 * MEBI, 8, 48, 1.41, 1555),
    (8, 6): Hardware("GeForce RTX 3090", 82, 99 * KIBI, 6 * MEBI, 16, 16, 1.695, 936),
    (8, 9): Hardware("GeForce RTX 4090", 128, 99 * KIBI, 72 * MEBI, 16, 16, 2.52, 1008),
    (9, 0): Hardware("H100", 132, 227 * KIBI, 50 * MEBI, 6, 72, 1.755, 3350),
    (10, 0): Hardware("B200", 148, 227 * KIBI, 126 * MEBI, 6, 72, 1.965, 8000),
    (12, 0): Hardware("GeForce RTX 5090", 170, 99 * KIBI, 96 * MEBI, 16, 16, 2.407, 1792),
}


def representative(capability: Capability) -> Hardware:
    """The card that stands for a compute capability: that of the latest one in the table that is not later."""
    return REPRESENTATIVES[max(known for known in REPRESENTATIVES if known <= capability)]


def memory_rate(kilohertz: int, bits: int) -> float:
    """Gigabytes per second of a memory by its clock and the width of its bus: a word at either edge; 0 if unknown."""
    return 2 * kilohertz * 1e3 * bits / 8 / 1e9
