"""The page of a store with scores: the numbers as they can be counted again from answers and corpora, and where they come from."""

from __future__ import annotations

import csv
import json
import shutil
import statistics
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pipeline_builders import record, rows
from scored_store import CORPORA, Run, answers_of, finish, review_table, score, write_run, write_scores

from bioie_ray.artifacts.output import Output
from bioie_ray.artifacts.store import StoreAddress
from bioie_ray.dmcr.decision_log import DecisionLog
from bioie_ray.dmcr.decisions import Decision, new_id
from bioie_ray.pipeline.evaluate import decided_version
from bioie_ray.pipeline.report import make_report

RUNS = (
    Run("bc5cdr_disease", "zero-shot", 0, 0.3),
    Run("bc5cdr_disease", "ders", 3, 0.45),
    Run("bc5cdr_disease", "similarity + reranker", 3, 0.75),
    Run("biorelex", "ders", 3, 0.35, repeats=1),
)
BEST = RUNS[2]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_scores(tmp_path_factory.mktemp("scored"), RUNS)


@pytest.fixture(scope="module")
def page(store: Path) -> Path:
    return make_report([str(store)], store.parent / "report.html")


def whole(page: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(page.with_suffix(".json").read_text())
    return found


def disease_answers(document: dict[str, Any]) -> set[str]:
    return {mention["text"].lower() for mention in document["mentions"] if mention["type"] == "Disease"}


def counted_again(store: Path, one: Run, column: str) -> list[tuple[int, int, int]]:
    """tp, answers and gold of every repeat, by plain sets over the review's rows."""
    gold = {d["id"]: disease_answers(d) for d in rows(store / f"corpora/embedded_{CORPORA[one.task]}@1", "test")}
    reviewed = rows(store / f"dmcr/{one.key}@1")
    totals = []
    for repeat in range(1, one.repeats + 1):
        mine = [row for row in reviewed if row["repeat"] == repeat]
        given = {row["document_id"]: {item.lower() for item in json.loads(row[column] or "[]")} for row in mine}
        assert set(given) == set(gold)
        totals.append((sum(len(gold[d] & given[d]) for d in gold), sum(map(len, given.values())), sum(map(len, gold.values()))))
    return totals


@pytest.mark.parametrize("variant", ["raw", "cleaned", "corrected"])
def test_numbers_are_those_that_the_answers_give(store: Path, page: Path, variant: str) -> None:
    for one in RUNS[:3]:
        result = next(r for r in whole(page)["scores"] if r["source"] == f"scores/{one.key}@1")["variants"][variant]
        f1 = [2 * hits / (given + wanted) for hits, given, wanted in counted_again(store, one, variant)]
        assert result["f1"]["mean"] == pytest.approx(statistics.fmean(f1))
        assert result["f1"]["sd"] == pytest.approx(statistics.stdev(f1))
        assert (result["f1"]["min"], result["f1"]["max"]) == (pytest.approx(min(f1)), pytest.approx(max(f1)))
        assert result["interval"]["low"] < statistics.fmean(f1) < result["interval"]["high"]
        no_list = sum(row[variant] is None for row in rows(store / f"dmcr/{one.key}@1"))
        assert result["malformed"] == no_list


def test_csv_and_page_say_what_the_json_says(page: Path) -> None:
    data = whole(page)
    with page.with_suffix(".scores.csv").open(newline="") as file:
        found = {(row["source"], row["variant"]): row for row in csv.DictReader(file) if row["repeat"] == "all"}
    html = page.read_text()
    for result in data["scores"]:
        for variant, score_ in result["variants"].items():
            row = found[result["source"], variant]
            assert float(row["f1"]) == score_["f1"]["mean"]
            assert (int(row["malformed"]), int(row["undecided"])) == (score_["malformed"], score_["undecided"])
            assert f"{100 * score_['f1']['mean']:.1f}" in html
    assert len(found) == 3 * len(RUNS)


def test_runs_are_compared_with_as_many_random_examples(page: Path) -> None:
    by_key = {result["source"]: result for result in whole(page)["scores"]}
    best, ders = by_key[f"scores/{BEST.key}@1"], by_key[f"scores/{RUNS[1].key}@1"]
    difference = best["against"]["difference"]
    expected = best["variants"]["corrected"]["f1"]["mean"] - ders["variants"]["corrected"]["f1"]["mean"]
    assert difference["mean"] == pytest.approx(expected)
    assert 0 < difference["low"] < expected < difference["high"]
    assert best["against"]["p"] < 0.05
    assert [by_key[f"scores/{r.key}@1"]["against"] for r in (RUNS[0], RUNS[1], RUNS[3])] == [None, None, None]


def test_runs_missing_from_the_grid_are_named(page: Path) -> None:
    names = {(m["task"], m["method"], m["num_examples"]) for m in whole(page)["missing"]}
    assert names == {("biorelex", "zero-shot", 0), ("biorelex", "similarity + reranker", 3)}


def test_samples_show_what_was_answered_and_missed(store: Path, page: Path) -> None:
    samples = whole(page)["answers"]
    assert {sample["task"] for sample in samples} == {"bc5cdr_disease", "biorelex"}
    texts = {d["id"]: d for d in rows(store / "corpora/embedded_bc5cdr@1", "test")}
    for sample in (s for s in samples if s["task"] == "bc5cdr_disease"):
        assert sample["source"] == f"scores/{BEST.key}@1"
        document = texts[sample["document_id"]]
        assert sample["text"] == document["text"]
        right = {item["forms"][0].lower() for item in sample["items"] if item["kind"] == "right"}
        missed = {forms[0].lower() for forms in sample["missed"]}
        assert right | missed == disease_answers(document)
        assert not right & missed
        reviewed = next(r for r in rows(store / f"dmcr/{BEST.key}@1") if (r["document_id"], r["repeat"]) == (document["id"], 1))
        assert sample["answer"] == reviewed["answer"]
        assert {item["forms"][0].lower() for item in sample["items"]} == {item.lower() for item in json.loads(reviewed["corrected"])}
    assert {sample["status"] for sample in samples if sample["task"] == "bc5cdr_disease"} == {"valid", "dressed", "malformed"}


def test_scores_alone_bring_the_provenance_of_what_they_were_made_from(store: Path, tmp_path: Path) -> None:
    page = make_report([str(store / f"scores/{BEST.key}@1")], tmp_path / "one.html")
    found = {entry["source"]: entry for entry in whole(page)["provenance"]}
    expected = {f"scores/{BEST.key}@1", f"dmcr/{BEST.key}@1", f"generations/{BEST.key}@1", "corpora/embedded_bc5cdr@1"}
    assert set(found) == expected
    made = record(store / f"scores/{BEST.key}@1")
    entry = found[f"scores/{BEST.key}@1"]
    assert (entry["fingerprint"], entry["recipe"], entry["image"]) == (made["fingerprint"], BEST.key, "registry/bioie-ray:0.3.0")
    assert entry["inputs"] == [f"dmcr/{BEST.key}@1", "corpora/embedded_bc5cdr@1"]
    assert entry["models"] == {"model": BEST.model}
    assert entry["seeds"] == [7]
    assert found[f"dmcr/{BEST.key}@1"]["models"] == {"evaluator a": "offline:a", "evaluator b": "offline:b"}
    assert len(whole(page)["scores"]) == 1


def test_scores_outlive_the_answers_they_were_made_from(store: Path, tmp_path: Path) -> None:
    copy = tmp_path / "store"
    shutil.copytree(store / "scores", copy / "scores")
    page = make_report([str(copy)], tmp_path / "report.html")
    assert len(whole(page)["scores"]) == len(RUNS)
    assert whole(page)["answers"] == []
    assert "outputs or the corpora that these scores were made from are not in this store" in page.read_text()


def reviewed_again(store: Path, versions: Sequence[tuple[str, int]]) -> None:
    """Scores of the best run in which people decided on what was left, one made after the other."""
    corpus = Output(StoreAddress(str(store)), "corpora/embedded_bc5cdr@1")
    below = Output(StoreAddress(str(store)), f"dmcr/{BEST.key}@1")
    for version, decided in versions:
        answered = [replace(a, corrected=a.corrected if a.corrected is not None else []) for a in answers_of(BEST, corpus)]
        score(store, BEST, answered, [below, corpus], version, decided)


def shown(store: Path, folder: Path) -> list[tuple[str, int, str]]:
    page = make_report([str(store)], folder / "report.html")
    found = [result for result in whole(page)["scores"] if result["method"] == BEST.method]
    return [(result["source"].rpartition("@")[2], result["num_decisions"], result["setting"]) for result in found]


def test_of_versions_that_differ_in_decisions_the_one_of_those_that_stand_is_shown(store: Path, tmp_path: Path) -> None:
    copy = tmp_path / "store"
    shutil.copytree(store, copy)
    log = DecisionLog(Output(StoreAddress(str(copy)), f"dmcr/{BEST.key}@1"))
    versions, seen = [], ""
    for choice, answers in (("edit", ("wrong",)), ("edit", ("right",)), ("undo", None), ("undo", None)):
        made = log.add(Decision("d", 1, choice, answers, "me", *reversed(new_id(after=seen)), seen))
        seen = made.id
        versions.append(decided_version("1", log.digest()))
        if versions[-1] not in versions[:-1] and versions[-1] != "1":
            reviewed_again(copy, [(versions[-1], 1)])
        assert shown(copy, tmp_path) == [(versions[-1], int(versions[-1] != "1"), "")]
    assert versions[0] != versions[1]
    assert versions[-1] == "1"


def test_of_versions_whose_decisions_nobody_can_tell_the_last_is_shown(store: Path, tmp_path: Path) -> None:
    copy = tmp_path / "store"
    shutil.copytree(store, copy)
    reviewed_again(copy, [("1.d10-abcdef", 10), ("1.d9-fedcba", 9)])
    shutil.rmtree(copy / "dmcr")
    for version, hour in (("1", 1), ("1.d10-abcdef", 2), ("1.d9-fedcba", 3)):
        path = copy / f"scores/{BEST.key}@{version}/record.json"
        made = json.loads(path.read_text())
        made["timings"]["finished"] = f"2026-01-01T0{hour}:00:00+00:00"
        path.write_text(json.dumps(made))
    assert shown(copy, tmp_path) == [("1.d9-fedcba", 9, "")]


def test_runs_that_differ_in_a_setting_are_told_apart_by_it(store: Path, tmp_path: Path) -> None:
    copy = tmp_path / "store"
    shutil.copytree(store, copy)
    write_run(copy, replace(BEST, temperature=0.0, name="greedy"))
    page = make_report([str(copy)], tmp_path / "report.html")
    settings = {result["source"]: result["setting"] for result in whole(page)["scores"] if result["method"] == BEST.method}
    assert settings == {f"scores/{BEST.key}@1": "generate.temperature 0.5", "scores/greedy@1": "generate.temperature 0.0"}
    assert "similarity + reranker (generate.temperature 0.0)" in page.read_text()


def test_runs_over_other_repeats_say_so_in_their_rows(store: Path, page: Path, tmp_path: Path) -> None:
    assert "the runs are over different documents or repeats" not in page.read_text()
    copy = tmp_path / "store"
    shutil.copytree(store, copy)
    write_run(copy, replace(RUNS[1], num_examples=1, repeats=1, name="once"))
    html = make_report([str(copy)], tmp_path / "report.html").read_text()
    assert html.count("the runs are over different documents or repeats") == 1
    assert ", 1 repeat</span>" in html
    assert f", {BEST.repeats} repeats</span>" in html


def test_what_a_person_decided_is_not_shown_as_undecided(tmp_path: Path) -> None:
    one = Run("bc5cdr_disease", "zero-shot", 0, 0.0, repeats=1)
    store = write_scores(tmp_path, [one])
    corpus = Output(StoreAddress(str(store)), "corpora/embedded_bc5cdr@1")
    answered = [replace(a, raw=None, cleaned=None, corrected=None) for a in answers_of(one, corpus)]
    other = replace(one, name="other")
    below = finish(store, "dmcr", other, {"test-00000": review_table(answered)}, [corpus])
    decided = [replace(a, corrected=["ulcer"]) if n else a for n, a in enumerate(answered)]
    shutil.rmtree(store / "scores")
    score(store, other, decided, [below, corpus], "1.d17-abcdef", 17)
    samples = whole(make_report([str(store)], tmp_path / "report.html"))["answers"]
    assert [sample["document_id"] for sample in samples] == [answered[0].document.id]
    assert samples[0]["items"] is None
