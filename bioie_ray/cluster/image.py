"""Images by name: which one a job runs in, how a reference is read, and whether an image fits this client.

Standard library only, as ``image_build.py`` imports it on machines without an environment. ``registry.py`` reads what an image says of itself.
"""

from __future__ import annotations

import os
import platform
import re
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

from bioie_ray import __version__

if TYPE_CHECKING:
    from collections.abc import Mapping

    from bioie_ray.config.cluster import KubeSettings

NAME = "bioie-ray"
VARIANTS = ("cpu", "gpu")
DOCKER_HUB = "docker.io"
# Labels of an image: what the client compares before it submits.
LABEL_VERSION = "bioie.version"
LABEL_RAY = "bioie.ray.version"
LABEL_PYTHON = "bioie.python.version"
LABEL_CONTENT = "bioie.content"
LABEL_TAG = "org.opencontainers.image.version"
LABEL_REVISION = "org.opencontainers.image.revision"
# Grammar: https://github.com/distribution/reference/blob/main/reference.go
_PART = r"[a-z0-9]+(?:(?:\.|_{1,2}|-+)[a-z0-9]+)*"
_NAME = re.compile(
    rf"^(?P<repository>{_PART}(?:/{_PART})*)(?::(?P<tag>[A-Za-z0-9_][A-Za-z0-9_.-]{{0,127}}))?(?:@(?P<digest>sha256:[0-9a-f]{{64}}))?$"
)
_REGISTRY = re.compile(r"^(?:[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?|\[[0-9a-fA-F:]+\])(?::\d+)?$")


class ImageError(ValueError):
    """An image that cannot be named, found, read or used; the message says which and what to do."""


class ImageMismatchError(ImageError):
    """An image whose Ray, Python or bioie_ray is not this client's."""


@dataclass(frozen=True)
class ImageReference:
    """A parsed reference. ``registry`` is ``docker.io`` where none is written, as every engine and kubelet reads it."""

    registry: str
    repository: str
    tag: str | None
    digest: str | None

    def __str__(self) -> str:
        tag = f":{self.tag}" if self.tag else ""
        digest = f"@{self.digest}" if self.digest else ""
        return f"{self.registry}/{self.repository}{tag}{digest}"

    @property
    def is_local(self) -> bool:
        """Whether the registry is on this machine, where plain HTTP is spoken."""
        return re.match(r"^(localhost|127\.\d+\.\d+\.\d+|\[::1\])(:\d+)?$", self.registry) is not None


@dataclass(frozen=True)
class ImageFacts:
    """What a registry says of an image. Versions are ``None`` where the image has no such label."""

    reference: str
    digest: str
    labels: dict[str, str]
    size_bytes: int

    @property
    def bioie(self) -> str | None:
        """Version of the package in it."""
        return self.labels.get(LABEL_VERSION) or None

    @property
    def ray(self) -> str | None:
        """Version of Ray in it."""
        return self.labels.get(LABEL_RAY) or None

    @property
    def python(self) -> str | None:
        """Python in it, ``major.minor``."""
        return self.labels.get(LABEL_PYTHON) or None

    @property
    def tag(self) -> str | None:
        """Tag under which it was built, whatever it is called by now."""
        return self.labels.get(LABEL_TAG) or None


@dataclass(frozen=True)
class ClientVersions:
    """What this client runs with; ``ray`` is ``None`` where it is not installed."""

    bioie: str
    python: str
    ray: str | None


def client_versions() -> ClientVersions:
    """Versions of the running interpreter and its packages."""
    try:
        ray: str | None = version("ray")
    except PackageNotFoundError:
        ray = None
    return ClientVersions(bioie=__version__, python=".".join(platform.python_version_tuple()[:2]), ray=ray)


def default_image(kube: KubeSettings, environment: Mapping[str, str] | None = None) -> str:
    """The image of a job's pods: ``cluster.kube.image``, else ``BIOIE_IMAGE``, else the release of this version in ``cluster.kube.registry``.

    The release is the one for GPUs where a worker group has some.

    Raises:
        ImageError: the reference cannot be one.
    """
    environment = os.environ if environment is None else environment
    variant = "gpu" if any(group.gpus for group in kube.workers.values()) else "cpu"
    place = f"{kube.registry.rstrip('/')}/" if kube.registry else ""
    image = kube.image or environment.get("BIOIE_IMAGE") or f"{place}{NAME}:{release_tag(__version__, variant)}"
    parse_reference(image)
    return image


def release_tag(bioie_version: str, variant: str) -> str:
    """Tag of a release, for example ``0.1.0-cpu``; ``+`` of a local version is not allowed in tags and becomes ``_``."""
    return f"{bioie_version.replace('+', '_')}-{variant}"


def parse_reference(text: str) -> ImageReference:
    """A reference like ``bioie-ray:0.1.0-cpu``, ``localhost:5000/bioie-ray:0.1.0-cpu`` or ``registry/team/bioie-ray@sha256:...``.

    The first part is a registry if it holds ``.`` or ``:`` or is ``localhost``; without one it is Docker Hub.

    Raises:
        ImageError: not a reference; the message says what is wrong with it.
    """
    first, slash, rest = text.partition("/")
    named = bool(slash) and ("." in first or ":" in first or first == "localhost")
    match = _NAME.match(rest if named else text)
    if match is None or (named and not _REGISTRY.match(first)):
        hint = "; a repository has no capital letters" if text != text.lower() else ""
        raise ImageError(f"{text!r} is no image reference{hint}; write [REGISTRY/]NAME:TAG, for example localhost:5000/{NAME}:0.1.0-cpu")
    repository = match["repository"]
    if not named and "/" not in repository:
        repository = f"library/{repository}"
    tag = match["tag"]
    if tag is None and match["digest"] is None:
        tag = "latest"
    return ImageReference(first if named else DOCKER_HUB, repository, tag, match["digest"])


def check_compatible(facts: ImageFacts, client: ClientVersions | None = None) -> None:
    """Refuse an image that runs another Ray, Python (major.minor) or bioie_ray than this client renders for.

    Raises:
        ImageMismatchError: names both sides of everything that differs, and what to do.
    """
    client = client or client_versions()
    if facts.bioie is None or facts.ray is None or facts.python is None:
        raise ImageMismatchError(
            f"{facts.reference} does not say which bioie_ray, Ray and Python it holds (labels {LABEL_VERSION}, {LABEL_RAY}, {LABEL_PYTHON}); "
            "build it with scripts/build_image.sh, which sets them"
        )
    pairs = [("bioie_ray", facts.bioie, client.bioie), ("Python", facts.python, client.python)]
    if client.ray is not None:
        pairs.insert(1, ("Ray", facts.ray, client.ray))
    differing = [f"{what} {theirs} in the image, {ours} here" for what, theirs, ours in pairs if theirs != ours]
    if differing:
        raise ImageMismatchError(
            f"{facts.reference} does not fit this client: {'; '.join(differing)}. Either build an image of this checkout (scripts/build_image.sh, "
            f"scripts/push_image.sh REGISTRY) and name it in cluster.kube.image, or submit from Python {facts.python} with "
            f"pip install 'bioie-ray[cluster]=={facts.bioie}' 'ray[default]=={facts.ray}'"
        )
