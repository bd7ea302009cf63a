"""How an argument is refused."""

from __future__ import annotations

from typing import NoReturn


def refuse(error: type[Exception], argument: str, came: object, accepted: str) -> NoReturn:
    """Raise an error in three parts: the argument, what came, what is accepted."""
    raise error(f"{argument}: got {came}; accepted: {accepted}")


def kind_of(value: object) -> str:
    """What a value is that is not of an accepted type."""
    return f"an object of type {type(value).__name__}"


def brief(number: int) -> str:
    """A Python int, or the size of one too long to read (and, past Python's limit, to print)."""
    return str(number) if number.bit_length() <= 128 else f"an integer of {number.bit_length()} bits"
