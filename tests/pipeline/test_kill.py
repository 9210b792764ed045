"""What a run leaves when it is killed, when the disk is full, when a document is bad, and when another run does the same."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from pipeline_builders import best, documents, make_recipe, quarantine, record, run, vectors, write_corpus
from script_loader import load_script
from small_disks import fill

from bioie_ray.artifacts.output import Output
from bioie_ray.artifacts.store import StoreAddress
from bioie_ray.pipeline.job import main

# Nothing here needs the cross-encoder, so that a run is short beside Ray's start.
SETTINGS = (
    "matrix={}",
    "name=chaos",
    "task=biorelex",
    "prepare.documents_per_shard=2",
    "embed.max_seq_length=64",
    "select.rerank=false",
    "select.k=12",
    "prompt.num_examples=1",
    "prompt.max_documents=8",
    "generate.repeats=2",
    "generate.max_new_tokens=24",
    "dmcr.max_new_tokens=8",
)
POISONED = "d005"


@pytest.fixture(scope="module")
def chaos(repository: Path) -> Iterator[ModuleType]:
    """``scripts/chaos.py``."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(repository / "scripts")
        yield load_script(repository / "scripts/chaos.py")


@pytest.fixture(scope="module")
def reference(chaos: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Undisturbed outputs, made in one plain process each: what Ray makes must be the same."""
    work = tmp_path_factory.mktemp("reference")
    settings = (*SETTINGS, *chaos.asking(work / "models"))
    inline = chaos.Reference(work / "store", chaos.RECIPE, (*settings, "cluster.executor=inline"))
    inline.make([job_of(chaos, "evaluate")], work / "log")
    return replace(inline, settings=settings)


def job_of(chaos: ModuleType, name: str) -> Any:
    """A job of chaos, without the reranker; prompts and the first evaluator's conversions are taken as done, for shorter runs."""
    job = chaos.JOBS[name]
    done = {kind for kind in ("prompts", "conversions-a") if kind in job.kinds}
    return replace(
        job,
        kinds=tuple(kind for kind in job.kinds if kind not in done),
        reads=(*(kind for kind in job.reads if kind != "rerankers"), *done),
    )


# Each kind of process, and every job at least once. scripts/chaos.py kills each in each, many times over.
KILLS = [
    *((name, "driver") for name in ("prepare_corpora", "embed", "select_examples", "generate")),
    *((name, "worker") for name in ("select_examples", "generate", "evaluate")),
    *((name, "raylet") for name in ("generate", "dmcr")),
]


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.timeout(1_800)
@pytest.mark.parametrize(("name", "victim"), KILLS)
def test_a_killed_run_goes_on_to_the_same_bytes(chaos: ModuleType, reference: Any, tmp_path: Path, name: str, victim: str) -> None:
    job = job_of(chaos, name)
    if name in {"generate", "dmcr", "evaluate"}:  # one process that loads a model, not two, for shorter runs
        reference = replace(reference, settings=(*reference.settings, "cluster.num_workers=1"))
    for pieces in (4, 3, 2, 1):  # a run that was over before it could be hit is tried again, earlier
        try:
            kill = chaos.strike(reference, job, chaos.Moment(victim, pieces, 1.0, 0.0), random.Random(0), tmp_path)
        except chaos.NotHitError:
            continue
        assert kill.problems == []
        if kill.is_half_way:
            break
    else:
        pytest.fail("no run was hit while some of its shards were done and some were not")
    if victim != "worker":
        assert kill.first_exit != 0
        assert kill.reruns >= 1
        assert kill.shards_kept + kill.answers_kept > 0
        assert name in {"generate", "dmcr"} or kill.shards_kept >= pieces


@pytest.mark.slow
@pytest.mark.ray
def test_two_workers_give_the_answers_of_one_process(chaos: ModuleType, reference: Any, tmp_path: Path) -> None:
    """One worker does, too: the killed runs above have one."""
    job, store = job_of(chaos, "generate"), tmp_path / "store"
    reference.copy_inputs(job, store)
    settings = (*reference.settings, f"store={store}", "cluster.num_workers=2")
    log = tmp_path / "log"
    assert chaos.Run(job, reference.recipe, settings, log).wait(500) == 0, log.read_text()
    (undisturbed,) = reference.outputs(job)
    assert chaos.differences(undisturbed, store / undisturbed.relative_to(reference.store)) == []


def poison(store: Path, target: Path) -> None:
    """The corpus of ``store`` again in ``target``, with one text emptied as a faulty tool of somebody else might do."""
    source = Output(StoreAddress(str(store)), "corpora/bc5cdr@1")
    poisoned = Output(StoreAddress(str(target)), source.key, {**source.record()["payload"], "source": "somebody else's"})
    poisoned.claim()
    for shard in source.shards():
        table = source.read_shard(shard)
        texts = ["" if id_ == POISONED else text for id_, text in zip(table["id"].to_pylist(), table["text"].to_pylist(), strict=True)]
        if "" in texts:
            table = table.set_column(table.schema.get_field_index("text"), table.schema.field("text"), [texts])
        poisoned.commit(shard, table, {})
    poisoned.finish({**source.record(), "payload": poisoned.payload, "fingerprint": poisoned.fingerprint})


def test_a_poisoned_document_fails_its_own_row(tmp_path: Path, embedder: str) -> None:
    corpus = write_corpus(tmp_path / "bc5cdr", train=documents(range(12)), test=documents(range(40, 44), "t"))
    settings = {
        "task": "bc5cdr_disease",
        "prepare": {"documents_per_shard": 4},
        "embed": {"model": embedder},
        "select": {"rerank": False, "k": 12},
    }
    clean = run(tmp_path, source=str(corpus), **settings)
    poison(clean, tmp_path / "poisoned")
    make_recipe(tmp_path, **settings, store=str(tmp_path / "poisoned"))
    assert main("select_examples", "", ["--recipe", str(tmp_path / "recipe.yaml")]) == 0

    (made,) = (tmp_path / "poisoned/vectors").iterdir()
    told = quarantine(made)
    assert [(one["id"], one["reason"]) for one in told] == [(POISONED, "the text is empty")]
    assert record(made)["counts"]["quarantined"] == 1
    others = vectors(clean / "vectors" / made.name)
    del others[POISONED]
    assert vectors(made).keys() == others.keys()
    selection = best(tmp_path / "poisoned/selections/r@1")
    assert selection.keys() == {f"t{n:03d}" for n in range(40, 44)}
    assert all(len(chosen) == 10 and POISONED not in chosen for chosen in selection.values())


@pytest.mark.parametrize("name", ["prepare_corpora", "embed"])
def test_a_full_disk_leaves_no_shard_that_looks_complete(
    chaos: ModuleType, small_disk: Path, tmp_path: Path, embedder: str, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    job = chaos.JOBS[name]
    settings = {"job": name, "task": "biorelex", "prepare": {"documents_per_shard": 2}, "embed": {"model": embedder}}
    undisturbed = run(tmp_path, **settings)
    reference = chaos.Reference(undisturbed, tmp_path / "recipe.yaml", ())
    reference.copy_inputs(job, small_disk / "store", shutil.copy2)  # another file system takes no links
    (whole,) = reference.outputs(job)
    output = small_disk / "store" / whole.relative_to(reference.store)
    arguments = ["--recipe", str(tmp_path / "recipe.yaml"), "--set", f"store={small_disk / 'store'}"]

    ballast = fill(small_disk, free_bytes=100 * 1024)
    assert main(name, "", arguments) == 1
    said = capsys.readouterr().err
    assert "no space for" in said
    assert "free some, or set store= to another disk" in said
    assert "Traceback" not in said
    assert not (output / "record.json").exists()
    assert chaos.half_made(whole, output) == []
    before = chaos.Before(output)
    assert 0 < len(before.markers) < reference.pieces(job).total
    assert not list(output.rglob(".tmp-*"))

    ballast.unlink()
    assert main(name, "", arguments) == 0
    assert before.made_again() == []
    assert chaos.differences(whole, output) == []


def at_once(repository: Path, recipe: Path, name: str, settings: Sequence[str]) -> list[str]:
    """What two processes said that ran the same job at the same time; both must have succeeded."""
    command = [sys.executable, str(repository / f"jobs/{name}.py"), "--recipe", str(recipe)]
    command += [argument for setting in settings for argument in ("--set", setting)]
    environment = {**os.environ, "PYTHONPATH": str(repository), "OMP_NUM_THREADS": "1"}
    both = [subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    said = [process.communicate(timeout=500)[1] for process in both]
    assert [process.returncode for process in both] == [0, 0], "\n".join(said)
    return said


def test_two_runs_at_once_make_one_output(chaos: ModuleType, repository: Path, tmp_path: Path) -> None:
    data = {"task": "biorelex", "prepare": {"documents_per_shard": 1}, "select": {"method": "bm25", "rerank": False, "k": 12}}
    undisturbed = run(tmp_path, **data)
    said = at_once(repository, tmp_path / "recipe.yaml", "select_examples", [f"store={tmp_path / 'both'}"])
    for key in ("corpora/embedded_biorelex@1", "selections/r@1"):
        assert chaos.differences(undisturbed / key, tmp_path / "both" / key) == []
        lines = [line for text in said for line in text.splitlines() if line.endswith(str(tmp_path / "both" / key))]
        second = [line for line in lines if "another run of the same recipe finished it first" in line or "done before" in line]
        assert (len(lines), len(second)) == (2, 1)


@pytest.mark.slow
def test_two_runs_at_once_make_one_set_of_answers(chaos: ModuleType, repository: Path, tmp_path: Path, tiny_llm: str) -> None:
    data = {
        "job": "generate",
        "task": "biorelex",
        "prepare": {"documents_per_shard": 4},
        "prompt": {"num_examples": 0},
        "generate": {"model": tiny_llm, "repeats": 2, "max_new_tokens": 24, "batch_size": 1},
    }
    undisturbed = run(tmp_path, **data)
    store = tmp_path / "both"
    said = at_once(repository, tmp_path / "recipe.yaml", "generate", [f"store={store}"])
    for key in ("prompts/r@1", "generations/r@1"):
        assert chaos.differences(undisturbed / key, store / key) == []
        lines = [line for text in said for line in text.splitlines() if line.endswith(str(store / key))]
        second = [line for line in lines if "another run of the same recipe finished it first" in line or "done before" in line]
        assert (len(lines), len(second)) == (2, 1)


@pytest.mark.slow
def test_two_trainings_at_once_make_one_model(chaos: ModuleType, repository: Path, tmp_path: Path, embedder: str) -> None:
    small = {"base_model": embedder, "max_length": 64, "epochs": 6, "batch_size": 2, "threads": 1, "checkpoint_every_steps": 1}
    data = {
        "job": "train_reranker",
        "task": "biorelex",
        "embed": {"model": embedder},
        "train_reranker": small,
        "rerank": {"max_length": 64},
    }
    undisturbed = run(tmp_path, **data)
    store = tmp_path / "both"
    for kind in ("corpora", "vectors"):
        shutil.copytree(undisturbed / kind, store / kind)
    said = at_once(repository, tmp_path / "recipe.yaml", "train_reranker", [f"store={store}"])
    assert (
        sum(
            "another run of the same recipe finished it first" in text or "training reranker biorelex@1: done before" in text
            for text in said
        )
        == 1
    )
    key = "rerankers/biorelex@1"
    assert chaos.differences(undisturbed / key, store / key) == []
    assert not list(store.glob(f"{key}/_checkpoints/*"))


def test_records_of_runs_are_compared_by_what_lasts(chaos: ModuleType, tmp_path: Path) -> None:
    """The comparison itself: other timings are the same output, another byte is not."""
    folders = [tmp_path / name for name in ("one", "other")]
    for number, folder in enumerate(folders):
        folder.mkdir()
        (folder / "record.json").write_text(json.dumps({"fingerprint": "f", "timings": number}))
        (folder / "train-00000.parquet").write_bytes(b"same")
    assert chaos.differences(*folders) == []
    (folders[0] / "train-00000.parquet").write_bytes(b"else")
    (folders[1] / "train-00001.parquet").write_bytes(b"more")
    assert chaos.differences(*folders) == [
        "train-00000.parquet differs from the undisturbed run",
        "train-00001.parquet is in one run only",
    ]


def test_chunks_that_are_left_are_a_difference_and_decisions_are_none(chaos: ModuleType, tmp_path: Path) -> None:
    for name in ("_parts/test.r01-00000/00003.json", "_decisions/one.json"):
        path = tmp_path / "other" / name
        path.parent.mkdir(parents=True)
        path.write_bytes(b"{}")
    (tmp_path / "one").mkdir()
    assert chaos.differences(tmp_path / "one", tmp_path / "other") == ["_parts/test.r01-00000/00003.json is in one run only"]


def test_a_rerun_that_drops_or_asks_again_what_is_kept_is_told_of(chaos: ModuleType, tmp_path: Path) -> None:
    """The check itself: chunks may go when their shard is finished, and not before."""
    kept = [tmp_path / f"_parts/test.r01-0000{n}/00000.json" for n in range(3)]
    for path in kept:
        path.parent.mkdir(parents=True)
        path.write_bytes(b"[]")
    before = chaos.Before(tmp_path)
    (tmp_path / "_markers").mkdir()
    (tmp_path / "_markers/test.r01-00000.json").write_text("{}")
    kept[0].unlink()
    kept[1].unlink()
    kept[1].write_bytes(b"[1]")
    kept[2].unlink()
    before.watch()
    (tmp_path / "record.json").write_text(json.dumps({"timings": {"shards_kept": 0}}))
    assert before.made_again() == [f"the answers of _parts/test.r01-0000{n}/00000.json were dropped or asked for again" for n in (1, 2)]
