"""Reading images from registries, against one that speaks real HTTP."""

from __future__ import annotations

import base64
import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_registry import OCI_INDEX, FakeRegistry, digest_of

from bioie_ray.cluster.image import ImageError, check_compatible, client_versions, parse_reference
from bioie_ray.cluster.registry import ImageMissingError, Registry, RegistryUnreachableError, credentials, read_image

LABELS = {
    "bioie.version": "0.1.0",
    "bioie.ray.version": "2.60.0",
    "bioie.python.version": "3.11",
    "org.opencontainers.image.version": "0.1.0-cpu",
}


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeRegistry]:
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "docker"))
    # What many machines have; a registry on the machine itself is no business of the proxy.
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    fake = FakeRegistry()
    yield fake
    fake.close()


def log_in(tmp_path: Path, config: dict[str, object]) -> None:
    (tmp_path / "docker").mkdir(exist_ok=True)
    (tmp_path / "docker" / "config.json").write_text(json.dumps(config))


def encoded(login: str) -> str:
    return base64.b64encode(login.encode()).decode()


def test_an_image_tells_digest_versions_and_size(registry: FakeRegistry) -> None:
    digest = registry.add_image("lab/bioie-ray", "0.1.0-cpu", LABELS, layers=(b"x" * 10, b"y" * 7))
    found = read_image(f"{registry.host}/lab/bioie-ray:0.1.0-cpu")
    assert (found.digest, found.size_bytes, found.labels) == (digest, 17, LABELS)
    assert (found.bioie, found.ray, found.python, found.tag) == ("0.1.0", "2.60.0", "3.11", "0.1.0-cpu")
    assert read_image(f"{registry.host}/lab/bioie-ray@{digest}").labels == LABELS


def test_an_image_without_labels_has_none(registry: FakeRegistry) -> None:
    config = json.dumps({"config": {}}).encode()
    registry.blobs[digest_of(config)] = config
    registry.add_manifest("a", "1", {"config": {"digest": digest_of(config), "size": 1}, "layers": []})
    found = read_image(f"{registry.host}/a:1")
    assert (found.labels, found.ray) == ({}, None)
    with pytest.raises(ImageError, match="build_image"):
        check_compatible(found, client_versions())


def test_of_an_index_the_architecture_is_chosen_and_the_digest_is_the_indexs(registry: FakeRegistry) -> None:
    images = {name: registry.add_image("a", name, {"bioie.version": name}) for name in ("arm64", "amd64")}
    digest = registry.add_index("a", "1", images | {"unknown": digest_of(b"attestation")})
    assert read_image(f"{registry.host}/a:1").labels == {"bioie.version": "amd64"}
    assert read_image(f"{registry.host}/a:1", architecture="arm64").digest == digest
    with pytest.raises(ImageMissingError, match="linux/s390x; it has linux/amd64, linux/arm64"):
        read_image(f"{registry.host}/a:1", architecture="s390x")


def test_what_is_missing_is_said_with_the_way_to_it(registry: FakeRegistry) -> None:
    with pytest.raises(ImageMissingError, match=r"has no 127\.0\.0\.1:\d+/a:1; .*scripts/push_image.sh"):
        read_image(f"{registry.host}/a:1")


def test_no_registry_at_all_is_another_error(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(RegistryUnreachableError, match="no answer from the registry"):
        read_image(f"127.0.0.1:{port}/a:1")


def test_a_registry_that_hangs_is_given_up(registry: FakeRegistry) -> None:
    registry.delay_s = 5.0
    with pytest.raises(RegistryUnreachableError, match="timed out"):
        read_image(f"{registry.host}/a:1", timeout_s=0.2)


@pytest.mark.parametrize(
    ("answer", "error", "says"),
    [
        ((200, b"<html>it works</html>"), ImageError, "not as a registry does"),
        ((200, b'["a"]'), ImageError, "not as a registry does"),
        ((200, b'{"schemaVersion": 1, "fsLayers": []}'), ImageError, "neither OCI nor Docker"),
        ((200, b"{" * 9_000_000), ImageError, "longer than"),
        ((403, b""), ImageMissingError, "docker login"),
        ((429, b""), RegistryUnreachableError, "too often"),
        ((503, b""), RegistryUnreachableError, "503"),
    ],
)
def test_strange_answers_are_one_sentence(registry: FakeRegistry, answer: tuple[int, bytes], error: type[Exception], says: str) -> None:
    registry.answer = answer
    with pytest.raises(error, match=says):
        read_image(f"{registry.host}/a:1")


def test_damage_on_the_way_is_noticed(registry: FakeRegistry) -> None:
    digest = registry.add_image("a", "1", LABELS)
    kind, body = registry.manifests["a", digest]
    registry.manifests["a", digest] = (kind, body.replace(b"layers", b"LAYERS"))
    with pytest.raises(ImageError, match="changes answers"):
        read_image(f"{registry.host}/a@{digest}")
    config = next(name for name, blob in registry.blobs.items() if b"Labels" in blob)
    registry.blobs[config] += b" "
    with pytest.raises(ImageError, match="damaged"):
        read_image(f"{registry.host}/a:1")


def test_basic_authentication_takes_dockers_login(registry: FakeRegistry, tmp_path: Path) -> None:
    registry.auth = "basic"
    registry.add_image("a", "1", LABELS)
    with pytest.raises(ImageMissingError, match="docker login"):
        read_image(f"{registry.host}/a:1")
    log_in(tmp_path, {"auths": {registry.host: {"auth": encoded("me:wrong")}}})
    with pytest.raises(ImageMissingError, match="docker login"):
        read_image(f"{registry.host}/a:1")
    log_in(tmp_path, {"auths": {registry.host: {"auth": encoded("me:let:me-in")}}})
    assert read_image(f"{registry.host}/a:1").labels == LABELS


def test_tokens_are_fetched_without_and_with_a_login(registry: FakeRegistry, tmp_path: Path) -> None:
    registry.auth = "bearer"
    registry.add_image("public/a", "1", LABELS)
    registry.add_image("lab/a", "1", LABELS)
    assert read_image(f"{registry.host}/public/a:1").labels == LABELS
    with pytest.raises(ImageMissingError, match="no right to it"):
        read_image(f"{registry.host}/lab/a:1")
    log_in(tmp_path, {"auths": {f"https://{registry.host}": {"auth": encoded("me:let:me-in")}}})
    assert read_image(f"{registry.host}/lab/a:1").labels == LABELS


def test_a_credential_helper_is_asked(registry: FakeRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    helper = tmp_path / "bin" / "docker-credential-fake"
    helper.parent.mkdir()
    helper.write_text(
        f'#!{sys.executable}\nimport json, sys\nsys.exit(1) if sys.stdin.read() != "{registry.host}" else '
        'print(json.dumps({"Username": "me", "Secret": "let:me-in"}))\n'
    )
    helper.chmod(0o755)
    monkeypatch.setenv("PATH", str(helper.parent), prepend=":")
    log_in(tmp_path, {"credHelpers": {registry.host: "fake"}})
    registry.auth = "basic"
    registry.add_image("a", "1", LABELS)
    assert read_image(f"{registry.host}/a:1").labels == LABELS
    log_in(tmp_path, {"credsStore": "fake"})
    assert credentials("elsewhere.example.org") is None
    log_in(tmp_path, {"credsStore": "not-installed"})
    assert credentials(registry.host) is None


def test_a_broken_login_file_is_said(registry: FakeRegistry, tmp_path: Path) -> None:
    log_in(tmp_path, {})
    (tmp_path / "docker" / "config.json").write_text("{")
    with pytest.raises(ImageError, match=r"cannot read .*config\.json"):
        credentials(registry.host)


def test_the_store_that_blobs_are_redirected_to_sees_no_password(registry: FakeRegistry, tmp_path: Path) -> None:
    store = FakeRegistry()
    try:
        registry.auth = "basic"
        registry.add_image("a", "1", LABELS)
        registry.redirect_blobs_to = f"http://{store.host}"
        store.blobs = registry.blobs
        log_in(tmp_path, {"auths": {registry.host: {"auth": encoded("me:let:me-in")}}})
        assert read_image(f"{registry.host}/a:1").labels == LABELS
        assert [login for _, login in store.requests] == [None]
        assert any(login for _, login in registry.requests)
    finally:
        store.close()


def test_a_registry_elsewhere_gets_tls_unless_it_is_named() -> None:
    with pytest.raises(RegistryUnreachableError):
        read_image("registry.invalid/a:1", timeout_s=2.0)
    image = parse_reference("registry.invalid:5000/a:1")
    assert Registry(image).url.startswith("https://")
    assert Registry(image, insecure=("registry.invalid:5000",)).url.startswith("http://")
    assert Registry(parse_reference("a:1")).url == "https://registry-1.docker.io/v2/library/a"


def test_all_blobs_of_a_repository_are_told_once(registry: FakeRegistry) -> None:
    registry.add_image("a", "1", LABELS, layers=(b"shared", b"one"))
    registry.add_index("a", "2", {"amd64": registry.add_image("a", "3", LABELS, layers=(b"shared", b"three"))})
    reader = Registry(parse_reference(f"{registry.host}/a"))
    assert reader.tags() == ["1", "2", "3"]
    layers = {digest_of(blob): len(blob) for blob in (b"shared", b"one", b"three")}
    assert {digest: size for digest, size in reader.all_blobs().items() if digest in layers} == layers
    assert Registry(parse_reference(f"{registry.host}/nothing")).all_blobs() == {}


def test_scripts_read_labels_with_a_bare_python(registry: FakeRegistry, repository: Path) -> None:
    registry.add_image("a", "1", LABELS)

    def ask(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-S", "-m", "bioie_ray.cluster.registry", *arguments]
        return subprocess.run(command, cwd=repository, capture_output=True, text=True, check=False)

    assert ask("label", f"{registry.host}/a:1", "bioie.ray.version").stdout == "2.60.0\n"
    assert len(ask("layers", f"{registry.host}/a:1").stdout.splitlines()) == 3
    missing = ask("digest", f"{registry.host}/a:2")
    assert (missing.returncode, missing.stdout, missing.stderr.count("\n")) == (4, "", 1)


def test_the_index_type_is_asked_for(registry: FakeRegistry) -> None:
    digest = registry.add_image("a", "single", LABELS)
    registry.add_index("a", "many", {"amd64": digest})
    assert registry.manifests["a", "many"][0] == OCI_INDEX
    assert read_image(f"{registry.host}/a:many").labels == LABELS
