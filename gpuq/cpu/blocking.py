"""How a product is cut: blocks of rows and columns, each by one thread, and passes along k. Pure functions.

           columns                one pass: a block of b, `columns` × `depth` codes, lies in L2, and each strip of a, a
          ┌───────┬───────┐       tile's rows × `depth` codes, in L1 beside the panel of b that it meets
     rows │ block │       │
          ├───────┼───────┤       passes: k is cut into equal depths of at most DEPTH
          │       │       │
          └───────┴───────┘

Blocks as large as the caches allow are fewest, and threads may then have unequal shares, so smaller ones are tried: a
call takes as long as the thread that has most blocks. Every block reads its part of b, fills the strips of a for its
own columns, and begins and ends at some cost.
"""

from __future__ import annotations

import itertools
from typing import NamedTuple

from gpuq.cpu.isa import InstructionSet
from gpuq.cpu.tiles import DEPTH, group_length, packed_at_once, steps_along

BLOCK_CODES = 1 << 18  # of b in a block and pass: half of L2 where that is small, and read once for each strip
WHOLE_CODES = 1 << 20  # of all of b, which then comes from the next cache fast enough, whatever the blocks
MOST_COLUMNS = 512  # the sums of a strip, 12 or 24 KB, stay in L1 while they are finished
MOST_ROWS = 192  # the sums of a block of several passes, 192 KB, stay in L2 too
MOST_ROWS_AT_ONCE = 1536  # of a single pass, which has the sums of a strip alone: threads share what is left of a call
SMALLEST = 1 << 19  # multiply-adds that are worth a thread: some 3 µs
READ_ROWS = 4  # of a that could be multiplied with a block of b while that comes into L2
FILLED_COLUMNS = 20  # of b that could be multiplied with a strip of a while that is filled
BEGUN_CODES = 1 << 17  # multiply-adds that could be made while a block begins and ends
LATE = 0.25  # of a block: how long a thread that was busy elsewhere keeps the others waiting, on average
LATE_CODES = 1 << 20  # but of a short one no longer than a thread needs to wake, 5 µs, in multiply-adds
SHORT_CODES = 1 << 25  # multiply-adds of a short block: 150 µs
FUSED_ROWS = 256  # of a, for which b is packed as it is multiplied: more would read it too often, a block at a time
FUSED_ROOM = 1 << 19  # bytes of a thread's part of b, half of L2 or less: but not below what is packed at once
FUSED_BLOCKS = 4  # for each thread, as spread.py's pieces
MOST_ROOM = 1 << 23  # bytes of that part, which a thread allocates: deeper products are packed beforehand
MORE_PIECES = 4  # for each thread, than the fewest, are tried of rows and of columns


class Blocks(NamedTuple):
    """Rows and columns of a block, whole tiles of them, and steps of a pass along k."""

    rows: int
    columns: int
    steps: int


def choose_blocks(m: int, k: int, n: int, isa: InstructionSet, products: int, threads: int) -> Blocks:
    """The blocks of `products` products of m × k by k × n codes."""
    group = group_length(isa, k)
    steps = max(1, steps_along(isa, k))
    passes = -(-steps * group // max(DEPTH, group))
    depth = -(-steps // (passes * isa.steps)) * isa.steps
    strips, panels = max(1, -(-m // isa.rows)), max(1, -(-n // isa.columns))
    block_codes = BLOCK_CODES if k * n > WHOLE_CODES else WHOLE_CODES
    most_panels = max(1, min(MOST_COLUMNS, block_codes // (depth * group)) // isa.columns)
    working = max(1, min(threads, products * m * k * n // SMALLEST))

    def duration(cut: tuple[int, int]) -> float:
        """How long blocks of so many strips and panels take, in multiply-adds."""
        count = products * -(-strips // cut[0]) * -(-panels // cut[1])
        block = (cut[0] * isa.rows + READ_ROWS) * (cut[1] * isa.columns + FILLED_COLUMNS) * k + BEGUN_CODES
        late = min(LATE * block, LATE_CODES + LATE * max(0, block - SHORT_CODES)) if working > 1 else 0
        return -(-count // working) * block + late

    most_rows = MOST_ROWS if passes > 1 else MOST_ROWS_AT_ONCE
    ways = itertools.product(_cuts(strips, most_rows // isa.rows, working), _cuts(panels, most_panels, working))
    own_strips, own_panels = min(ways, key=duration)
    return Blocks(own_strips * isa.rows, own_panels * isa.columns, depth)


def choose_fused_blocks(m: int, k: int, n: int, isa: InstructionSet, threads: int) -> Blocks | None:
    """The blocks of a product whose b is packed as it is multiplied (fused.py): as many columns, panels by the number
    that is packed at once, as a thread's cache holds. None where b meets so many rows of a that they are not worth
    reading again for every block, has too few columns for all threads, or is so deep that a part is over MOST_ROOM.
    """
    several = packed_at_once(isa) * isa.columns
    if not 0 < m <= FUSED_ROWS or k * n == 0 or n < several * threads and threads > 1:
        return None
    most = min(FUSED_ROOM // k, MOST_COLUMNS, -(-n // (FUSED_BLOCKS * threads)))
    columns = min(max(1, most // several) * several, -(-n // isa.columns) * isa.columns)
    if columns * steps_along(isa, k) * group_length(isa, k) > MOST_ROOM:
        return None
    return choose_blocks(m, k, n, isa, 1, 1)._replace(columns=columns)


def _cuts(count: int, most: int, threads: int) -> list[int]:
    """Sizes of pieces of at most `most`, nearly equal, largest first; one size for one thread."""
    pieces = fewest = -(-count // most)
    sizes = [-(-count // pieces)]
    while threads > 1 and sizes[-1] > 1 and pieces < fewest + MORE_PIECES * threads:
        pieces = -(-count // (sizes[-1] - 1))
        sizes.append(-(-count // pieces))
    return sizes


def count_blocks(shape: tuple[int, ...], blocks: Blocks) -> int:
    """Blocks of a result of shape (products, m, n)."""
    return shape[0] * -(-shape[1] // blocks.rows) * -(-shape[2] // blocks.columns)
