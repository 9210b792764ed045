"""From given pairs to pairs, and from pairs to token ids: what is in them, what is not and why."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pipeline_builders import make_recipe, quarantine, record, rows, run, text_of
from tiny_models import save_llama

from bioie_ray.artifacts.output import DriftError
from bioie_ray.pipeline.plan import Planner
from bioie_ray.pipeline.progress import Progress
from bioie_ray.pipeline.run import run_plan
from bioie_ray.pipeline.tokens import TokensStep

GOOD = {"prompt": "List all.", "chosen": '["a"]', "rejected": "[]"}


def given_pairs(tmp_path: Path, making_pairs: dict[str, Any], lines: list[Any], **changes: Any) -> Path:
    folder = tmp_path / "given"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "some.jsonl").write_text("".join(f"{one if isinstance(one, str) else json.dumps(one)}\n" for one in lines), encoding="utf-8")
    making_pairs = {**making_pairs, "preferences": {"path": str(folder)}}
    making_pairs["instructions"] = {**making_pairs["instructions"], **changes}
    return run(tmp_path, **making_pairs) / "preferences/r@1"


def test_given_pairs_are_taken_and_what_is_none_is_quarantined_with_file_and_line(tmp_path: Path, making_pairs: dict[str, Any]) -> None:
    bad = ["{", ["a"], {"prompt": "a"}, {**GOOD, "chosen": ""}, {**GOOD, "rejected": GOOD["chosen"]}, {**GOOD, "prompt": "a" * 200}]
    reasons = [
        "not JSON",
        "this is a list",
        "lacks chosen, rejected",
        "chosen is empty",
        "are the same",
        "prompt turn 1 has 200 characters",
    ]
    output = given_pairs(tmp_path, making_pairs, [GOOD, *bad, {**GOOD, "rejected": "x"}], max_quarantined_share=0.8, max_chars=100)
    told = quarantine(output)
    assert [(one["file"], one["line"]) for one in told] == [("some.jsonl", n) for n in range(2, 8)]
    assert all(reason in one["reason"] for reason, one in zip(reasons, told, strict=True)), [one["reason"] for one in told]
    assert [(row["id"], row["rejected"], row["made_by"], row["kind"], row["f1"]) for row in rows(output)] == [
        ("some.jsonl:1", "[]", "given", "", None),
        ("some.jsonl:8", "x", "given", "", None),
    ]
    assert record(output)["mix"] == {"given": 2}
    assert record(output)["totals"] == {"read": 8, "pairs": 2, "no_wrong_answer": 0, "test_overlap": 0, "cut_off": 0, "quarantined": 6}


def test_given_pairs_that_hold_a_test_document_are_left_out_counted_and_told(
    tmp_path: Path, making_pairs: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    title, abstract = text_of(40)
    said = [{**GOOD, key: f"Well: {title.upper()}\n{abstract} So it is."} for key in ("prompt", "chosen", "rejected")]
    output = given_pairs(tmp_path, making_pairs, [*said, GOOD, {**GOOD, "prompt": " ".join(abstract.split()[:5])}])
    assert [row["id"] for row in rows(output)] == ["some.jsonl:4", "some.jsonl:5"]
    assert record(output)["totals"] == {"read": 5, "pairs": 2, "no_wrong_answer": 0, "test_overlap": 3, "cut_off": 0, "quarantined": 0}
    assert record(output)["counts"]["test_overlap"] == 3
    assert "3 of 5 records or documents hold what a test document says and are left out" in capsys.readouterr().err
    fewer = {**making_pairs, "preferences": {"path": str(tmp_path / "given")}, "instructions": {"overlap_words": 5}}
    with pytest.raises(DriftError, match=r"overlap_words: 13 -> 5"):
        run(tmp_path, **fewer)


def test_too_many_bad_records_end_the_job_and_a_mended_file_takes_the_version(tmp_path: Path, making_pairs: dict[str, Any]) -> None:
    with pytest.raises(
        ValueError, match=r"2 pairs of 3 records, 1 in quarantine.*_quarantine.*max_quarantined_share is 5.0%; mend the source, or raise"
    ):
        given_pairs(tmp_path, making_pairs, [GOOD, "nonsense", GOOD])
    output = tmp_path / "store/preferences/r@1"
    assert not list(output.glob("*.parquet"))
    assert [one["line"] for one in quarantine(output)] == [2]
    assert len(rows(given_pairs(tmp_path, making_pairs, [GOOD, GOOD]))) == 2
    assert not quarantine(output)


def test_given_files_without_a_pair_are_an_error_about_files_and_not_about_answers(tmp_path: Path, making_pairs: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"0 pairs of 0 records \(there were none\); give another preferences\.path$"):
        given_pairs(tmp_path, making_pairs, [])
    with pytest.raises(
        ValueError, match=r"0 pairs of 1 records \(1 test overlap\); set instructions\.overlap_words higher.*preferences\.path$"
    ):
        given_pairs(tmp_path, making_pairs, [{**GOOD, "prompt": " ".join(text_of(40))}])


def test_the_published_form_is_read(corpora_dir: Path, tmp_path: Path, making_pairs: dict[str, Any]) -> None:
    path = corpora_dir / "preferences/sample.jsonl"
    if not path.is_file():
        pytest.skip(f"no sample of published pairs at {path}")
    output = run(tmp_path, **making_pairs | {"preferences": {"path": str(path)}}) / "preferences/r@1"
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    made = {row["id"]: row for row in rows(output)}
    assert len(made) + len(quarantine(output)) == len(lines) == record(output)["totals"]["read"]
    assert len(made) > 0.9 * len(lines)
    for number, line in enumerate(lines, start=1):
        if row := made.get(f"sample.jsonl:{number}"):
            assert (row["chosen"], row["rejected"]) == (line["chosen"], line["rejected"])
            assert json.loads(row["messages"]) == [{"role": "user", "content": line["prompt"]}]


def tokenised(tmp_path: Path, making_pairs: dict[str, Any], lines: list[Any], dpop: dict[str, Any]) -> Path:
    given_pairs(tmp_path, making_pairs, lines)
    recipe = make_recipe(tmp_path, **{**making_pairs, "job": "train_dpop", "preferences": {"path": str(tmp_path / "given")}, "dpop": dpop})
    run(tmp_path, **{**making_pairs, "job": "prepare_corpora"})
    (step,) = (step for step in Planner().plan(recipe) if isinstance(step, TokensStep) and step.stage == "dpop")
    run_plan([step], Progress())
    return Path(step.output.location)


def test_pairs_that_are_too_long_are_left_out_counted_and_told(
    tmp_path: Path, making_pairs: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    lines = [GOOD, {**GOOD, "prompt": "a" * 60}, {**GOOD, "rejected": "b" * 200}, {**GOOD, "chosen": "b" * 200}]
    output = tokenised(tmp_path, making_pairs, lines, {"max_length": 100, "max_prompt_tokens": 40})
    assert [row["id"] for row in rows(output)] == ["some.jsonl:1"]
    assert record(output)["left_out"] == {
        "too_long": 2,
        "prompt_too_long": 1,
        "beyond_context": 0,
        "same_tokens": 0,
        "refused_by_template": 0,
    }
    assert record(output)["warnings"] == ["left out: too long: 2, prompt too long: 1"]
    assert "tokenising for dpop r@1: left out: too long: 2, prompt too long: 1" in capsys.readouterr().err


def test_pairs_that_the_model_has_no_positions_for_are_left_out_and_count_in_the_fingerprint(
    tmp_path: Path, making_pairs: dict[str, Any]
) -> None:
    lengths = {"max_length": 400, "max_prompt_tokens": 300}
    lines = [GOOD, {**GOOD, "rejected": "b" * 200}]
    whole = tokenised(tmp_path / "long", making_pairs, lines, lengths)
    making_pairs["train"] = {"base_model": str(save_llama(tmp_path / "short-sighted", positions=128))}
    output = tokenised(tmp_path / "short", making_pairs, lines, lengths)
    assert [len(rows(each)) for each in (whole, output)] == [2, 1]
    assert record(output)["left_out"]["beyond_context"] == 1
    assert record(output)["warnings"] == ["left out: beyond context: 1"]
    assert record(output)["fingerprint"] != record(whole)["fingerprint"]
    with pytest.raises(ValueError, match=r"beyond context: 1\); take a train\.base_model that takes longer texts"):
        tokenised(tmp_path / "none", making_pairs, lines[1:], lengths)
    enough = {"max_length": 100, "max_prompt_tokens": 40}  # then both models share their tokens, as they share the tokenizer
    short = record(tokenised(tmp_path / "a", making_pairs, [GOOD], enough))
    making_pairs["train"] = {"base_model": str(save_llama(tmp_path / "far-sighted"))}
    assert record(tokenised(tmp_path / "b", making_pairs, [GOOD], enough))["fingerprint"] == short["fingerprint"]


@pytest.mark.parametrize(
    ("dpop", "advice"),
    [
        ({"max_length": 16, "max_prompt_tokens": 400}, r"too long: 2\); set dpop\.max_length higher, or take other data"),
        ({"max_length": 400, "max_prompt_tokens": 8}, r"prompt too long: 2\); set dpop\.max_prompt_tokens higher, or take other data"),
    ],
)
def test_nothing_left_to_train_on_is_an_error_that_says_what_to_set(
    tmp_path: Path, making_pairs: dict[str, Any], dpop: dict[str, Any], advice: str
) -> None:
    with pytest.raises(ValueError, match=advice):
        tokenised(tmp_path, making_pairs, [GOOD, GOOD], dpop)
    assert not (tmp_path / "store/tokens-dpop/r@1/_claim.json").exists()
