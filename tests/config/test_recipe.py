from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bioie_ray.config.keys import RecipeError
from bioie_ray.config.recipe import Recipe, load_recipe, with_site

RECIPES = sorted((Path(__file__).parents[2] / "jobs" / "recipes").glob("*.yaml"))


def write(folder: Path, text: str) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(text)
    return path


def test_recipes_ship() -> None:
    assert {path.stem for path in RECIPES} >= {"select_demo", "select_bc5cdr_disease"}


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_parses_and_names_no_place(path: Path) -> None:
    recipe = load_recipe(path)
    assert recipe.source is None
    assert recipe.store == "./store"
    names = [cell.name for cell in recipe.cells()]
    assert len(set(names)) == len(names)


def test_config_loads_neither_ray_nor_torch() -> None:
    code = (
        "import sys, bioie_ray.config.recipe\n"
        "heavy = {'ray', 'torch', 'transformers', 'pyarrow', 'numpy', 'faiss'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_unknown_key_names_the_known_ones(tmp_path: Path) -> None:
    path = write(tmp_path, "name: a\njob: embed\nembed: {modle: x}\n")
    with pytest.raises(RecipeError, match=r"embed\.modle: no such key; known here: base, batch_tokens, dtype.*model"):
        load_recipe(path)


def test_cross_field_error_names_key_and_value_that_would_do(tmp_path: Path) -> None:
    path = write(tmp_path, "name: a\njob: select_examples\nselect: {k: 5, keep: 10}\n")
    with pytest.raises(RecipeError, match=r"set select\.k to at least 10 or select\.keep to at most 5"):
        load_recipe(path)


def test_test_documents_cannot_be_examples(tmp_path: Path) -> None:
    path = write(tmp_path, "name: a\njob: select_examples\nselect: {pool: [train, test]}\n")
    with pytest.raises(RecipeError, match=r"never from a test split; set select\.pool"):
        load_recipe(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- a\n", "holds no mapping"),
        ("name: [", "is not YAML"),
        ("job: embed\n", "name: Field required"),
        ("name: a\njob: cook\n", "job: Input should be"),
        ("name: a\njob: embed\nmatrix: {task: []}\n", r"matrix\.task has no values"),
        ("name: a\njob: embed\nmatrix: {store: [a, b]}\n", "cannot vary inside one recipe"),
    ],
)
def test_unusable_recipes_say_why(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        load_recipe(write(tmp_path, text))


def test_missing_recipe_says_where_recipes_are(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"no recipe at .*jobs/recipes/"):
        load_recipe(tmp_path / "none.yaml")


def test_overrides_are_yaml_and_go_on_top(tmp_path: Path) -> None:
    path = write(tmp_path, "name: a\njob: embed\nselect: {k: 12}\n")
    recipe = load_recipe(path, ["select.keep=7", "rerank.model=null", "matrix.task=[biorelex]", "store=s3://b/p"])
    assert (recipe.select.k, recipe.select.keep, recipe.rerank.model) == (12, 7, None)
    assert recipe.matrix == {"task": ("biorelex",)}
    assert recipe.store == "s3://b/p"
    for wrong in ("select.k", "=3"):
        with pytest.raises(RecipeError, match="is not KEY=VALUE"):
            load_recipe(path, [wrong])
    with pytest.raises(RecipeError, match="is a value, not a section"):
        load_recipe(path, ["name.x=3"])


def test_recipes_are_frozen() -> None:
    recipe = Recipe(name="a", job="embed")
    with pytest.raises(ValueError, match="frozen"):
        recipe.name = "b"  # type: ignore[misc]


def test_matrix_is_the_product_with_named_cells(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        "name: grid\njob: select_examples\nselect: {k: 20}\n"
        "matrix:\n  task: [bc5cdr_disease, biorelex]\n"
        "  select: [{method: ders, label: random}, {method: similarity, rerank: false, label: cosine}]\n",
    )
    cells = load_recipe(path).cells()
    assert [cell.name for cell in cells] == [
        "grid-bc5cdr_disease-random",
        "grid-bc5cdr_disease-cosine",
        "grid-biorelex-random",
        "grid-biorelex-cosine",
    ]
    assert {cell.select.k for cell in cells} == {20}  # a section of the matrix goes over the recipe's, it does not replace it
    assert cells[3].select.rerank is False
    assert cells[0].matrix == {}


@pytest.mark.parametrize("version", ["../../elsewhere", "a/b", "a@b", "a b", "''"])
def test_the_version_of_a_corpus_is_no_path(tmp_path: Path, version: str) -> None:
    path = write(tmp_path, "name: a\njob: embed\n")
    with pytest.raises(RecipeError, match="corpus_version: String should match pattern"):
        load_recipe(path, [f"corpus_version={version}"])


def test_a_cell_that_is_wrong_is_found_at_once(tmp_path: Path) -> None:
    path = write(tmp_path, "name: a\njob: select_examples\nmatrix: {select.keep: [10, 40]}\n")
    with pytest.raises(RecipeError, match=r"matrix cell .*40(.|\n)*select\.keep is 40"):
        load_recipe(path)


@given(k=st.integers(1, 100), keep=st.integers(1, 100), seed=st.integers(0, 2**31))
def test_resolved_json_reproduces_the_recipe(k: int, keep: int, seed: int) -> None:
    if keep > k:
        return
    recipe = Recipe.model_validate({"name": "a", "job": "embed", "seed": seed, "select": {"k": k, "keep": keep}})
    assert Recipe.model_validate_json(recipe.model_dump_json()) == recipe


SITE = """
kube:
  registry: lab.example.org/team
  deadline_s: 7200
  head: {cpus: 0.5}
  workers: {cpu: {cpus: 2}}
"""


def test_a_site_fills_in_only_what_a_recipe_leaves_out(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text("name: x\njob: embed\ncluster: {num_workers: 3, kube: {deadline_s: 600, workers: {gpu: {gpus: 1}}}}\n")
    recipe = load_recipe(path)
    both = with_site(recipe, SITE, "the site")
    kube = both.cluster.kube
    assert (kube.registry, kube.deadline_s, kube.head.cpus, list(kube.workers), both.cluster.num_workers) == (
        "lab.example.org/team",
        600,
        0.5,
        ["gpu"],
        3,
    )
    assert both.model_dump(exclude={"cluster"}) == recipe.model_dump(exclude={"cluster"})
    assert with_site(recipe, "", "the site") == recipe


@pytest.mark.parametrize(
    ("text", "said"),
    [("kube: {registri: x}", "registri"), ("kube: [", "not YAML"), ("[1]", "no `cluster` section"), ("kube: 3", "no `cluster`")],
)
def test_a_site_that_cannot_be_used_is_named(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "r.yaml"
    path.write_text("name: x\njob: embed\n")
    with pytest.raises(RecipeError, match="the ConfigMap") as error:
        with_site(load_recipe(path), text, "the ConfigMap bioie-site")
    assert said in str(error.value)
