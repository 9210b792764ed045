from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import threading
from http.client import HTTPConnection
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import pyarrow as pa
import pytest
from review_client import Client
from review_items import ITEMS

from bioie_ray.artifacts.output import IncompleteError, Output, to_parquet
from bioie_ray.artifacts.store import StoreAddress
from bioie_ray.corpora.document import Document, to_table
from bioie_ray.dmcr.decision_log import DecisionLog
from bioie_ray.pipeline.review import read_queue, review

DISEASES = [item for item in ITEMS if item.task == "bc5cdr_disease"]


def dump(answers: Any) -> str | None:
    return None if answers is None else json.dumps(answers, ensure_ascii=False)


def finished(store: Path, key: str, shards: dict[str, pa.Table], **record: Any) -> Output:
    output = Output(StoreAddress(str(store)), key)
    output.claim()
    for name, table in shards.items():
        output.commit(name, table, {})
    output.finish({"kind": key.partition("/")[0], "shards": [{"shard": name} for name in shards], **record})
    return output


@pytest.fixture
def output(tmp_path: Path) -> Output:
    """A corpus of two shards, and a review of it with answers that need nobody between those that do."""
    store = tmp_path / "store"
    texts = {item.document_id: item.text for item in ITEMS} | {"other": "Nothing is asked about this one."}
    documents = [Document(id=name, corpus="bc5cdr", split="test", text=text) for name, text in texts.items()]
    finished(store, "corpora/bc5cdr@1", {"test-00000": to_table(documents[:2]), "test-00001": to_table(documents[2:])})
    rows = []
    for item in DISEASES:
        rows.append(
            {
                "document_id": item.document_id, "repeat": 1, "answer": item.answer, "verdict": "differ",
                "conversion_a": item.conversion_a, "conversion_b": item.conversion_b, "list_a": dump(item.list_a), "list_b": dump(item.list_b),
                "invented_a": dump(item.invented_a), "invented_b": dump(item.invented_b),
            }
        )  # fmt: skip
        rows.append({**dict.fromkeys(rows[0]), "document_id": item.document_id, "repeat": 2, "answer": "[]", "verdict": "none"})
    shards = {"test.r01-00000": pa.Table.from_pylist(rows[:6]), "test.r01-00001": pa.Table.from_pylist(rows[6:])}
    return finished(store, "dmcr/diseases@1", shards, task="bc5cdr_disease", corpus="corpora/bc5cdr@1")


def test_the_queue_is_what_the_evaluators_differ_on(output: Output) -> None:
    queue = read_queue(output)
    assert queue.name == "dmcr/diseases@1"
    assert [queue.item(key) for key in queue.keys] == DISEASES


def test_a_queue_is_known_again_and_told_from_that_of_a_copy_with_other_decisions(output: Output, tmp_path: Path) -> None:
    shutil.copytree(tmp_path / "store", tmp_path / "copy")
    copied = Output(StoreAddress(str(tmp_path / "copy")), output.key)
    assert read_queue(output).identity == read_queue(output).identity != read_queue(copied).identity


def test_out_to_a_file_and_back(output: Output, tmp_path: Path) -> None:
    file, said = tmp_path / "open.jsonl", list[str]()
    review(output.location, export=file, say=said.append)
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert len(lines) == len(DISEASES)
    lines[0] |= {"choice": "a", "reviewer": "Cy"}
    file.write_text("\n".join(json.dumps(line) for line in lines))
    review(output.location, import_=file, say=said.append)
    assert said == [
        f"{file}: 0 decisions; 5 of 5 answers wait for a decision",
        "5 of 5 answers wait for a decision; run the recipe again to bring the scores up to date",
        f"{file}: 1 decisions added, 0 known already, 0 refused: somebody decided first",
        "4 of 5 answers wait for a decision; run the recipe again to bring the scores up to date",
    ]
    assert DecisionLog(output).standing(DISEASES[0].key).winner.answers == DISEASES[0].list_a  # type: ignore[union-attr]


def test_decisions_of_another_run_are_named_and_not_taken(output: Output, tmp_path: Path) -> None:
    file, said = tmp_path / "open.jsonl", list[str]()
    review(output.location, export=file, say=said.append)
    line = json.loads(file.read_text().splitlines()[0])
    file.write_text(json.dumps({**line, "choice": "a", "reviewer": "Cy"}))
    table = output.read_shard("test.r01-00000")
    rows = [{**row, "answer": "made again"} for row in table.to_pylist()]
    output.store.write(output.shard_key("test.r01-00000"), to_parquet(pa.Table.from_pylist(rows)))
    said.clear()
    review(output.location, import_=file, say=said.append)
    assert said[0].startswith(f"{file}: 0 decisions added, 0 known")
    assert said[1].startswith(f"{file}: 1 lines not taken: line 1: document '10071832', repeat 1 is about another answer")
    assert "Where the answer is another now, decide anew, on the page or in a new --export" in said[1]
    assert DecisionLog(output).all() == []


def test_decisions_on_answers_that_were_made_again_are_open_again(output: Output, tmp_path: Path) -> None:
    file, said = tmp_path / "open.jsonl", list[str]()
    review(output.location, export=file, say=said.append)
    line = json.loads(file.read_text().splitlines()[0])
    file.write_text(json.dumps({**line, "choice": "a", "reviewer": "Cy"}))
    review(output.location, import_=file, say=said.append)
    rows = [{**row, "answer": "made again"} for row in output.read_shard("test.r01-00000").to_pylist()]
    output.store.write(output.shard_key("test.r01-00000"), to_parquet(pa.Table.from_pylist(rows)))
    said.clear()
    review(output.location, export=file, say=said.append)
    assert said[0] == "1 decided answers are others now; what was decided about them does not count, and they are open again"
    assert said[1] == f"{file}: 1 decisions; 5 of 5 answers wait for a decision"


def test_the_page_is_served_where_it_says(output: Output) -> None:
    said: SimpleQueue[str] = SimpleQueue()
    threading.Thread(target=review, args=(output.location,), kwargs={"say": said.put}, daemon=True).start()
    assert said.get(timeout=20).startswith("5 of 5 answers wait for a decision; Ctrl-C")
    address = said.get(timeout=20).removeprefix("open http://").rstrip("/")
    connection = HTTPConnection(address, timeout=20)
    connection.request("GET", "/api/items/0")
    assert json.loads(connection.getresponse().read())["document_id"] == DISEASES[0].document_id


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_whatever_ends_it_what_was_decided_is_saved(output: Output, how: signal.Signals) -> None:
    command = [sys.executable, "-u", "-c", f"from bioie_ray.pipeline.review import review; review({output.location!r})"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        process.stdout.readline()
        client = Client(process.stdout.readline().removeprefix("open ").strip())
        assert client.decide(DISEASES[0].document_id, "b").status == 200
        process.send_signal(how)
        rest = process.stdout.read()
    assert process.returncode == (0 if how == signal.SIGINT else -signal.SIGKILL)
    assert ("4 of 5 answers wait for a decision; run the recipe again" in rest) == (how == signal.SIGINT)
    assert DecisionLog(output).standing(DISEASES[0].key).winner.answers == DISEASES[0].list_b  # type: ignore[union-attr]


def test_what_cannot_be_reviewed_is_said(output: Output, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="corpora/bc5cdr@1 holds corpora; what people decide on is a dmcr/ output"):
        review(str(tmp_path / "store/corpora/bc5cdr@1"))
    with pytest.raises(ValueError, match="holds several; name one of them"):
        review(str(tmp_path / "store"))
    with pytest.raises(ValueError, match="for other machines; give a token"):
        review(output.location, host="0.0.0.0", say=lambda _: None)
    with pytest.raises(ValueError, match=r"cannot read .*nowhere\.jsonl: No such file"):
        review(output.location, import_=tmp_path / "nowhere.jsonl")
    (tmp_path / "latin.jsonl").write_bytes(b"\xe9")
    with pytest.raises(ValueError, match=r"latin\.jsonl is not UTF-8 \(byte 0\)"):
        review(output.location, import_=tmp_path / "latin.jsonl")
    with pytest.raises(ValueError, match="cannot write"):
        review(output.location, export=tmp_path, say=lambda _: None)
    Output(StoreAddress(str(tmp_path / "store")), "dmcr/unfinished@1").claim()
    with pytest.raises(IncompleteError, match="is not finished"):
        review(str(tmp_path / "store/dmcr/unfinished@1"))


def test_a_corpus_that_was_made_again_is_said(output: Output, tmp_path: Path) -> None:
    corpus = Output(StoreAddress(str(tmp_path / "store")), "corpora/bc5cdr@1")
    corpus.store.write(corpus.shard_key("test-00000"), corpus.store.read(corpus.shard_key("test-00001")))
    with pytest.raises(ValueError, match=r"corpora/bc5cdr@1 has no document '10071832'.*was the corpus made again\?"):
        read_queue(output)


def test_nothing_to_decide_needs_no_page(output: Output, tmp_path: Path) -> None:
    table = pa.Table.from_pylist([{**output.read_shard("test.r01-00000").to_pylist()[0], "verdict": "agreed"}])
    calm = finished(tmp_path / "store", "dmcr/calm@1", {"test.r01-00000": table}, task="bc5cdr_disease", corpus="corpora/bc5cdr@1")
    said: list[str] = []
    review(calm.location, say=said.append)
    assert said == [f"nothing to decide in {calm.location}: the evaluators agree on every answer"]
