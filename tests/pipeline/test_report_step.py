"""The page of a store: nothing from outside, and every number as it can be counted again from the files."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from pipeline_builders import best, documents, record, rows, run, write_corpus
from typer.testing import CliRunner

from bioie_ray.cli import app
from bioie_ray.pipeline.report import make_report

TASKS = ("biorelex", "bc5cdr_disease")
KEEP = 5


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, embedder: str, cross_encoder: str) -> Path:
    """Two methods and two draws of DERS, on two tasks of the embedded corpus."""
    methods = [
        {"label": "near", "method": "similarity", "rerank": True},
        {"label": "lexical", "method": "bm25", "rerank": False},
        {"label": "ders", "method": "ders"},
        {"label": "ders-2", "method": "ders", "repeat": 1},
    ]
    return run(
        tmp_path_factory.mktemp("reported"),
        embed={"model": embedder},
        rerank={"model": cross_encoder},
        select={"k": 10, "keep": KEEP},
        matrix={"task": list(TASKS), "select": methods},
    )


@pytest.fixture(scope="module")
def page(store: Path) -> Path:
    done = CliRunner().invoke(app, ["report", str(store), "--out", str(store / "report.html")])
    assert done.exit_code == 0, done.stderr
    assert done.stdout.strip() == str(store / "report.html")
    return store / "report.html"


def table(page: Path) -> dict[tuple[str, str], dict[str, str]]:
    with page.with_suffix(".csv").open(newline="") as file:
        return {(row["task"], row["method"]): row for row in csv.DictReader(file)}


def disease_answers(document: dict[str, Any]) -> set[str]:
    return {mention["text"].lower() for mention in document["mentions"] if mention["type"] == "Disease"}


def binding_answers(document: dict[str, Any]) -> set[tuple[str, str]]:
    """All pairs of surface forms of the two clusters of every interaction with label 1."""
    names: dict[str, set[str]] = {}
    for mention in document["mentions"]:
        names.setdefault(mention["entity_id"], set()).add(mention["text"].lower())
    pairs = set()
    for relation in document["relations"]:
        if relation["label"] == "1":
            left, right = (argument["ref"] for argument in relation["arguments"])
            pairs |= {(a, b) for a in names[left] for b in names[right]}
    return pairs


def coverages(answers: dict[str, set[Any]], chosen: dict[str, list[str]]) -> dict[str, float]:
    shown: dict[str, set[Any]] = {query: set().union(*(answers[id_] for id_ in examples)) for query, examples in chosen.items()}
    return {query: len(answers[query] & shown[query]) / len(answers[query]) for query in chosen if answers[query]}


def mean(values: Iterable[float]) -> float:
    listed = list(values)
    return sum(listed) / len(listed)


def test_numbers_are_those_that_the_files_give(store: Path, page: Path) -> None:
    found = table(page)
    assert set(found) == {(task, method) for task in TASKS for method in ("similarity + reranker", "bm25", "ders")}
    for task, answers_of, corpus in (
        ("biorelex", binding_answers, "corpora/embedded_biorelex@1"),
        ("bc5cdr_disease", disease_answers, "corpora/embedded_bc5cdr@1"),
    ):
        answers = {document["id"]: answers_of(document) for document in rows(store / corpus)}
        texts = {document["id"]: document["text"] for document in rows(store / corpus)}
        by_label = {label: best(store / f"selections/r-{task}-{label}@1") for label in ("near", "lexical", "ders", "ders-2")}
        measured = {label: coverages(answers, chosen) for label, chosen in by_label.items()}
        ders = {query: mean([measured["ders"][query], measured["ders-2"][query]]) for query in measured["ders"]}
        for label, method in (("near", "similarity + reranker"), ("lexical", "bm25")):
            row = found[task, method]
            assert float(row["coverage"]) == pytest.approx(mean(measured[label].values()))
            assert float(row["difference"]) == pytest.approx(mean(measured[label][q] - ders[q] for q in ders))
            assert int(row["num_queries"]) == len(by_label[label])
            assert int(row["num_without_gold"]) == sum(not answers[query] for query in by_label[label])
            assert int(row["num_draws"]) == 1
            tokens = {id_: len(re.findall(r"\w+|[^\w\s]", text)) for id_, text in texts.items()}
            used = {query: sum(tokens[id_] for id_ in examples) for query, examples in by_label[label].items()}
            assert float(row["mean_tokens"]) == pytest.approx(mean(used[query] for query in measured[label]), rel=0.05)
            per_1000 = 1000 * mean(measured[label].values()) / mean(used[query] for query in measured[label])
            assert float(row["per_1000_tokens"]) == pytest.approx(per_1000)
        row = found[task, "ders"]
        assert float(row["coverage"]) == pytest.approx(mean(ders.values()))
        assert (int(row["num_draws"]), float(row["difference"]), row["role"]) == (2, 0.0, "random")


def test_json_and_csv_say_the_same(page: Path) -> None:
    data = json.loads(page.with_suffix(".json").read_text())
    found = table(page)
    assert {(result["task"], result["method"]) for result in data["results"]} == set(found)
    for result in data["results"]:
        row = found[result["task"], result["method"]]
        assert float(row["coverage"]) == result["summary"]["coverage"]["mean"]
        assert float(row["coverage_low"]) <= float(row["coverage"]) <= float(row["coverage_high"])
        assert row["sources"].split() == result["sources"]


def test_the_page_needs_nothing_from_outside(page: Path) -> None:
    html = page.read_text()
    assert "Content-Security-Policy" in html
    loaded = re.findall(r"""(?:src|href|action|data|poster|srcset)\s*=\s*["']?([^"'\s>]+)""", html)
    assert [address for address in loaded if not address.startswith(("#", "data:", "report.csv", "report.json"))] == []
    assert not re.findall(r"""url\(\s*["']?(?!data:|#)|@import""", html)
    assert "<link" not in html.lower()
    addresses = set(re.findall(r"https?://[^\s\"'<>)]+", html))
    assert {address for address in addresses if not address.startswith("http://www.w3.org/")} == set()


def test_every_number_has_a_provenance(store: Path, page: Path) -> None:
    data = json.loads(page.with_suffix(".json").read_text())
    found = {entry["source"]: entry for entry in data["provenance"]}
    keys = {f"{path.parent.parent.name}/{path.parent.name}" for path in store.rglob("record.json")}
    assert set(found) == keys
    assert {source for result in data["results"] for source in result["sources"]} <= keys
    html = page.read_text()
    for key in keys:
        made = record(store / key)
        assert found[key]["fingerprint"] == made["fingerprint"]
        assert found[key]["inputs"] == [i["output"] for i in made["inputs"]]
        assert made["fingerprint"][:12] in html
    assert found["selections/r-biorelex-ders-2@1"]["seeds"] == [1]


def test_sample_queries_show_their_examples(store: Path, page: Path) -> None:
    data = json.loads(page.with_suffix(".json").read_text())
    assert {sample["task"] for sample in data["samples"]} == set(TASKS)
    for sample in data["samples"]:
        chosen = best(store / f"selections/r-{sample['task']}-near@1")[sample["query_id"]]
        draws = [best(store / f"selections/r-{sample['task']}-{name}@1")[sample["query_id"]] for name in ("ders", "ders-2")]
        assert [example["id"] for example in sample["examples"]] == chosen
        assert [example["id"] for example in sample["random_examples"]] in draws


def test_a_report_on_a_part_of_the_store_has_that_part(store: Path, tmp_path: Path) -> None:
    done = make_report([str(store / "selections"), str(store / "corpora/embedded_biorelex@1")], tmp_path / "part.html")
    assert len(table(done)) == 6
    one = make_report([str(store / "selections/r-biorelex-lexical@1")], tmp_path / "one.html")
    ((key, row),) = table(one).items()
    assert key == ("biorelex", "bm25")
    assert row["difference"] == ""


@pytest.fixture(scope="module")
def variants(tmp_path_factory: pytest.TempPathFactory, embedder: str) -> Path:
    """One method with two settings of an input, and with two pools: four lines of a table, not draws of one."""
    folder = tmp_path_factory.mktemp("variants")
    splits = {"train": documents(range(20)), "dev": documents(range(30, 38), "v"), "test": documents(range(40, 45), "t")}
    base: dict[str, Any] = {"source": str(write_corpus(folder / "bc5cdr", **splits)), "embed": {"model": embedder}}
    select: dict[str, Any] = {"method": "similarity", "rerank": False, "k": 10, "keep": KEEP}
    run(folder, **base, name="exact", select=select)
    run(folder, **base, name="hnsw", select=select, index={"kind": "hnsw"})
    run(folder, **base, name="with-dev", select={**select, "pool": ["train", "dev"]})
    run(folder, **base, name="five", select={**select, "k": 5})
    return folder / "store"


def test_other_settings_are_lines_of_their_own(variants: Path, tmp_path: Path) -> None:
    page = make_report([str(variants)], tmp_path / "report.html")
    found = table(page)
    assert sorted(method for _, method in found) == [f"similarity ({name})" for name in ("exact", "five", "hnsw", "with-dev")]
    assert {row["num_draws"] for row in found.values()} == {"1"}
    assert len({row["sources"] for row in found.values()}) == 4


def test_carved_queries_of_another_seed_are_another_comparison(tmp_path: Path) -> None:
    source = str(write_corpus(tmp_path / "bc5cdr", train=documents(range(40))))
    for seed in (0, 1):
        select = {"queries": "dev", "k": 10, "keep": KEEP, "rerank": False}
        run(tmp_path, name=f"near-{seed}", source=source, seed=seed, select={**select, "method": "bm25"})
        run(tmp_path, name=f"random-{seed}", source=source, seed=seed, select={**select, "method": "ders"})
    found = json.loads(make_report([str(tmp_path / "store")], tmp_path / "report.html").with_suffix(".json").read_text())["results"]
    assert len(found) == 4
    assert {len(result["sources"]) for result in found} == {1}


def test_stores_side_by_side_are_not_mixed(tmp_path: Path) -> None:
    for name, start in (("a", 0), ("b", 100)):
        (tmp_path / name).mkdir()
        source = str(
            write_corpus(tmp_path / name / "bc5cdr", train=documents(range(start, start + 12), name), test=documents(range(40, 43), "t"))
        )
        run(tmp_path / name, source=source, select={"method": "longest", "k": 10, "keep": KEEP})
    page = make_report([str(tmp_path / "a/store"), str(tmp_path / "b/store")], tmp_path / "report.html")
    found = json.loads(page.with_suffix(".json").read_text())
    assert len(found["results"]) == 2
    assert len(found["provenance"]) == 4


@pytest.mark.parametrize("place", ["nothing", "unfinished"])
def test_what_is_not_there_or_not_finished_is_said(tmp_path: Path, store: Path, place: str) -> None:
    folder = tmp_path / "corpora" / "x@1"
    folder.mkdir(parents=True)
    if place == "unfinished":
        (folder / "_claim.json").write_bytes((store / "corpora/embedded_biorelex@1/_claim.json").read_bytes())
    done = CliRunner().invoke(app, ["report", str(folder), "--out", str(tmp_path / "r.html")])
    assert (done.exit_code, done.stdout) == (1, "")
    assert {"nothing": "holds no output", "unfinished": "is not finished"}[place] in done.stderr
    assert not (tmp_path / "r.html").exists()


def test_a_page_that_cannot_be_written_is_one_message(store: Path, tmp_path: Path) -> None:
    named = CliRunner().invoke(app, ["report", str(store), "--out", str(tmp_path / "page")])
    assert (named.exit_code, named.stderr.count("\n")) == (1, 1)
    (tmp_path / "file").write_text("in the way")
    below = CliRunner().invoke(app, ["report", str(store), "--out", str(tmp_path / "file" / "page.html")])
    assert (below.exit_code, isinstance(below.exception, SystemExit)) == (1, True)
