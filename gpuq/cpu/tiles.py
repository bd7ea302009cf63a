"""Every tile and block size of the CPU's GEMM, with its reason."""

from __future__ import annotations

TILE = 4  # rows and columns of the micro-kernel: 16 accumulators and 8 operands fill the 32 vector registers
DEPTH = 64  # k is padded to whole vectors of codes, so that the loop has no scalar tail
PACK_BLOCK = 64  # a 64 × 64 block of codes is 4 KB: it stays in L1 while it is transposed
ROW_BLOCK = 64  # rows of a whose accumulators (64 × 128 × 8 bytes) stay in L2 …
COLUMN_BLOCK = 128  # … beside 128 columns of b
K_BLOCK = 4096  # codes along k per pass: 64 + 128 rows of them are 768 KB; int32 cannot overflow below 33,025
