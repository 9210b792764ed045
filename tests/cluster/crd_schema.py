"""The CRDs of KubeRay as JSON schemas that refuse what the API server would prune without a word."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

MODULE = "github.com/ray-project/kuberay/ray-operator@v1.6.2"
Json = dict[str, Any]


@cache
def crd_folder() -> Path:
    """BIOIE_KUBERAY_CRDS, else Go's module cache (fetched where Go and a network are there)."""
    named = os.environ.get("BIOIE_KUBERAY_CRDS")
    if named:
        if not (Path(named) / "ray.io_rayjobs.yaml").is_file():
            pytest.fail(f"BIOIE_KUBERAY_CRDS={named} holds no ray.io_rayjobs.yaml")
        return Path(named)
    go = shutil.which("go")
    if go is None:
        pytest.skip("no CRDs of KubeRay 1.6: set BIOIE_KUBERAY_CRDS to config/crd/bases of its ray-operator, or install Go")
    fetched = subprocess.run([go, "mod", "download", "-json", MODULE], capture_output=True, text=True, check=False, cwd="/")
    folder = Path(json.loads(fetched.stdout or "{}").get("Dir") or "/nowhere") / "config/crd/bases"
    if not folder.is_dir():
        pytest.skip(
            f"no CRDs of KubeRay 1.6: `go mod download {MODULE}` did not give them ({(fetched.stderr or fetched.stdout).strip()[-200:]})"
        )
    return folder


@cache
def schema_of(kind: str) -> Json:
    """The schema of a kind's version v1, strict."""
    crd = yaml.load((crd_folder() / f"ray.io_{kind.lower()}s.yaml").read_text(), Loader=yaml.CSafeLoader)
    assert crd["spec"]["names"]["kind"] == kind
    (version,) = [entry for entry in crd["spec"]["versions"] if entry["name"] == "v1"]
    schema = strict(version["schema"]["openAPIV3Schema"])
    schema["properties"]["metadata"] = {"type": "object"}  # the API server's own, not described in CRDs
    return schema


def strict(schema: Json) -> Json:
    """OpenAPI v3 of a CRD as JSON schema: unknown fields are errors unless they are declared to be kept."""
    made = {
        key: value
        for key, value in schema.items()
        if key in {"type", "enum", "pattern", "minimum", "maximum", "required", "minItems", "maxItems", "minLength", "maxLength"}
    }
    if schema.get("x-kubernetes-int-or-string"):
        made.pop("type", None)
        return {**made, "type": ["integer", "string"]}
    if "properties" in schema:
        made["properties"] = {name: strict(below) for name, below in schema["properties"].items()}
    if isinstance(schema.get("additionalProperties"), dict):
        made["additionalProperties"] = strict(schema["additionalProperties"])
    elif schema.get("type") == "object" and not schema.get("x-kubernetes-preserve-unknown-fields") and "additionalProperties" not in schema:
        made["additionalProperties"] = False
    if "items" in schema:
        made["items"] = strict(schema["items"])
    return made


def problems(manifest: Json) -> list[str]:
    """What the API server would refuse or drop of a manifest."""
    validator = jsonschema.Draft202012Validator(schema_of(manifest["kind"]))
    return [f"{error.json_path}: {error.message}" for error in validator.iter_errors(manifest)]
