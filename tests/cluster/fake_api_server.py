"""A fake API server for what a real one cannot be made to do on demand: break a connection in the middle of a line, answer nonsense."""

from __future__ import annotations

import json
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from kubernetes import client

from bioie_ray.cluster.api import Cluster

Query = dict[str, str]


@dataclass
class Reply:
    """What to answer: JSON, or chunks of a stream with a connection reset or a clean end after them."""

    body: Any = None
    status: int = 200
    chunks: list[bytes] = field(default_factory=list)
    reset: bool = False


@dataclass
class FakeApiServer:
    """Answers by path; a handler gets the query. Every request is remembered."""

    routes: dict[str, Callable[[Query], Reply]] = field(default_factory=dict)
    requests: list[tuple[str, str, Query]] = field(default_factory=list)
    url: str = ""

    def cluster(self) -> Cluster:
        configuration = client.Configuration()
        configuration.host = self.url
        return Cluster(configuration, context="fake")


@contextmanager
def fake_api_server() -> Iterator[FakeApiServer]:
    fake = FakeApiServer()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            query = {key: values[0] for key, values in parse_qs(parts.query).items()}
            fake.requests.append((self.command, parts.path, query))
            handler = fake.routes.get(parts.path)
            reply = (
                handler(query)
                if handler
                else Reply({"kind": "Status", "code": 404, "reason": "NotFound", "message": f"{parts.path} not found"}, 404)
            )
            if reply.chunks or reply.reset:
                self._stream(reply)
                return
            data = reply.body if isinstance(reply.body, bytes) else json.dumps(reply.body).encode()
            self.send_response(reply.status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_POST = do_GET  # noqa: N815 - the base class's naming
        do_DELETE = do_GET  # noqa: N815

        def _stream(self, reply: Reply) -> None:
            self.send_response(200)
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            for chunk in reply.chunks:
                self.wfile.write(f"{len(chunk):x}\r\n".encode() + chunk + b"\r\n")
                self.wfile.flush()
            if reply.reset:
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self.connection.close()
                self.close_connection = True
            else:
                self.wfile.write(b"0\r\n\r\n")

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    fake.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield fake
    finally:
        server.shutdown()
        server.server_close()
