"""What the kustomize overlays build, for the tests here."""

from __future__ import annotations

import functools
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import yaml

K8S = Path(__file__).parents[2] / "k8s"
OVERLAYS = ("local", "gpu", "kueue")
LABELS = {"app.kubernetes.io/name": "bioie", "app.kubernetes.io/part-of": "bioie-ray"}
Json = dict[str, Any]


def kustomize(folder: Path) -> list[Json]:
    """The objects of a kustomization; `kubectl` is the reference, as it is for whoever applies them."""
    command = [shutil.which("kubectl"), "kustomize"] if shutil.which("kubectl") else [shutil.which("kustomize"), "build"]
    if command[0] is None:
        pytest.skip("neither kubectl nor kustomize is on PATH")
    done = subprocess.run([*command, str(folder)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return [document for document in yaml.safe_load_all(done.stdout) if document]


@functools.cache
def built(overlay: str) -> tuple[Json, ...]:
    """The objects of an overlay."""
    return tuple(kustomize(K8S / "overlays" / overlay))


def one(objects: Iterable[Json], kind: str, name: str) -> Json:
    """The one object of that kind and name."""
    found = [item for item in objects if (item["kind"], item["metadata"]["name"]) == (kind, name)]
    assert len(found) == 1, f"{len(found)} {kind}/{name}"
    return found[0]


def matches(selector: Json | None, labels: dict[str, str]) -> bool:
    """Whether a label selector (of matchLabels only) chooses an object with these labels."""
    assert not (selector or {}).get("matchExpressions")
    return labels.items() >= (selector or {}).get("matchLabels", {}).items()
