"""Which steps a recipe needs, and what a dry run says of them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pipeline_builders import make_recipe, planned, record, run

from bioie_ray.pipeline.job import main, run_recipe
from bioie_ray.pipeline.plan import Planner

CORPUS, RERANKER, SELECTION = "corpora/bc5cdr@1", "rerankers/bc5cdr_disease@1", "selections/r@1"
VECTORS = "vectors/bc5cdr-embedder@1"


@pytest.mark.parametrize(
    ("select", "needed"),
    [
        ({"method": "similarity", "rerank": False}, [CORPUS, VECTORS, SELECTION]),
        ({"method": "mmr", "rerank": False}, [CORPUS, VECTORS, SELECTION]),
        ({"method": "similarity"}, [CORPUS, VECTORS, RERANKER, SELECTION]),
        ({"method": "bm25", "rerank": False}, [CORPUS, SELECTION]),
        ({"method": "bm25"}, [CORPUS, VECTORS, RERANKER, SELECTION]),  # the vectors are for the reranker's hard negatives
        ({"method": "ders"}, [CORPUS, SELECTION]),
        ({"method": "fers"}, [CORPUS, SELECTION]),
        ({"method": "longest"}, [CORPUS, SELECTION]),
        ({"method": "ders", "rerank": True}, [CORPUS, VECTORS, RERANKER, SELECTION]),
    ],
)
def test_a_method_gets_the_steps_it_needs_and_no_others(
    tmp_path: Path, corpus: str, embedder: str, select: dict[str, Any], needed: list[str]
) -> None:
    assert planned(make_recipe(tmp_path, source=corpus, embed={"model": embedder}, select=select)) == needed


def test_a_cross_encoder_that_is_there_is_not_trained(tmp_path: Path, corpus: str, embedder: str, cross_encoder: str) -> None:
    recipe = make_recipe(tmp_path, source=corpus, embed={"model": embedder}, rerank={"model": cross_encoder})
    assert planned(recipe) == [CORPUS, VECTORS, SELECTION]


@pytest.mark.parametrize("kind", ["ivf", "hnsw"])
def test_an_approximate_index_is_a_step(tmp_path: Path, corpus: str, embedder: str, kind: str) -> None:
    recipe = make_recipe(tmp_path, source=corpus, embed={"model": embedder}, index={"kind": kind}, select={"rerank": False})
    assert planned(recipe) == [CORPUS, VECTORS, f"indexes/bc5cdr-embedder-{kind}@1", SELECTION]
    bm25 = make_recipe(tmp_path, source=corpus, index={"kind": kind}, select={"method": "bm25", "rerank": False})
    assert planned(bm25) == [CORPUS, SELECTION]


@pytest.mark.parametrize(
    ("job", "needed"),
    [("prepare_corpora", [CORPUS]), ("embed", [CORPUS, VECTORS]), ("train_reranker", [CORPUS, VECTORS, RERANKER])],
)
def test_each_job_stops_at_its_own_output(tmp_path: Path, corpus: str, embedder: str, job: Any, needed: list[str]) -> None:
    recipe = make_recipe(tmp_path, source=corpus, embed={"model": embedder})
    assert [step.output.key for step in Planner().plan(recipe, job)] == needed
    assert [step.output.key for step in Planner().plan(make_recipe(tmp_path, source=corpus, embed={"model": embedder}, job=job))] == needed


def test_cells_of_a_matrix_share_their_inputs(tmp_path: Path, corpus: str, embedder: str) -> None:
    matrix = {
        "task": ["bc5cdr_chemical", "bc5cdr_disease"],
        "select": [{"label": "near", "method": "similarity", "rerank": False}, {"label": "random", "method": "ders"}],
    }
    recipe = make_recipe(tmp_path, source=corpus, embed={"model": embedder}, matrix=matrix)
    selections = [f"selections/r-{task}-{label}@1" for task in matrix["task"] for label in ("near", "random")]
    assert planned(recipe) == [CORPUS, VECTORS, *selections]


def test_cells_that_would_write_one_output_are_refused(tmp_path: Path, corpus: str) -> None:
    matrix = {"select": [{"label": "a", "method": "ders"}, {"label": "a", "method": "fers"}]}
    with pytest.raises(ValueError, match=r"two cells of the recipe would both write selections/r-a@1, with different settings"):
        planned(make_recipe(tmp_path, source=corpus, matrix=matrix))


def test_cells_with_another_seed_do_not_share_a_reranker_silently(tmp_path: Path, corpus: str, embedder: str) -> None:
    data: dict[str, Any] = {"job": "train_reranker", "source": corpus, "embed": {"model": embedder}}
    with pytest.raises(ValueError, match=rf"would both write {RERANKER}, with different settings"):
        planned(make_recipe(tmp_path, matrix={"seed": [0, 1]}, **data))
    both = {"seed": [0, 1], "version": ["a", "b"]}
    with pytest.raises(ValueError, match="would both write"):
        planned(make_recipe(tmp_path, matrix=both, **data))


def test_cells_with_another_corpus_version_have_corpora_of_their_own(tmp_path: Path, corpus: str) -> None:
    data: dict[str, Any] = {"job": "prepare_corpora", "source": corpus}
    recipe = make_recipe(tmp_path, matrix={"corpus_version": ["1", "2"]}, **data)
    assert planned(recipe) == ["corpora/bc5cdr@1", "corpora/bc5cdr@2"]
    with pytest.raises(ValueError, match="would both write corpora/bc5cdr@1, with different settings"):
        planned(make_recipe(tmp_path, matrix={"prepare.documents_per_shard": [4, 8]}, **data))


def test_vectors_belong_to_their_corpus_version(tmp_path: Path, corpus: str, embedder: str) -> None:
    recipe = make_recipe(tmp_path, job="embed", source=corpus, embed={"model": embedder}, matrix={"corpus_version": ["1", "2"]})
    assert planned(recipe) == ["corpora/bc5cdr@1", VECTORS, "corpora/bc5cdr@2", "vectors/bc5cdr-embedder@2"]


def test_without_a_source_the_stores_corpus_comes_before_the_embedded_one(tmp_path: Path, corpus: str) -> None:
    assert planned(make_recipe(tmp_path, job="prepare_corpora")) == ["corpora/embedded_bc5cdr@1"]
    run(tmp_path, job="prepare_corpora", source=corpus)
    assert planned(make_recipe(tmp_path, job="prepare_corpora")) == [CORPUS]
    with_source = make_recipe(tmp_path, source=corpus, select={"method": "ders"})
    without = make_recipe(tmp_path, select={"method": "ders"})
    fingerprints = [[step.output.fingerprint for step in Planner().plan(recipe)] for recipe in (with_source, without)]
    assert fingerprints[0] == fingerprints[1]


def test_a_corpus_that_is_nowhere_says_how_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"no nlm_gene is embedded \(only bc5cdr, biorelex, ddi_corpus are\); give its release by --set source=DIR"
    ):
        planned(make_recipe(tmp_path, task="nlm_gene", select={"method": "ders"}))
    with pytest.raises(ValueError, match=r"nowhere: no such file or folder"):
        planned(make_recipe(tmp_path, source=str(tmp_path / "nowhere")))


def test_a_source_of_several_corpora_is_a_folder_with_one_below_another(tmp_path: Path, corpus: str) -> None:
    recipe = make_recipe(tmp_path, job="prepare_corpora", source=str(Path(corpus).parent))
    (outer,) = Planner().plan(recipe)
    (inner,) = Planner().plan(make_recipe(tmp_path, job="prepare_corpora", source=corpus))
    assert outer.output.fingerprint == inner.output.fingerprint


def test_the_fingerprint_covers_what_changes_bytes_and_nothing_else(tmp_path: Path, corpus: str, embedder: str, cross_encoder: str) -> None:
    base: dict[str, Any] = {"source": corpus, "embed": {"model": embedder}, "rerank": {"model": cross_encoder}}

    def fingerprint(*overrides: str) -> str:
        return Planner().plan(make_recipe(tmp_path, *overrides, **base))[-1].output.fingerprint

    ours = fingerprint()
    for same in (
        "cluster.executor=ray",
        "cluster.num_workers=3",
        "name=other",
        "version=7",
        f"store={tmp_path}/elsewhere",
        "prepare.max_quarantined_share=0.5",
    ):
        assert fingerprint(same) == ours, same
    for other in ("seed=1", "select.k=29", "select.keep=9", "select.repeat=1", "select.method=mmr", "select.rerank=false", "task=bc5cdr_chemical",
                  "rerank.max_length=256", "embed.max_seq_length=128", "index.kind=hnsw", "prepare.documents_per_shard=64"):  # fmt: skip
        assert fingerprint(other) != ours, other


def test_reranking_settings_matter_only_where_pairs_are_scored(tmp_path: Path, corpus: str) -> None:
    plain, other = (
        Planner().plan(make_recipe(tmp_path, f"rerank.max_length={n}", source=corpus, select={"method": "ders"}))[-1].output.fingerprint
        for n in (512, 256)
    )
    assert plain == other


def test_gene_types_of_the_task_are_in_the_fingerprint_and_unknown_ones_are_refused(tmp_path: Path) -> None:
    block = "{0}|t|Gene BRCA1\n{0}|a|A domain RING in case {0}.\n{0}\t5\t10\tBRCA1\tGene\t672\n{0}\t20\t24\tRING\tDomainMotif\n\n"
    source = tmp_path / "nlm_gene"
    source.mkdir()
    (source / "train.txt").write_text("".join(block.format(n) for n in range(10, 14)))
    data: dict[str, Any] = {
        "task": "nlm_gene",
        "source": str(source),
        "select": {"method": "longest", "queries": "dev", "dev_share": 0.3, "keep": 2},
    }
    by_default, spelled, genes = (
        Planner().plan(make_recipe(tmp_path, **data, **types))[-1].output.fingerprint
        for types in ({}, {"nlm_gene_types": ["Gene", "FamilyName", "DomainMotif"]}, {"nlm_gene_types": ["Gene"]})
    )
    assert by_default == spelled != genes
    with pytest.raises(ValueError, match="nlm_gene has no type Protein; known: Gene, FamilyName"):
        planned(make_recipe(tmp_path, **data, nlm_gene_types=["Protein"]))
    store = run(tmp_path, **data, nlm_gene_types=["Gene"])
    assert record(store / "selections/r@1")["payload"]["types"] == ["Gene"]


def test_a_method_or_option_that_does_not_exist_is_named_before_any_work(tmp_path: Path, corpus: str) -> None:
    with pytest.raises(ValueError, match=r"select\.method is 'nearest', which no selector is called; use one of balanced, bm25"):
        run(tmp_path, source=corpus, select={"method": "nearest"})
    with pytest.raises(ValueError, match=r"select\.options\.lambda: .*it takes fetch_k, lambda_mult"):
        run(tmp_path, source=corpus, select={"method": "mmr", "options": {"lambda": 1}, "rerank": False})
    assert not (tmp_path / "store").exists()


def test_a_model_that_is_not_there_is_named_before_any_work(tmp_path: Path, corpus: str) -> None:
    with pytest.raises(
        ValueError, match="no model at /nowhere/model; give a folder, a hub id like org/name, or one of offline:all-minilm-l6-v2"
    ):
        run(tmp_path, source=corpus, embed={"model": "/nowhere/model"}, select={"rerank": False})
    assert not (tmp_path / "store").exists()


def test_a_dry_run_prints_a_line_a_step_and_makes_nothing(
    tmp_path: Path, corpus: str, embedder: str, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = make_recipe(tmp_path, source=corpus, embed={"model": embedder}, select={"rerank": False})
    run_recipe(recipe, dry_run=True)
    lines = capsys.readouterr().out.splitlines()
    steps = Planner().plan(recipe)
    assert [line.split("  ") for line in lines] == [
        [step.output.key, "0 shards done", step.output.fingerprint[:12], f"({step.what})"] for step in steps
    ]
    assert not (tmp_path / "store").exists()
    run_recipe(recipe, "prepare_corpora")
    capsys.readouterr()
    run_recipe(recipe, dry_run=True)
    assert [line.split("  ")[1] for line in capsys.readouterr().out.splitlines()] == ["done", "0 shards done", "0 shards done"]


def test_a_dry_run_refuses_an_adapter_that_would_go_on_no_layer(tmp_path: Path, making_pairs: dict[str, Any]) -> None:
    recipe = make_recipe(tmp_path, **{**making_pairs, "job": "train_preft", "preft": {"lora": {"modules": ["c_attn"]}}})
    with pytest.raises(
        ValueError, match=r"preft\.lora\.modules=\['c_attn'\] is in no layer of .*; it has down_proj, gate_proj, k_proj, o_proj, q_proj"
    ):
        run_recipe(recipe, dry_run=True)


def test_planning_loads_neither_ray_nor_torch(tmp_path: Path, corpus: str, embedder: str) -> None:
    make_recipe(tmp_path, source=corpus, embed={"model": embedder}, rerank={"model": embedder})
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from bioie_ray.config.recipe import load_recipe\n"
        "from bioie_ray.pipeline.job import run_recipe\n"
        f"run_recipe(load_recipe(Path({str(tmp_path / 'recipe.yaml')!r})), dry_run=True)\n"
        "heavy = {'torch', 'ray', 'transformers', 'sentence_transformers', 'faiss'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 3


def test_planning_a_training_loads_neither_ray_nor_torch(tmp_path: Path, making_pairs: dict[str, Any]) -> None:
    """All fingerprints too; a dry run goes on to what the training needs, with torch."""
    recipe = make_recipe(tmp_path, **{**making_pairs, "job": "train_dpop"})
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from bioie_ray.config.recipe import load_recipe\n"
        "from bioie_ray.pipeline.plan import Planner\n"
        f"steps = Planner().plan(load_recipe(Path({str(tmp_path / 'recipe.yaml')!r})))\n"
        "print(*(f'{step.output.key} {step.output.fingerprint}' for step in steps), sep='\\n')\n"
        "heavy = {'torch', 'ray', 'transformers', 'sentence_transformers', 'faiss'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "tokens-dpop/r@1" in done.stdout
    assert done.stdout.splitlines() == [f"{step.output.key} {step.output.fingerprint}" for step in Planner().plan(recipe)]


JOBS = ("prepare_corpora", "embed", "train_reranker", "select_examples")


@pytest.mark.parametrize("job", JOBS)
def test_every_job_file_runs_its_job(tmp_path: Path, repository: Path, corpus: str, embedder: str, job: str) -> None:
    make_recipe(tmp_path, source=corpus, embed={"model": embedder}, select={"rerank": False})
    command = [sys.executable, str(repository / "jobs" / f"{job}.py"), "--recipe", str(tmp_path / "recipe.yaml"), "--dry-run"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    last = {"prepare_corpora": CORPUS, "embed": VECTORS, "train_reranker": RERANKER, "select_examples": SELECTION}[job]
    assert done.stdout.splitlines()[-1].split("  ")[0] == last


def test_a_job_ends_an_error_in_one_message_and_exit_code_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main("embed", "", ["--recipe", str(tmp_path / "none.yaml")]) == 1
    assert capsys.readouterr().err == f"error: no recipe at {tmp_path / 'none.yaml'}; the ones that ship are in jobs/recipes/\n"


def test_the_record_says_what_made_an_output(tmp_path: Path, corpus: str) -> None:
    store = run(tmp_path, source=corpus, seed=3, select={"method": "ders", "repeat": 2})
    corpus_record, ours = record(store / CORPUS), record(store / SELECTION)
    assert (ours["kind"], ours["name"], ours["version"], ours["exit"]) == ("selections", "r", "1", 0)
    assert ours["inputs"] == [{"output": CORPUS, "fingerprint": corpus_record["fingerprint"]}]
    assert ours["recipe"]["select"]["method"] == "ders"
    assert ours["recipe"]["seed"] == ours["seeds"]["recipe"] == 3
    assert ours["code"]["version"]
    assert {"started", "finished", "wall_s", "shards_made", "shards_kept"} == set(ours["timings"])
    assert str(tmp_path) not in json.dumps(ours["payload"])


@pytest.mark.parametrize("loaded", [True, False])
def test_a_local_ray_gets_a_token_unless_ray_has_already_read_its_mode(loaded: bool) -> None:
    code = (
        "import os, sys, types\n"
        f"sys.modules.update({{'ray': types.ModuleType('ray')}} if {loaded} else {{}})\n"
        "from bioie_ray.pipeline.job import set_environment\n"
        "set_environment()\n"
        "print(os.environ.get('RAY_AUTH_MODE'), len(os.environ.get('RAY_AUTH_TOKEN', '')))\n"
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_A")}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.split() == (["None", "0"] if loaded else ["token", "64"])
