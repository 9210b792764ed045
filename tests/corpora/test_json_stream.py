from __future__ import annotations

import json
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bioie_ray.corpora.formats import json_stream
from bioie_ray.corpora.formats.json_stream import iter_json_array
from bioie_ray.corpora.reading import SourceError

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


@given(
    values=st.lists(JSON, max_size=8),
    indent=st.sampled_from([None, 0, 3]),
    ascii_only=st.booleans(),
    chunk=st.integers(1, 50),
)
def test_streaming_gives_what_parsing_the_whole_gives(
    tmp_path_factory: pytest.TempPathFactory, values: list[object], indent: int | None, ascii_only: bool, chunk: int
) -> None:
    path = tmp_path_factory.mktemp("json") / "a.json"
    path.write_text(json.dumps(values, indent=indent, ensure_ascii=ascii_only), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_stream, "_CHUNK_CHARS", chunk)  # Every token is cut in two somewhere.
        records = list(iter_json_array(path))
    assert [record.value for record in records] == values
    assert [json.loads(record.raw) for record in records] == values


def test_a_record_knows_its_line_also_with_carriage_returns_and_a_byte_order_mark(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(b'\xef\xbb\xbf[\r\n{"a":\r\n1},\r\n\r\n{"b": 2}\r\n]\r\n')
    assert [(record.line, record.value) for record in iter_json_array(path)] == [(2, {"a": 1}), (5, {"b": 2})]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", r"a.json:1: the file ends too early; it is cut off or empty"),
        (b'{"a": 1}', r"a.json:1: a JSON array begins with `\[`"),
        (b'[\n{"a": 1},\n{"a": "x', r"a.json:3: the file ends too early; it is cut off"),
        (b'[\n{"a": 1},\n{"a":', r"a.json:3: the file ends too early; it is cut off"),
        (b'[\n{"a": 1}\n', r"a.json:3: the file ends too early; it is cut off"),
        (b'[\n{"a": 1}\n{"a": 2}]', r"a.json:3: a comma or the closing `\]` is missing"),
        (b'[\n{"a": 1}]\n[2]', r"a.json:3: text after the end of the array"),
        (b'[\n{"a": oops, "b": "' + b"x" * 80 + b'"}]', r"a.json:2: Expecting value"),
        (b'[\n{"a": "x"},\n{"a": "\xff"}]', r"a.json: not valid UTF-8 .* after line 2"),
        (b'[\n{"a": 1},\n{"a": ' + b"9" * 5_000 + b"}]", r"a.json:3: Exceeds the limit \(4300 digits\)"),
        (b"[" * 100_000, r"a.json:1: brackets nested too deeply"),
    ],
)
def test_what_is_no_array_is_an_error_with_its_line(tmp_path: Path, data: bytes, message: str) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(data)
    with pytest.raises(SourceError, match=message):
        list(iter_json_array(path))


def test_an_open_quote_does_not_read_the_whole_file_into_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_stream, "MAX_RECORD_CHARS", 200_000)
    path = tmp_path / "a.json"
    path.write_text('["' + "x" * 2_000_000, encoding="utf-8")
    with pytest.raises(SourceError, match="a record of more than 200,000 characters; is a quote left open"):
        list(iter_json_array(path))


def test_memory_is_bounded_by_a_record_not_by_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    record = json.dumps({"text": "κ" * 10_000, "names": {str(n): [n, n] for n in range(300)}}) + ",\n"
    with path.open("w", encoding="utf-8") as stream:
        stream.write("[\n")
        for _ in range(700):
            stream.write(record)
        stream.write("0]\n")
    assert path.stat().st_size > 15_000_000
    tracemalloc.start()
    try:
        num_records = sum(1 for _ in iter_json_array(path))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert num_records == 701
    assert peak < 8_000_000
