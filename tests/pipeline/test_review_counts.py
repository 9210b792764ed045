"""What the review of answers without a list came to, from the answers to the page: nothing is counted as agreed on that nobody was asked about."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pipeline_builders import documents, make_recipe, record, rows, text_of, write_corpus

from bioie_ray.pipeline.job import run_recipe
from bioie_ray.pipeline.report import make_report

sys.path.insert(0, str(Path(__file__).parents[1] / "generation"))
from fake_endpoint import FakeEndpoint, Json, Reply, answer, fake_endpoint

SAID = ["", " \n\t", "There are none.", "it is gout", "it is asthma", '["gout"]', 'Here is the list of diseases:\n["gout"]']
CONVERTED = {
    "There are none.": ("[]", "[]"),
    "it is gout": ('["gout"]', '["Gout"]'),
    "it is asthma": ('["asthma", "zebra"]', '["unicorn", "zebra"]'),
}
COUNTS = {"empty": 2, "agreed": 1, "agreed_empty": 1, "invented": 3}


@pytest.fixture
def server() -> Iterator[FakeEndpoint]:
    def respond(number: int, body: Json) -> Reply:
        asked = body["messages"][-1]["content"]
        if body["model"] == "tiny":
            return answer(next(said for n, said in enumerate(SAID) if " ".join(text_of(n)) in asked.replace("\n", " ")))
        return answer(CONVERTED[asked.split("\n")[1]][body["model"] == "judge-b"])

    with fake_endpoint() as fake:
        fake.respond = respond
        yield fake


def reviewed(folder: Path, server: FakeEndpoint, *evaluators: str) -> Path:
    asked: dict[str, Any] = {"engine": "openai", "endpoint": {"url": server.url, "concurrency": 4}}
    source = str(write_corpus(folder / "bc5cdr", train=documents(range(60, 64)), test=documents(range(len(SAID)), "t")))
    recipe = make_recipe(
        folder,
        job="evaluate",
        source=source,
        task="bc5cdr_disease",
        prompt={"num_examples": 0},
        generate={"model": "tiny", **asked},
        dmcr={"evaluators": [{"model": name, **asked} for name in evaluators]},
        evaluate={"bootstrap_samples": 100},
    )
    run_recipe(recipe)
    return folder / "store"


def test_an_answer_that_says_nothing_has_a_fate_of_its_own(server: FakeEndpoint, tmp_path: Path) -> None:
    store = reviewed(tmp_path, server, "judge-a", "judge-b")
    judged = {row["document_id"]: (row["status"], row["verdict"], row["corrected"]) for row in rows(store / "dmcr/r@1")}
    assert [judged[f"t{n:03d}"] for n in range(len(SAID))] == [
        ("malformed", "empty", None),
        ("malformed", "empty", None),
        ("malformed", "agreed_empty", "[]"),
        ("malformed", "agreed", '["gout"]'),
        ("malformed", "differ", None),
        ("valid", "none", '["gout"]'),
        ("dressed", "none", '["gout"]'),
    ]
    assert not [body for body in server.asked if body["model"] != "tiny" and "<answer>\n\n</answer>" in body["messages"][-1]["content"]]
    scores = record(store / "scores/r@1")
    assert scores["review"] == COUNTS
    told = {name: (variant["malformed"], variant["undecided"]) for name, variant in scores["summary"]["variants"].items()}
    assert told == {"raw": (6, 0), "cleaned": (5, 0), "corrected": (3, 1)}

    page = make_report([str(store)], tmp_path / "report.html")
    share = " (14.3\u00a0%)"
    assert (
        f"What became of the answers: as it stands 1{share}, undressed 1{share}, converted 1{share}, agreed empty 1{share}, "
        f"empty 2 (28.6\u00a0%), no list 1{share}"
    ) in page.read_text()
    assert json.loads(page.with_suffix(".json").read_text())["scores"][0]["review"] == COUNTS
    with page.with_suffix(".scores.csv").open(newline="") as file:
        row = next(csv.DictReader(file))
    assert {name: int(row[f"num_{name}"]) for name in COUNTS} == COUNTS


def test_without_evaluators_an_empty_answer_is_empty_too(server: FakeEndpoint, tmp_path: Path) -> None:
    store = reviewed(tmp_path, server)
    judged = {row["document_id"]: (row["verdict"], row["corrected"]) for row in rows(store / "dmcr/r@1")}
    assert [judged[f"t{n:03d}"] for n in range(4)] == [("empty", None)] * 2 + [("none", None)] * 2
    assert record(store / "scores/r@1")["review"] == {"empty": 2, "agreed": 0, "agreed_empty": 0, "invented": 0}
