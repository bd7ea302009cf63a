"""What the operating system has to be asked for before an instruction set is used.

Tiles (AMX) hold 8 KB, which Linux keeps for a thread only where its process has asked for them; else their first
instruction ends the process. Asking is done once, holds for all threads and for forked children, and costs nothing
until a thread uses tiles. It fails where the kernel is old or forbids it, or where a thread has a signal stack too
small for them. Other systems' ways are not known here: there nobody is asked, and no tiles are used.
"""

from __future__ import annotations

import ctypes
import functools
import platform
import sys

ARCH_PRCTL, REQUEST_PERMISSION, TILE_DATA = 158, 0x1023, 18  # the system call on x86-64, its option, AMX


@functools.cache
def tiles_permitted() -> bool:
    """Whether this process may use tiles from now on."""
    if sys.platform != "linux" or platform.machine() != "x86_64":
        return False
    answer: int = ctypes.CDLL(None).syscall(ARCH_PRCTL, REQUEST_PERMISSION, TILE_DATA)
    return answer == 0
