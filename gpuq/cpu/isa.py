"""The instruction sets of the CPU's GEMM: what each needs, its tile, and how it takes its codes.

    name          registers   tile (rows × columns)   one step takes          products of
    amx_int8      8 tiles     32 × 32                 64 codes along k        b unsigned · a signed   tdpbsud
    avx512_vnni   32 × 512    12 × 32                 4 codes along k         b unsigned · a signed   vpdpbusd
    avx_vnni      16 × 256     6 × 16                 4 codes along k         b unsigned · a signed   vpdpbusd
    avx2          16 × 256     6 × 16                 2 codes along k         both signed, 16 bit     vpmaddwd
    neon_dotprod  32 × 128     8 × 12                 4 codes along k         both signed             sdot
    portable      any          4 × 4                  whole rows of codes     both signed             plain Python

A tile's sums, a vector of b for each of its vectors and one word of a fill the registers; AMX's tiles are described in
amx.py. vpmaddubsw would be faster on AVX2 and is wrong: it saturates. An instruction is only ever emitted where Numba's
own target has it: elsewhere LLVM ends the process.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

from gpuq.cpu.permission import tiles_permitted


@dataclass(frozen=True)
class InstructionSet:
    """One row of the table above.

    `lanes` int32 sums fill a vector register; a tile is `rows` × (`vectors` · `lanes`) sums. A step multiplies
    `group` codes along k (0: as many as a block along k has) by the instruction `dot` (vectors.py). `b_unsigned`: b is
    packed as unsigned codes. `a_bytes`: bytes of a code of a as the instruction takes it. A set with AMX's tiles
    takes `steps` steps at once, which panels are filled up to, and names the set that does for kernels `without_tiles`,
    with the same panels.
    """

    name: str
    features: tuple[str, ...]
    dot: str
    rows: int
    vectors: int
    lanes: int
    group: int
    b_unsigned: bool
    a_bytes: int
    steps: int = 1
    without_tiles: str = ""

    @property
    def columns(self) -> int:
        """Columns of a tile."""
        return self.vectors * self.lanes

    def absence(self) -> str:
        """Why it cannot be used here; empty if it can."""
        lacking = [feature for feature in self.features if feature not in target_features()]
        if lacking:
            return f"the target lacks {', '.join(lacking)}"
        return "the system does not permit tiles" if self.without_tiles and not tiles_permitted() else ""


VNNI = "avx512f", "avx512bw", "avx512vnni"
AMX = "amx-tile", "amx-int8", *VNNI

INSTRUCTION_SETS = {
    isa.name: isa
    for isa in (
        InstructionSet("amx_int8", AMX, "vpdpbusd", 32, 2, 16, 4, True, 1, 16, "avx512_vnni"),
        InstructionSet("avx512_vnni", VNNI, "vpdpbusd", 12, 2, 16, 4, True, 1),
        InstructionSet("avx_vnni", ("avx2", "avxvnni"), "vpdpbusd", 6, 2, 8, 4, True, 1),
        InstructionSet("avx2", ("avx2",), "vpmaddwd", 6, 2, 8, 2, False, 2),
        InstructionSet("neon_dotprod", ("neon", "dotprod"), "sdot", 8, 3, 4, 4, False, 1),
        InstructionSet("portable", (), "", 4, 4, 1, 0, False, 1),
    )
}


@functools.cache
def target_features() -> frozenset[str]:
    """The processor features that Numba compiles for: this machine's, or what NUMBA_CPU_FEATURES says."""
    from numba.core.registry import cpu_target

    listed = cpu_target.target_context.codegen().magic_tuple()[2].split(",")
    return frozenset(feature[1:] for feature in listed if feature.startswith("+"))


@functools.cache
def available() -> tuple[str, ...]:
    """The instruction sets that Numba's target has, best first."""
    return tuple(name for name, isa in INSTRUCTION_SETS.items() if not isa.absence())
