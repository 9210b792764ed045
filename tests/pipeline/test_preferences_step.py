"""From a tuned model's answers to pairs: what is in them, what is not and why."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pipeline_builders import documents, make_recipe, record, rows, run, shards, text_of, write_corpus

from bioie_ray.corpora.document import Document
from bioie_ray.corpora.tasks import get_task, gold
from bioie_ray.dmcr.reading import read_answer
from bioie_ray.evaluation.gold_view import distinct
from bioie_ray.pipeline import preferences as step_file
from bioie_ray.pipeline.candidates import CANDIDATE_SCHEMA, CandidatesStep
from bioie_ray.pipeline.plan import Planner
from bioie_ray.pipeline.preferences import PreferencesStep
from bioie_ray.pipeline.progress import Progress
from bioie_ray.pipeline.run import run_plan
from bioie_ray.prompting.answers import format_list

Says = Callable[[str, Document, int], str]


def stops(sample: int) -> str:
    return "stop"


def answered(folder: Path, says: Says, making_pairs: dict[str, Any], finish: Callable[[int], str] = stops) -> PreferencesStep:
    """The step of a recipe whose tuned model said what ``says`` has of (task, document, sample), each ended as ``finish`` has it."""
    run(folder, **{**making_pairs, "job": "prepare_corpora"})
    plan = Planner().plan(make_recipe(folder, **making_pairs))
    step = plan[-1]
    assert isinstance(step, PreferencesStep)
    candidates = step.candidates
    assert isinstance(candidates, CandidatesStep)
    candidates.output.claim()
    for unit in candidates.units():
        task, _, shard = unit.partition(".")
        found = [
            {"task": task, "document_id": document.id, "sample": n, "answer": says(task, document, n), "finish": finish(n)}
            for document in candidates.documents(task).read(shard).documents  # type: ignore[arg-type]
            for n in range(1, candidates.recipe.preferences.samples + 1)
        ]
        candidates.output.commit(unit, pa.Table.from_pylist(found, schema=CANDIDATE_SCHEMA), {})
    candidates.output.finish({"shards": [{"shard": unit} for unit in candidates.units()]})
    return step


def make(step: PreferencesStep) -> Path:
    run_plan([step], Progress())
    return Path(step.output.location)


def right(task: str, document: Document) -> list[Any]:
    return list(gold(get_task(task), document).answers)


def some_wrong(task: str, document: Document, sample: int) -> str:
    """By document: always right; right and a word too many; one short, and nonsense; nonsense."""
    answers, number = right(task, document), int(document.id[1:]) % 4
    extra = ("Rats", "Rats") if answers and not isinstance(answers[0], str) else "Rats"
    told = {0: [answers, answers], 1: [answers, [*answers, extra]], 2: [answers[1:], None], 3: [None, None]}[number][(sample - 1) % 2]
    return "I do not know" if told is None else format_list(told)


def test_pairs_are_the_gold_and_what_the_model_got_wrong(tmp_path: Path, making_pairs: dict[str, Any]) -> None:
    tasks = ["bc5cdr_disease", "bc5cdr_cid"]
    making_pairs |= {"preferences": {"samples": 4, "tasks": tasks, "corruptions": 0.0}}
    output = make(answered(tmp_path, some_wrong, making_pairs))
    made = {row["id"]: row for row in rows(output)}
    documents = [row["id"] for row in rows(tmp_path / "store/corpora/bc5cdr@1", "train")]
    wrong = [id_ for id_ in documents if int(id_[1:]) % 4]
    assert set(made) == {f"{task}/{id_}/1" for task in tasks for id_ in wrong}
    for id_, row in made.items():
        task, name, _ = id_.split("/")
        assert row["source"] == f"tasks:{task}"
        assert row["made_by"] == "model"
        (turn,) = json.loads(row["messages"])
        assert turn["role"] == "user"
        assert read_answer(row["chosen"], get_task(task).kind).raw is not None
        number = int(name[1:]) % 4
        assert (row["kind"] == "malformed") == (row["rejected"] == "I do not know") == (row["f1"] == 0.0 and row["rejected"] != "[]")
        assert number != 1 or row["kind"] == "invented"
        assert number != 3 or row["kind"] == "malformed"
    told = record(output)
    mix = Counter(f"{row['made_by']} {row['kind']}" for row in made.values())
    assert told["mix"] == dict(sorted(mix.items()))
    assert len(mix) > 2
    right_ones = len(tasks) * (len(documents) - len(wrong))
    assert told["totals"] == {
        "read": len(tasks) * len(documents),
        "pairs": len(made),
        "no_wrong_answer": right_ones,
        "test_overlap": 0,
        "cut_off": 0,
        "quarantined": 0,
    }


def test_questions_and_gold_are_those_of_instruction_data(tmp_path: Path, making_pairs: dict[str, Any]) -> None:
    made = {row["id"].split("/")[1]: row for row in rows(make(answered(tmp_path, some_wrong, making_pairs)))}
    run(tmp_path, **{**making_pairs, "job": "prepare_instructions"})
    taught = {row["id"].split("/")[1]: json.loads(row["messages"]) for row in rows(tmp_path / "store/instructions/r@1")}
    assert set(made) == set(taught)
    for id_, row in made.items():
        question, answer = taught[id_]
        assert (json.loads(row["messages"]), row["chosen"]) == ([question], answer["content"])


@pytest.mark.parametrize("share", [0.5, 1.0])
def test_documents_that_were_answered_right_get_a_corrupted_answer(tmp_path: Path, making_pairs: dict[str, Any], share: float) -> None:
    making_pairs |= {"task": "bc5cdr_cid", "preferences": {"samples": 1, "corruptions": share}}
    output = make(answered(tmp_path, lambda task, document, _: format_list(right(task, document)[::-1]), making_pairs))
    made, told = rows(output), record(output)
    assert told["totals"]["read"] == 24 == len(made) + told["totals"]["no_wrong_answer"]
    assert len(made) == 24 if share == 1.0 else 4 < len(made) < 20
    assert {row["made_by"] for row in made} == {"corruption"}
    for row in made:
        answers = read_answer(row["rejected"], "re").cleaned
        assert answers is None or distinct(answers) != distinct(read_answer(row["chosen"], "re").raw)
    assert set(told["mix"]) >= {"corruption missed", "corruption invented", "corruption direction"}


def test_several_pairs_of_a_document_have_different_answers(tmp_path: Path, making_pairs: dict[str, Any]) -> None:
    making_pairs |= {"preferences": {"samples": 6, "pairs_per_document": 3}}
    output = make(answered(tmp_path, lambda task, document, n: f"no list {n // 2}", making_pairs))
    made = rows(output)
    assert Counter(Counter(row["id"].split("/")[1] for row in made).values()) == {3: 24}
    assert len({(row["id"].split("/")[1], row["rejected"]) for row in made}) == len(made) == 72
    assert record(output)["totals"]["read"] == 24


def test_answers_that_the_token_limit_broke_off_are_no_mistakes_of_the_model(tmp_path: Path, making_pairs: dict[str, Any]) -> None:
    """Even samples were cut off: of a document whose others were right, nothing is left to hold against the gold."""

    def says(task: str, document: Document, sample: int) -> str:
        answers = right(task, document)
        if sample % 2 == 0:
            return format_list([*answers, "Rats"])[:-3]
        return format_list(answers if int(document.id[1:]) % 2 else [*answers, "Mice"])

    making_pairs |= {"preferences": {"samples": 4, "corruptions": 0.0, "pairs_per_document": 4}}
    output = make(answered(tmp_path, says, making_pairs, lambda sample: "stop" if sample % 2 else "length"))
    made, told = rows(output), record(output)
    assert {(row["kind"], int(row["id"].split("/")[1][1:]) % 2) for row in made} == {("invented", 0)}
    assert {name: told["totals"][name] for name in ("read", "no_wrong_answer", "cut_off")} == {
        "read": 24,
        "no_wrong_answer": 12,
        "cut_off": 48,
    }
    assert told["warnings"] == ["48 answers of the model were cut off and are left out; set preferences.max_new_tokens higher"]


def test_nothing_but_broken_off_answers_is_an_error_that_says_what_to_set(tmp_path: Path, making_pairs: dict[str, Any]) -> None:
    making_pairs |= {"preferences": {"samples": 1, "corruptions": 0.0}}
    step = answered(tmp_path, lambda *_: "I do not", making_pairs, lambda _: "length")
    with pytest.raises(ValueError, match=r"0 pairs of 24 .*24 answers cut off\).*set preferences\.max_new_tokens higher"):
        make(step)


def test_nothing_wrong_anywhere_is_an_error_that_says_what_to_set(tmp_path: Path, making_pairs: dict[str, Any]) -> None:
    making_pairs |= {"preferences": {"samples": 1, "corruptions": 0.0}}
    step = answered(tmp_path, lambda task, document, _: format_list(right(task, document)), making_pairs)
    with pytest.raises(
        ValueError, match=r"0 pairs of 24 documents \(24 no wrong answer\).*preferences\.samples.*preferences\.corruptions=1"
    ):
        make(step)
    assert not list(Path(step.output.location).glob("*.parquet"))
    making_pairs["preferences"]["corruptions"] = 1.0
    again = Planner().plan(make_recipe(tmp_path, **making_pairs))[-1]
    assert isinstance(again, PreferencesStep)
    assert len(rows(make(again))) == 24


def test_a_run_killed_between_shards_goes_on_with_the_same_bytes(
    tmp_path: Path, making_pairs: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(step_file, "PAIRS_PER_SHARD", 5)
    step = answered(tmp_path, some_wrong, making_pairs)
    output = make(step)
    whole, told = shards(output), record(output)
    assert len(whole) == 5
    kept = (output / "train-00000.parquet").stat().st_mtime_ns
    (output / "record.json").unlink()
    for number in (1, 2, 3, 4):  # the second was written, but its marker was not
        (output / f"_markers/train-{number:05d}.json").unlink()
        if number > 1:
            (output / f"train-{number:05d}.parquet").unlink()
    make(step)
    assert shards(output) == whole
    assert (output / "train-00000.parquet").stat().st_mtime_ns == kept
    again = record(output)
    assert (again["totals"], again["mix"], again["shards"]) == (told["totals"], told["mix"], told["shards"])
    monkeypatch.setattr(step_file, "PAIRS_PER_SHARD", 2_000)
    shutil.rmtree(output)
    make(step)
    assert len(rows(output)) == told["totals"]["pairs"]


def test_fingerprints_cover_what_reads_answers_and_no_setting_that_does_not_reach_the_engine(
    tmp_path: Path, making_pairs: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    run(tmp_path, **{**making_pairs, "job": "prepare_corpora"})

    def prints(**generate: Any) -> list[str]:
        pairs, asked = (
            step.output.fingerprint for step in Planner().plan(make_recipe(tmp_path, **making_pairs, generate=generate))[:-3:-1]
        )
        return [asked, pairs]

    assert prints(engine="vllm", threads=1, batch_tokens=512) == prints(engine="vllm", threads=2, batch_tokens=1_024) != prints()
    assert prints(threads=1)[0] != prints(threads=2)[0]
    asked, pairs = prints()
    monkeypatch.setattr(step_file, "RULES_VERSION", step_file.RULES_VERSION + 1)
    assert prints()[0] == asked
    assert prints()[1] != pairs


def test_a_training_document_that_holds_a_test_document_makes_no_pair(tmp_path: Path, making_pairs: dict[str, Any]) -> None:
    title, abstract = text_of(40)
    train = [*documents(range(6)), ("d099", "Again", f"As seen: {title}. {abstract}")]
    making_pairs["source"] = str(write_corpus(tmp_path / "bc5cdr", train=train, test=documents([40], "t")))
    output = make(answered(tmp_path, some_wrong, {**making_pairs, "preferences": {"corruptions": 1.0}, "select": {"dev_share": 0.01}}))
    assert {row["id"].split("/")[1] for row in rows(output)} == {f"d{n:03d}" for n in range(6)}
    assert record(output)["totals"] == {"read": 7, "pairs": 6, "no_wrong_answer": 0, "test_overlap": 1, "cut_off": 0, "quarantined": 0}
