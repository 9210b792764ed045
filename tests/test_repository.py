"""What holds for the checkout as a whole."""

from __future__ import annotations

import re
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml

import bioie_ray
from bioie_ray.config.recipe import load_recipe

ROOT = Path(__file__).parents[1]
CARD = {"jobs", "bioie_ray", "k8s", "images", "scripts", "tests", "pyproject.toml"}
PAPERS = {"README.md", "CHANGELOG.md", "BENCHMARKS.md", "CONTRIBUTING.md", "LICENSE"}
BUILT = {"__pycache__", "build", "dist", "htmlcov", "store"}
# Written in two parts, or this file would be the first to be found.
REGISTRIES = [
    f"{name}.{end}"
    for name, end in (("pypi", "org"), ("python" + "hosted", "org"), ("download.py" + "torch", "org"), ("conda.ana" + "conda", "org"))
]
LEFT_OVER = ["TO" + "DO", "FIX" + "ME", "X" * 3]
NEIGHBOUR = ".." + "/shared"
PLACES = re.compile(r"(?<![\w./~-])/(?:wo" + r"rk|ro" + r"ot|home)/(?!bioie\b)\w")  # but the home of the image's user is one
LOCKS = sorted((ROOT / "images" / "requirements").glob("*.lock"))
RECIPES = sorted((ROOT / "jobs" / "recipes").glob("*.yaml"))


def tracked() -> list[Path]:
    """Files under version control; without git, all but hidden and built ones."""
    listing = ["git", "-C", str(ROOT), "ls-files", "-z"]
    done = subprocess.run(listing, capture_output=True, check=False) if (ROOT / ".git").exists() else None
    if done is not None and done.returncode == 0:
        return [path for name in done.stdout.decode().split("\0") if name and (path := ROOT / name).is_file()]
    found = (path for path in ROOT.rglob("*") if path.is_file())
    return [path for path in found if not any(part.startswith(".") or part in BUILT for part in path.relative_to(ROOT).parts)]


def texts() -> dict[str, str]:
    found = {}
    for path in tracked():
        data = path.read_bytes()
        if b"\0" not in data:
            found[path.relative_to(ROOT).as_posix()] = data.decode("utf-8")  # and every text file is UTF-8
    return found


def lines_with(pattern: str | re.Pattern[str], *, beside: tuple[str, ...] = ()) -> list[str]:
    compiled = re.compile(re.escape(pattern)) if isinstance(pattern, str) else pattern
    return [
        f"{name}:{number}: {line.strip()[:80]}"
        for name, text in texts().items()
        if not name.startswith(beside)
        for number, line in enumerate(text.splitlines(), start=1)
        if compiled.search(line)
    ]


def test_the_top_level_is_that_of_the_design_and_what_tools_demand() -> None:
    names = {path.relative_to(ROOT).parts[0] for path in tracked()}
    assert {name for name in names if not name.startswith(".")} <= CARD | PAPERS
    assert names >= CARD | PAPERS


def test_no_paper_is_empty() -> None:
    assert {name for name in PAPERS if len((ROOT / name).read_text().split()) < 50} == set()


@pytest.mark.parametrize("host", REGISTRIES)
def test_no_package_registry_is_named(host: str) -> None:
    assert lines_with(host) == []


def test_no_machine_is_named() -> None:
    assert lines_with(PLACES) == []
    assert lines_with(NEIGHBOUR, beside=("scripts/", ".ci/")) == []


@pytest.mark.parametrize("word", LEFT_OVER)
def test_nothing_is_left_for_later(word: str) -> None:
    assert lines_with(re.compile(rf"\b{word}\b"), beside=("images/requirements/",)) == []


@pytest.mark.parametrize("path", LOCKS, ids=lambda path: path.stem)
def test_every_locked_requirement_is_one_version_with_hashes(path: Path) -> None:
    joined = path.read_text().replace("\\\n", " ")
    requirements = [line for line in joined.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    assert len(requirements) > (0 if path.stem == "models" else 20)
    for line in requirements:
        assert re.match(r"^[A-Za-z0-9][\w.-]*(\[[\w,-]+\])?==[^\s;]+\s", line), line[:80]
        assert re.search(r"--hash=sha256:[0-9a-f]{64}(\s|$)", line), line[:80]
    assert "://" not in joined
    assert "index-url" not in joined


def test_the_locks_are_of_the_extras_and_hold_every_dependency() -> None:
    assert {path.stem for path in LOCKS} >= {"jobs", "all"}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    locked = {
        re.split(r"==| ", line)[0].lower()
        for line in (ROOT / "images/requirements/jobs.lock").read_text().splitlines()
        if re.match(r"\w", line)
    }
    wanted = [
        *project["dependencies"],
        *(r for extra in ("select", "generate", "train", "serve") for r in project["optional-dependencies"][extra]),
    ]
    names = {re.split(r"[\[<>=]", requirement)[0].lower() for requirement in wanted}
    assert names <= {re.sub(r"\[.*", "", name) for name in locked}


def test_the_version_is_the_newest_of_the_changelog() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    newest = re.search(r"(?m)^## \[?(\d[^\]\s]*)", (ROOT / "CHANGELOG.md").read_text())
    assert newest is not None
    assert newest[1] == version == bioie_ray.__version__


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_recipes_name_no_place(path: Path) -> None:
    recipe = load_recipe(path)
    assert (recipe.source, recipe.store, recipe.storage.endpoint, recipe.rerank.model) == (None, "./store", None, None)
    for model in (recipe.embed.model, recipe.train_reranker.base_model):
        assert not model.startswith(("/", ".", "~", "file:"))
    written = yaml.safe_dump(yaml.safe_load(path.read_text()))
    assert not re.search(r"://|(^|\s)[~.]{0,2}/\w", written)


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_says_how_to_run_it(path: Path) -> None:
    head = "".join(line for line in path.read_text().splitlines(keepends=True) if line.startswith("#"))
    assert f"bioie run jobs/recipes/{path.name}" in head


@pytest.mark.parametrize("path", sorted((ROOT / "jobs").glob("*.py")), ids=lambda path: path.stem)
def test_jobs_are_thin_and_say_how_to_run_them(path: Path) -> None:
    text = path.read_text()
    assert len(text.splitlines()) <= 60
    assert f"python jobs/{path.name} --recipe jobs/recipes/" in text.split('"""')[1]


def test_no_file_of_the_library_is_long() -> None:
    lengths = {path.relative_to(ROOT).as_posix(): len(path.read_text().splitlines()) for path in (ROOT / "bioie_ray").rglob("*.py")}
    assert {name: length for name, length in lengths.items() if length > 500} == {}


def test_scripts_are_executable_and_stop_at_the_first_error() -> None:
    for path in [*(ROOT / "scripts").glob("*.sh"), ROOT / ".ci" / "run"]:
        assert path.stat().st_mode & 0o111, path.name
        assert "set -euo pipefail" in path.read_text(), path.name
