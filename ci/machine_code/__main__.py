"""Print a table of the kernels in folders that `gpuq kernels --out FOLDER` wrote.

columns:
  registers, stack, local  of a thread: registers, bytes, and instructions that go to local memory
  loop, products, ratio    instructions of the main loop, those that multiply (tensor or dp4a), their share
  stall                    cycles per product that the loop makes a warp wait by its own schedule
  busy                     share of its time that the tensor pipe works, in a model with one warp per scheduler
  mix                      the loop's most frequent instructions
"""

from __future__ import annotations

import argparse
from pathlib import Path

from .report import table


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        prog="machine_code", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER")
    parser.add_argument("--names", default="gemm_*", help="which kernels (default: %(default)s)")
    arguments = parser.parse_args()
    for line in table(arguments.folders, arguments.names):
        print(line.rstrip())


if __name__ == "__main__":
    main()
