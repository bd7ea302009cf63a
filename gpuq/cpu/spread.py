"""Jobs on several threads: compiled code whose units the caller and workers of the pool (pool.py) share.

A job is a function under `jit` that takes its arguments as one tuple (arrays, numbers, tuples of them) and the range
of its units that it is to do; it writes what it finds into arrays among its arguments and returns nothing:

    @jit
    def fill(arguments, first, last):             # units first … last − 1
        target, value = arguments
        target[first:last] = value

    run_fill = runner(fill)                       # once, at module level or in a cached factory

    crew = find_crew(target.size, 1 << 20)        # in Python: how many workers may help, and where they meet
    run_fill(crew, (target, 7), target.size, 1 << 20)

    spread(crew, fill, (target, 7), target.size, 1 << 20)    # the same from inside a function under `jit`

A unit is whatever the job counts; `smallest`, the last argument, is the fewest units worth a thread. The units are cut
into pieces of one length, and nobody knows beforehand which thread does which. One crew serves all jobs of a call, one
after the other: ask for it once, with the job that has most to share. Where the call is too small for a second thread
the crew is `ALONE`: the job is called once, with all its units, and the pool is neither started nor looked at.

    caller's stack:   units of a piece │ all units │ arguments          a function emitted for the job (`spread`) reads
                              ▲                                         them there and calls the job, so that the pool
    pool:       function(address, block) for every block                deals with two addresses and a number

A job may run in several threads at once: no two ranges may write to the same memory. It has one reason to raise: no
memory for its own workspace (NO_WORKSPACE says how much that is); arguments are checked, and all other memory is
allocated, before it. It cannot end the call in the midst of other threads' work, nor hand on its error: its other
pieces are done, then the caller raises a MemoryError.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.compiler import Flags
from numba.extending import intrinsic

from gpuq.cpu.atomics import I64, load, store
from gpuq.cpu.compile import jit
from gpuq.cpu.pool import MOST_BLOCKS, POOL, WORD, share
from gpuq.cpu.threads import num_threads

PIECES_PER_THREAD = 4  # so that a thread that comes late, or runs slowly, still leaves the others something to take
Crew = tuple[int, int]  # the control block's address, and how many workers may help
CREW = types.UniTuple(types.int64, 2)
ALONE: Crew = (0, 0)
KEEP = -1  # for a number of workers: the call is kept at the address (kept.py)
FUNCTION, BYTES, SMALLEST, PLACES, HELD = 0, WORD, 2 * WORD, 3 * WORD, 8 * WORD  # where a call is kept
# constant, as errors of compiled code are: MOST_ROOM (blocking.py), and two numbers for each row of the highest tile
NO_WORKSPACE = "the workspace of a thread: at most 8388608 bytes, or 96 for each block along k"
MOST_BYTES = 4096  # for a kept call; that of a product takes a quarter of it


def find_crew(units: int, smallest: int) -> Crew:
    """Who may share jobs of at most so many units, of which fewer than `smallest` are not worth a thread.

    Workers are started that are not there yet.
    """
    if units < 2 * smallest:
        return ALONE
    workers = min(num_threads(), units // max(1, smallest)) - 1
    return (POOL.control(workers), workers) if workers > 0 else ALONE


def runner(job: Callable[..., Any]) -> Callable[..., None]:
    """The function run(crew, arguments, units, smallest) that spreads this job, for Python and for compiled code."""

    @jit
    def run(crew: Any, arguments: Any, units: int, smallest: int) -> None:
        spread(crew, job, arguments, units, smallest)

    return run


@intrinsic
def spread(typing_context: Any, crew: Any, job: Any, arguments: Any, units: Any, smallest: Any) -> Any:
    """Call job(arguments, first, last) for ranges that cover 0 … units, in this thread and workers of the crew.

    Returns when all of them are done. For compiled code; `runner` makes the same for Python.
    """
    arguments = types.unliteral(arguments)
    share_units = _compiled_share_units()

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        held_type = ir.LiteralStructType([I64, I64, context.get_value_type(arguments)])
        held = cgutils.alloca_once(builder, held_type)
        lent = _without_owners(context, builder, arguments, values[2])
        builder.store(lent, cgutils.gep_inbounds(builder, held, 0, 2))
        function = _make_block_function(context, builder.module, job.dispatcher.py_func, arguments, held_type)
        addresses = [builder.ptrtoint(pointer, I64) for pointer in (function, held)]
        context.active_code_library.add_linking_library(share_units.library)
        size = I64(context.get_abi_sizeof(held_type))
        operands = [values[0], *addresses, values[3], values[4], size]
        return context.call_internal(builder, share_units.fndesc, share_units.signature, operands)

    return types.void(CREW, job, arguments, types.int64, types.int64), generate


def _without_owners(context: Any, builder: Any, kind: Any, value: Any) -> Any:
    """A job's arguments, whose arrays do not say who owns their memory: that is the caller, who waits for the job. Else
    all threads would count references in one cache line, strip after strip.
    """
    if isinstance(kind, types.Array):
        array = cgutils.create_struct_proxy(kind)(context, builder, value)
        array.meminfo, array.parent = map(cgutils.get_null_value, (array.meminfo.type, array.parent.type))
        return array._getvalue()
    if isinstance(kind, types.BaseTuple):
        for place, part in enumerate(kind.types):
            lent = _without_owners(context, builder, part, builder.extract_value(value, place))
            value = builder.insert_value(value, lent, place)
    return value


def _make_block_function(context: Any, module: Any, job: Any, arguments: Any, held_type: Any) -> Any:
    """The function (address of what is held, block) → whether the job failed, as the pool calls it.

    What is held, on the caller's stack: the units of a piece, all units, and the job's arguments.
    """
    kind = ir.FunctionType(I64, [I64, I64])
    function = ir.Function(module, kind, module.get_unique_name("block_of_job"))
    function.linkage = "internal"
    builder = ir.IRBuilder(function.append_basic_block())
    held = builder.inttoptr(function.args[0], held_type.as_pointer())
    length, units, values = (builder.load(cgutils.gep_inbounds(builder, held, 0, field)) for field in range(3))
    first = builder.mul(function.args[1], length)
    last = builder.add(first, length)
    last = builder.select(builder.icmp_signed("<", last, units), last, units)
    flags = Flags()
    flags.nrt, flags.error_model = True, "numpy"
    signature = types.none(arguments, types.int64, types.int64)
    compiled = context.compile_subroutine(builder, job, signature, flags=flags)
    status, _ = context.call_internal_no_propagate(builder, compiled.fndesc, signature, [values, first, last])
    builder.ret(builder.zext(status.is_error, I64))
    return function


@jit
def share_units(crew: Any, function: int, held: int, units: int, smallest: int, size: int) -> None:
    """Cut the units into pieces, say so in what the job's function reads (its first two words), and share them; or
    keep all that for later calls (kept.py).
    """
    control, workers = crew
    store(held + WORD, units)
    if workers == KEEP:
        _keep(control, function, held, smallest, size)
        return
    if units <= 0:
        return
    length = piece_length(workers, units, smallest)
    store(held, length)
    if not share(control, workers, function, held, (units + length - 1) // length):
        raise MemoryError(NO_WORKSPACE)


@jit
def _keep(kept: int, function: int, held: int, smallest: int, size: int) -> None:
    """Write what a job's function reads, and the rest of a call, to the address `kept`, if there is room."""
    if HELD + size > MOST_BYTES:
        return
    store(kept + FUNCTION, function)
    store(kept + BYTES, size)
    store(kept + SMALLEST, smallest)
    for place in range(0, size, WORD):
        store(kept + HELD + place, load(held + place))


@jit
def piece_length(workers: int, units: int, smallest: int) -> int:
    """Units of a piece: all where the caller is alone, else enough pieces for all threads, none shorter than `smallest`
    but the last.
    """
    pieces = min((workers + 1) * PIECES_PER_THREAD, MOST_BLOCKS) if workers else 1
    return max(1, smallest, (units + pieces - 1) // pieces)


def _compiled_share_units() -> Any:
    """The compiled form of `share_units`, which is the same for all jobs."""
    dispatcher: Any = share_units
    kinds = (CREW, *[types.int64] * 5)
    dispatcher.compile(kinds)
    return dispatcher.overloads[kinds]
