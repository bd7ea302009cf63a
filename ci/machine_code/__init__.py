"""Readers of NVIDIA machine code: what a kernel takes of a multiprocessor, and how well its main loop feeds it.

    cubin ── nvdisasm ──► disassembly: functions ──► main_loop: the loop that multiplies, and what it is made of
          │                       │                      └──► issue_model: what share of its time the tensor pipe works
          │                       └──► paths: what lies between the loads and the stores of whole tiles
          └─ cuobjdump ──► resources: registers, stack

`python -m machine_code FOLDER …` prints a table of the kernels that `gpuq kernels --out FOLDER` wrote. No GPU needed.
"""

from .disassembly import Function, Instruction, Listing, disassemble
from .issue_model import TENSOR_CYCLES, busy_share
from .main_loop import TENSOR, Loop, main_loop
from .report import Figures, figures_of
from .resources import Resources, resources_of

__all__ = [
    "TENSOR",
    "TENSOR_CYCLES",
    "Figures",
    "Function",
    "Instruction",
    "Listing",
    "Loop",
    "Resources",
    "busy_share",
    "disassemble",
    "figures_of",
    "main_loop",
    "resources_of",
]
