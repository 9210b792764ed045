"""All of DFPO in one recipe: from documents to the scores of a tuned model, once, whatever happens on the way."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from pipeline_builders import make_recipe, planned, record, rows, run, shards

from bioie_ray.artifacts.output import DriftError
from bioie_ray.config.keys import RecipeError
from bioie_ray.config.recipe import JobName
from bioie_ray.corpora.tasks import TASKS
from bioie_ray.pipeline import dev_questions
from bioie_ray.pipeline.plan import Planner
from bioie_ray.pipeline.train_stage import TrainStage

STAGE = {
    "max_length": 2_048,
    "batch_size": 2,
    "max_steps": 2,
    "learning_rate": 1e-3,
    "lora": {"r": 2, "alpha": 4, "modules": ["q_proj", "v_proj"]},
}
BEFORE_DPOP = (
    "corpora",
    "records",
    "instructions",
    "tokens-preft",
    "models-preft",
    "candidates",
    "preferences",
    "tokens-dpop",
    "reference",
)


def chain(tiny_llm: str, **changes: Any) -> dict[str, Any]:
    """As ``jobs/recipes/dfpo_demo.yaml``, of a model without sense."""
    models = [{"label": "base", "model": tiny_llm}, *({"label": stage, "model": f"stage:{stage}"} for stage in ("dpop", "postft"))]
    return {
        "job": "evaluate",
        "task": "biorelex",
        "instructions": {"sources": [{"kind": "tasks", "tasks": ["biorelex"], "max_records": 8}]},
        "preferences": {"samples": 2, "max_new_tokens": 8, "max_documents": 6},
        "train": {"base_model": tiny_llm, "checkpoint_every_steps": 1, "threads": 1},
        "preft": STAGE,
        "dpop": {**STAGE, "max_prompt_tokens": 1_024},
        "postft": STAGE,
        "prompt": {"num_examples": 0, "max_documents": 2},
        "generate": {"max_new_tokens": 4, "temperature": 0.0, "repeats": 1},
        "dmcr": {"evaluators": []},
        "matrix": {"generate": models},
        **changes,
    }


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory, tiny_llm: str) -> Path:
    """The store of an undisturbed run."""
    return run(tmp_path_factory.mktemp("chain"), **chain(tiny_llm))


def outputs(store: Path) -> list[Path]:
    return sorted(path.parent for path in store.glob("*/*/_claim.json"))


def times(store: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in store.rglob("*") if path.is_file()}


def without(store: Path, copy: Path, kinds: tuple[str, ...]) -> Path:
    """A copy of some kinds of a store."""
    for kind in kinds:
        shutil.copytree(store / kind, copy / kind)
    return copy


@pytest.mark.slow
def test_every_stage_is_trained_asked_and_scored(done: Path, tiny_llm: str) -> None:
    assert all((output / "record.json").exists() for output in outputs(done))
    assert {f"{output.parent.name}/{output.name}" for output in outputs(done)} == {
        "corpora/embedded_biorelex@1",
        *(f"{kind}/r@1" for kind in BEFORE_DPOP[1:]),
        *(f"{kind}/r@1" for kind in ("models-dpop", "tokens-postft", "models-postft")),
        *(f"{kind}/r-{who}@1" for kind in ("prompts", "generations", "dmcr", "scores") for who in ("base", "dpop", "postft")),
    }
    base_models = {stage: record(done / f"models-{stage}/r@1")["base_model"] for stage in ("preft", "dpop", "postft")}
    assert base_models == {"preft": tiny_llm, "dpop": "stage:preft", "postft": "stage:dpop"}
    pairs = {row["id"] for row in rows(done / "preferences/r@1")}
    assert {row["id"] for row in rows(done / "tokens-dpop/r@1")} == {row["id"] for row in rows(done / "reference/r@1")} <= pairs
    losses = [row["value"] for row in rows(done / "models-dpop/r@1") if row["metric"] == "loss"]
    assert losses[0] == pytest.approx(0.6931, abs=1e-3)  # both log-ratios are 0 before the first step: -log sigmoid(0)
    assert len({record(done / f"scores/r-{who}@1")["model"] for who in ("base", "dpop", "postft")}) == 3


@pytest.mark.slow
def test_a_second_run_does_nothing_and_tells_the_scores_again(done: Path, tiny_llm: str, capsys: pytest.CaptureFixture[str]) -> None:
    before = times(done)
    run(done.parent, **chain(tiny_llm))
    assert times(done) == before
    *_, header, line = (line for line in capsys.readouterr().err.splitlines() if "precision" in line or line.startswith("scores/r-base@1"))
    assert header.split()[-4:] == ["precision", "recall", "f1", "malformed"]
    assert line.split()[:2] == ["scores/r-base@1", "raw"]


@pytest.mark.slow
def test_a_run_killed_while_dpop_trains_goes_on_and_ends_with_the_same_bytes(
    done: Path, tmp_path: Path, tiny_llm: str, repository: Path
) -> None:
    store = without(done, tmp_path / "store", BEFORE_DPOP)
    kept = times(store)
    make_recipe(tmp_path, **chain(tiny_llm))
    job = [sys.executable, str(repository / "jobs/evaluate.py"), "--recipe", str(tmp_path / "recipe.yaml")]
    process = subprocess.Popen(job, env={**os.environ, "PYTHONPATH": str(repository)}, stderr=subprocess.DEVNULL)
    while process.poll() is None and not list(store.glob("models-dpop/r@1/_checkpoints/*/[!.]*")):
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (store / "models-dpop/r@1/record.json").exists()
    run(tmp_path, **chain(tiny_llm))
    assert {path: at for path, at in times(store).items() if path in kept} == kept
    assert not list(store.glob("models-*/r@1/_checkpoints/*/[!.]*"))
    for output in outputs(done):
        assert shards(store / output.relative_to(done)) == shards(output), output
        assert record(store / output.relative_to(done))["fingerprint"] == record(output)["fingerprint"]


@pytest.mark.slow
def test_another_setting_of_dpop_is_drift_of_dpop_and_preft_stays(done: Path, tmp_path: Path, tiny_llm: str) -> None:
    changed = {**chain(tiny_llm), "job": "train_dpop", "dpop": {**chain(tiny_llm)["dpop"], "beta": 0.2}, "matrix": {}}
    with pytest.raises(DriftError, match=r"(?s)models-dpop/r@1 exists.*settings\.beta: 0\.4 -> 0\.2"):
        run(done.parent, **changed)
    store = without(done, tmp_path / "store", BEFORE_DPOP)
    before = times(store)
    run(tmp_path, **changed)
    assert {path: at for path, at in times(store).items() if path in before} == before
    assert shards(store / "models-dpop/r@1") != shards(done / "models-dpop/r@1")


def test_a_setting_is_in_the_fingerprints_of_its_stage_and_of_what_comes_after(tmp_path: Path, tiny_llm: str) -> None:
    def prints(section: str, **changes: Any) -> dict[str, str]:
        settings = chain(tiny_llm)
        settings |= {section: {**settings[section], **changes}, "store": str(tmp_path / "store")}
        return {step.output.key: step.output.fingerprint for step in Planner().plan(make_recipe(tmp_path, **settings))}

    def moved(section: str, **changes: Any) -> set[str]:
        other = prints(section, **changes)
        assert other.keys() == plain.keys()
        return {key for key in plain if plain[key] != other[key]}

    run(tmp_path, **{**chain(tiny_llm), "job": "prepare_corpora", "matrix": {}})
    plain = prints("dpop")
    asking = {f"{kind}/r-{who}@1" for kind in ("generations", "dmcr", "scores") for who in ("dpop", "postft")}
    after_dpop = {"models-dpop/r@1", "models-postft/r@1"} | asking
    pairs = {f"{kind}/r@1" for kind in ("preferences", "tokens-dpop", "reference")}
    assert moved("dpop", penalty=1.0) - {f"prompts/r-{who}@1" for who in ("dpop", "postft")} == after_dpop
    assert moved("preferences", pairs_per_document=2) >= after_dpop | pairs
    assert not moved("preferences", pairs_per_document=2) & {"candidates/r@1", "models-preft/r@1", "scores/r-base@1"}
    assert moved("preferences", temperature=0.5) >= after_dpop | pairs | {"candidates/r@1"}
    assert not moved("train", checkpoint_every_steps=3, keep_checkpoints=1)


def test_what_dev_answers_depend_on_is_in_the_fingerprint_of_a_stage_that_is_chosen_by_them(
    tmp_path: Path, tiny_llm: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(tmp_path, **{**chain(tiny_llm), "job": "prepare_corpora", "matrix": {}})

    def preft(score: bool, **changes: Any) -> str:
        settings = {**chain(tiny_llm), "job": "train_preft", "matrix": {}}
        settings["train"] = {**settings["train"], "score_every_steps": 1 if score else None}
        for section, values in changes.items():
            settings[section] = {**settings.get(section, {}), **values}
        return Planner().plan(make_recipe(tmp_path, **settings))[-1].output.fingerprint

    assert preft(score=True, generate={"max_new_tokens": 9}) != preft(score=True)
    assert preft(score=False, generate={"max_new_tokens": 9}) == preft(score=False)
    before = preft(score=True), preft(score=False)
    monkeypatch.setattr(dev_questions, "RULES_VERSION", dev_questions.RULES_VERSION + 1)
    assert [preft(score=score) == one for score, one in zip((True, False), before, strict=True)] == [False, True]


def test_a_task_without_dev_documents_is_an_error_that_says_what_to_set(tmp_path: Path, tiny_llm: str) -> None:
    settings = {**chain(tiny_llm), "job": "train_preft", "matrix": {}, "select": {"dev_share": 0.01}}
    settings["train"] = {**settings["train"], "score_every_steps": 1}
    recipe = make_recipe(tmp_path, **settings)
    run(tmp_path, **{**settings, "job": "prepare_corpora"})
    stage = Planner().plan(recipe)[-1]
    assert isinstance(stage, TrainStage)
    assert stage.dev is not None
    with pytest.raises(ValueError, match=r"biorelex has no dev document.*select\.dev_share"):
        stage.dev.plan(recipe)


def test_a_matrix_over_tasks_whose_tests_are_held_out_trains_once(tmp_path: Path, tiny_llm: str) -> None:
    tasks = ["biorelex", "bc5cdr_disease"]
    settings = chain(tiny_llm, matrix={"task": tasks, "generate": chain(tiny_llm)["matrix"]["generate"]})
    source = {"kind": "tasks", "tasks": tasks}
    recipe = make_recipe(
        tmp_path,
        **{
            **settings,
            "instructions": {"held_out": tasks, "sources": [source]},
            "preferences": {**settings["preferences"], "tasks": tasks},
        },
    )
    for name in tasks:
        run(tmp_path, job="prepare_corpora", task=name)
    keys = planned(recipe)
    for kind in ("instructions", "models-preft", "candidates", "preferences", "models-dpop", "models-postft"):
        assert [key for key in keys if key.startswith(f"{kind}/")] == [f"{kind}/r@1"]
    assert sum(key.startswith("scores/") for key in keys) == 6
    apart = planned(make_recipe(tmp_path, **settings))
    assert sum(key.startswith("models-dpop/") for key in apart) == 2


def test_a_source_without_tasks_is_about_the_recipes_task_whatever_is_held_out(tmp_path: Path, tiny_llm: str) -> None:
    data = {"job": "prepare_instructions", "task": "biorelex", "train": {"base_model": tiny_llm}}
    keys = planned(make_recipe(tmp_path, **data, instructions={"held_out": ["bc5cdr_cid"]}))
    assert keys == ["corpora/embedded_bc5cdr@1", "corpora/embedded_biorelex@1", "records/r@1", "instructions/r@1"]


def test_a_stage_is_not_asked_about_a_task_whose_tests_it_may_have_seen(tmp_path: Path, tiny_llm: str) -> None:
    data = {"sources": [{"kind": "tasks", "tasks": ["ddi_corpus"]}], "held_out": ["bc5cdr_cid"]}
    settings = {**chain(tiny_llm), "matrix": {}, "preferences": {"tasks": ["biorelex"]}, "instructions": data}
    settings["generate"] = {**settings["generate"], "model": "stage:dpop"}
    with pytest.raises(ValueError, match=r"(?s)asked about biorelex.*set instructions\.held_out=\[bc5cdr_cid, biorelex\]$"):
        planned(make_recipe(tmp_path, **settings))
    assert planned(make_recipe(tmp_path, "instructions.held_out=[bc5cdr_cid, biorelex]", **settings))[-1] == "scores/r@1"


@pytest.mark.parametrize(
    ("job", "varied", "train", "is_drift"),
    [
        ("train_preft", {"prompt.instructions": ["1", "OWN"]}, {}, True),
        ("train_preft", {"select.dev_share": [0.1, 0.3]}, {}, True),
        ("train_preft", {"generate.max_new_tokens": [4, 8]}, {"score_every_steps": 1}, True),
        ("train_preft", {"generate.max_new_tokens": [4, 8]}, {}, False),
        ("train_preft", {"generate.batch_size": [1, 2]}, {"score_every_steps": 1}, False),
        ("make_preferences", {"generate.batch_size": [1, 2]}, {}, True),
        ("train_postft", {"generate.dtype": ["float32", "bfloat16"]}, {}, True),
        ("train_postft", {"generate.temperature": [0.0, 1.0]}, {}, False),
    ],
)
def test_cells_that_would_train_one_model_in_two_ways_are_told(
    tmp_path: Path, tiny_llm: str, repository: Path, job: str, varied: dict[str, Any], train: dict[str, Any], is_drift: bool
) -> None:
    shipped = yaml.safe_load((repository / "bioie_ray/prompting/instructions.yaml").read_text())
    own = tmp_path / "own.yaml"
    own.write_text(yaml.safe_dump({**shipped["1"], "input": "Document: {text}"}))
    matrix = {key: [str(own) if value == "OWN" else value for value in values] for key, values in varied.items()}
    settings = chain(tiny_llm, job=job, matrix=matrix)
    recipe = make_recipe(tmp_path, **{**settings, "train": {**settings["train"], **train}})
    run(tmp_path, job="prepare_corpora", task="biorelex")
    if is_drift:
        with pytest.raises(ValueError, match=r"two cells of the recipe would both write"):
            planned(recipe)
    else:
        assert sum(key.startswith("models-preft/") for key in planned(recipe)) == 1


def test_stages_that_are_scored_on_the_recipes_own_task_are_one_for_each(tmp_path: Path, tiny_llm: str) -> None:
    tasks = ["biorelex", "bc5cdr_disease"]
    source = tmp_path / "pairs.jsonl"
    source.write_text("{}")
    data = {"held_out": tasks, "sources": [{"kind": "taiyi", "path": str(source)}]}
    settings = chain(tiny_llm, job="train_dpop", matrix={"task": tasks}, instructions=data, preferences={"path": str(source)})
    names = {}
    for every in (None, 5):
        recipe = make_recipe(tmp_path, **{**settings, "train": {**settings["train"], "score_every_steps": every}})
        cells = recipe.cells()
        names[every] = {kind: {cell.name_of(kind) for cell in cells} for kind in ("instructions", "preft", "preferences", "dpop")}
    assert names[None] == {kind: {"r"} for kind in names[None]}
    apart = {"r-biorelex", "r-bc5cdr_disease"}
    assert names[5] == {"instructions": {"r"}, "preft": apart, "preferences": {"r"}, "dpop": apart}


def test_a_model_that_is_scored_on_dev_is_not_trained_on_it(tmp_path: Path, tiny_llm: str) -> None:
    both = ["train", "dev"]
    settings = chain(tiny_llm)
    settings["train"] = {**settings["train"], "score_every_steps": 5}
    with pytest.raises(
        RecipeError, match=r"instructions\.sources\[0\]\.splits lists dev.*set instructions\.sources\[0\]\.splits to \[train\]"
    ):
        make_recipe(tmp_path, **{**settings, "instructions": {"sources": [{"splits": both}]}})
    pairs = {**settings, "preferences": {"splits": both}}
    with pytest.raises(RecipeError, match=r"preferences\.splits lists dev"):
        make_recipe(tmp_path, **pairs)
    make_recipe(tmp_path, "preferences.path=some.jsonl", **pairs)
    make_recipe(tmp_path, "train.score_every_steps=null", **pairs)
    asked = make_recipe(tmp_path, "train.score_every_steps=null", "select.queries=dev", "generate.model=stage:preft", **pairs)
    with pytest.raises(ValueError, match=r"preferences\.splits lists dev, and the model is scored by its answers about dev documents"):
        Planner().plan(asked)


def test_nobody_asks_about_test_documents_for_pairs(tmp_path: Path, tiny_llm: str) -> None:
    with pytest.raises(RecipeError, match=r"preferences: splits lists test: nobody trains on test documents"):
        make_recipe(tmp_path, **chain(tiny_llm, preferences={"splits": ["train", "test"]}))


def test_an_adapter_names_its_base_and_no_folder_of_this_machine(done: Path, tiny_llm: str) -> None:
    """Else a stage would have other bytes in another store."""
    named = {
        stage: json.loads((done / f"models-{stage}/r@1/adapter/adapter_config.json").read_text())["base_model_name_or_path"]
        for stage in ("preft", "dpop", "postft")
    }
    assert named == {"preft": tiny_llm, "dpop": "models-preft/r@1/model", "postft": "models-dpop/r@1/model"}
    files = [path for stage in named for path in (done / f"models-{stage}/r@1").rglob("*") if path.suffix in {".json", ".jsonl", ".md"}]
    assert [path for path in files if path.name != "record.json" and str(done) in path.read_text()] == []


@pytest.mark.parametrize("job", ["evaluate", "train_preft", "prepare_instructions"])
def test_dev_documents_that_a_trained_model_is_asked_about_are_held_out_whatever_is_planned_first(
    tmp_path: Path, tiny_llm: str, job: JobName
) -> None:
    models = [{"label": "base", "model": tiny_llm}, {"label": "preft", "model": "stage:preft"}]
    asked = {"generate": models, "select": [{"label": queries, "queries": queries} for queries in ("test", "dev")]}
    settings = chain(tiny_llm, prompt={"num_examples": 1}, select={"method": "ders"})
    dev = make_recipe(tmp_path, **{**settings, "matrix": asked})
    steps = {step.output.key: step.output.payload for step in Planner().plan(dev, job)}
    (held_out,) = [payload["held_out_dev"] for key, payload in steps.items() if key.startswith("records/")]
    assert list(held_out["corpora"]) == [TASKS[dev.task].corpus]
    test_only = make_recipe(tmp_path, **{**settings, "matrix": {**asked, "select": asked["select"][:1]}})
    (payload,) = [step.output.payload for step in Planner().plan(test_only, job) if step.output.key.startswith("records/")]
    assert "held_out_dev" not in payload
