"""The scripts around images, as far as they go without building one."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from script_loader import load_script

ROOT = Path(__file__).parents[2]
TOOLS = ROOT / "scripts" / "image_tools.sh"


@pytest.fixture
def fake_engines(tmp_path: Path) -> Path:
    """A docker client whose daemon is not there, a podman that may not run, a buildah that works."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, text in {
        "docker": '[ "$1" = --version ] && echo "Docker version 28" || { echo; echo "cannot connect to the daemon" >&2; exit 1; }',
        "podman": '[ "$1" = --version ] && echo "podman 5" || exit 125',
        "buildah": "exit 0",
    }.items():
        (folder / name).write_text(f"#!/bin/sh\n{text}\n")
        (folder / name).chmod(0o755)
    return folder


def shell(folder: Path, command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    path = f"{folder}:{os.environ['PATH']}"
    script = f"source {TOOLS}; {command}"
    return subprocess.run(
        ["bash", "-c", script], env=os.environ | {"PATH": path} | environment, capture_output=True, text=True, check=False
    )


def test_an_engine_that_is_installed_but_does_not_work_is_passed_over(fake_engines: Path) -> None:
    done = shell(fake_engines, "find_engine; echo $engine")
    assert done.stdout == "buildah\n"
    assert done.stderr.count("does not work here") == 2


def test_an_engine_that_works_first_is_taken(fake_engines: Path) -> None:
    (fake_engines / "docker").write_text("#!/bin/sh\necho 28.2.2\n")
    assert shell(fake_engines, "find_engine; echo $engine").stdout == "docker\n"
    assert shell(fake_engines, "find_engine; echo $engine", BIOIE_ENGINE="buildah").stdout == "buildah\n"


def test_no_engine_that_works_is_an_error_that_says_what_to_install(fake_engines: Path) -> None:
    (fake_engines / "buildah").write_text("#!/bin/sh\nexit 1\n")
    done = shell(fake_engines, "find_engine")
    assert done.returncode == 1
    assert "apt-get install buildah runc" in done.stderr


@pytest.mark.parametrize(
    ("reference", "plain"),
    [
        ("localhost:5000/a:1", True),
        ("localhost/a", True),
        ("127.0.0.1:5000", True),
        ("lan.example.org:80/a", True),
        ("a:1", False),
        ("localhost.example.org/a", False),
    ],
)
def test_plain_http_is_for_this_machine_and_for_what_is_named(fake_engines: Path, reference: str, plain: bool) -> None:
    done = shell(fake_engines, f"is_plain {reference}", BIOIE_INSECURE_REGISTRIES="other:1,lan.example.org:80")
    assert (done.returncode == 0) is plain
    local = shell(fake_engines, f"is_local {reference}", BIOIE_INSECURE_REGISTRIES="other:1,lan.example.org:80")
    assert (local.returncode == 0) is (plain and "lan" not in reference), "only this machine's registry gets a release's name unasked"


@pytest.mark.parametrize(
    ("command", "says"),
    [
        (["scripts/build_image.sh", "--nonsense"], "--nonsense"),
        (["scripts/build_image.sh", "--base"], "needs a value"),
        (["scripts/push_image.sh"], "usage"),
        (["scripts/push_image.sh", "--help"], "usage"),
    ],
)
def test_a_command_line_that_makes_no_sense_ends_with_2(command: list[str], says: str) -> None:
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert says in done.stderr


def test_the_build_explains_itself() -> None:
    done = subprocess.run(["scripts/build_image.sh", "--help"], cwd=ROOT, capture_output=True, text=True, check=True)
    for word in ("--variant", "--without-models", "--release", "BIOIE_BUILD_CA", "BIOIE_TORCH_INDEX_URL"):
        assert word in done.stdout


def test_system_packages_become_components() -> None:
    module = load_script(ROOT / "images" / "add_system_packages.py")
    found = module.components("zlib1g\t1:1.2.13+dfsg-1\tamd64\nbash\t5.2-2\tamd64\n", "debian")
    assert [entry["name"] for entry in found] == ["bash", "zlib1g"]
    assert found[1]["purl"] == "pkg:deb/debian/zlib1g@1%3A1.2.13%2Bdfsg-1?arch=amd64"
