"""Which runs are compared, where lines begin, and which runs a recipe still lacks."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from scored_store import Run, write_run, write_scores

from bioie_ray.artifacts.output import Output
from bioie_ray.artifacts.store import StoreAddress
from bioie_ray.config.recipe import Recipe
from bioie_ray.pipeline.report import make_report
from bioie_ray.pipeline.report_missing import missing_of_recipe
from bioie_ray.pipeline.report_settings import asked_alike, flat_settings
from bioie_ray.pipeline.report_upstream import Found

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


def made(recipe: Recipe, *keys: str) -> list[Found]:
    """Scores of some of a recipe's cells, as their records have them."""
    cells = {cell.name_of("scores"): cell for cell in recipe.cells()}
    found = []
    for key in keys:
        cell = cells[key.partition("/")[2].partition("@")[0]]
        few = cell.prompt.num_examples
        method = "zero-shot" if not few else "similarity + reranker" if cell.select.method == "similarity" else cell.select.method
        record = {"recipe": cell.model_dump(mode="json", exclude={"matrix"}), "method": method, "num_examples": few}
        found.append((Output(StoreAddress("nowhere"), key), record))
    return found


def test_a_recipe_names_the_runs_it_lacks_whatever_is_decided() -> None:
    names = ["scores/g-bc5cdr_disease-0.0-0@1", "scores/g-bc5cdr_disease-0.5-ders-3@1.d4-0a1b2c"]
    missing = missing_of_recipe(grid(), made(grid(), *names))
    assert [(run.method, run.num_examples, run.name) for run in missing] == [
        ("ders", 3, "g-bc5cdr_disease-0.0-ders-3@1"),
        ("similarity + reranker", 3, "g-bc5cdr_disease-0.0-near-3@1"),
        ("zero-shot", 0, "g-bc5cdr_disease-0.5-0@1"),
        ("similarity + reranker", 3, "g-bc5cdr_disease-0.5-near-3@1"),
    ]
    assert {run.model for run in missing} == {"smollm2-135m-instruct"}
    assert missing_of_recipe(grid(), made(grid(), *names, *[f"scores/{run.name}" for run in missing])) == ()


@pytest.mark.parametrize(
    ("changed", "is_another"),
    [
        ({"generate": {"top_p": 0.5}}, True),
        ({"generate": {"repeats": 5}}, True),
        ({"generate": {"endpoint": {"concurrency": 1}}}, False),
        ({"store": "elsewhere", "cluster": {"num_workers": 3}}, False),
    ],
)
def test_scores_of_other_settings_are_not_those_of_the_recipe(changed: dict[str, Any], is_another: bool) -> None:
    key = "scores/g-bc5cdr_disease-0.5-ders-3@1"
    missing = missing_of_recipe(grid(**changed), made(grid(), key))
    told = [run.name for run in missing if run.name.startswith("g-bc5cdr_disease-0.5-ders-3@1")]
    other = "g-bc5cdr_disease-0.5-ders-3@1, whose scores were made with other settings: it needs another version"
    assert told == ([other] if is_another else [])


def test_runs_asked_alike_are_told_from_others() -> None:
    judges = [{"engine": "openai", "model": name, "endpoint": {"url": "http://h/v1", "concurrency": 8}} for name in "ab"]
    base: dict[str, Any] = {
        "generate": {"model": "m"},
        "dmcr": {"evaluators": judges},
        "train": {"threads": 2},
        "select": {"queries": "test"},
    }

    def flat(**changed: Any) -> Any:
        return flat_settings({"recipe": {**base, **changed}})

    slower = [{**judge, "endpoint": {"url": "http://h/v1", "concurrency": 2}} for judge in judges]
    for alike in ({"dmcr": {"evaluators": slower}}, {"train": {"threads": 4}}, {"select": {"queries": "test", "method": "mmr"}}):
        assert asked_alike(flat(), flat(**alike)), alike
    others = [{**judges[0], "model": "c"}, judges[1]]
    for other in ({"dmcr": {"evaluators": others}}, {"select": {"queries": "dev"}}, {"generate": {"model": "n"}}):
        assert not asked_alike(flat(), flat(**other)), other
    tuned = {"generate": {"model": "stage:preft"}}
    assert not asked_alike(flat(**tuned), flat(**tuned, train={"threads": 4}))


def test_the_page_says_what_a_recipe_lacks_also_where_nothing_of_it_has_scores(corpora: Path, tmp_path: Path) -> None:
    page = shown(corpora, tmp_path, replace(DERS, name="g-bc5cdr_disease-0.5-ders-3"), recipe=grid(seed=7))
    assert len(page["missing"]) == 5
    assert "5 runs that the recipe g asks for have no scores here" in page["html"]
    assert page["html"].count('<td class="lacking">') == 3  # one place lacks only one of its two temperatures
    assert "bc5cdr_disease, smollm2-135m-instruct, similarity + reranker, 3 examples: g-bc5cdr_disease-0.0-near-3@1" in page["html"]


def test_a_store_without_any_scores_lacks_all_runs_of_a_recipe(corpora: Path, tmp_path: Path) -> None:
    copy = tmp_path / "bare"
    shutil.copytree(corpora / "corpora", copy / "corpora")
    html = make_report([str(copy)], tmp_path / "report.html", recipe=grid()).read_text()
    assert "6 runs that the recipe g asks for have no scores here" in html
    assert 'href="#grid"' in html


def test_places_that_nobody_asks_for_are_not_missing(corpora: Path, tmp_path: Path) -> None:
    recipe = Recipe(name="g", job="evaluate", prompt={"num_examples": 3}, select={"method": "ders"})
    other = replace(NEAR, model="another", name="another")
    page = shown(corpora, tmp_path, other, recipe=recipe)
    assert "1 run that the recipe g asks for has no scores here" in page["html"]
    assert page["html"].count('<td class="lacking">') == 1
