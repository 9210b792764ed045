"""From prompts to scores: each output, what a second run does, what a decision changes, what an endpoint's death costs."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from pipeline_builders import documents, make_recipe, planned, record, rows, run, write_corpus
from tiny_models import save_llama

from bioie_ray.artifacts.output import Output
from bioie_ray.artifacts.store import StoreAddress
from bioie_ray.config.keys import RecipeError
from bioie_ray.corpora.document import from_table
from bioie_ray.corpora.tasks import get_task, gold
from bioie_ray.dmcr.decision_log import DecisionLog
from bioie_ray.dmcr.decisions import Decision, answer_digest, new_id
from bioie_ray.pipeline.evaluate import EvaluateWorker
from bioie_ray.pipeline.report import make_report
from bioie_ray.prompting.answers import format_list

NUM_TEST = 6


@pytest.fixture(scope="module")
def settings(tiny_llm: str, other_llm: str, corpus: str) -> dict[str, Any]:
    """A run that asks a model of random weights."""
    return {
        "job": "evaluate",
        "source": corpus,
        "task": "bc5cdr_disease",
        "prepare": {"documents_per_shard": 4},
        "select": {"method": "bm25", "rerank": False, "k": 12, "keep": 3},
        "prompt": {"num_examples": 2},
        "generate": {"model": tiny_llm, "max_new_tokens": 12, "repeats": 2},
        "dmcr": {"evaluators": [{"model": tiny_llm}, {"model": other_llm}], "max_new_tokens": 8},
        "evaluate": {"bootstrap_samples": 100},
    }


@pytest.fixture(scope="module")
def store(settings: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(tmp_path_factory.mktemp("run"), **settings)


def test_every_answer_is_asked_for_reviewed_and_scored(store: Path) -> None:
    answers = rows(store / "generations/r@1")
    assert Counter(row["repeat"] for row in answers) == {1: NUM_TEST, 2: NUM_TEST}
    assert len({row["seed"] for row in answers}) == 2 * NUM_TEST
    assert len({row["answer"] for row in answers}) > NUM_TEST  # repeats differ
    reviewed = rows(store / "dmcr/r@1")
    assert {row["status"] for row in reviewed} == {"malformed"}
    assert {row["verdict"] for row in reviewed} == {"differ"}
    assert len(rows(store / "conversions-a/r@1")) == len(rows(store / "conversions-b/r@1")) == 2 * NUM_TEST
    assert record(store / "dmcr/r@1")["waiting"] == 2 * NUM_TEST
    scored = record(store / "scores/r@1")
    assert (scored["model"], scored["method"], scored["num_examples"], scored["decisions"]) == ("tiny", "bm25", 2, 0)
    assert len(rows(store / "scores/r@1")) == 3 * 2 * NUM_TEST


def test_prompts_hold_the_best_examples_and_are_as_long_as_said(store: Path, tiny_llm: str) -> None:
    from bioie_ray.prompting.tokenizer import ModelTokenizer

    best = json.loads((store / "selections/r@1/best_examples.json").read_text())
    prompts = rows(store / "prompts/r@1")
    assert {row["document_id"]: row["example_ids"][::-1] for row in prompts} == {query: ids[:2] for query, ids in best.items()}
    tokenizer = ModelTokenizer(tiny_llm)
    assert all(tokenizer.count(row["text"]) == row["num_tokens"] for row in prompts)
    corpus = {d.id: d for path in sorted((store / "corpora").iterdir()) for d in documents_of(store, path.name)}
    for row in prompts:
        turns = json.loads(row["messages"])
        answered = [turn["content"] for turn in turns if turn["role"] == "assistant"]
        assert answered == [format_list(gold(get_task("bc5cdr_disease"), corpus[id_]).answers) for id_ in row["example_ids"]]
        assert turns[-1]["content"] == f"Text: {corpus[row['document_id']].text}"


def documents_of(store: Path, name: str) -> list[Any]:
    output = Output(StoreAddress(str(store)), f"corpora/{name}")
    return [document for shard in output.shards() for document in from_table(output.read_shard(shard))]


def test_a_second_run_does_nothing(store: Path, settings: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    before = {path: path.stat().st_mtime_ns for path in store.rglob("*") if path.is_file()}
    run(store.parent, **settings)
    assert {path: path.stat().st_mtime_ns for path in store.rglob("*") if path.is_file()} == before
    assert capsys.readouterr().err.count("done before") == len(planned(make_recipe(store.parent, **settings)))
    assert not list(store.rglob("_parts/**/*.json"))


def test_batches_of_another_shape_and_workers_change_no_sample(store: Path, settings: dict[str, Any], tmp_path: Path) -> None:
    """Seeds belong to samples: other shards and batches give the same answers here, where no two tokens are nearly as likely."""
    other = {**settings, "prepare": {"documents_per_shard": 2}, "generate": {**settings["generate"], "batch_size": 3}, "job": "generate"}
    again = rows(run(tmp_path, **other) / "generations/r@1")
    first = rows(store / "generations/r@1")
    key = ["document_id", "repeat", "seed", "answer", "finish"]
    assert sorted([row[name] for name in key] for row in again) == sorted([row[name] for name in key] for row in first)


def test_a_decision_makes_other_scores_and_keeps_the_ones_before(store: Path, settings: dict[str, Any]) -> None:
    before = record(store / "scores/r@1")["summary"]
    output = Output(StoreAddress(str(store)), "dmcr/r@1")
    wanted = next(d for d in documents_of(store, "bc5cdr@1") if d.id == "t041")
    id_, time = new_id()
    answers = gold(get_task("bc5cdr_disease"), wanted).answers
    DecisionLog(output).add(Decision("t041", 1, "edit", answers, "me", time, id_, ""))
    run(store.parent, **settings)
    (after,) = [path for path in (store / "scores").iterdir() if path.name.startswith("r@1.d1-")]
    summary = record(after)["summary"]
    assert record(after)["decisions"] == 1
    assert summary["variants"]["raw"] == before["variants"]["raw"]
    assert record(store / "scores/r@1")["summary"] == before
    corrected = [row for row in rows(after) if row["variant"] == "corrected" and row["document_id"] == "t041" and row["repeat"] == 1]
    assert [(row["strict_tp"], row["strict_fn"], row["undecided"]) for row in corrected] == [(len(answers), 0, False)]


def test_a_decision_made_while_a_run_is_under_way_is_counted_by_the_next(
    settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    process, log = EvaluateWorker.process, DecisionLog(Output(StoreAddress(str(tmp_path / "store")), "dmcr/r@1"))

    def decided_meanwhile(worker: EvaluateWorker, unit: str) -> None:
        if not log.all():
            id_, time = new_id()
            log.add(Decision("t041", 1, "edit", ("x",), "me", time, id_, ""))
        process(worker, unit)

    with monkeypatch.context() as patch:
        patch.setattr(EvaluateWorker, "process", decided_meanwhile)
        store = run(tmp_path, **settings)
    first = record(store / "scores/r@1")
    assert first["decisions"] == 0
    assert [warning.partition(" since ")[0].partition(" in ")[0] for warning in first["warnings"]] == ["1 decisions were made"]
    run(tmp_path, **settings)
    (after,) = [path for path in (store / "scores").iterdir() if path.name.startswith("r@1.d1-")]
    assert record(after)["decisions"] == 1


def test_a_decision_about_another_answer_is_not_applied_but_reported(
    settings: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = run(tmp_path, **{**settings, "job": "dmcr"})
    id_, time = new_id()
    DecisionLog(Output(StoreAddress(str(store)), "dmcr/r@1")).add(
        Decision("t041", 1, "edit", ("x",), "me", time, id_, "", answer_digest("gout"))
    )
    run(tmp_path, **settings)
    (scores,) = [path for path in (store / "scores").iterdir() if path.name.startswith("r@1.d1-")]
    assert (record(scores)["decisions"], record(scores)["stale_decisions"]) == (0, 1)
    assert "1 answers are others than those that people decided on" in capsys.readouterr().err
    assert all(row["undecided"] for row in rows(scores) if row["variant"] == "corrected")


def test_what_is_too_long_for_a_local_evaluator_has_no_conversion_and_waits(settings: dict[str, Any], tmp_path: Path) -> None:
    short = str(save_llama(tmp_path / "short", positions=64))
    evaluators = [{"model": short}, settings["dmcr"]["evaluators"][1]]
    store = run(tmp_path, **{**settings, "job": "dmcr", "dmcr": {"evaluators": evaluators, "max_new_tokens": 8}})
    found = rows(store / "conversions-a/r@1")
    assert {(row["conversion"], row["finish"], row["num_prompt_tokens"]) for row in found} == {(None, "too_long", 0)}
    counts = record(store / "conversions-a/r@1")["counts"]
    assert (counts["too_long"], counts["conversions"]) == (len(found), 0)
    assert {row["verdict"] for row in rows(store / "dmcr/r@1")} == {"differ"}


def test_zero_shot_is_one_run_for_all_methods_and_random_ones_draw_for_each_repeat(settings: dict[str, Any], tmp_path: Path) -> None:
    matrix = {"select": [{"label": "ders", "method": "ders"}, {"label": "bm25"}], "prompt.num_examples": [0, 1]}
    keys = planned(make_recipe(tmp_path, **{**settings, "matrix": matrix}))
    kinds = Counter(key.partition("/")[0] for key in keys)
    assert (kinds["scores"], kinds["generations"], kinds["prompts"]) == (3, 3, 3)
    assert sorted(key for key in keys if key.startswith("selections/")) == [
        "selections/r-bm25@1",
        "selections/r-ders-r02@1",
        "selections/r-ders@1",
    ]
    assert sorted(key for key in keys if key.startswith("scores/")) == ["scores/r-0@1", "scores/r-bm25-1@1", "scores/r-ders-1@1"]


def test_random_examples_differ_between_repeats(settings: dict[str, Any], tmp_path: Path) -> None:
    changed = {**settings, "job": "generate", "select": {"method": "fers", "k": 12, "keep": 2}}
    made = run(tmp_path, **changed) / "prompts/r@1"
    by_draw = {draw: {tuple(row["example_ids"]) for row in rows(made, f"test.r{draw:02d}")} for draw in (1, 2)}
    assert [len(sets) for sets in by_draw.values()] == [1, 1]
    assert by_draw[1] != by_draw[2]


def test_a_query_that_is_too_long_counts_as_unanswered(settings: dict[str, Any], tmp_path: Path) -> None:
    test = [*documents(range(40, 43), "t"), ("t099", "ulcer after aspirin", "word " * 2_000 + "had an ulcer.")]
    corpus = write_corpus(tmp_path / "bc5cdr", train=documents(range(12)), test=test)
    store = run(tmp_path, **{**settings, "source": str(corpus), "prompt": {"num_examples": 1, "max_tokens": 2_000}})
    (long,) = [row for row in rows(store / "prompts/r@1") if row["problem"]]
    assert long["document_id"] == "t099"
    assert "2000 are allowed" in long["problem"]
    assert record(store / "prompts/r@1")["counts"]["too_long"] == 1
    assert record(store / "prompts/r@1")["warnings"] == ["1 of 4 prompts are too long and not asked, which counts as no answer"]
    assert {row["finish"] for row in rows(store / "generations/r@1") if row["document_id"] == "t099"} == {"not_asked"}
    assert {(row["verdict"], row["reason"]) for row in rows(store / "dmcr/r@1") if row["document_id"] == "t099"} == {("none", "not_asked")}
    assert sum(row["strict_fn"] for row in rows(store / "scores/r@1") if row["document_id"] == "t099") == 6  # repeats x variants
    assert record(store / "scores/r@1")["not_asked"] == record(store / "generations/r@1")["counts"]["not_asked"] > 0
    html = make_report([str(store)], tmp_path / "report.html").read_text()
    assert "not taken: too long, or refused</span>" in html


def test_examples_that_do_not_fit_are_in_scores_and_report(store: Path, settings: dict[str, Any], tmp_path: Path) -> None:
    longest = max(row["num_tokens"] for row in rows(store / "prompts/r@1"))
    store = run(tmp_path, **{**settings, "prompt": {"num_examples": 2, "max_tokens": longest - 1}})
    counts = record(store / "prompts/r@1")["counts"]
    assert counts["examples_dropped"] > 0
    mean = record(store / "scores/r@1")["mean_examples"]
    assert mean == pytest.approx(counts["examples"] / counts["prompts"], abs=1e-3)
    assert mean < 2
    assert f"{mean:.1f} fitted</span>" in make_report([str(store)], tmp_path / "report.html").read_text()


@pytest.mark.parametrize("limit", ["max_document_tokens", "max_tokens"])
def test_nothing_to_ask_is_an_error_that_other_settings_mend(settings: dict[str, Any], tmp_path: Path, limit: str) -> None:
    changed = {**settings, "job": "generate", "prompt": {"num_examples": 0, limit: 16}}
    with pytest.raises(ValueError, match=r"no query of the test split is left .*prompt\.max_document_tokens or prompt\.max_tokens higher"):
        run(tmp_path, **changed)
    assert len(rows(run(tmp_path, **{**changed, "prompt": {"num_examples": 0}}) / "prompts/r@1")) == NUM_TEST


def test_only_some_queries_are_asked_about(settings: dict[str, Any], tmp_path: Path) -> None:
    made = run(tmp_path, **{**settings, "job": "generate", "prompt": {"num_examples": 0, "max_documents": 2}}) / "generations/r@1"
    assert len({row["document_id"] for row in rows(made)}) == 2
    assert record(made.parents[1] / "prompts/r@1")["counts"]["queries_left_out"] == NUM_TEST - 2


def test_more_examples_than_are_kept_is_an_error(settings: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"set select\.keep to at least 4"):
        make_recipe(tmp_path, **{**settings, "prompt": {"num_examples": 4}})


def test_what_decides_an_answer_is_in_the_fingerprint(settings: dict[str, Any], tmp_path: Path) -> None:
    from bioie_ray.pipeline.plan import Planner

    def prints(**changes: Any) -> list[str]:
        steps = Planner().plan(make_recipe(tmp_path, **{**settings, "job": "generate", **changes}))
        return [step.output.fingerprint for step in steps]

    first = prints()
    for section, change in (
        ("generate", {"temperature": 0.6}),
        ("generate", {"repeats": 3}),
        ("generate", {"structured": True}),
        ("prompt", {"order": "best_first"}),
    ):
        changed = prints(**{section: {**settings[section], **change}})
        assert changed[-1] != first[-1], (section, change)
    assert prints(cluster={"executor": "ray", "num_workers": 7}) == first


def test_a_prompt_is_shown_as_the_model_saw_it(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from bioie_ray.pipeline.show_prompt import show_prompt

    (row,) = [row for row in rows(store / "prompts/r@1") if row["document_id"] == "t041"]
    (said,) = [row for row in rows(store / "generations/r@1") if (row["document_id"], row["repeat"]) == ("t041", 2)]
    show_prompt(str(store / "prompts/r@1"), "t041")
    assert capsys.readouterr().out == row["text"] + "\n"
    show_prompt(str(store / "generations/r@1"), "t041", 2)
    shown = capsys.readouterr().out
    assert shown.startswith(row["text"])
    assert shown.endswith(f"seed {said['seed']}) ---\n{said['answer']}\n")
    with pytest.raises(ValueError, match="has no document 't999'"):
        show_prompt(str(store / "generations/r@1"), "t999")
    with pytest.raises(ValueError, match="has no repeat 3; it has 1, 2"):
        show_prompt(str(store / "generations/r@1"), "t041", 3)
    with pytest.raises(ValueError, match="holds scores; give an output of prompts/ or generations/"):
        show_prompt(str(store / "scores/r@1"), "t041")
