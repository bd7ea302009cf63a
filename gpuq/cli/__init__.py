"""The command line: `gpuq COMMAND`. A file per command, each with `add_arguments(parser)` and `run(arguments) -> int`.

Exit codes: 0 all is well, 1 what was checked did not hold, 2 a mistake of the caller (said in one line),
130 interrupted.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

import gpuq
from gpuq.cli import bench, demo, dequantize, info, inspecting, kernels, quantize, selftest, warmup

COMMANDS = {
    "info": info,
    "selftest": selftest,
    "demo": demo,
    "bench": bench,
    "kernels": kernels,
    "quantize": quantize,
    "dequantize": dequantize,
    "inspect": inspecting,
    "warmup": warmup,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; `arguments` defaults to those of the process. Returns the exit code."""
    parsed = _parser().parse_args(arguments)
    try:
        code: int = COMMANDS[parsed.command].run(parsed)
        sys.stdout.flush()
    except KeyboardInterrupt:
        print("gpuq: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader (head, less) has gone: nobody is left to tell
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (TypeError, ValueError, OSError, gpuq.DeviceError) as error:
        print(f"gpuq {parsed.command}: {error}", file=sys.stderr)
        return 2
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="gpuq",
        description="Quantize, dequantize and int8 matrix multiplication, exact to the bit on every device.",
        epilog="examples:\n  gpuq demo\n  gpuq info --json\n"
        "  gpuq quantize model.safetensors small.safetensors --axis 0",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"gpuq {gpuq.__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, command in COMMANDS.items():
        summary, _, examples = (command.__doc__ or "").strip().partition("\n\n")
        command.add_arguments(
            commands.add_parser(
                name,
                help=summary,
                description=summary,
                epilog=examples,
                formatter_class=argparse.RawDescriptionHelpFormatter,
            )
        )
    return parser
