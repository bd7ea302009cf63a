"""All instructions that the emulator executes: BUILDERS maps an opcode to the function that explains it.

Numba's kernels and the inline PTX of this library meet these; anything else raises UnsupportedError and names itself.
"""

from __future__ import annotations

from ..errors import UnsupportedError
from ..semantics import Builder, Semantics
from ..syntax import Instruction
from . import atomics, bits, conversion, copies, floating, half, integer, tensor, transfer, warp

Families = tuple[Builder | None, Builder | None, Builder | None]
BY_TYPE: dict[str, Families] = {  # integer, float32 and float64, 16-bit float
    "add": (integer.add_sub, floating.arithmetic, half.arithmetic),
    "sub": (integer.add_sub, floating.arithmetic, half.arithmetic),
    "mul": (integer.multiply, floating.arithmetic, half.arithmetic),
    "mad": (integer.multiply, floating.arithmetic, None),
    "fma": (None, floating.arithmetic, half.arithmetic),
    "div": (integer.divide, floating.arithmetic, None),
    "rem": (integer.divide, None, None),
    "rcp": (None, floating.arithmetic, None),
    "sqrt": (None, floating.arithmetic, None),
    "min": (integer.extreme, floating.extreme, half.arithmetic),
    "max": (integer.extreme, floating.extreme, half.arithmetic),
    "neg": (integer.unary, floating.sign, half.sign),
    "abs": (integer.unary, floating.sign, half.sign),
    "copysign": (None, floating.sign, None),
    "testp": (None, floating.test_property, None),
}
BUILDERS: dict[str, Builder] = {
    "sad": integer.absolute_difference,
    "dp4a": integer.dot_product,
    "dp2a": integer.dot_product,
    "setp": integer.set_predicate,
    "selp": integer.select,
    "slct": integer.select,
    "and": bits.logic,
    "or": bits.logic,
    "xor": bits.logic,
    "not": bits.invert,
    "cnot": bits.invert,
    "lop3": bits.lookup3,
    "shl": bits.shift,
    "shr": bits.shift,
    "shf": bits.funnel,
    "bfe": bits.extract,
    "bfi": bits.insert,
    "brev": bits.reverse,
    "prmt": bits.permute,
    "popc": bits.count,
    "clz": bits.count,
    "bfind": bits.find,
    "cvt": conversion.convert,
    "mov": transfer.move,
    "cvta": transfer.to_generic,
    "ld": transfer.load,
    "st": transfer.store,
    "membar": transfer.fence,
    "fence": transfer.fence,
    "trap": transfer.trap,
    "atom": atomics.atomic,
    "red": atomics.atomic,
    "cp": copies.copy,
    "shfl": warp.shuffle,
    "vote": warp.vote,
    "match": warp.match,
    "redux": warp.reduction,
    "activemask": warp.active_mask,
    "bar": warp.warp_barrier,
    "mma": tensor.multiply_accumulate,
    "ldmatrix": tensor.load_matrices,
}
CAPABILITY = {  # the least compute capability where it is above 7.5
    "cp.async": 80,
    "redux": 80,
    "mma.sync.aligned.m16n8k32": 80,
    "cvt.rn.bf16": 80,
    "cvt.rn.bf16x2": 80,
    "cvt.rn.f16x2": 80,
    "fma.rn.bf16": 80,
    "add.bf16": 90,
    "mul.bf16": 90,
    "sub.bf16": 90,
    "add.rn.bf16": 90,
    "mul.rn.bf16": 90,
    "sub.rn.bf16": 90,
}


def explain(instruction: Instruction, capability: int) -> Semantics:
    """The semantics of an instruction on a GPU of this compute capability (80 for 8.0). Raises UnsupportedError."""
    for name, least in CAPABILITY.items():
        if capability < least and (instruction.name + ".").startswith(name + "."):
            raise UnsupportedError(f"{instruction}: needs compute capability {least / 10}, this is {capability / 10}")
    builder = BUILDERS.get(instruction.opcode)
    if instruction.opcode in BY_TYPE:
        types = instruction.modifiers
        family = 2 if any(word in half.TYPES for word in types) else 1 if "f32" in types or "f64" in types else 0
        builder = BY_TYPE[instruction.opcode][family]
    if builder is None:
        raise UnsupportedError(f"{instruction}: the emulator does not know this instruction")
    try:
        return builder(instruction)
    except ValueError as error:
        raise UnsupportedError(f"{instruction}: not understood ({error})") from error
