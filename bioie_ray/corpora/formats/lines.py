"""Lines of a source file as bytes have them: numbered, decoded one by one, bounded in length.

Python's text mode will not do: it fails the whole file at one bad byte, and ``str.splitlines`` splits at characters
such as U+2028 and U+0085 that occur inside abstracts.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO, Final

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# A line is a title or an abstract; the longest of the releases has 5 kB.
MAX_LINE_BYTES: Final = 64 * 1024 * 1024
_BOM: Final = b"\xef\xbb\xbf"
_ASKS: Final = re.compile(r"; is (it|the file) cut off\?$")


@dataclass(frozen=True, slots=True)
class Line:
    """``number`` is 1-based; ``text`` has neither LF nor CR LF; ``problem`` says why ``text`` is not what was written.

    ``offset`` is where the line starts in the file, in bytes; ``ended`` is false for a last line without line break.
    """

    number: int
    offset: int
    text: str
    problem: str | None = None
    ended: bool = True

    @property
    def is_blank(self) -> bool:
        """Whether it holds nothing but white space."""
        return self.problem is None and not self.text.strip()


def numbered_lines(path: Path) -> Iterator[Line]:
    """The lines of a file, one at a time; a line that is not UTF-8 comes with its problem and replacement characters."""
    with path.open("rb") as stream:
        number, offset = 0, 0
        while data := stream.readline(MAX_LINE_BYTES + 1):
            number += 1
            size = len(data) + _skip_rest(stream, data)
            yield _line(number, offset, data)
            offset += size


def line_at(stream: BinaryIO, number: int, offset: int) -> Line:
    """The line that starts at a byte offset of an open file."""
    stream.seek(offset)
    return _line(number, offset, stream.readline(MAX_LINE_BYTES + 1))


def cut_off(path: Path, line: int | None, reason: str) -> str:
    """The message for a file that ends, without a line break, in something that cannot be read."""
    return f"{path}:{line}: {_ASKS.sub('', reason)}; the file ends here without a line break, it is cut off. Fetch it again"


def _skip_rest(stream: BinaryIO, data: bytes) -> int:
    skipped = 0
    while len(data) > MAX_LINE_BYTES and not data.endswith(b"\n") and (data := stream.readline(MAX_LINE_BYTES + 1)):
        skipped += len(data)
    return skipped


def _line(number: int, offset: int, data: bytes) -> Line:
    ended = data.endswith(b"\n")
    too_long = len(data) > MAX_LINE_BYTES and not ended
    data = data.removesuffix(b"\n").removesuffix(b"\r")
    if number == 1:
        data = data.removeprefix(_BOM)
    if too_long:
        problem = f"the line is longer than {MAX_LINE_BYTES:,} bytes; only its beginning is kept here"
        return Line(number, offset, data[:1_000].decode("utf-8", errors="replace"), problem)
    try:
        return Line(number, offset, data.decode("utf-8"), ended=ended)
    except UnicodeDecodeError as error:
        problem = f"not UTF-8: byte 0x{data[error.start]:02x} at byte {error.start + 1} of the line"
        return Line(number, offset, data.decode("utf-8", errors="backslashreplace"), problem, ended)
