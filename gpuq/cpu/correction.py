"""Equation (3) in registers, as arithmetic.correct_in_int32 has it: what the micro-kernels end with.

total − za[row]·Σb[column] − zb[column]·Σ(a − za)[row]            a row's numbers lie side by side: za, and the last sum
"""

from __future__ import annotations

from typing import Any

from gpuq.cpu.isa import InstructionSet
from gpuq.cpu.vectors import I32, load, offset, splat, sums_type

ROW_BYTES = 8  # of a row's numbers


def load_columns(builder: Any, isa: InstructionSet, column_sums: Any, points: Any) -> list[tuple[Any, Any]]:
    """Sums of codes and zero points of a tile's columns, from two addresses: of each vector."""
    kind, bytes_ = sums_type(isa), isa.lanes * 4

    def part(start: Any, v: int) -> Any:
        return load(builder, kind, offset(builder, start, v * bytes_), 4)

    return [(part(column_sums, v), part(points, v)) for v in range(isa.vectors)]


def emit_correction(
    builder: Any, isa: InstructionSet, totals: dict[Any, Any], own_rows: Any, columns: list[tuple[Any, Any]]
) -> dict[Any, Any]:
    """The corrected totals, by row and vector; the numbers of rows begin at an address, those of columns are loaded."""
    corrected = {}
    for (row, v), total in totals.items():
        a_point, rest = (
            splat(builder, load(builder, I32, offset(builder, own_rows, row * ROW_BYTES + place), 4), sums_type(isa))
            for place in (0, 4)
        )
        column_sum, b_point = columns[v]
        without_a = builder.sub(total, builder.mul(a_point, column_sum))
        corrected[row, v] = builder.sub(without_a, builder.mul(b_point, rest))
    return corrected
