"""Block and piece sizes of the CPU's kernels, with their reasons; the tiles of the instruction sets stand in isa.py."""

from __future__ import annotations

from gpuq.cpu.isa import InstructionSet

LINE = 64  # bytes of a cache line
CODES = 64  # rows of codes are padded to this many where a group is as long as the rows: whole vectors, no scalar tail
DEPTH = 1024  # codes along k per pass: a strip, 12 KB, stays in L1 while panels of b stream past it from L2
STRIP = DEPTH + LINE  # codes from row to row of a strip: rows then begin in different sets of the cache
EXACT_DEPTH = 32_768  # int32 sums of any codes are exact to k = 33,025; deeper products add their passes up in int64
SUM_DEPTH = 1 << 20  # codes whose sum int32 holds
PACKED_CODES = 1 << 17  # codes of the smallest piece of packing: some 5 µs
PACKED_STEPS = 64  # of a panel, before the next one has its turn: 256 rows, whose pages the nearest TLB knows
CHUNK = 8192  # bytes of results that are computed in the nearest cache before they are stored around it
STREAMED = 1 << 24  # bytes read and written from which results are stored around the caches, which are rarely larger
ELEMENTS = 1 << 15  # elements of the smallest piece of an elementwise operator: some 5 µs


def group_length(isa: InstructionSet, k: int) -> int:
    """Codes of one row side by side in a panel: the instruction's group, or rows cut into equal pieces of at most
    DEPTH.
    """
    if isa.group:
        return isa.group
    pieces = max(1, -(-k // DEPTH))
    return max(CODES, -(-k // (pieces * CODES)) * CODES)


def steps_along(isa: InstructionSet, k: int) -> int:
    """Steps of panels along k, as many as the instruction takes at once and whole groups of codes in each."""
    group = group_length(isa, k) * isa.steps
    return -(-k // group) * isa.steps


def strip_bytes(isa: InstructionSet) -> int:
    """Bytes from row to row of a strip."""
    return STRIP * isa.a_bytes


def packed_at_once(isa: InstructionSet) -> int:
    """Panels that are packed side by side: those that share two cache lines of a row of b, which processors fetch in
    pairs, where their sums have registers beside what is loaded.
    """
    return max(1, min(2 * LINE // isa.columns, 2 * isa.rows // 3))
