"""The records of a large JSON array, one at a time, each with its line and its source text.

Over the standard library's ``raw_decode`` on a growing buffer, not ijson: ijson gives no source text of a record (which
quarantine keeps) and reports a truncated file without its line.
"""

from __future__ import annotations

import gzip
import io
import json
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final, TextIO, cast

from bioie_ray.corpora.reading import SourceError

_CHUNK_CHARS: Final = 1 << 16
# The longest tolerated record; without a bound, a quote left open would read the whole file into memory.
MAX_RECORD_CHARS: Final = 64_000_000
# A syntax error this near to the end of the buffer may only be a token cut in two ("fal|se", "-1.2|e5").
_TOKEN_CHARS: Final = 32
_BLANK: Final = re.compile(r"[ \t\r\n]*")


@dataclass(frozen=True, slots=True)
class JsonRecord:
    """``value`` as parsed, the 1-based ``line`` where it begins, and its source text."""

    value: Any
    line: int
    raw: str


def iter_json_array(path: Path) -> Iterator[JsonRecord]:
    """Stream the records of a file (``.gz`` is unpacked on the way) that holds one JSON array; memory is bounded by one record.

    Raises:
        SourceError: not UTF-8, not JSON, no array, or cut off; the message has file and line.
    """
    with open_bytes(path) as raw, io.TextIOWrapper(raw, encoding="utf-8-sig", newline="") as stream:
        try:
            yield from _Buffer(stream, path).records()
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise SourceError(f"{path}: cannot be unpacked ({error}); it is cut off or damaged") from None
        except UnicodeDecodeError as error:
            raise SourceError(f"{path}: not valid UTF-8 ({error.reason}) after line {_lines_before_bad_byte(path)}") from None


def open_bytes(path: Path) -> BinaryIO:
    """The file's bytes, unpacked where its name ends in ``.gz``."""
    return cast("BinaryIO", gzip.open(path)) if path.suffix == ".gz" else path.open("rb")


class _Buffer:
    """The part of the file that is in memory; ``_position`` is where reading goes on, on line ``_line``."""

    def __init__(self, stream: TextIO, path: Path) -> None:
        self._stream = stream
        self._path = path
        self._text = ""
        self._position = 0
        self._line = 1
        self._at_end = False
        self._decoder = json.JSONDecoder()

    def records(self) -> Iterator[JsonRecord]:
        self._take("[", "a JSON array begins with `[`")
        if self._peek() == "]":
            self._take("]", "")
        else:
            while True:
                self._peek()
                yield self._record()
                if self._peek() == "]":
                    self._take("]", "")
                    break
                self._take(",", "a comma or the closing `]` is missing")
        if self._peek():
            raise self._error(self._position, "text after the end of the array")

    def _record(self) -> JsonRecord:
        while True:
            try:
                value, end = self._decoder.raw_decode(self._text, self._position)
            except json.JSONDecodeError as error:
                # An open quote is reported where it begins, however far behind; any other error where it is.
                open_quote = error.msg.startswith("Unterminated string")
                if not open_quote and error.pos + _TOKEN_CHARS < len(self._text):
                    raise self._error(error.pos, error.msg) from None
                self._grow(error.pos, error.msg)
                continue
            except RecursionError:
                raise self._error(self._position, "brackets nested too deeply") from None
            except ValueError as error:  # a number of thousands of digits
                raise self._error(self._position, str(error).partition(";")[0]) from None
            if isinstance(value, int | float) and end + _TOKEN_CHARS > len(self._text) and not self._at_end:
                self._grow(end, "")  # A number at the end of the buffer may go on ("0." is read as 0).
                continue
            record = JsonRecord(value, self._line, self._text[self._position : end])
            self._advance(end)
            return record

    def _peek(self) -> str:
        """The next character that is not white space; empty at the end of the file."""
        while True:
            blank = _BLANK.match(self._text, self._position)
            assert blank is not None
            self._advance(blank.end())
            if self._position < len(self._text) or self._at_end:
                return self._text[self._position : self._position + 1]
            self._read(_CHUNK_CHARS)

    def _take(self, char: str, otherwise: str) -> None:
        found = self._peek()
        if found != char:
            reason = otherwise if found else "the file ends too early; it is cut off or empty"
            raise self._error(self._position, reason)
        self._advance(self._position + 1)

    def _grow(self, position: int, reason: str) -> None:
        """Read as much again as the record has so far, so that a long one costs no more than twice its length."""
        held = len(self._text) - self._position
        if self._at_end:
            raise self._error(position, f"the file ends too early; it is cut off ({reason})")
        if held > MAX_RECORD_CHARS:
            raise self._error(self._position, f"a record of more than {MAX_RECORD_CHARS:,} characters; is a quote left open?")
        self._read(max(held, _CHUNK_CHARS))

    def _read(self, num_chars: int) -> None:
        chunk = self._stream.read(num_chars)
        self._at_end = not chunk
        self._text = self._text[self._position :] + chunk
        self._position = 0

    def _advance(self, end: int) -> None:
        self._line += self._text.count("\n", self._position, end)
        self._position = end

    def _error(self, position: int, reason: str) -> SourceError:
        line = self._line + self._text.count("\n", self._position, position)
        return SourceError(f"{self._path}:{line}: {reason}")


def _lines_before_bad_byte(path: Path) -> int:
    """The number of the last line that decodes; read by lines, so that a large file costs no memory."""
    good = 0
    with open_bytes(path) as stream:
        for line in stream:
            try:
                line.decode("utf-8")
            except UnicodeDecodeError:
                return good
            good += 1
    return good
