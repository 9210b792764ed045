"""A registry in one process: the read half of the HTTP v2 API with real content, and the ways in which real ones are difficult."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"


def digest_of(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


@dataclass
class FakeRegistry:
    """``auth``: None, ``basic`` or ``bearer``; the one user is ``me`` with the password ``let:me-in``, anonymous tokens read ``public/*``."""

    auth: str | None = None
    blobs: dict[str, bytes] = field(default_factory=dict)
    manifests: dict[tuple[str, str], tuple[str, bytes]] = field(default_factory=dict)
    redirect_blobs_to: str | None = None
    answer: tuple[int, bytes] | None = None  # to everything
    delay_s: float = 0.0
    requests: list[tuple[str, str | None]] = field(default_factory=list)
    server: ThreadingHTTPServer = field(init=False)

    def __post_init__(self) -> None:
        registry = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                registry.requests.append((self.path, self.headers.get("Authorization")))
                time.sleep(registry.delay_s)
                status, headers, body = registry.reply(self.path, self.headers.get("Authorization"), self.headers.get("Accept", ""))
                try:
                    self.send_response(status)
                    for name, value in headers.items():
                        self.send_header(name, value)
                    self.send_header("Content-Length", str(len(body)))
                    self.end_headers()
                    self.wfile.write(body)
                except BrokenPipeError:
                    pass

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.server.server_address[1]}"

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()

    def add_image(self, repository: str, tag: str, labels: dict[str, str], *, layers: tuple[bytes, ...] = (b"a", b"bc")) -> str:
        config = json.dumps({"architecture": "amd64", "os": "linux", "config": {"Labels": labels}}).encode()
        for blob in (config, *layers):
            self.blobs[digest_of(blob)] = blob
        manifest = {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": digest_of(config), "size": len(config)},
            "layers": [{"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": digest_of(b), "size": len(b)} for b in layers],
        }
        return self.add_manifest(repository, tag, manifest)

    def add_manifest(self, repository: str, tag: str, manifest: dict[str, Any]) -> str:
        body = json.dumps(manifest).encode()
        kind = manifest.get("mediaType", OCI_MANIFEST)
        self.manifests[repository, tag] = self.manifests[repository, digest_of(body)] = (kind, body)
        return digest_of(body)

    def add_index(self, repository: str, tag: str, images: dict[str, str]) -> str:
        entries = [
            {"digest": digest, "size": 1, "mediaType": OCI_MANIFEST, "platform": {"os": "linux", "architecture": architecture}}
            for architecture, digest in images.items()
        ]
        return self.add_manifest(repository, tag, {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries})

    def reply(self, path: str, authorization: str | None, accept: str) -> tuple[int, dict[str, str], bytes]:
        if self.answer is not None:
            return self.answer[0], {}, self.answer[1]
        url = urlsplit(path)
        if url.path == "/token":
            return self._token(parse_qs(url.query), authorization)
        repository, kind, name = self._parts(url.path)
        if not self._allowed(repository, authorization):
            challenge = 'Basic realm="fake"' if self.auth == "basic" else f'Bearer realm="http://{self.host}/token",service="fake"'
            return 401, {"WWW-Authenticate": challenge}, b""
        if kind == "blobs" and name in self.blobs:
            if self.redirect_blobs_to:
                return 307, {"Location": f"{self.redirect_blobs_to}{url.path}"}, b""
            return 200, {"Content-Type": "application/octet-stream"}, self.blobs[name]
        if kind == "manifests" and (repository, name) in self.manifests:
            content_type, body = self.manifests[repository, name]
            if content_type in accept:
                return 200, {"Content-Type": content_type, "Docker-Content-Digest": digest_of(body)}, body
        if kind == "tags" and any(known == repository for known, _ in self.manifests):
            tags = [tag for known, tag in self.manifests if known == repository and not tag.startswith("sha256:")]
            return 200, {}, json.dumps({"name": repository, "tags": tags}).encode()
        return 404, {}, b'{"errors": [{"code": "MANIFEST_UNKNOWN"}]}'

    def _parts(self, path: str) -> tuple[str, str, str]:
        repository, kind, name = path.removeprefix("/v2/").rsplit("/", 2)
        return repository, kind, name

    def _is_me(self, authorization: str | None) -> bool:
        return authorization == "Basic " + base64.b64encode(b"me:let:me-in").decode()

    def _allowed(self, repository: str, authorization: str | None) -> bool:
        if self.auth is None:
            return True
        if self.auth == "basic":
            return self._is_me(authorization)
        return authorization == f"Bearer token-for-{repository}"

    def _token(self, query: dict[str, list[str]], authorization: str | None) -> tuple[int, dict[str, str], bytes]:
        _, repository, rights = query["scope"][0].split(":")
        if query["service"] != ["fake"] or rights != "pull" or not (self._is_me(authorization) or repository.startswith("public/")):
            return 401, {}, b""
        return 200, {}, json.dumps({"token": f"token-for-{repository}"}).encode()
