"""The grid of a histogram and the order of real numbers by their bits: one arithmetic for both devices.

    bins of a channel, w = 2^e:     …  (−2w, −w]   (−w, 0)   [0, w)   [w, 2w)  …  the rest
    position in the counts          …   BINS − 2    BINS − 1    BINS   BINS + 1   …  2·BINS

A magnitude's bin is trunc(|v| / w): the multiplication by 1 / w is exact (or underflows, to bin 0, where it belongs),
so a grid of twice the width has exactly the sums of neighbours. What is not finite falls into the last place.
"""

from __future__ import annotations

from typing import Any

from numba import int32, uint16

from gpuq.arithmetic import as_type_of, scalar

BINS = 2048  # on each side of 0: 32 KB of counts a channel; a bin is at most 1/1024 of the largest magnitude
PLACES = 2 * BINS + 1


@scalar
def place_of(v: Any, factor: Any) -> Any:
    """The position in the counts of a number, given 1 / w in its type."""
    steps = abs(v) * factor
    bin = int32(steps if steps < BINS else as_type_of(steps, 0))
    place = int32(BINS - 1 - bin) if v < 0 else int32(BINS + bin)
    return uint16(place if steps < BINS else int32(2 * BINS))


@scalar
def ordered(bits: Any, shift: int, magnitude: Any, storage: Any) -> Any:
    """A key that orders real numbers by their bits, and from the key the bits: −0.0 comes before 0.0."""
    return storage(bits ^ (storage(bits >> shift) & magnitude))
