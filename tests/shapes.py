"""The shapes that tests sweep over, in one place; small enough for a whole sweep to run in seconds.

A matmul triple is (m, k, n): a has shape (m, k), b has shape (k, n).
"""
from __future__ import annotations

TINY = range(11)  # 0, 1 and every remainder of a loop unrolled or vectorized by 2, 4 or 8
AROUND_POWERS = (15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 128, 129)  # one short of a vector or a tile, exact, one past

ELEMENTWISE_1D: list[tuple[int, ...]] = [
    *((length,) for length in TINY),
    *((length,) for length in AROUND_POWERS),
    *((length,) for length in (255, 256, 257, 1023, 1024, 1025, 4097)),  # longer vectors, blocks of threads, tails
    (100_003,),  # enough for several threads; a prime, so that no block divides it
]
ELEMENTWISE_ND: list[tuple[int, ...]] = [
    (),  # a scalar
    (0, 3), (3, 0), (2, 0, 5),  # empty along each axis in turn
    (1, 1), (1, 7), (7, 1),  # an axis that a per-axis loop may mistake for a broadcast one
    (5, 33), (33, 5), (64, 65),  # rows shorter and longer than a vector
    (2, 3, 4), (3, 1, 17), (1, 16, 33),  # the axis in the middle: outer, axis and inner loops all longer than one
    (2, 3, 4, 5), (1, 4, 3, 2), (2, 1, 1, 9),  # image layouts: batch, channel, height, width
]
ELEMENTWISE: list[tuple[int, ...]] = ELEMENTWISE_1D + ELEMENTWISE_ND

# (x's shape, axis, block_size): divided exactly, a short last block, blocks of one, one block longer than the axis
BLOCKED: list[tuple[tuple[int, ...], int, int]] = [
    ((8,), 0, 4), ((7,), 0, 3), ((5,), 0, 1), ((5,), 0, 100),
    ((3, 4), 1, 2), ((3, 5), 1, 2), ((5, 3), 0, 2), ((33, 17), -1, 16), ((17, 33), -2, 16),
    ((2, 7, 3), 1, 4), ((1, 4, 3, 2), 1, 2), ((2, 3, 4, 5), -1, 2),
    ((0, 4), 1, 2), ((3, 0), 1, 2),  # nothing to quantize, with and without blocks
]

MATMUL_TINY: list[tuple[int, int, int]] = [  # all combinations of the sizes where loops begin, end or do not run
    (m, k, n) for m in (0, 1, 2, 3, 5) for k in (0, 1, 2, 3, 4, 5) for n in (0, 1, 2, 4, 7)
]
# all three sizes at an edge at once
MATMUL_SQUARE: list[tuple[int, int, int]] = [(size, size, size) for size in (*TINY, *AROUND_POWERS)]
MATMUL_ONE_SIZE: list[tuple[int, int, int]] = [  # one size around a tile's edge at a time: shows whose tail is wrong
    *((size, 20, 18) for size in AROUND_POWERS),
    *((18, size, 20) for size in AROUND_POWERS),
    *((20, 18, size) for size in AROUND_POWERS),
]
MATMUL_DEEP: list[tuple[int, int, int]] = [  # k beyond any tile, to the deepest that cannot overflow and one past
    (3, 1_025, 5), (2, 4_099, 3), (1, 33_025, 2), (2, 33_026, 1),
]
MATMUL_SHALLOW: list[tuple[int, int, int]] = [(129, 1, 130), (67, 2, 131), (130, 3, 65)]  # the epilogue dominates
MATMUL_SKINNY: list[tuple[int, int, int]] = [  # vectors as matrices: products by row, by column, inner and outer
    (1, 257, 129), (257, 129, 1), (1, 1_000, 1), (300, 1, 1), (1, 1, 300), (2, 500, 3), (12, 128, 500),
]
MATMUL_BLOCKS: list[tuple[int, int, int]] = [  # around multiples of 12, as tiles and blocks have them, and long passes
    *((size, 20, 18) for size in (11, 12, 13, 23, 24, 25, 95, 96, 97, 193)),
    *((20, 18, size) for size in (11, 12, 13, 47, 48, 49, 191, 192, 193, 385)),
    *((5, size, 7) for size in (2_047, 2_048, 2_049, 4_097)),
    *((2, size, 3) for size in (32_767, 32_768, 32_769)),
]
MATMUL: list[tuple[int, int, int]] = (
    MATMUL_TINY + MATMUL_SQUARE + MATMUL_ONE_SIZE + MATMUL_DEEP + MATMUL_SHALLOW + MATMUL_SKINNY + MATMUL_BLOCKS
)
MATMUL_FEW: list[tuple[int, int, int]] = [  # one of each group, for sweeps over many types, parameters or layouts
    (0, 3, 2), (3, 0, 2), (1, 1, 1), (3, 5, 7), (17, 33, 31), (65, 64, 63), (2, 1_025, 3), (1, 257, 129), (130, 3, 65),
]

# (a's shape, b's shape): batch axes equal, broadcast from either side, missing on one side, empty, and 1-D operands
BATCHED: list[tuple[tuple[int, ...], tuple[int, ...]]] = [
    ((2, 3, 5), (2, 5, 4)), ((2, 3, 5), (1, 5, 4)), ((1, 3, 5), (2, 5, 4)), ((2, 3, 5), (5, 4)), ((3, 5), (2, 5, 4)),
    ((2, 1, 3, 5), (3, 5, 4)), ((2, 1, 3, 5), (1, 3, 5, 4)), ((4, 2, 3, 5), (4, 2, 5, 1)),
    ((0, 3, 5), (5, 4)), ((1, 3, 5), (0, 5, 4)), ((2, 0, 5), (2, 5, 4)), ((2, 3, 0), (2, 0, 4)),
    ((5,), (5,)), ((5,), (5, 4)), ((3, 5), (5,)), ((5,), (2, 5, 4)), ((2, 3, 5), (5,)), ((0,), (0,)), ((0,), (0, 4)),
]

# (x's shape, axis): first, last and middle axes, counted from either end, of length 0, 1 and more
PER_AXIS: list[tuple[tuple[int, ...], int]] = [
    (shape, axis) for shape in [(7,), (1,), *ELEMENTWISE_ND] for axis in range(-len(shape), len(shape))
]
# (x's shape, axis, block_size; 0 for none, axis None for per tensor): one of each group, for sweeps over many types
GRANULARITIES_FEW: list[tuple[tuple[int, ...], int | None, int]] = [
    ((3, 37), None, 0), ((41,), 0, 0), ((5, 9), 0, 0), ((5, 9), -1, 0), ((3, 7, 4), 1, 0), ((3, 7, 4), -3, 0),
    ((40,), 0, 16), ((3, 37), 1, 8), ((9, 7), 0, 4), ((2, 7, 3), -2, 3),
]
LAID_OUT: list[tuple[int, ...]] = [(), (19,), (5, 7), (3, 4, 5), (3, 0, 2)]  # shapes to try memory layouts with
# (a's shape, b's shape) that do not multiply: k differs, batch axes do not broadcast, also where there is nothing to do
MISFITS: list[tuple[tuple[int, ...], tuple[int, ...]]] = [
    ((3, 2), (3, 2)), ((3, 2), (3,)), ((2,), (3,)), ((2, 3, 2), (3, 2, 2)), ((0, 3), (2, 0)), ((2, 0), (1, 0)),
]
