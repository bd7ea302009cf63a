"""Block and piece sizes of the CPU's kernels, with their reasons; the tiles of the instruction sets stand in isa.py."""

from __future__ import annotations

from gpuq.cpu.isa import InstructionSet

CODES = 64  # rows of codes are padded to this many where a group is as long as the rows: whole vectors, no scalar tail
DEPTH = 2048  # codes along k per pass: panels of a tile, 12 + 32 rows, are 88 KB and come from L2 at its full rate
ROWS = 96  # rows of a per block, a multiple of every tile; …
COLUMNS = 192  # … with as many columns of b the sums (72 KB) and both operands (576 KB) stay in L2
SUM_DEPTH = 1 << 20  # codes whose sum int32 holds
EXACT_DEPTH = 32_768  # int32 sums of any codes are exact to k = 33,025; deeper products go in slices of this many
LINE = 64  # bytes of a cache line
PANELS_ACROSS = 8  # panels packed side by side where rows of the source run across them: whole cache lines are read
PRODUCTS = 1 << 26  # multiply-adds of the smallest piece for a thread: some 150 µs at the full rate of one core
READING_B = 16  # rows of a whose products take as long as reading b from memory does
PACKED_CODES = 1 << 19  # codes of the smallest piece of packing: some 150 µs
CHUNK = 8192  # bytes of results that are computed in the nearest cache before they are stored around it
STREAMED = 1 << 24  # bytes read and written from which results are stored around the caches, which are rarely larger
ELEMENTS = 1 << 20  # elements of the smallest piece of an elementwise operator: 100 µs and more


def group_length(isa: InstructionSet, k: int) -> int:
    """Codes of one row side by side in a panel: the instruction's group, or rows cut into equal pieces of at most
    DEPTH.
    """
    if isa.group:
        return isa.group
    pieces = max(1, -(-k // DEPTH))
    return max(CODES, -(-k // (pieces * CODES)) * CODES)
