"""Block and tile sizes of the CUDA kernels, with their reasons."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

# ---- elementwise kernels (lanes.py) ----
THREADS = 256  # of a block
QUAD, QUADS = 4, 4  # a lane has QUADS quads of QUAD neighbouring elements
LANE_ELEMENTS = QUAD * QUADS  # 16 codes of 8 bit are one access; 64 bytes of float32 in flight hide the latency
PAIR_ELEMENTS = 2 * LANE_ELEMENTS
TILE = THREADS * LANE_ELEMENTS  # elements of a block
BLOCKS_PER_MULTIPROCESSOR = 8  # of a kernel that reduces: enough to fill it, few enough to meet at the end
MOST_ELEMENTS = 1 << 30  # elements of one launch, so that indices within it fit 32 bits; addresses have 64
# ---- matrix products ----
CHUNK = 16  # bytes: rows of codes come in whole chunks
ONES = np.uint32(0x01010101)  # four codes of 1, with which a product is a sum
PACK_ROWS, PACK_CODES = 32, 128  # of a block of packing: a chunk for each thread
PACK_CHUNKS = PACK_CODES // CHUNK
PACK_BLOCKS = 4  # for each multiprocessor, where rows are few
WARP = 32  # lanes
EVERYBODY = 0xFFFFFFFF  # all lanes of a warp, as shuffles have it
DOT_ROWS = 4  # of the short operand for a warp: as many sums as keep the long operand's bytes coming
FEW = 16  # rows or columns up to which products may go by gemm_dots.py, and are bound by memory
BAND = 8  # tiles down which blocks go before they go across: they share operands in the L2 cache
MOST_BLOCKS = (1 << 31) - 1  # of one launch
BATCH_AXES = 3  # of one launch, after joining; batches with more go in several
EXACT_DEPTH = 32_768  # int32 sums of any codes are exact to k = 33,025; deeper products go in slices of this many
PARAMETER_WORDS = 8  # at most, of a row or a column: zero point, sum (two), five of the epilogue
MOST_WITH_ROWS = 128 * 64  # elements of a tile whose block adds rows up


@dataclass(frozen=True)
class Tile:
    """What a block computes by tensor cores: `rows` × `columns` of the result, `depth` codes along k at a time, with
    `stages` of such slabs of both operands in shared memory; each warp has `warp_rows` × `warp_columns` of it, and of
    a slab's depth all or, in `slices`, a share: small tiles have warps enough so.
    """

    rows: int
    columns: int
    depth: int
    stages: int
    warp_rows: int
    warp_columns: int
    slices: int = 1

    @property
    def warps(self) -> int:
        """Warps of a slice, which cover the tile."""
        return self.rows // self.warp_rows * (self.columns // self.warp_columns)

    @property
    def threads(self) -> int:
        """Threads of a block."""
        return self.warps * self.slices * WARP

    @property
    def sums(self) -> int:
        """Elements of the result for which a thread adds products up."""
        return self.warp_rows * self.warp_columns // WARP

    def sums_rows(self, deep: bool) -> bool:
        """Whether a block adds the rows of a up as well, by products with ones: small tiles are not bound by their
        tensor cores. Beyond EXACT_DEPTH there are no registers for it.
        """
        return self.rows * self.columns <= MOST_WITH_ROWS and not deep

    @property
    def shared_bytes(self) -> int:
        """Bytes of shared memory of its slabs."""
        return (self.rows + self.columns) * self.depth * self.stages

    @property
    def parameter_bytes(self) -> int:
        """Bytes of shared memory of what an epilogue takes of rows and columns."""
        return (self.rows + self.columns) * PARAMETER_WORDS * 4

    @property
    def block_bytes(self) -> int:
        """Bytes of shared memory of a block."""
        return self.shared_bytes + self.parameter_bytes

    def __str__(self) -> str:
        return f"{self.rows}x{self.columns}x{self.depth}"


# the larger a tile, the fewer bytes of operands for each product, and the fewer blocks to fill a device with; the last
# one has registers for int64 sums as well
AMPERE_TILES = (  # cp.async and m16n8k32, from compute capability 8.0 on
    Tile(128, 256, 128, 3, 64, 64),
    Tile(128, 256, 64, 3, 64, 64),
    Tile(128, 128, 128, 3, 64, 64),
    Tile(128, 128, 64, 4, 64, 64),  # of cards with little shared memory
    Tile(128, 64, 128, 4, 64, 32),
    Tile(32, 64, 128, 6, 32, 32, 2),
    Tile(32, 32, 256, 5, 32, 32, 4),  # these two stream one operand past few rows of the other
    Tile(16, 32, 256, 6, 16, 32, 4),
    Tile(64, 64, 128, 4, 32, 32),
)
TURING_TILES = (  # loads through registers and m8n8k16: two stages
    Tile(128, 256, 64, 2, 64, 64),
    Tile(64, 64, 64, 2, 32, 32),
)

# ---- copies between strided arrays ----
COPY_AXES = 5  # of one launch; arrays with more go in several
COPY_UNROLL = 4  # pieces of a thread
COPY_TILE = THREADS * COPY_UNROLL  # pieces of a block
TRANSPOSED_BYTES, TRANSPOSED_LINES = 128, 128  # of a tile that is transposed: a line of the cache, by elements
