"""What a built image holds in its layers, one by one: a file that a later layer deletes is still in the image.

The image is BIOIE_TEST_IMAGE, else what ``scripts/build_image.sh`` wrote to build/image.txt.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from bioie_ray.cluster.image import check_compatible, client_versions
from bioie_ray.cluster.registry import RegistryUnreachableError, read_image

pytestmark = pytest.mark.cluster

ROOT = Path(__file__).parents[2]
LEFT_OVER = re.compile(
    r"(^|/)(pip\.conf|\.netrc|_netrc|\.pypirc|\.git-credentials|\.gitconfig|id_(rsa|ed25519|ecdsa)|\.dockerconfigjson|kubeconfig)$"
    r"|(^|/)\.(docker|kube|aws|ssh)/."
    r"|(^|/)\.cache/.|^root/\.(local|npm|config)/."
    r"|^run/secrets/.|^tmp/."
    r"|^var/lib/apt/lists/.*_(InRelease|Packages)|^var/cache/apt/.*\.(deb|bin)$"
    r"|^usr/local/share/ca-certificates/.*\.crt$"
    r"|(^|/)\.env$"
)
SECRET_NAME = re.compile(r"(SECRET|TOKEN(?!IZERS)|PASSWORD|PASSWD|CREDENTIAL|API_?KEY|ACCESS_KEY)", re.IGNORECASE)
# Bytes that only a key that someone uses begins with; packages ship examples, in their tests and documents.
KEY_BEGINS = (
    "-----BEGIN OPENSSH PRIVATE KEY-----\n-----BEGIN RSA PRIVATE KEY-----\n-----BEGIN EC PRIVATE KEY-----\n-----BEGIN PRIVATE KEY-----"
)


@dataclass(frozen=True)
class Built:
    reference: str
    config: dict[str, Any]
    layers: list[Path]  # the newest first


def run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")
    return done.stdout


def with_buildah(reference: str) -> tuple[dict[str, Any], list[Path]]:
    config = json.loads(run("buildah", "inspect", "--type", "image", reference))["OCIv1"]
    container = run("buildah", "from", "--pull-never", reference).strip()
    try:
        # STORAGE/overlay/ID/merged, and beside it `lower`: the layers below, as links from STORAGE/overlay
        folder = Path(run("buildah", "mount", container).strip()).parent
        if not (folder / "lower").is_file():
            raise RuntimeError("buildah keeps its layers by another driver than overlay")
        return config, [(folder.parent / link).resolve() for link in (folder / "lower").read_text().split(":")]
    finally:
        run("buildah", "umount", container)
        run("buildah", "rm", container)


def with_inspect(engine: str, reference: str) -> tuple[dict[str, Any], list[Path]]:
    (found,) = json.loads(run(engine, "image", "inspect", reference))
    driver = (found.get("GraphDriver") or {}).get("Data") or {}
    folders = [Path(folder) for name in ("UpperDir", "LowerDir") for folder in driver.get(name, "").split(":") if folder]
    return {"config": found["Config"], "history": found.get("History") or []}, folders


@pytest.fixture(scope="module")
def built() -> Iterator[Built]:
    written = ROOT / "build" / "image.txt"
    reference = os.environ.get("BIOIE_TEST_IMAGE") or (written.read_text().strip() if written.is_file() else "")
    if not reference:
        pytest.skip("no image was built: scripts/build_image.sh, or BIOIE_TEST_IMAGE")
    reasons = []
    for engine in ("docker", "podman", "buildah"):
        if shutil.which(engine) is None:
            continue
        try:
            config, layers = with_buildah(reference) if engine == "buildah" else with_inspect(engine, reference)
        except (RuntimeError, subprocess.TimeoutExpired) as error:
            reasons.append(str(error)[:200])
            continue
        if layers and all(os.access(layer, os.R_OK) for layer in layers):
            yield Built(reference, config, layers)
            return
        reasons.append(f"{engine} keeps layers where this user cannot read them")
    pytest.skip(f"{reference} cannot be opened here: {'; '.join(reasons) or 'no docker, podman or buildah'}")


def files_of(layer: Path) -> Iterator[str]:
    for folder, _, names in os.walk(layer):
        for name in names:
            yield os.path.relpath(os.path.join(folder, name), layer)  # noqa: PTH118 - hundreds of thousands of files


def containing(built: Built, patterns: str, *options: str) -> list[str]:
    """Text files of all layers that hold one of the lines of ``patterns``."""
    command = ["grep", "-rIlF", *options, "-f", "-", *map(str, built.layers)]
    done = subprocess.run(command, input=patterns, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode in (0, 1), done.stderr
    return done.stdout.splitlines()


def test_the_layers_are_all_there(built: Built) -> None:
    names = {name for layer in built.layers for name in files_of(layer)}
    assert {"opt/bioie/jobs/select_examples.py", "etc/profile.d/bioie.sh"} <= names
    assert any(name.endswith("site-packages/bioie_ray/cli.py") for name in names)
    assert any(name.endswith("site-packages/torch/__init__.py") for name in names)
    assert any(name.startswith(("usr/bin/", "usr/local/bin/")) for name in names)


def test_no_layer_holds_settings_caches_or_logins(built: Built) -> None:
    found = [f"{layer.parent.name[:12]}: {name}" for layer in built.layers for name in files_of(layer) if LEFT_OVER.search(name)]
    assert found == []


def test_no_layer_holds_a_certificate_of_the_builder(built: Built) -> None:
    folder = Path("/usr/local/share/ca-certificates")
    own = [path.read_text() for path in folder.glob("**/*.crt")] if folder.is_dir() else []
    # One line in the middle of each is enough to know it by, in any bundle.
    lines = [
        certificate.split("-----BEGIN CERTIFICATE-----")[1].strip().splitlines()
        for certificate in own
        if "BEGIN CERTIFICATE" in certificate
    ]
    if not lines:
        pytest.skip("this machine has no certificate of its own, so none could have been left behind")
    assert containing(built, "\n".join(block[len(block) // 2] for block in lines)) == []
    # and a certificate that belongs there is found in just this way
    bundle = next(path for layer in built.layers if (path := layer / "etc/ssl/certs/ca-certificates.crt").is_file())
    assert str(bundle) in containing(built, bundle.read_text().splitlines()[5], "--include=*.crt")


def test_no_layer_holds_a_private_key(built: Built) -> None:
    found = containing(built, KEY_BEGINS, "--include=*.pem", "--include=*.key", "--include=id_*", "--include=*.conf", "--include=*.env")
    assert found == []


def test_no_layer_holds_a_value_of_the_builders_secret_variables(built: Built) -> None:
    values = {value for name, value in os.environ.items() if SECRET_NAME.search(name) and len(value) >= 12 and "\n" not in value}
    written = json.dumps(built.config)
    assert [value[:2] + "..." for value in values if value in written] == []
    if values:
        assert containing(built, "\n".join(values), "--exclude-dir=site-packages") == []


def test_the_config_holds_no_login(built: Built) -> None:
    environment = dict(entry.split("=", 1) for entry in built.config["config"]["Env"])
    assert [name for name in environment if SECRET_NAME.search(name)] == []
    assert re.findall(r"://[^/\s\"]+:[^/\s\"]+@", json.dumps(built.config)) == []


def test_the_image_runs_as_nobody_special_and_says_what_it_is(built: Built) -> None:
    config = built.config["config"]
    environment = dict(entry.split("=", 1) for entry in config["Env"])
    assert config["User"] == "10001:10001"
    assert config["Entrypoint"] == ["tini", "--"]
    assert config["WorkingDir"] == "/opt/bioie"
    assert environment["PATH"].startswith("/opt/venv/bin:")
    assert environment["BIOIE_IMAGE_VERSION"] == config["Labels"]["org.opencontainers.image.version"]
    assert {"org.opencontainers.image.revision", "org.opencontainers.image.created"} <= set(config["Labels"])


def test_no_path_of_the_code_is_writable_by_the_user_of_the_image(built: Built) -> None:
    code = [layer / "opt" / "bioie" for layer in built.layers if (layer / "opt" / "bioie").is_dir()]
    wrong = [path for root in code for path in [root, *root.rglob("*")] if path.stat().st_uid == 10001 or path.stat().st_mode & 0o022]
    assert code
    assert wrong == []


def test_the_registry_tells_the_same_labels_and_they_fit_this_client(built: Built) -> None:
    if "/" not in built.reference:
        pytest.skip(f"{built.reference} was not pushed: scripts/push_image.sh REGISTRY")
    try:
        facts = read_image(built.reference)
    except RegistryUnreachableError as error:
        if os.environ.get("BIOIE_REQUIRE_CLUSTER"):
            raise
        pytest.skip(f"the image was pushed to a registry that is away: {error}")
    assert facts.labels == built.config["config"]["Labels"]
    check_compatible(facts, client_versions())
