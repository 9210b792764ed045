"""Files of conversations, read one record at a time: JSONL, one JSON array, parquet; ``.gz`` of the first two.

A large JSONL file is several parts, so that several workers read it at once; the others can only be read from the beginning.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from bioie_ray.artifacts.reasons import first_line
from bioie_ray.corpora.formats.json_stream import MAX_RECORD_CHARS, JsonRecord, iter_json_array, open_bytes
from bioie_ray.corpora.reading import SourceError, SourceFile
from bioie_ray.retrieval.models import HubError, hub_snapshot

# A part is some thousand records: seconds of work, and what a worker that dies costs.
PART_BYTES: Final = 16 * 2**20
_ENDINGS: Final = (".jsonl", ".json", ".jsonl.gz", ".json.gz", ".parquet")
_PATTERNS: Final = tuple(f"*{ending}" for ending in _ENDINGS)
_NO_RECORDS: Final = frozenset({"dataset_infos.json", "dataset_info.json", "state.json"})  # what `datasets` writes beside records
_BATCH_ROWS: Final = 256
_PEEKED_BYTES: Final = 4_096


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A line that is no JSON: where, what stands there and why."""

    line: int
    raw: str
    reason: str


@dataclass(frozen=True, slots=True)
class Part:
    """Bytes of a file: the lines that begin in ``[start, stop)``; without a ``stop`` to the end."""

    start: int = 0
    stop: int | None = None


def locate_source(path: str) -> Path:
    """The file or folder of a source; a hub id is downloaded.

    Raises:
        SourceError: no such file, folder or data set.
    """
    local = Path(path).expanduser()
    if local.exists():
        return local.absolute()
    if local.is_absolute() or path.startswith(".") or path.partition("@")[0].count("/") != 1:
        raise SourceError(f"{path}: no such file or folder; give a JSON, JSONL or parquet file, a folder of them, or a hub id (org/name)")
    try:
        return hub_snapshot(path, _PATTERNS, "dataset")
    except HubError as error:
        raise SourceError(
            f"{path}: no such file or folder here, and the hub gave nothing ({error}); download it elsewhere and give the folder"
        ) from None


def find_files(source: Path) -> list[SourceFile]:
    """The files that hold records, by name below the source.

    Raises:
        SourceError: there is none.
    """
    if source.is_file():
        if not source.name.endswith(_ENDINGS):
            raise SourceError(f"{source}: is no file of records; known: {', '.join(_ENDINGS)}")
        return [SourceFile(source, source.name, "train")]
    found = [path for path in source.rglob("*") if path.is_file() and path.name.endswith(_ENDINGS) and path.name not in _NO_RECORDS]
    named = sorted((path.relative_to(source).as_posix(), path) for path in found)
    files = [SourceFile(path, name, "train") for name, path in named if not any(part.startswith(".") for part in name.split("/"))]
    if not files:
        raise SourceError(f"{source}: holds no file of records ({', '.join(_ENDINGS)})")
    return files


def parts_of(path: Path) -> list[Part]:
    """The parts that a file is read in: several for a large JSONL file, else one."""
    size = path.stat().st_size
    if size <= PART_BYTES or path.suffix == ".gz" or _form(path) != "lines":
        return [Part()]
    starts = range(0, size, PART_BYTES)
    return [Part(start, min(start + PART_BYTES, size)) for start in starts]


def read_records(path: Path, part: Part) -> Iterator[JsonRecord | Unreadable]:
    """The records of a part, in their order; memory is bounded by one record (parquet: some hundred).

    ``line`` is the 1-based line on which a record begins; in parquet its row.

    Raises:
        SourceError: the file as a whole cannot be read: an array that is cut off, a damaged archive or parquet file.
    """
    form = _form(path)
    if form == "array":
        return iter_json_array(path)
    return _rows(path) if form == "parquet" else _lines(path, part)


def _form(path: Path) -> Literal["lines", "array", "parquet"]:
    if path.suffix == ".parquet":
        return "parquet"
    try:
        with open_bytes(path) as stream:
            while chunk := stream.read(_PEEKED_BYTES):
                begin = chunk.removeprefix(b"\xef\xbb\xbf").lstrip()
                if begin:
                    return "array" if begin.startswith(b"[") else "lines"
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise _damaged(path, error) from None
    return "lines"


def _lines(path: Path, part: Part) -> Iterator[JsonRecord | Unreadable]:
    try:
        with open_bytes(path) as stream:
            line = _go_to(stream, part.start)
            while part.stop is None or stream.tell() < part.stop:
                data = stream.readline(MAX_RECORD_CHARS)
                if not data:
                    return
                line += 1
                if len(data) == MAX_RECORD_CHARS and not data.endswith(b"\n"):
                    _skip_line(stream)
                    yield Unreadable(line, "", f"a line of more than {MAX_RECORD_CHARS:,} bytes")
                elif data.strip(b" \t\r\n\xef\xbb\xbf"):
                    yield _parse(data.removeprefix(b"\xef\xbb\xbf") if line == 1 else data, line)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise _damaged(path, error) from None


def _go_to(stream: BinaryIO, start: int) -> int:
    """Move to the first line that begins at ``start`` or later; returns how many lines lie before it."""
    if not start:
        return 0
    num_lines, left = 0, start - 1
    while left:
        chunk = stream.read(min(left, 2**20))
        if not chunk:
            break
        num_lines += chunk.count(b"\n")
        left -= len(chunk)
    _skip_line(stream)
    return num_lines + 1


def _skip_line(stream: BinaryIO) -> None:
    while (data := stream.readline(2**20)) and not data.endswith(b"\n"):
        pass


def _parse(data: bytes, line: int) -> JsonRecord | Unreadable:
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        return Unreadable(line, data.decode(errors="replace"), f"not valid UTF-8 ({error.reason})")
    try:
        return JsonRecord(json.loads(text), line, text)
    except RecursionError:
        return Unreadable(line, text, "brackets nested too deeply")
    except json.JSONDecodeError as error:
        return Unreadable(line, text, f"not JSON: {error.msg} at character {error.pos + 1}")
    except ValueError as error:  # a number of thousands of digits
        return Unreadable(line, text, f"not JSON: {str(error).partition(';')[0]}")


def _rows(path: Path) -> Iterator[JsonRecord]:
    row = 0
    try:
        for batch in pq.ParquetFile(path).iter_batches(batch_size=_BATCH_ROWS, use_threads=False):
            for value in batch.to_pylist():
                row += 1
                yield JsonRecord(value, row, _shown(value))
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise SourceError(f"{path}: is no parquet file that can be read, or is damaged after row {row} ({first_line(error)})") from None


def _shown(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, default=str)


def _damaged(path: Path, error: Exception) -> SourceError:
    return SourceError(f"{path}: cannot be unpacked ({error}); it is cut off or damaged")
