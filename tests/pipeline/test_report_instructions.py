"""The page and the summary of instruction data say what the files hold."""

from __future__ import annotations

import html
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from pipeline_builders import record, rows, run
from typer.testing import CliRunner

from bioie_ray.cli import app

LONG = "Read <b>this</b> & that. " * 400


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, tiny_llm: str, corpus: str) -> Path:
    folder = tmp_path_factory.mktemp("reported")
    pairs = [("List all.", "a; b"), (LONG, "c"), ("List <i>none</i>.", ""), ("List all.", "a; b")]
    records: list[dict[str, Any]] = [
        {"dataset": "fruits", "conversation_id": n, "language": "en", "conversation": [{"human": a, "assistant": b}]}
        for n, (a, b) in enumerate(pairs)
    ]
    records.append({"dataset": "fruits", "conversation_id": 9, "language": "en", "conversation": "nothing"})
    (folder / "fruits.jsonl").write_text("".join(json.dumps(one) + "\n" for one in records))
    sources: list[dict[str, Any]] = [
        {"kind": "tasks", "phrasings": 2},
        {"kind": "taiyi", "path": str(folder / "fruits.jsonl"), "weight": 3},
    ]
    settings = {"sources": sources, "max_tokens": 20_000, "max_quarantined_share": 0.5, "near_duplicates": None}
    return run(folder, job="prepare_instructions", source=corpus, train={"base_model": tiny_llm}, instructions=settings)


def test_the_page_shows_counts_lengths_and_samples(store: Path) -> None:
    done = CliRunner().invoke(app, ["report", str(store), "--out", str(store / "report.html")])
    assert done.exit_code == 0, done.stderr
    page = (store / "report.html").read_text()
    (told,) = json.loads((store / "report.json").read_text())["instructions"]
    made = rows(store / "instructions/r@1")
    assert {d["name"]: (d["num_rows"], d["num_tokens"]) for d in told["data_sets"]} == {
        name: (sum(r["source"] == name for r in made), sum(r["num_tokens"] for r in made if r["source"] == name))
        for name in ("tasks:bc5cdr_disease", "taiyi:fruits")
    }
    assert told["languages"] == Counter(row["language"] for row in made)
    bins = Counter((row["num_tokens"] - 1) // told["bin_width"] for row in made)
    assert told["lengths"] == [bins[place] for place in range(max(bins) + 1)]
    ours, fruits = told["entries"]
    assert {reason: n for reason, n in fruits["left_out"].items() if n} == {"quarantined": 1, "no_answer": 1, "exact_duplicates": 1}
    assert (fruits["num_read"], fruits["num_copies"], fruits["num_rows"]) == (5, 4, 6)
    assert ours["num_rows"] == len(made) - 6
    for text in ("Quarantined", "No answer", "Exact duplicates", f"{len(made)} conversations to tune on", f"{len(made)} conversations of"):
        assert text in page
    assert page.count("<rect") == sum(n > 0 for n in told["lengths"])
    by_id = {row["id"]: row for row in made}
    assert {sample["data_set"] for sample in told["samples"]} == {"tasks:bc5cdr_disease", "taiyi:fruits"}
    for sample in told["samples"]:
        turns = json.loads(by_id[sample["id"]]["messages"])
        for (role, shown), turn in zip(sample["turns"], turns, strict=True):
            assert role == turn["role"]
            assert shown == turn["content"] or (len(turn["content"]) > 4_000 and shown.startswith(turn["content"][:4_000]))
            assert shown in html.unescape(page)
    assert "<b>this</b>" not in page


def test_show_prints_each_source(store: Path) -> None:
    for key in ("records", "instructions"):
        done = CliRunner().invoke(app, ["show", str(store / key / "r@1")], env={"COLUMNS": "200"})
        assert done.exit_code == 0, done.stderr
        for source in record(store / key / "r@1")["sources"]:
            (line,) = (line for line in done.stdout.splitlines() if line.startswith(f"{source['kind']}: "))
            assert str(source["read"]) in line.split()
