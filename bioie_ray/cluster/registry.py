"""What a registry says of an image: digest, labels, size. The HTTP v2 API, read-only and anonymous or with Docker's own credentials.

Standard library: four GET requests need no client, and ``scripts/push_image.sh`` runs this file before there is an environment::

    python3 -m bioie_ray.cluster.registry label localhost:5000/bioie-ray:0.1.0-cpu bioie.content
    python3 -m bioie_ray.cluster.registry layers localhost:5000/bioie-ray:0.1.0-cpu    # digest and bytes of each of its blobs
    python3 -m bioie_ray.cluster.registry blobs localhost:5000/bioie-ray               # the same of every tag of the repository

Sources: https://github.com/opencontainers/distribution-spec/blob/main/spec.md, https://distribution.github.io/distribution/spec/auth/token/,
https://github.com/opencontainers/image-spec/blob/main/image-index.md.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import urllib.error
import urllib.parse
import urllib.request
from http.client import HTTPException
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bioie_ray.cluster.image import DOCKER_HUB, ImageError, ImageFacts, ImageReference, parse_reference

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

_INDEXES = ("application/vnd.oci.image.index.v1+json", "application/vnd.docker.distribution.manifest.list.v2+json")
_MANIFESTS = ("application/vnd.oci.image.manifest.v1+json", "application/vnd.docker.distribution.manifest.v2+json")
_MAX_BYTES = 8 * 1024 * 1024  # manifests are at most 4 MiB (the specification's limit); configs are of that order
_MAX_TAGS = 200


class ImageMissingError(ImageError):
    """The registry answered: there is no such image, or not for these credentials."""


class RegistryUnreachableError(ImageError):
    """No answer: not an image's fault, and a cluster may well reach a registry that this machine does not."""


def insecure_registries() -> tuple[str, ...]:
    """Registries that speak plain HTTP though they are not on this machine: ``BIOIE_INSECURE_REGISTRIES``, by spaces or commas."""
    return tuple(os.environ.get("BIOIE_INSECURE_REGISTRIES", "").replace(",", " ").split())


def read_image(
    reference: str, *, architecture: str = "amd64", insecure: Collection[str] | None = None, timeout_s: float = 10.0
) -> ImageFacts:
    """Digest and labels of an image, without pulling it.

    Args:
        reference: as a manifest would name it.
        architecture: which image to take where the reference is an index of several.
        insecure: registries (``host:port``) that speak plain HTTP; left out: ``insecure_registries()``. Those on this machine do so anyway.
        timeout_s: of each request.

    Raises:
        ImageMissingError: no such image.
        RegistryUnreachableError: no answer in time.
        ImageError: the reference or the answer makes no sense.
    """
    image = parse_reference(reference)
    registry = Registry(image, insecure=insecure, timeout_s=timeout_s)
    digest, manifest = registry.manifest(image.digest or image.tag or "latest")
    # The digest that pins the reference is the index's; labels are those of one image in it.
    single = registry.choose(manifest, architecture) if "manifests" in manifest else manifest
    config = registry.blob(single["config"]["digest"])
    size = sum(int(layer["size"]) for layer in single["layers"])
    return ImageFacts(reference, digest, dict((config.get("config") or {}).get("Labels") or {}), size)


class Registry:
    """One repository of one registry."""

    def __init__(self, image: ImageReference, *, insecure: Collection[str] | None = None, timeout_s: float = 10.0) -> None:
        self._image = image
        self._timeout_s = timeout_s
        local = image.is_local
        plain = insecure_registries() if insecure is None else insecure
        scheme = "http" if local or image.registry in plain else "https"
        host = "registry-1.docker.io" if image.registry == DOCKER_HUB else image.registry
        self.url = f"{scheme}://{host}/v2/{image.repository}"
        # A proxy has no business between this machine and itself.
        self._opener = urllib.request.build_opener(*([urllib.request.ProxyHandler({})] if local else []))
        self._authorization: str | None = None

    def manifest(self, name: str) -> tuple[str, dict[str, Any]]:
        """Digest and content of a manifest or an index, by tag or by digest."""
        body, headers = self._get(f"/manifests/{name}", accept=", ".join(_INDEXES + _MANIFESTS))
        digest = f"sha256:{hashlib.sha256(body).hexdigest()}"
        told = headers.get("Docker-Content-Digest", digest)
        for expected in (told, name if name.startswith("sha256:") else digest):
            if expected.startswith("sha256:") and expected != digest:
                raise ImageError(
                    f"{self._image}: the registry sent {digest} for {expected}; something between here and there changes answers"
                )
        found = self._json(body)
        if not isinstance(found.get("manifests"), list) and not (
            isinstance(found.get("config"), dict) and isinstance(found.get("layers"), list)
        ):
            raise ImageError(
                f"{self._image} has a manifest that is neither OCI nor Docker schema 2; push the image again with a current tool"
            )
        return digest, found

    def choose(self, index: dict[str, Any], architecture: str) -> dict[str, Any]:
        """The manifest of Linux on one architecture, out of an index."""
        platforms = {
            f"{entry.get('platform', {}).get('os')}/{entry.get('platform', {}).get('architecture')}": entry["digest"]
            for entry in reversed(index["manifests"])
        }
        digest = platforms.get(f"linux/{architecture}")
        if digest is None:
            raise ImageMissingError(f"{self._image} has no image for linux/{architecture}; it has {', '.join(sorted(platforms))}")
        return self.manifest(digest)[1]

    def blob(self, digest: str) -> dict[str, Any]:
        """A JSON blob, checked against its digest."""
        body, _ = self._get(f"/blobs/{digest}", accept="*/*")
        if digest != f"sha256:{hashlib.sha256(body).hexdigest()}":
            raise ImageError(f"{self._image}: the blob {digest} arrived damaged; try again")
        return self._json(body)

    def tags(self) -> list[str]:
        """Tags of the repository; empty where it does not exist."""
        try:
            body, _ = self._get("/tags/list", accept="application/json")
        except ImageMissingError:
            return []
        return sorted(self._json(body).get("tags") or [])

    def blobs(self, name: str) -> dict[str, int]:
        """Bytes of each blob of one image by its digest: the layers as they are stored, and the config. An index has none of its own."""
        manifest = self.manifest(name)[1]
        return {blob["digest"]: int(blob["size"]) for blob in [*manifest.get("layers", ()), *filter(None, [manifest.get("config")])]}

    def all_blobs(self) -> dict[str, int]:
        """The same of every tag of the repository."""
        found: dict[str, int] = {}
        for tag in self.tags()[:_MAX_TAGS]:
            found |= self.blobs(tag)
        return found

    def _json(self, body: bytes) -> dict[str, Any]:
        try:
            found = json.loads(body)
        except ValueError:
            found = None
        if not isinstance(found, dict):
            raise ImageError(f"{self._image.registry} answers, but not as a registry does; is that the right host and port?")
        return found

    def _get(self, path: str, *, accept: str) -> tuple[bytes, Any]:
        for attempt in range(2):
            request = urllib.request.Request(self.url + path, headers={"Accept": accept})  # noqa: S310 - http or https, by construction
            if self._authorization:
                # Blobs may be redirected to a store of the provider's, which must not see this.
                request.add_unredirected_header("Authorization", self._authorization)
            try:
                with self._opener.open(request, timeout=self._timeout_s) as response:
                    body = response.read(_MAX_BYTES + 1)
                    if len(body) > _MAX_BYTES:
                        raise ImageError(f"{self._image}: {path} is longer than {_MAX_BYTES} bytes, which no manifest or config is")
                    return body, response.headers
            except urllib.error.HTTPError as error:
                with error:
                    challenge = error.headers.get("WWW-Authenticate", "")
                    if error.code == 401 and attempt == 0 and challenge:
                        self._authorization = self._answer(challenge)
                        continue
                    raise self._refusal(error.code) from None
            except (OSError, HTTPException) as error:
                reason = getattr(error, "reason", None) or error
                raise RegistryUnreachableError(
                    f"no answer from the registry {self._image.registry}: {reason}; check the name and the network (a registry that speaks plain HTTP "
                    "must be named in BIOIE_INSECURE_REGISTRIES)"
                ) from None
        raise AssertionError("the second attempt returns or raises")

    def _refusal(self, status: int) -> ImageError:
        where = f"the registry {self._image.registry}"
        if status in (401, 403):
            return ImageMissingError(
                f"{where} does not let this user read {self._image.repository}: no such image, or no right to it; log in with docker login "
                f"{self._image.registry} (podman and buildah: --authfile ~/.docker/config.json)"
            )
        if status == 404:
            return ImageMissingError(
                f"{where} has no {self._image}; build and push it: scripts/build_image.sh, then scripts/push_image.sh REGISTRY"
            )
        if status == 429:
            return RegistryUnreachableError(f"{where} says that this address asked too often (429); log in, or wait")
        return RegistryUnreachableError(f"{where} answers with HTTP status {status}; try again")

    def _answer(self, challenge: str) -> str:
        """The Authorization header for a challenge: basic, or a token fetched with or without a password."""
        kind, _, rest = challenge.partition(" ")
        login = credentials(self._image.registry)
        if kind.lower() == "basic":
            if login is None:
                raise self._refusal(401)
            return _basic(*login)
        parts = dict(re.findall(r'(\w+)="([^"]*)"', rest))
        realm = parts.pop("realm", "")
        if kind.lower() != "bearer" or not realm.startswith(("https://", "http://") if self.url.startswith("http://") else "https://"):
            raise ImageError(f"{self._image.registry} asks for an authentication that is not known here: {challenge[:80]}")
        query = urllib.parse.urlencode({"scope": f"repository:{self._image.repository}:pull", **parts})
        request = urllib.request.Request(f"{realm}?{query}")  # noqa: S310 - checked above
        if login is not None:
            request.add_unredirected_header("Authorization", _basic(*login))
        try:
            with self._opener.open(request, timeout=self._timeout_s) as response:
                found = self._json(response.read(_MAX_BYTES))
        except urllib.error.HTTPError as error:
            with error:
                raise self._refusal(error.code) from None
        except (OSError, HTTPException) as error:
            raise RegistryUnreachableError(
                f"no answer from {urllib.parse.urlsplit(realm).netloc}, which gives out tokens: {error}"
            ) from None
        token = found.get("token") or found.get("access_token")
        if not token:
            raise ImageError(f"{self._image.registry} gave no token; log in with docker login {self._image.registry}")
        return f"Bearer {token}"


def _basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


def credentials(registry: str) -> tuple[str, str] | None:
    """User and password of a registry from Docker's ``config.json`` (``DOCKER_CONFIG``, else ``~/.docker``) or its credential helpers."""
    path = Path(os.environ.get("DOCKER_CONFIG") or Path.home() / ".docker") / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise ImageError(f"cannot read {path}: {error}; mend it, or log in again") from None
    names = [registry, f"https://{registry}"] + (["https://index.docker.io/v1/"] if registry == DOCKER_HUB else [])
    for name in names:
        helper = config.get("credHelpers", {}).get(name) or config.get("credsStore")
        if helper and (found := _ask_helper(helper, name)):
            return found
        entry = config.get("auths", {}).get(name, {})
        if entry.get("auth"):
            user, _, password = base64.b64decode(entry["auth"]).decode().partition(":")
            return user, password
    return None


def _ask_helper(helper: str, registry: str) -> tuple[str, str] | None:
    """https://github.com/docker/docker-credential-helpers: the registry on standard input, JSON on standard output."""
    program = shutil.which(f"docker-credential-{helper}")
    if program is None:
        return None
    done = subprocess.run([program, "get"], input=registry, capture_output=True, text=True, check=False, timeout=30)
    if done.returncode != 0:
        return None
    found = json.loads(done.stdout)
    return found["Username"], found["Secret"]


def _main(arguments: Sequence[str]) -> int:
    """What the scripts call. Exit code 4: the registry has no such image."""
    try:
        command, reference, *rest = arguments
        if command == "label":
            sys.stdout.write(read_image(reference).labels.get(rest[0], "") + "\n")
        elif command == "digest":
            sys.stdout.write(read_image(reference).digest + "\n")
        else:
            image = parse_reference(reference)
            registry = Registry(image)
            found = registry.all_blobs() if command == "blobs" else registry.blobs(image.digest or image.tag or "latest")
            sys.stdout.writelines(f"{digest} {size}\n" for digest, size in found.items())
    except ImageError as error:
        sys.stderr.write(f"error: {error}\n")
        return 4 if isinstance(error, ImageMissingError) else 1
    return 0


if __name__ == "__main__":
    sys.exit(_main(sys.argv[1:]))
