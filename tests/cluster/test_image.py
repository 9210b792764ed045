"""Names of images, and which image fits which client."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

import bioie_ray
from bioie_ray.cluster.image import (
    ClientVersions,
    ImageError,
    ImageFacts,
    ImageMismatchError,
    ImageReference,
    check_compatible,
    client_versions,
    default_image,
    parse_reference,
    release_tag,
)
from bioie_ray.config.cluster import KubeSettings

DIGEST = "sha256:" + "0123456789abcdef" * 4
HERE = ClientVersions(bioie="0.1.0", python="3.11", ray="2.60.0")


def facts(**labels: str) -> ImageFacts:
    found = {"bioie.version": "0.1.0", "bioie.ray.version": "2.60.0", "bioie.python.version": "3.11"} | labels
    return ImageFacts("localhost:5000/bioie-ray:x", DIGEST, {name: value for name, value in found.items() if value}, 1)


@pytest.mark.parametrize(
    ("text", "registry", "repository", "tag", "digest"),
    [
        ("bioie-ray:0.1.0-cpu", "docker.io", "library/bioie-ray", "0.1.0-cpu", None),
        ("bioie-ray", "docker.io", "library/bioie-ray", "latest", None),
        ("lab/bioie-ray:1", "docker.io", "lab/bioie-ray", "1", None),
        ("localhost:5000/bioie-ray:0.1.0-cpu-3f29c0a1b7de", "localhost:5000", "bioie-ray", "0.1.0-cpu-3f29c0a1b7de", None),
        ("localhost/bioie-ray:1", "localhost", "bioie-ray", "1", None),
        ("registry.example.org/a/b/bioie-ray", "registry.example.org", "a/b/bioie-ray", "latest", None),
        (f"10.0.0.1:443/a/b@{DIGEST}", "10.0.0.1:443", "a/b", None, DIGEST),
        (f"registry.example.org/b:1@{DIGEST}", "registry.example.org", "b", "1", DIGEST),
        ("[::1]:5000/b:1", "[::1]:5000", "b", "1", None),
    ],
)
def test_a_reference_is_read_as_an_engine_reads_it(text: str, registry: str, repository: str, tag: str | None, digest: str | None) -> None:
    assert parse_reference(text) == ImageReference(registry, repository, tag, digest)


@pytest.mark.parametrize(
    "text", ["", "Bioie:1", "a b", "a:", ":1", "http://x/y", "x/y@sha256:12", "a//b", "a:1:2", "-a", "bioie-ray:-1", "x.org/", "x_.org:5/a"]
)
def test_what_is_no_reference_is_an_error_that_shows_one(text: str) -> None:
    with pytest.raises(ImageError, match=r"localhost:5000/bioie-ray:"):
        parse_reference(text)


@given(
    st.sampled_from(["docker.io", "localhost:5000", "registry.example.org", "127.0.0.1:1"]),
    st.from_regex(r"[a-z0-9]{1,8}(-[a-z0-9]{1,8}){0,2}/[a-z0-9]{1,9}", fullmatch=True),
    st.one_of(st.none(), st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,20}", fullmatch=True)),
    st.one_of(st.none(), st.just(DIGEST)),
)
def test_a_written_reference_reads_as_itself(registry: str, repository: str, tag: str | None, digest: str | None) -> None:
    reference = ImageReference(registry, repository, tag or (None if digest else "latest"), digest)
    assert parse_reference(str(reference)) == reference


@pytest.mark.parametrize(("text", "local"), [("localhost:5000/a", True), ("127.0.0.1/a", True), ("a", False), ("localhost.org/a", False)])
def test_only_registries_on_this_machine_are_local(text: str, local: bool) -> None:
    assert parse_reference(text).is_local is local


def test_the_image_is_the_recipes_else_the_environments_else_the_release() -> None:
    release = f"bioie-ray:{bioie_ray.__version__}-cpu"
    assert default_image(KubeSettings(), {}) == release
    assert default_image(KubeSettings(), {"BIOIE_IMAGE": ""}) == release
    assert default_image(KubeSettings(registry="lab.example.org/team/"), {}) == f"lab.example.org/team/{release}"
    assert default_image(KubeSettings(workers={"gpu": {"gpus": 1}}), {}) == release.replace("-cpu", "-gpu")
    assert default_image(KubeSettings(), {"BIOIE_IMAGE": "lab/a:1"}) == "lab/a:1"
    assert default_image(KubeSettings(image="lab/b:2"), {"BIOIE_IMAGE": "lab/a:1"}) == "lab/b:2"


def test_the_environment_is_the_process_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BIOIE_IMAGE", "lab/a:1")
    assert default_image(KubeSettings()) == "lab/a:1"


def test_a_bad_image_is_refused_before_anything_is_rendered() -> None:
    with pytest.raises(ImageError, match="capital letters"):
        default_image(KubeSettings(image="Lab/Image:1"), {})


def test_a_local_version_makes_a_tag_that_registries_accept() -> None:
    assert parse_reference(f"a:{release_tag('0.2.0+lab.1', 'gpu')}").tag == "0.2.0_lab.1-gpu"


def test_the_same_versions_fit() -> None:
    check_compatible(facts(), HERE)


@pytest.mark.parametrize(
    ("label", "value", "says"),
    [
        ("bioie.version", "0.2.0", r"bioie_ray 0\.2\.0 in the image, 0\.1\.0 here"),
        ("bioie.ray.version", "2.59.1", r"Ray 2\.59\.1 in the image, 2\.60\.0 here"),
        ("bioie.python.version", "3.12", r"Python 3\.12 in the image, 3\.11 here"),
    ],
)
def test_another_version_is_refused_with_both_sides_and_the_way_out(label: str, value: str, says: str) -> None:
    with pytest.raises(ImageMismatchError, match=says) as caught:
        check_compatible(facts(**{label: value}), HERE)
    assert "scripts/build_image.sh" in str(caught.value)
    assert "pip install" in str(caught.value)
    assert str(caught.value).count(" in the image") == 1


def test_everything_that_differs_is_named_at_once() -> None:
    with pytest.raises(ImageMismatchError) as caught:
        check_compatible(facts(**{"bioie.version": "9", "bioie.ray.version": "9", "bioie.python.version": "9"}), HERE)
    assert str(caught.value).count(" in the image") == 3


def test_an_image_without_labels_is_refused() -> None:
    with pytest.raises(ImageMismatchError, match="does not say which"):
        check_compatible(facts(**{"bioie.ray.version": ""}), HERE)


def test_a_client_without_ray_has_nothing_to_compare_it_with() -> None:
    check_compatible(facts(**{"bioie.ray.version": "1.0"}), ClientVersions("0.1.0", "3.11", None))


def test_this_client_knows_itself() -> None:
    ray = pytest.importorskip("ray")
    here = client_versions()
    assert (here.bioie, here.ray) == (bioie_ray.__version__, ray.__version__)
    assert here.python.count(".") == 1
