"""Weights as the CPU's kernels for blocks along k, and for real activations, read them.

    codes      panels of pack.py; of 4 bits, two steps in one: the first in the low halves of bytes, the other above it
    numbers    (panels, blocks, 2, columns): what equation (3) takes of each column, the sum of its codes and its zero
               point, both less what stored codes have been shifted by
    scale      (panels, blocks, columns)

What a tile needs lies side by side. Missing columns have the last one's parameters; codes of 4 bits are stored as
0 … 15, which every instruction takes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from gpuq.cpu.isa import INSTRUCTION_SETS, InstructionSet
from gpuq.cpu.pack import Packed
from gpuq.cpu.tiles import DEPTH, LINE
from gpuq.layout import aligned, read_only

Array = npt.NDArray[Any]
HALF_RANGE = {"int4": -8}  # what is taken from a code to store it, where that is not 0


@dataclass(frozen=True, eq=False)
class BlockWeight:
    """A packed matrix (k, n) whose columns have other parameters in each block of `length` along k; its codes have
    `bits` bits.
    """

    isa: str
    bits: int
    length: int
    panels: Array
    numbers: Array
    scale: Array

    @property
    def nbytes(self) -> int:
        """Bytes of the packed form."""
        return int(self.panels.nbytes + self.numbers.nbytes + self.scale.nbytes)


def fits(length: int, isa: InstructionSet) -> bool:
    """Whether the kernels take blocks of that length."""
    return isa.dot != "" and length % isa.group == 0 and length <= DEPTH


def codes_of_step(isa: InstructionSet, bits: int) -> int:
    """Codes along k of a step of panels."""
    return isa.group * 8 // bits


def pack_blocks(codes: Array, packed: Packed, name: str, length: int, scale: Array, points: Array) -> BlockWeight:
    """A matrix of codes (k, n) of the type `name`, packed in 8 bits, with scales and zero points (blocks, n)."""
    isa, shift, bits, panels = INSTRUCTION_SETS[packed.isa], packed.shift, 8, packed.panels[0]
    if name in ("int4", "uint4") and length % codes_of_step(isa, 4) == 0:
        bits, panels, shift = 4, _halves(panels, packed.shift - HALF_RANGE.get(name, 0)), HALF_RANGE.get(name, 0)
    starts = np.arange(0, len(codes), length)
    sizes = np.diff([*starts, len(codes)])[:, np.newaxis]
    sums = np.add.reduceat(codes, starts, dtype=np.int32) - shift * sizes
    numbers = [in_panels(values, packed) for values in (sums, points.astype(np.int32) - shift)]
    joined = read_only(np.ascontiguousarray(np.stack(numbers, axis=2)))
    return BlockWeight(packed.isa, bits, length, panels, joined, in_panels(scale, packed))


def in_blocks(packed: Packed, length: int, scale: Array, points: Array) -> BlockWeight:
    """A packed matrix with scales and zero points (blocks, n), for kernels that need no sums of its codes."""
    own = in_panels(points.astype(np.int32) - packed.shift, packed)
    numbers = read_only(np.ascontiguousarray(np.stack([own, own], axis=2)))
    return BlockWeight(packed.isa, 8, length, packed.panels[0], numbers, in_panels(scale, packed))


def _halves(panels: Array, more: int) -> Array:
    """Panels (panels, steps, columns, group) of codes, `more` added, with two steps in one."""
    count, steps, columns, group = panels.shape
    halves = aligned((count, (steps + 1) // 2, columns, group), np.uint8, LINE)
    stored, add = panels.view(np.uint8), np.uint8(more % 256)
    np.add(stored[:, ::2], add, out=halves)
    upper = halves[:, : steps // 2]
    upper |= (stored[:, 1::2] + add) << 4
    return read_only(halves)


def in_panels(values: Array, packed: Packed) -> Array:
    """Numbers (blocks, n) as (panels, blocks, columns) of float32 or int32."""
    _, panels, _, columns, _ = packed.panels.shape
    whole = np.pad(values, ((0, 0), (0, panels * columns - values.shape[1])), mode="edge")
    kind = np.float32 if whole.dtype.kind == "f" else np.int32
    return read_only(np.ascontiguousarray(whole.reshape(-1, panels, columns).swapaxes(0, 1), kind))
