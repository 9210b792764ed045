"""From a tuned model's answers, or from files, to pairs; and from pairs to token ids: what is in them, what is not and why."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pipeline_builders import documents, make_recipe, quarantine, record, rows, run, shards, text_of, write_corpus

from bioie_ray.artifacts.output import DriftError
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
from bioie_ray.pipeline.tokens import TokensStep
from bioie_ray.prompting.answers import format_list

Says = Callable[[str, Document, int], str]
GOOD = {"prompt": "List all.", "chosen": '["a"]', "rejected": "[]"}


@pytest.fixture
def settings(tiny_llm: str, corpus: str) -> dict[str, Any]:
    return {
        "job": "make_preferences",
        "source": corpus,
        "task": "bc5cdr_disease",
        "prepare": {"documents_per_shard": 8},
        "instructions": {"sources": [{"kind": "tasks"}]},
        "train": {"base_model": tiny_llm},
    }


def answered(folder: Path, says: Says, settings: dict[str, Any]) -> PreferencesStep:
    """The step of a recipe whose tuned model said what ``says`` has of (task, document, sample)."""
    run(folder, **{**settings, "job": "prepare_corpora"})
    plan = Planner().plan(make_recipe(folder, **settings))
    step = plan[-1]
    assert isinstance(step, PreferencesStep)
    candidates = step.candidates
    assert isinstance(candidates, CandidatesStep)
    candidates.output.claim()
    for unit in candidates.units():
        task, _, shard = unit.partition(".")
        found = [
            {"task": task, "document_id": document.id, "sample": n, "answer": says(task, document, n), "finish": "stop"}
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


def test_pairs_are_the_gold_and_what_the_model_got_wrong(tmp_path: Path, settings: dict[str, Any]) -> None:
    tasks = ["bc5cdr_disease", "bc5cdr_cid"]
    settings |= {"preferences": {"samples": 4, "tasks": tasks, "corruptions": 0.0}}
    output = make(answered(tmp_path, some_wrong, settings))
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
        "quarantined": 0,
    }


def test_questions_and_gold_are_those_of_instruction_data(tmp_path: Path, settings: dict[str, Any]) -> None:
    made = {row["id"].split("/")[1]: row for row in rows(make(answered(tmp_path, some_wrong, settings)))}
    run(tmp_path, **{**settings, "job": "prepare_instructions"})
    taught = {row["id"].split("/")[1]: json.loads(row["messages"]) for row in rows(tmp_path / "store/instructions/r@1")}
    assert set(made) == set(taught)
    for id_, row in made.items():
        question, answer = taught[id_]
        assert (json.loads(row["messages"]), row["chosen"]) == ([question], answer["content"])


@pytest.mark.parametrize("share", [0.5, 1.0])
def test_documents_that_were_answered_right_get_a_corrupted_answer(tmp_path: Path, settings: dict[str, Any], share: float) -> None:
    settings |= {"task": "bc5cdr_cid", "preferences": {"samples": 1, "corruptions": share}}
    output = make(answered(tmp_path, lambda task, document, _: format_list(right(task, document)[::-1]), settings))
    made, told = rows(output), record(output)
    assert told["totals"]["read"] == 24 == len(made) + told["totals"]["no_wrong_answer"]
    assert len(made) == 24 if share == 1.0 else 4 < len(made) < 20
    assert {row["made_by"] for row in made} == {"corruption"}
    for row in made:
        answers = read_answer(row["rejected"], "re").cleaned
        assert answers is None or distinct(answers) != distinct(read_answer(row["chosen"], "re").raw)
    assert set(told["mix"]) >= {"corruption missed", "corruption invented", "corruption direction"}


def test_several_pairs_of_a_document_have_different_answers(tmp_path: Path, settings: dict[str, Any]) -> None:
    settings |= {"preferences": {"samples": 6, "pairs_per_document": 3}}
    output = make(answered(tmp_path, lambda task, document, n: f"no list {n // 2}", settings))
    made = rows(output)
    assert Counter(Counter(row["id"].split("/")[1] for row in made).values()) == {3: 24}
    assert len({(row["id"].split("/")[1], row["rejected"]) for row in made}) == len(made) == 72
    assert record(output)["totals"]["read"] == 24


def test_nothing_wrong_anywhere_is_an_error_that_says_what_to_set(tmp_path: Path, settings: dict[str, Any]) -> None:
    settings |= {"preferences": {"samples": 1, "corruptions": 0.0}}
    step = answered(tmp_path, lambda task, document, _: format_list(right(task, document)), settings)
    with pytest.raises(
        ValueError, match=r"0 pairs of 24 documents \(24 no wrong answer\).*preferences\.samples.*preferences\.corruptions=1"
    ):
        make(step)
    assert not list(Path(step.output.location).glob("*.parquet"))
    settings["preferences"]["corruptions"] = 1.0
    again = Planner().plan(make_recipe(tmp_path, **settings))[-1]
    assert isinstance(again, PreferencesStep)
    assert len(rows(make(again))) == 24


def test_a_run_killed_between_shards_goes_on_with_the_same_bytes(
    tmp_path: Path, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(step_file, "PAIRS_PER_SHARD", 5)
    step = answered(tmp_path, some_wrong, settings)
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
    tmp_path: Path, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    run(tmp_path, **{**settings, "job": "prepare_corpora"})

    def prints(**generate: Any) -> list[str]:
        pairs, asked = (step.output.fingerprint for step in Planner().plan(make_recipe(tmp_path, **settings, generate=generate))[:-3:-1])
        return [asked, pairs]

    assert prints(engine="vllm", threads=1, batch_tokens=512) == prints(engine="vllm", threads=2, batch_tokens=1_024) != prints()
    assert prints(threads=1)[0] != prints(threads=2)[0]
    asked, pairs = prints()
    monkeypatch.setattr(step_file, "RULES_VERSION", step_file.RULES_VERSION + 1)
    assert prints()[0] == asked
    assert prints()[1] != pairs


def given_pairs(tmp_path: Path, settings: dict[str, Any], lines: list[Any], **changes: Any) -> Path:
    folder = tmp_path / "given"
    folder.mkdir(exist_ok=True)
    (folder / "some.jsonl").write_text("".join(f"{one if isinstance(one, str) else json.dumps(one)}\n" for one in lines), encoding="utf-8")
    settings = {**settings, "preferences": {"path": str(folder)}}
    settings["instructions"] = {**settings["instructions"], **changes}
    return run(tmp_path, **settings) / "preferences/r@1"


def test_given_pairs_are_taken_and_what_is_none_is_quarantined_with_file_and_line(tmp_path: Path, settings: dict[str, Any]) -> None:
    bad = ["{", ["a"], {"prompt": "a"}, {**GOOD, "chosen": ""}, {**GOOD, "rejected": GOOD["chosen"]}, {**GOOD, "prompt": "a" * 200}]
    reasons = [
        "not JSON",
        "this is a list",
        "lacks chosen, rejected",
        "chosen is empty",
        "are the same",
        "prompt turn 1 has 200 characters",
    ]
    output = given_pairs(tmp_path, settings, [GOOD, *bad, {**GOOD, "rejected": "x"}], max_quarantined_share=0.8, max_chars=100)
    told = quarantine(output)
    assert [(one["file"], one["line"]) for one in told] == [("some.jsonl", n) for n in range(2, 8)]
    assert all(reason in one["reason"] for reason, one in zip(reasons, told, strict=True)), [one["reason"] for one in told]
    assert [(row["id"], row["rejected"], row["made_by"], row["kind"], row["f1"]) for row in rows(output)] == [
        ("some.jsonl:1", "[]", "given", "", None),
        ("some.jsonl:8", "x", "given", "", None),
    ]
    assert record(output)["mix"] == {"given": 2}
    assert record(output)["totals"] == {"read": 8, "pairs": 2, "no_wrong_answer": 0, "test_overlap": 0, "quarantined": 6}


def test_given_pairs_that_hold_a_test_document_are_left_out_counted_and_told(
    tmp_path: Path, settings: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    title, abstract = text_of(40)
    said = [{**GOOD, key: f"Well: {title.upper()}\n{abstract} So it is."} for key in ("prompt", "chosen", "rejected")]
    output = given_pairs(tmp_path, settings, [*said, GOOD, {**GOOD, "prompt": " ".join(abstract.split()[:5])}])
    assert [row["id"] for row in rows(output)] == ["some.jsonl:4", "some.jsonl:5"]
    assert record(output)["totals"] == {"read": 5, "pairs": 2, "no_wrong_answer": 0, "test_overlap": 3, "quarantined": 0}
    assert record(output)["counts"]["test_overlap"] == 3
    assert "3 of 5 records or documents hold what a test document says and are left out" in capsys.readouterr().err
    fewer = {**settings, "preferences": {"path": str(tmp_path / "given")}, "instructions": {"overlap_words": 5}}
    with pytest.raises(DriftError, match=r"overlap_words: 13 -> 5"):
        run(tmp_path, **fewer)


def test_a_training_document_that_holds_a_test_document_makes_no_pair(tmp_path: Path, settings: dict[str, Any]) -> None:
    title, abstract = text_of(40)
    train = [*documents(range(6)), ("d099", "Again", f"As seen: {title}. {abstract}")]
    settings["source"] = str(write_corpus(tmp_path / "bc5cdr", train=train, test=documents([40], "t")))
    output = make(answered(tmp_path, some_wrong, {**settings, "preferences": {"corruptions": 1.0}, "select": {"dev_share": 0.01}}))
    assert {row["id"].split("/")[1] for row in rows(output)} == {f"d{n:03d}" for n in range(6)}
    assert record(output)["totals"] == {"read": 7, "pairs": 6, "no_wrong_answer": 0, "test_overlap": 1, "quarantined": 0}


def test_too_many_bad_records_end_the_job_and_a_mended_file_takes_the_version(tmp_path: Path, settings: dict[str, Any]) -> None:
    with pytest.raises(
        ValueError, match=r"2 pairs of 3 records, 1 in quarantine.*_quarantine.*max_quarantined_share is 5.0%; mend the source, or raise"
    ):
        given_pairs(tmp_path, settings, [GOOD, "nonsense", GOOD])
    output = tmp_path / "store/preferences/r@1"
    assert not list(output.glob("*.parquet"))
    assert [one["line"] for one in quarantine(output)] == [2]
    assert len(rows(given_pairs(tmp_path, settings, [GOOD, GOOD]))) == 2
    assert not quarantine(output)


def test_given_files_without_a_pair_are_an_error_about_files_and_not_about_answers(tmp_path: Path, settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"0 pairs of 0 records \(there were none\); give another preferences\.path$"):
        given_pairs(tmp_path, settings, [])
    with pytest.raises(
        ValueError, match=r"0 pairs of 1 records \(1 test overlap\); set instructions\.overlap_words higher.*preferences\.path$"
    ):
        given_pairs(tmp_path, settings, [{**GOOD, "prompt": " ".join(text_of(40))}])


def test_the_published_form_is_read(corpora_dir: Path, tmp_path: Path, settings: dict[str, Any]) -> None:
    path = corpora_dir / "preferences/sample.jsonl"
    if not path.is_file():
        pytest.skip(f"no sample of published pairs at {path}")
    output = run(tmp_path, **settings | {"preferences": {"path": str(path)}}) / "preferences/r@1"
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    made = {row["id"]: row for row in rows(output)}
    assert len(made) + len(quarantine(output)) == len(lines) == record(output)["totals"]["read"]
    assert len(made) > 0.9 * len(lines)
    for number, line in enumerate(lines, start=1):
        if row := made.get(f"sample.jsonl:{number}"):
            assert (row["chosen"], row["rejected"]) == (line["chosen"], line["rejected"])
            assert json.loads(row["messages"]) == [{"role": "user", "content": line["prompt"]}]


def tokenised(tmp_path: Path, settings: dict[str, Any], lines: list[Any], dpop: dict[str, Any]) -> Path:
    given_pairs(tmp_path, settings, lines)
    recipe = make_recipe(tmp_path, **{**settings, "job": "train_dpop", "preferences": {"path": str(tmp_path / "given")}, "dpop": dpop})
    run(tmp_path, **{**settings, "job": "prepare_corpora"})
    (step,) = (step for step in Planner().plan(recipe) if isinstance(step, TokensStep) and step.stage == "dpop")
    run_plan([step], Progress())
    return Path(step.output.location)


def test_pairs_that_are_too_long_are_left_out_counted_and_told(
    tmp_path: Path, settings: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    lines = [GOOD, {**GOOD, "prompt": "a" * 60}, {**GOOD, "rejected": "b" * 200}, {**GOOD, "chosen": "b" * 200}]
    output = tokenised(tmp_path, settings, lines, {"max_length": 100, "max_prompt_tokens": 40})
    assert [row["id"] for row in rows(output)] == ["some.jsonl:1"]
    assert record(output)["left_out"] == {"too_long": 2, "prompt_too_long": 1, "same_tokens": 0, "refused_by_template": 0}
    assert record(output)["warnings"] == ["left out: too long: 2, prompt too long: 1"]
    assert "tokenising for dpop r@1: left out: too long: 2, prompt too long: 1" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("dpop", "advice"),
    [
        ({"max_length": 16, "max_prompt_tokens": 400}, r"too long: 2\); set dpop\.max_length higher, or take other data"),
        ({"max_length": 400, "max_prompt_tokens": 8}, r"prompt too long: 2\); set dpop\.max_prompt_tokens higher, or take other data"),
    ],
)
def test_nothing_left_to_train_on_is_an_error_that_says_what_to_set(
    tmp_path: Path, settings: dict[str, Any], dpop: dict[str, Any], advice: str
) -> None:
    with pytest.raises(ValueError, match=advice):
        tokenised(tmp_path, settings, [GOOD, GOOD], dpop)
    assert not (tmp_path / "store/tokens-dpop/r@1/_claim.json").exists()
