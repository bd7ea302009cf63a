"""Block and tile sizes of the CUDA kernels, with their reasons."""

from __future__ import annotations

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
PACK_ROWS, PACK_CODES = 32, 128  # of a block of packing: a chunk for each thread
PACK_CHUNKS = PACK_CODES // CHUNK
GEMM_ROWS, GEMM_COLUMNS = 64, 64  # of the result per block of 16 × 16 threads, 4 × 4 sums each
GEMM_DEPTH = 64  # codes along k per step: a chunk of a and a chunk of b for each thread
WARP = 32  # lanes
DOT_ROWS = 4  # of the short operand for a warp: as many sums as keep the long operand's bytes coming
FEW = 16  # rows or columns up to which products go by gemm_dots.py, and are bound by memory
MOST_BLOCKS = (1 << 31) - 1  # of one launch
BATCH_AXES = 3  # of one launch, after joining; batches with more go in several
EXACT_DEPTH = 32_768  # int32 sums of any codes are exact to k = 33,025; deeper products go in slices of this many
# ---- copies between strided arrays ----
COPY_AXES = 5  # of one launch; arrays with more go in several
COPY_UNROLL = 4  # pieces of a thread
COPY_TILE = THREADS * COPY_UNROLL  # pieces of a block
