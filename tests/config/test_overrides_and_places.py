"""Files of overrides, versions that YAML reads as dates, and a store that the environment names."""

from __future__ import annotations

from pathlib import Path

import pytest

from bioie_ray.config.cluster import KubeSettings
from bioie_ray.config.keys import RecipeError
from bioie_ray.config.recipe import load_recipe

DEMO = Path(__file__).parents[2] / "jobs" / "recipes" / "select_demo.yaml"


def section(folder: Path, text: str) -> str:
    path = folder / "section.yaml"
    path.write_text(text)
    return f"@{path}"


def test_a_file_sets_its_keys_and_leaves_the_others(tmp_path: Path) -> None:
    file = section(tmp_path, "embed: {max_seq_length: 64}\ncluster: {kube: {head: {memory_gib: 4}}}\n")
    recipe = load_recipe(DEMO, [file])
    assert (recipe.embed.max_seq_length, recipe.embed.batch_tokens) == (64, 2048)
    assert (recipe.cluster.kube.head.memory_gib, recipe.cluster.kube.head.cpus) == (4, 2)


def test_the_last_override_wins(tmp_path: Path) -> None:
    file = section(tmp_path, "seed: 5")
    assert load_recipe(DEMO, ["seed=4", file]).seed == 5
    assert load_recipe(DEMO, [file, "seed=4"]).seed == 4


@pytest.mark.parametrize(
    ("text", "told"), [("embed: {size: 1}", "embed.size: no such key"), ("- a", "holds no mapping"), ("a: [", "not YAML")]
)
def test_a_file_that_cannot_be_used_is_told(tmp_path: Path, text: str, told: str) -> None:
    with pytest.raises(RecipeError, match=told):
        load_recipe(DEMO, [section(tmp_path, text)])
    with pytest.raises(RecipeError, match="no recipe at"):
        load_recipe(DEMO, [f"@{tmp_path}/absent.yaml"])


def test_a_version_may_be_a_date() -> None:
    recipe = load_recipe(DEMO, ["version=2030-01-31", "corpus_version=2030-01-31", "embed.base=2030-01-30"])
    assert (recipe.version, recipe.corpus_version, recipe.embed.base) == ("2030-01-31", "2030-01-31", "2030-01-30")


def test_the_environment_says_where_a_recipe_without_a_store_writes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BIOIE_STORE", "s3://site/store")
    monkeypatch.setenv("BIOIE_STORAGE_ENDPOINT", "http://s3:9000")
    recipe = load_recipe(DEMO)
    assert {(cell.store, cell.storage.endpoint) for cell in [recipe, *recipe.cells()]} == {("s3://site/store", "http://s3:9000")}
    assert load_recipe(DEMO, ["store=here"]).store == "here"
    monkeypatch.setenv("BIOIE_STORE", "")
    assert load_recipe(DEMO).store == "./store"


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"head": {"cpus": 2, "max_cpus": 1}}, "set max_cpus to at least 2"),
        ({"keep_after_finish_s": 10, "forget_after_s": 5}, "set forget_after_s to at least 10"),
        ({"workers": {"headgroup": {}}}, "the head's own"),
    ],
)
def test_settings_that_contradict_each_other_are_told(settings: dict[str, object], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        KubeSettings.model_validate(settings)
