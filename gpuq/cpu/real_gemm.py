"""Real numbers times a packed weight, on the CPU: `linear` with its activations as they are.

    panel [step][column][group]   codes of some columns, as pack.py has them: read once for each strip of rows
    strip [step][row][group]      x in the order in which they meet them
    sums[row][column] += x · f32(code − z)     in registers, over a block of k, whose columns share S and z
    totals[row][column] += sums · S            in L1

A code becomes a number by its bits: with the exponent of 2^23 or 2^15 above it, where it is bits 0 … 7 or 8 … 15 of
the mantissa, it counts as 2^23 + code or 2^15 + code, from which 2^23 + z or 2^15 + z is taken, exactly. A strip has
few rows, so that registers hold its sums and what is made of the codes; a single row has its sums in parts, as one
alone would wait for itself. Sums are fused or not as suits the processor: their bound is that of float32.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from gpuq.cpu.block_weight import BlockWeight, codes_of_step
from gpuq.cpu.compile import jit
from gpuq.cpu.isa import INSTRUCTION_SETS, InstructionSet
from gpuq.cpu.rows import finish_row
from gpuq.cpu.spread import find_crew, runner
from gpuq.cpu.vectors import I64, constant, load, offset, splat, store, sums_type
from gpuq.layout import read_only

Array = npt.NDArray[Any]
F32 = ir.FloatType()
STRIPS = 8  # of a piece, at most: a panel and their rows are in L2
SMALLEST = 1 << 18  # multiply-adds of the smallest piece
UNPACKING = 3  # rows whose multiply-adds take as long as making numbers of the codes
LARGE, LESS = 2.0**96, 2.0**-32  # rows of x beyond the first are multiplied by the second: sums come before scales
PLACES = ((0x000000FF, 0x4B000000, 2.0**23), (0x0000FF00, 0x47000000, 2.0**15))  # of a code: mask, exponent, its value


def multiply(x: Array, b: BlockWeight, bias: Array, settings: tuple[int, int], y: Array) -> None:
    """y (m, n) = act(x · weight + bias) for float32 x (m, k); settings: the activation, and what y holds, float32 or
    the bits of a half type.
    """
    m, isa, codes = len(x), INSTRUCTION_SETS[b.isa], codes_of_step(INSTRUCTION_SETS[b.isa], b.bits)
    panels, largest = b.panels, np.abs(x).max(axis=1)
    factors = np.where(largest <= LARGE, np.float32(1.0), np.float32(1.0 / LESS))  # NaN is not, and stays NaN
    if not largest.max() <= LARGE:
        x = x / factors[:, np.newaxis]
    rows = min(_row_counts(isa), key=lambda count: -(-m // count) * (count + UNPACKING))
    strips = _strips(x, rows, panels.shape[1], codes)
    pieces = panels.shape[0] * -(-len(strips) // STRIPS)
    smallest = -(-SMALLEST // (strips[:STRIPS].size * isa.columns))
    arguments = strips, panels, -(-b.length // codes), b.numbers, b.scale, read_only(factors), bias, settings, y
    _kernel(b.isa, b.bits, rows)(find_crew(pieces, smallest), arguments, pieces, smallest)


def _row_counts(isa: InstructionSet) -> list[int]:
    """The rows that a strip may have: registers hold their sums, words, numbers of a code and two zero points for each
    vector, and two more, where a tile's sums, a vector of b for each and one word fill them.
    """
    registers = (isa.rows + 1) * isa.vectors + 1
    return [count for count in (1, 2, 4, 8) if count == 1 or (count + 4) * isa.vectors + 2 <= registers]


def _strips(x: Array, rows: int, steps: int, group: int) -> Array:
    """(strips, steps, rows, group) of x (m, k), filled up with zeros."""
    m, k = x.shape
    strips = np.zeros((-(-m // rows), rows, steps * group), np.float32)
    strips.reshape(-1, steps * group)[:m, :k] = x
    shaped = strips.reshape(-1, rows, steps, group)
    return read_only(np.ascontiguousarray(shaped.transpose(0, 2, 1, 3)))


@functools.cache
def _kernel(isa_name: str, bits: int, rows: int) -> Callable[..., Any]:
    return runner(_make_product(INSTRUCTION_SETS[isa_name], bits, rows))


def _make_product(isa: InstructionSet, bits: int, rows: int) -> Callable[..., Any]:
    """The job over pieces first … last: some strips of a panel each, panels one after the other."""
    tile, columns = _make_tile(isa, bits, rows), isa.columns
    x_step, b_step = rows * codes_of_step(isa, bits) * 4, isa.columns * isa.group

    @jit
    def product(arguments: Any, first: int, last: int) -> None:
        strips, panels, length, numbers, scales, factors, bias, settings, y = arguments
        (count, steps), (m, n) = strips.shape[:2], y.shape
        together = (count + STRIPS - 1) // STRIPS
        totals = np.empty((rows, columns), np.float32)
        for piece in range(first, last):
            panel, begin = piece // together, piece % together * STRIPS
            start, end = panel * columns, min(panel * columns + columns, n)
            for strip in range(begin, min(begin + STRIPS, count)):
                totals[:] = 0
                for block in range(numbers.shape[1]):
                    step = block * length
                    tile(
                        strips[strip].ctypes.data + step * x_step, panels[panel].ctypes.data + step * b_step,
                        min(length, steps - step), numbers[panel, block, 1].ctypes.data,
                        scales[panel, block].ctypes.data, totals.ctypes.data,
                    )  # fmt: skip
                for row in range(min(rows, m - strip * rows)):
                    totals[row] *= factors[strip * rows + row]
                    finish_row(totals[row, : end - start], bias[start:end], settings, y[strip * rows + row, start:end])

    return product


def _make_tile(isa: InstructionSet, bits: int, rows: int) -> Callable[..., Any]:
    """The intrinsic that adds the products of a block: addresses of strip and panel, steps along k, addresses of the
    columns' zero points and scales, and of the totals.
    """

    @intrinsic
    def tile(typing_context: Any, strip: Any, panel: Any, steps: Any, points: Any, scales: Any, totals: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            _emit(builder, isa, bits, rows, *arguments)
            return context.get_dummy_value()

        address = types.uintp
        return types.void(address, address, types.intp, address, address, address), generate

    return tile


def _emit(
    builder: Any, isa: InstructionSet, bits: int, rows: int, strip: Any, panel: Any, steps: Any, points: Any,
    scales: Any, totals: Any,
) -> None:  # fmt: skip
    sums = _emit_loop(builder, isa, bits, rows, strip, panel, steps, _emit_points(builder, isa, bits, points))
    reals, bytes_ = ir.VectorType(F32, isa.lanes), isa.lanes * 4
    own = [load(builder, reals, offset(builder, scales, v * bytes_), 4) for v in range(isa.vectors)]
    for number, (row, v) in enumerate((row, v) for row in range(rows) for v in range(isa.vectors)):
        first, *others = (total for (part, *place), total in sums.items() if place == [row, v])
        for other in others:
            first = builder.fadd(first, other)
        address = offset(builder, totals, number * bytes_)
        store(builder, _multiply_add(builder, first, own[v], load(builder, reals, address, 4)), address, 4)


def _emit_points(builder: Any, isa: InstructionSet, bits: int, points: Any) -> list[list[Any]]:
    """What is to be taken from the numbers that codes become, by their place and vector."""
    reals, kind, middle = ir.VectorType(F32, isa.lanes), sums_type(isa), 0 if _unsigned(isa, bits) else 128
    loaded = [load(builder, kind, offset(builder, points, v * isa.lanes * 4), 4) for v in range(isa.vectors)]
    own = [builder.sitofp(each, reals) for each in loaded]
    return [[builder.fadd(each, constant(reals, value + middle)) for each in own] for _, _, value in PLACES]


def _emit_loop(
    builder: Any, isa: InstructionSet, bits: int, rows: int, strip: Any, panel: Any, steps: Any, points: Any
) -> dict[Any, Any]:
    """The sums of all steps, of which there is one at least, by part, row and vector."""
    zero, parts = constant(ir.VectorType(F32, isa.lanes), 0.0), 2 if rows == 1 else 1
    places = [(part, row, v) for part in range(parts) for row in range(rows) for v in range(isa.vectors)]
    entry, loop, done = builder.block, builder.append_basic_block("step"), builder.append_basic_block("done")
    builder.branch(loop)
    builder.position_at_end(loop)
    step, x_step, b_step = (builder.phi(I64) for _ in range(3))
    sums = {place: builder.phi(zero.type) for place in places}
    added = _emit_step(builder, isa, bits, rows, (x_step, b_step), points, sums)
    following = builder.sub(step, I64(1))
    for phi, start, end in (
        (step, steps, following),
        (x_step, strip, offset(builder, x_step, rows * codes_of_step(isa, bits) * 4)),
        (b_step, panel, offset(builder, b_step, isa.columns * isa.group)),
        *((sums[place], zero, added[place]) for place in places),
    ):
        phi.add_incoming(start, entry)
        phi.add_incoming(end, loop)
    builder.cbranch(builder.icmp_signed(">", following, I64(0)), loop, done)
    builder.position_at_end(done)
    return added


def _emit_step(
    builder: Any, isa: InstructionSet, bits: int, rows: int, step: tuple[Any, Any], points: Any, sums: dict[Any, Any]
) -> dict[Any, Any]:
    """The sums after one step."""
    (x, b), added, parts = step, dict(sums), 1 + max(part for part, _, _ in sums)
    addresses = [offset(builder, b, v * isa.lanes * isa.group) for v in range(isa.vectors)]
    words, codes = [_emit_words(builder, isa, bits, address) for address in addresses], codes_of_step(isa, bits)
    for i in range(codes):
        numbers = [_emit_number(builder, own, bits, *divmod(i, isa.group)) for own in words]
        weights = [builder.fsub(number, points[i % 2][v]) for v, number in enumerate(numbers)]
        for row in range(rows):
            value = load(builder, F32, offset(builder, x, (row * codes + i) * 4), 4)
            everywhere = splat(builder, value, weights[0].type)
            for v, weight in enumerate(weights):
                added[i % parts, row, v] = _multiply_add(builder, everywhere, weight, added[i % parts, row, v])
    return added


def _emit_words(builder: Any, isa: InstructionSet, bits: int, address: Any) -> Any:
    """The codes of a vector's lanes, unsigned, a word in each."""
    kind = sums_type(isa)
    words = load(builder, ir.VectorType(ir.IntType(8 * isa.group), isa.lanes), address)
    words = words if isa.group == 4 else builder.zext(words, kind)
    return words if _unsigned(isa, bits) else builder.xor(words, constant(kind, 0x80808080))


def _emit_number(builder: Any, words: Any, bits: int, half: int, i: int) -> Any:
    """Code i of each word, in a half of the bytes of 4-bit codes, as a number above what PLACES says of it."""
    (mask, exponent, _), kind, down = PLACES[i % 2], words.type, 4 * half + (16 if i > 1 else 0)
    placed = builder.lshr(words, constant(kind, down)) if down else words
    mask = mask if bits == 8 else mask & 0x0F0F
    number = builder.or_(builder.and_(placed, constant(kind, mask)), constant(kind, exponent))
    return builder.bitcast(number, ir.VectorType(F32, kind.count))


def _unsigned(isa: InstructionSet, bits: int) -> bool:
    """Whether codes are stored unsigned."""
    return isa.b_unsigned or bits == 4


def _multiply_add(builder: Any, x: Any, y: Any, z: Any) -> Any:
    """x · y + z, fused where the processor can."""
    name, kind = f"llvm.fmuladd.v{x.type.count}f32", x.type
    function = builder.module.globals.get(name)
    function = function or ir.Function(builder.module, ir.FunctionType(kind, [kind] * 3), name)
    return builder.call(function, [x, y, z])
