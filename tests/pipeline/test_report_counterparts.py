"""Which runs are compared, where lines begin, and which runs a recipe still lacks."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from scored_store import Run, write_run, write_scores

from bioie_ray.config.recipe import Recipe
from bioie_ray.pipeline.report import make_report
from bioie_ray.pipeline.report_missing import missing_of_recipe

ZERO = Run("bc5cdr_disease", "zero-shot", 0, 0.3, repeats=1)
DERS = Run("bc5cdr_disease", "ders", 3, 0.45, repeats=1)
NEAR = Run("bc5cdr_disease", "similarity", 3, 0.75, repeats=1)


@pytest.fixture(scope="module")
def corpora(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with one greedy run without examples."""
    return write_scores(tmp_path_factory.mktemp("scored"), [replace(ZERO, temperature=0.0, name="zero-greedy")])


def shown(store: Path, folder: Path, *runs: Run, recipe: Recipe | None = None) -> dict[str, Any]:
    """The page's JSON, of a copy of the store with more runs."""
    copy = folder / "copy"
    shutil.copytree(store, copy)
    for one in runs:
        write_run(copy, one)
    page = make_report([str(copy)], folder / "report.html", recipe=recipe)
    found: dict[str, Any] = json.loads(page.with_suffix(".json").read_text())
    return {**found, "html": page.read_text(), "by_source": {result["source"]: result for result in found["scores"]}}


def test_a_lone_random_run_of_another_setting_is_no_baseline(corpora: Path, tmp_path: Path) -> None:
    ders = replace(DERS, temperature=0.0)
    page = shown(corpora, tmp_path, ders, NEAR)
    assert page["by_source"][f"scores/{NEAR.key}@1"]["against"] is None
    again = shown(corpora, tmp_path / "again", replace(NEAR, temperature=0.0), ders)
    assert again["by_source"][f"scores/{NEAR.key}@1"]["against"] is not None


def test_a_line_begins_at_the_zero_shot_run_of_its_own_setting(corpora: Path, tmp_path: Path) -> None:
    page = shown(corpora, tmp_path, ZERO, NEAR, replace(NEAR, temperature=0.0, name="near-greedy"))
    starts = {source: result["zero_shot"] for source, result in page["by_source"].items()}
    assert starts == {
        f"scores/{ZERO.key}@1": None,
        "scores/zero-greedy@1": None,
        f"scores/{NEAR.key}@1": f"scores/{ZERO.key}@1",
        "scores/near-greedy@1": "scores/zero-greedy@1",
    }
    assert page["html"].count('<rect class="start"') >= 2


def test_a_line_without_a_zero_shot_run_of_its_setting_begins_where_it_begins(corpora: Path, tmp_path: Path) -> None:
    page = shown(corpora, tmp_path, NEAR)
    assert page["by_source"][f"scores/{NEAR.key}@1"]["zero_shot"] is None


def grid(**sections: Any) -> Recipe:
    matrix = {
        "task": ["bc5cdr_disease"],
        "generate.temperature": [0.0, 0.5],
        "select": [{"label": "ders", "method": "ders"}, {"label": "near", "method": "similarity", "rerank": True}],
        "prompt.num_examples": [0, 3],
    }
    return Recipe(name="g", job="evaluate", matrix=matrix, **sections)


def test_a_recipe_names_the_runs_it_lacks_whatever_is_decided() -> None:
    names = ["scores/g-bc5cdr_disease-0.0-0@1", "scores/g-bc5cdr_disease-0.5-ders-3@1.d4-0a1b2c"]
    missing = missing_of_recipe(grid(), names)
    assert [(run.method, run.num_examples, run.name) for run in missing] == [
        ("ders", 3, "g-bc5cdr_disease-0.0-ders-3@1"),
        ("similarity + reranker", 3, "g-bc5cdr_disease-0.0-near-3@1"),
        ("zero-shot", 0, "g-bc5cdr_disease-0.5-0@1"),
        ("similarity + reranker", 3, "g-bc5cdr_disease-0.5-near-3@1"),
    ]
    assert {run.model for run in missing} == {"smollm2-135m-instruct"}
    assert missing_of_recipe(grid(), [f"scores/{run.name}" for run in missing] + names) == ()


def test_the_page_says_what_a_recipe_lacks_also_where_nothing_of_it_has_scores(corpora: Path, tmp_path: Path) -> None:
    page = shown(corpora, tmp_path, replace(DERS, name="g-bc5cdr_disease-0.5-ders-3"), recipe=grid())
    assert len(page["missing"]) == 5
    assert "5 runs that the recipe g asks for have no scores here" in page["html"]
    assert "bc5cdr_disease, smollm2-135m-instruct, similarity + reranker, 3 examples: g-bc5cdr_disease-0.0-near-3@1" in page["html"]
