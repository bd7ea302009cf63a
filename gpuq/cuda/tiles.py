"""Block and tile sizes of the CUDA kernels, with their reasons."""

from __future__ import annotations

# ---- elementwise kernels ----
THREADS = 256  # of a block
VECTOR = 4  # consecutive elements of a lane: 16 bytes of float32, and a warp's 8-bit codes fill one line
UNROLL = 4  # vectors of a thread, all loaded before the first is used, to keep enough bytes in flight
TILE = THREADS * VECTOR * UNROLL  # elements of a block
MOST_ELEMENTS = 1 << 30  # elements of one launch, so that indices within it fit 32 bits; addresses have 64
# ---- matrix products ----
EXACT_DEPTH = 32_768  # int32 sums of any codes are exact to k = 33,025; deeper products go in slices of this many
# ---- copies between strided arrays ----
COPY_AXES = 5  # of one launch; arrays with more go in several
COPY_UNROLL = 4  # pieces of a thread
COPY_TILE = THREADS * COPY_UNROLL  # pieces of a block
