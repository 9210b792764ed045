"""What goes into an image of a checkout, and the tag that follows from it: one source, for scripts and for tests.

``scripts/build_image.sh`` runs this file with whatever ``python3`` a machine has, before there is an environment, so it imports the standard
library only and keeps to what Python 3.9 knows::

    python3 -m bioie_ray.cluster.image_build tag --variant cpu           # 0.1.0-cpu-3f29c0a1b7de
    python3 -m bioie_ray.cluster.image_build stage FOLDER --variant cpu  # copies what goes in; prints tag, version, content hash, Ray, base
"""

from __future__ import annotations

import argparse
import hashlib
import re
import shutil
import sys
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

from bioie_ray.cluster.image import VARIANTS, ImageError, release_tag

if TYPE_CHECKING:
    from collections.abc import Sequence

DEFAULT_BASE = "python:3.11-slim-bookworm"
# What images/Dockerfile copies, and the file itself; .dockerignore names the same.
INPUTS = (
    "LICENSE",
    "bioie_ray",
    "images/Dockerfile",
    "images/add_system_packages.py",
    "images/requirements/build.lock",
    "images/requirements/image.lock",
    "images/requirements/models.lock",
    "jobs",
    "pyproject.toml",
)


@dataclass(frozen=True)
class BuildArguments:
    """What a build is asked for beside the files. All of it is in the content hash."""

    variant: str = "cpu"
    base: str = DEFAULT_BASE
    python: str = "3.11"
    with_models: bool = False
    torch_index_url: str = ""
    torch_sha256: str = ""

    def __post_init__(self) -> None:
        if self.variant not in VARIANTS:
            raise ImageError(f"no variant is called {self.variant}; there are {', '.join(VARIANTS)}")
        if re.search(r"://[^/]*@", self.torch_index_url):
            raise ImageError(
                "the torch index holds a user or password, and build arguments can be read in the image's history; give the URL without, and the "
                "password by a netrc or a pip.conf of your own (BIOIE_PIP_CONF)"
            )


def input_files(root: Path) -> list[str]:
    """Paths, relative to the checkout, of all files that go into an image; sorted.

    Raises:
        ImageError: one of ``INPUTS`` is not there.
    """
    found: list[str] = []
    for name in INPUTS:
        path = root / name
        if path.is_file():
            found.append(name)
        elif path.is_dir():
            inside = (file.relative_to(root) for file in path.rglob("*") if file.is_file())
            found += [
                file.as_posix()
                for file in inside
                if file.suffix != ".pyc" and not any(part == "__pycache__" or part.startswith(".") for part in file.parts)
            ]
        else:
            raise ImageError(f"{root} has no {name}, which goes into the image; run this in a complete checkout")
    return sorted(found)


def content_hash(root: Path, arguments: BuildArguments) -> str:
    """12 hex digits over paths, bytes and executable bits of what goes in, and the build arguments; never over times or places."""
    total = hashlib.sha256()
    for field, value in zip((field.name for field in fields(arguments)), astuple(arguments)):  # noqa: B905 - `strict` came with 3.10
        total.update(f"{field}={value}\0".encode())
    for name in input_files(root):
        path = root / name
        executable = bool(path.stat().st_mode & 0o100)
        total.update(f"{name}\0{int(executable)}\0{hashlib.sha256(path.read_bytes()).hexdigest()}\0".encode())
    return total.hexdigest()[:12]


def source_version(root: Path) -> str:
    """The version that ``pyproject.toml`` of a checkout says."""
    return _only(root / "pyproject.toml", r'(?m)^version = "([^"]+)"$', "version")


def locked_version(root: Path, package: str) -> str:
    """The version of a package in the lock of images."""
    return _only(root / "images/requirements/image.lock", rf"(?m)^{re.escape(package)}(?:\[[^\]]*\])?==([^\s;]+)", package)


def image_tag(root: Path, arguments: BuildArguments, *, release: bool = False) -> str:
    """``<version>-<variant>`` of a release, else ``<version>-<variant>-<content hash>``."""
    tag = release_tag(source_version(root), arguments.variant)
    return tag if release else f"{tag}-{content_hash(root, arguments)}"


def stage(root: Path, target: Path) -> None:
    """Copy what goes in to a new folder, readable by everyone: an edit during a build changes nothing, and neither does a umask."""
    for name in input_files(root):
        copy = target / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(root / name, copy)
        copy.chmod(0o755 if (root / name).stat().st_mode & 0o100 else 0o644)


def _only(path: Path, pattern: str, what: str) -> str:
    match = re.search(pattern, path.read_text(encoding="utf-8"))
    if match is None:
        raise ImageError(f"{path} names no {what}")
    return match[1]


def _main(arguments: Sequence[str]) -> int:
    """What the scripts call."""
    parser = argparse.ArgumentParser(prog="python3 -m bioie_ray.cluster.image_build", description="tag of the image of this checkout")
    parser.add_argument("command", choices=("tag", "stage"))
    parser.add_argument("folder", nargs="?", type=Path, help="stage: an empty folder for what goes in")
    parser.add_argument("--variant", default="cpu")
    parser.add_argument("--base", default=DEFAULT_BASE)
    parser.add_argument("--python", default="3.11")
    parser.add_argument("--with-models", action="store_true")
    parser.add_argument("--torch-index-url", default="")
    parser.add_argument("--torch-sha256", default="")
    parser.add_argument("--release", action="store_true")
    given = parser.parse_args(arguments)
    root = Path(__file__).resolve().parents[2]
    try:
        build = BuildArguments(given.variant, given.base, given.python, given.with_models, given.torch_index_url, given.torch_sha256)
        if given.command == "stage":
            if given.folder is None:
                parser.error("stage needs a folder")
            stage(root, given.folder)
            root = given.folder
        tag = image_tag(root, build, release=given.release)
        words = (
            [tag]
            if given.command == "tag"
            else [tag, source_version(root), content_hash(root, build), locked_version(root, "ray"), build.base]
        )
    except ImageError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    sys.stdout.write(" ".join(words) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(_main(sys.argv[1:]))
