"""Files of records: every line once, whatever the form and however many parts, and a word for what cannot be read."""

from __future__ import annotations

import gzip
import json
import tracemalloc
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bioie_ray.corpora.formats.json_stream import JsonRecord
from bioie_ray.corpora.reading import SourceError
from bioie_ray.training.instructions import source_files
from bioie_ray.training.instructions.source_files import Part, Unreadable, find_files, locate_source, parts_of, read_records

RECORDS: list[Any] = [{"id": n, "text": "肝" * n} for n in range(5)]


def lines(records: list[Any]) -> bytes:
    return "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records).encode()


def array(records: list[Any]) -> bytes:
    return json.dumps(records, indent=1, ensure_ascii=False).encode()


@pytest.mark.parametrize(
    "name", ["a.jsonl", "a.json", "a.jsonl.gz", "a.json.gz", "mislabelled.json", "bom.jsonl", "a.parquet", "crlf.jsonl"]
)
def test_every_form_gives_the_records_with_their_lines(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    data = array(RECORDS) if name.startswith("a.json") and "jsonl" not in name else lines(RECORDS)
    if name == "bom.jsonl":
        data = b"\xef\xbb\xbf" + data
    if name == "crlf.jsonl":
        data = data.replace(b"\n", b"\r\n")
    if name == "a.parquet":
        pq.write_table(pa.Table.from_pylist(RECORDS), path)
    else:
        path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    found = list(read_records(path, Part()))
    assert [record.value for record in found if isinstance(record, JsonRecord)] == RECORDS
    starts = [2, 6, 10, 14, 18] if data.startswith(b"[") else [1, 2, 3, 4, 5]
    assert [record.line for record in found] == starts


def test_a_bad_line_has_its_number_and_the_others_go_on(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"a": 1}\n\n{"a": \nnonsense\n"caf\xe9"\n' + b"[" * 100_000 + b"\n" + b"9" * 5_000 + b'\n{"a": 2}')
    found = list(read_records(path, Part()))
    assert [(record.line, record.value) for record in found if isinstance(record, JsonRecord)] == [(1, {"a": 1}), (8, {"a": 2})]
    reasons = {record.line: record.reason for record in found if isinstance(record, Unreadable)}
    assert list(reasons) == [3, 4, 5, 6, 7]
    assert reasons[4] == "not JSON: Expecting value at character 1"
    assert reasons[5].startswith("not valid UTF-8")
    assert reasons[6] == "brackets nested too deeply"
    assert "digits" in reasons[7]


@given(st.lists(st.binary(max_size=12).map(lambda data: data.replace(b"\n", b"")), max_size=12), st.integers(1, 40), st.booleans())
def test_parts_hold_every_line_once(tmp_path_factory: pytest.TempPathFactory, content: list[bytes], size: int, ended: bool) -> None:
    path = tmp_path_factory.mktemp("parts") / "a.jsonl"
    path.write_bytes(b"{}\n" + b"\n".join(content) + (b"\n" if ended else b""))
    whole = list(read_records(path, Part()))
    total = path.stat().st_size
    parts = [Part(start, min(start + size, total)) for start in range(0, total, size)]
    assert [record for part in parts for record in read_records(path, part)] == whole


def test_a_large_file_of_lines_is_several_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source_files, "PART_BYTES", 20)
    (tmp_path / "a.jsonl").write_bytes(lines(RECORDS))
    (tmp_path / "a.json").write_bytes(array(RECORDS))
    assert len(parts_of(tmp_path / "a.jsonl")) > 2
    assert parts_of(tmp_path / "a.json") == [Part()]


def test_memory_is_that_of_a_record(tmp_path: Path) -> None:
    for name, data in (("a.jsonl", lines([{"text": "a" * 10_000}] * 2_000)), ("a.json", array([{"text": "a" * 10_000}] * 2_000))):
        (tmp_path / name).write_bytes(data)
        tracemalloc.start()
        assert sum(1 for _ in read_records(tmp_path / name, Part())) == 2_000
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 2 * 2**20 < len(data) / 5


@pytest.mark.parametrize(
    ("name", "data", "reason"),
    [
        ("cut.json", array(RECORDS)[:-20], r"cut\.json:\d+: the file ends too early"),
        ("cut.jsonl.gz", gzip.compress(lines(RECORDS), mtime=0)[:-12], r"cut\.jsonl\.gz: cannot be unpacked"),
        ("cut.json.gz", gzip.compress(array(RECORDS), mtime=0)[:-12], r"cut\.json\.gz: cannot be unpacked"),
        ("none.jsonl.gz", b"no gzip", r"none\.jsonl\.gz: cannot be unpacked"),
        ("none.parquet", b"no parquet", r"none\.parquet: is no parquet file"),
    ],
)
def test_a_damaged_file_is_an_error_and_not_a_smaller_source(tmp_path: Path, name: str, data: bytes, reason: str) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(SourceError, match=reason):
        list(read_records(tmp_path / name, Part()))


def test_a_parquet_file_with_a_damaged_page_is_named(tmp_path: Path) -> None:
    pq.write_table(pa.table({"a": [f"text {n}" * 20 for n in range(2_000)]}), tmp_path / "a.parquet", compression="none")
    data = bytearray((tmp_path / "a.parquet").read_bytes())
    data[4:40] = b"\xff" * 36
    (tmp_path / "a.parquet").write_bytes(data)
    with pytest.raises(SourceError, match=r"a\.parquet: is no parquet file that can be read, or is damaged after row 0"):
        list(read_records(tmp_path / "a.parquet", Part()))


def test_a_parquet_file_with_text_that_is_not_utf8_is_named(tmp_path: Path) -> None:
    column = pa.Array.from_buffers(pa.string(), 1, [None, pa.py_buffer(b"\0\0\0\0\1\0\0\0"), pa.py_buffer(b"\xff")])
    pq.write_table(pa.table({"a": column}), tmp_path / "a.parquet")
    with pytest.raises(SourceError, match=r"a\.parquet: .*after row 0"):
        list(read_records(tmp_path / "a.parquet", Part()))


def test_a_folder_is_its_files_by_name_without_what_holds_no_records(tmp_path: Path) -> None:
    for name in ("b.jsonl", "a/z.json", "a/b.parquet", "README.md", "dataset_infos.json", ".cache/x.json"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    assert [file.name for file in find_files(tmp_path)] == ["a/b.parquet", "a/z.json", "b.jsonl"]


def test_what_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="no such file or folder; give a JSON, JSONL or parquet file"):
        locate_source(str(tmp_path / "none"))
    with pytest.raises(SourceError, match="bioie-ray/no-such-data: no such file or folder here, and the hub gave nothing"):
        locate_source("bioie-ray/no-such-data")
    with pytest.raises(SourceError, match="holds no file of records"):
        find_files(tmp_path)
    (tmp_path / "a.csv").write_text("a")
    with pytest.raises(SourceError, match="is no file of records"):
        find_files(tmp_path / "a.csv")
