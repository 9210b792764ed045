"""What a library's error says to a person."""

from __future__ import annotations


def first_line(error: BaseException) -> str:
    """The first line of its message: many go on with a dump of their insides. Its type where it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
