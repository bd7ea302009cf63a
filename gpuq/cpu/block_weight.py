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

from gpuq.cpu.compile import jit
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


def is_whole(length: int, isa: InstructionSet) -> bool:
    """Whether blocks of that length are whole groups, which is all that real activations ask for."""
    return isa.dot != "" and length % isa.group == 0


def fits(length: int, isa: InstructionSet) -> bool:
    """Whether the strips of products of codes hold blocks of that length."""
    return is_whole(length, isa) and length <= DEPTH


def codes_of_step(isa: InstructionSet, bits: int) -> int:
    """Codes along k of a step of panels."""
    return isa.group * 8 // bits


def pack_blocks(codes: Array, packed: Packed, name: str, length: int, scale: Array, points: Array) -> BlockWeight:
    """A matrix of codes (k, n) of the type `name`, packed in 8 bits, with scales and zero points (blocks, n)."""
    isa, shift, bits, panels = INSTRUCTION_SETS[packed.isa], packed.shift, 8, packed.panels[0]
    if name in ("int4", "uint4") and length % codes_of_step(isa, 4) == 0:
        bits, panels, shift = 4, _halves(panels, packed.shift - HALF_RANGE.get(name, 0)), HALF_RANGE.get(name, 0)
    sums = np.zeros(scale.shape, np.int32)
    _sum_blocks(read_only(np.ascontiguousarray(codes)), length, np.int32(shift), sums)
    numbers = [in_panels(values, packed) for values in (sums, points.astype(np.int32) - shift)]
    joined = read_only(np.ascontiguousarray(np.stack(numbers, axis=2)))
    return BlockWeight(isa.without_tiles or isa.name, bits, length, panels, joined, in_panels(scale, packed))


@jit
def _sum_blocks(codes: Any, length: int, shift: Any, sums: Any) -> None:
    """sums (blocks, n) += codes (k, n) less their shift."""
    for i in range(codes.shape[0]):
        own, total = codes[i], sums[i // length]
        for j in range(own.shape[0]):
            total[j] += np.int32(own[j]) - shift


def in_blocks(packed: Packed, length: int, scale: Array, points: Array) -> BlockWeight:
    """A packed matrix with scales and zero points (blocks, n), for kernels that need no sums of its codes."""
    own = in_panels(points.astype(np.int32) - packed.shift, packed)
    numbers = read_only(np.ascontiguousarray(np.stack([own, own], axis=2)))
    isa = INSTRUCTION_SETS[packed.isa]
    return BlockWeight(isa.without_tiles or isa.name, 8, length, packed.panels[0], numbers, in_panels(scale, packed))


def _halves(panels: Array, more: int) -> Array:
    """Panels (panels, steps, columns, group) of codes, `more` added, with two steps in one."""
    count, steps, columns, group = panels.shape
    halves = aligned((count, (steps + 1) // 2, columns, group), np.uint8, LINE)
    stored, size = read_only(panels.view(np.uint8)).reshape(count, steps, -1), columns * group
    _join_steps(stored, np.uint8(more % 256), halves.reshape(count, -1, size))
    return read_only(halves)


@jit
def _join_steps(panels: Any, more: Any, halves: Any) -> None:
    """Two steps of (panels, steps, codes) in one, `more` added to each code; an odd one at the end has no other."""
    for panel in range(panels.shape[0]):
        for pair in range(halves.shape[1]):
            target, lower = halves[panel, pair], panels[panel, 2 * pair]
            if 2 * pair + 1 < panels.shape[1]:
                upper = panels[panel, 2 * pair + 1]
                for i in range(target.shape[0]):
                    target[i] = np.uint8(lower[i] + more) | np.uint8(np.uint8(upper[i] + more) << 4)
            else:
                for i in range(target.shape[0]):
                    target[i] = np.uint8(lower[i] + more)


def in_panels(values: Array, packed: Packed) -> Array:
    """Numbers (blocks, n) as (panels, blocks, columns) of float32 or int32."""
    _, panels, _, columns, _ = packed.panels.shape
    whole = np.pad(values, ((0, 0), (0, panels * columns - values.shape[1])), mode="edge")
    kind = np.float32 if whole.dtype.kind == "f" else np.int32
    return read_only(np.ascontiguousarray(whole.reshape(-1, panels, columns).swapaxes(0, 1), kind))
