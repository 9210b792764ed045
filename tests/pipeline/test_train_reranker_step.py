"""Training a reranker through a recipe: what it leaves, what the record says, and that it goes on where it stopped."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pipeline_builders import documents, make_recipe, planned, record, rows, run, shards, write_corpus

from bioie_ray.execution.units import UnitsFailedError
from bioie_ray.pipeline.train_reranker import worse_than_cosine
from bioie_ray.retrieval import train_reranker as library

OUTPUT = "rerankers/biorelex@1"
METHODS = ["reranked", "cosine", "bm25", "random"]


def settings(embedder: str, **train: Any) -> dict[str, Any]:
    """A recipe over the embedded corpus that trains in a second or two."""
    small = {
        "max_length": 64,
        "epochs": 4,
        "candidates_per_query": 30,
        "batch_size": 2,
        "learning_rate": 1e-3,
        "threads": 1,
        "checkpoint_every_steps": 5,
    }
    return {
        "job": "train_reranker",
        "task": "biorelex",
        "embed": {"model": embedder},
        "train_reranker": {"base_model": embedder, **small, **train},
        "rerank": {"max_length": 128},
    }


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, embedder: str) -> Path:
    return run(tmp_path_factory.mktemp("trained"), **settings(embedder))


def test_the_model_folder_loads_as_a_cross_encoder(trained: Path) -> None:
    from sentence_transformers import CrossEncoder

    model = CrossEncoder(str(trained / OUTPUT / "model"), device="cpu")
    assert model.num_labels == 1
    scores = model.predict([("p53 binds MDM2.", "MDM2 binds p53."), ("p53 binds MDM2.", "Nothing.")])
    assert all(0.0 < score < 1.0 for score in scores)


def test_the_record_says_what_was_trained_and_how_it_ranks(trained: Path) -> None:
    made = record(trained / OUTPUT)
    assert made["kind"] == "rerankers"
    assert made["tasks"] == ["biorelex"]
    training = made["training"]
    assert training["steps"] == 4 * training["queries_with_pairs"]  # a batch of two pairs has no room for a second query
    assert training["pairs"] == made["counts"]["pairs"] > 10
    assert training["queries"] > training["held_out_queries"] > 0
    assert training["pairs_truncated"] == made["counts"]["pairs_truncated"]
    held_out = made["held_out"]
    assert [(row["task"], row["method"], row["k"]) for row in held_out] == [("biorelex", method, 10) for method in METHODS]
    for row in held_out:
        for score in ("ndcg", "coverage"):
            assert 0.0 <= row[score]["low"] <= row[score]["mean"] <= row[score]["high"] <= 1.0
            assert row[score]["num"] == training["held_out_queries"]
    files = {entry["file"] for entry in made["files"]}
    assert {"model/model.safetensors", "model/config.json"} <= files
    assert files == {
        f"model/{path.relative_to(trained / OUTPUT / 'model')}" for path in (trained / OUTPUT / "model").rglob("*") if path.is_file()
    }


def test_the_shard_is_the_loss_trace(trained: Path) -> None:
    trace = rows(trained / OUTPUT)
    assert [row["step"] for row in trace][-1] == record(trained / OUTPUT)["training"]["steps"]
    losses, epoch = [row["loss"] for row in trace], len(trace) // 4
    assert sum(losses[-epoch:]) < sum(losses[:epoch])  # over the same lists


def test_checkpoints_go_when_they_have_served(trained: Path) -> None:
    assert not list((trained / OUTPUT).rglob("*.pt"))


class StoppedError(Exception):
    """Ends a training in the middle."""


def test_a_training_that_was_stopped_goes_on_to_the_same_bytes(
    tmp_path: Path, trained: Path, embedder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, seen = library.train, []

    def stopped(*arguments: Any) -> Any:
        *others, progress = arguments

        def watch(state: library.Progress) -> None:
            progress(state)
            seen.append(state.step)
            if state.step == 8:
                raise StoppedError("the machine went away")

        return real(*others, watch)

    monkeypatch.setattr(library, "train", stopped)
    with pytest.raises(UnitsFailedError, match="training: StoppedError: the machine went away"):
        run(tmp_path, **settings(embedder))
    output = tmp_path / "store" / OUTPUT
    assert not (output / "record.json").exists()
    assert not (output / "training.parquet").exists()
    assert [path.name for path in (output / "_checkpoints").iterdir()] == ["step-00000005.pt"]

    def watched(*arguments: Any) -> Any:
        *others, progress = arguments
        return real(*others, lambda state: (seen.append(state.step), progress(state)))

    monkeypatch.setattr(library, "train", watched)
    run(tmp_path, **settings(embedder))
    assert seen[:9] == [*range(1, 9), 6]  # it goes on after the checkpoint
    ours, whole = shards(output), shards(trained / OUTPUT)
    assert ours.keys() == whole.keys()
    assert ours["model/model.safetensors"] == whole["model/model.safetensors"]
    assert ours == whole


def test_how_often_checkpoints_are_written_is_not_part_of_the_fingerprint_and_the_seed_is(
    tmp_path: Path, trained: Path, embedder: str
) -> None:
    run(tmp_path, **settings(embedder, checkpoint_every_steps=1000))
    same, ours = record(trained / OUTPUT), record(tmp_path / "store" / OUTPUT)
    assert ours["fingerprint"] == same["fingerprint"]
    assert shards(tmp_path / "store" / OUTPUT) == shards(trained / OUTPUT)
    run(tmp_path, **settings(embedder), seed=1, version="seed1")
    other = tmp_path / "store/rerankers/biorelex@seed1"
    assert shards(other)["model/model.safetensors"] != shards(trained / OUTPUT)["model/model.safetensors"]


def test_a_selection_uses_the_model_that_the_recipe_trains(trained: Path, tmp_path: Path, embedder: str) -> None:
    store = run(tmp_path, **{**settings(embedder), "job": "select_examples"}, select={"k": 12, "keep": 4})
    made = record(store / "selections/r@1")
    assert [i["output"] for i in made["inputs"]][-1] == OUTPUT
    assert made["payload"]["reranker"] == record(store / OUTPUT)["fingerprint"] == record(trained / OUTPUT)["fingerprint"]
    scores = [row["rerank_score"] for row in rows(store / "selections/r@1")]
    assert len(scores) == 16 * 4
    given = {"max_length": 128, "model": str(store / OUTPUT / "model")}
    run(tmp_path, name="given", task="biorelex", embed={"model": embedder}, rerank=given, select={"k": 12, "keep": 4})
    assert [row["rerank_score"] for row in rows(store / "selections/given@1")] == scores


def test_several_tasks_need_a_name(tmp_path: Path, embedder: str) -> None:
    with pytest.raises(
        ValueError, match=r"train_reranker\.tasks lists several tasks, so the reranker needs a name; set train_reranker\.name=joint"
    ):
        make_recipe(tmp_path, **settings(embedder, tasks=["biorelex", "bc5cdr_disease"]))


def test_a_joint_reranker_learns_from_every_task_and_is_measured_on_each(tmp_path: Path, embedder: str) -> None:
    tasks = ["biorelex", "bc5cdr_disease", "bc5cdr_cid"]
    data = settings(embedder, tasks=tasks, name="joint", max_queries=6, epochs=1)
    assert planned(make_recipe(tmp_path, **data)) == [
        "corpora/embedded_biorelex@1",
        "corpora/embedded_bc5cdr@1",
        "vectors/embedded_biorelex-embedder@1",
        "vectors/embedded_bc5cdr-embedder@1",
        "rerankers/joint@1",
    ]
    made = record(run(tmp_path, **data) / "rerankers/joint@1")
    assert made["tasks"] == tasks
    assert [(row["task"], row["method"]) for row in made["held_out"]] == [(task, method) for task in tasks for method in METHODS]
    assert made["training"]["queries"] == 18


def test_nothing_of_dev_or_test_is_trained_on(tmp_path: Path, embedder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    real, trained_on = library.train, []

    def watched(settings: Any, texts: Any, pairs: Any, *rest: Any) -> Any:
        trained_on.append((set(texts), list(pairs)))
        return real(settings, texts, pairs, *rest)

    monkeypatch.setattr(library, "train", watched)
    test = documents(range(40, 46), "t")
    twins = [(f"twin{n}", *parts) for n, (_, *parts) in enumerate(test)]
    source = write_corpus(tmp_path / "bc5cdr", train=[*documents(range(40)), *twins], test=test)
    store = run(
        tmp_path, **{**settings(embedder), "task": "bc5cdr_disease", "source": str(source)}, select={"queries": "dev", "dev_share": 0.2}
    )
    output = store / "rerankers/bc5cdr_disease@1"
    select = {**settings(embedder), "job": "select_examples", "task": "bc5cdr_disease", "source": str(source), "name": "dev"}
    run(tmp_path, **select, select={"queries": "dev", "dev_share": 0.2, "method": "ders", "keep": 3})
    dev = json.loads((store / "selections/dev@1/best_examples.json").read_text()).keys()
    ((used, pairs),) = trained_on
    ids = {id_.removeprefix("bc5cdr:") for id_ in used}
    assert len(dev) == 9
    assert not ids & dev
    assert not ids & {"t040", "t041", "twin0", "twin1"}
    assert all(a != b for a, b in pairs)
    assert record(output)["training"]["held_out_queries"] > 0


def test_a_corpus_of_which_only_train_is_at_hand_can_be_trained_on(tmp_path: Path, embedder: str) -> None:
    source = write_corpus(tmp_path / "bc5cdr", train=documents(range(40)))
    data = {**settings(embedder), "task": "bc5cdr_disease", "source": str(source)}
    made = record(run(tmp_path, **data, select={"queries": "dev"}) / "rerankers/bc5cdr_disease@1")
    assert made["training"]["queries"] + made["training"]["held_out_queries"] == 36


def test_too_few_documents_with_answers_is_said(tmp_path: Path, embedder: str) -> None:
    source = write_corpus(tmp_path / "bc5cdr", train=documents(range(1)), test=documents([40], "t"))
    with pytest.raises(ValueError, match="1 training documents have gold answers; a reranker needs at least 2"):
        run(tmp_path, **{**settings(embedder), "task": "bc5cdr_disease", "source": str(source)})
    assert not (tmp_path / "store/rerankers/bc5cdr_disease@1/record.json").exists()


def test_a_reranker_that_does_harm_is_said_to() -> None:
    def row(task: str, method: str, mean: float) -> dict[str, object]:
        return {"task": task, "method": method, "k": 10, "ndcg": {"mean": mean}}

    rows = [row("a", "reranked", 0.2), row("a", "cosine", 0.4), row("b", "reranked", 0.5), row("b", "cosine", 0.4)]
    (warning,) = worse_than_cosine(rows)
    assert "held-out queries of a " in warning
    assert "0.200 against 0.400" in warning
    assert "select.rerank=false" in warning
