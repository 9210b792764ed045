"""A chat server over real sockets, for what a good one cannot be made to do on demand."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Json = dict[str, Any]


@dataclass
class Reply:
    """What to say; ``promised`` is the Content-Length if it is not the truth. ``None`` in the place of a reply closes the connection."""

    body: Any = None
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    promised: int | None = None
    after_s: float = 0.0


def answer(text: str | None, finish: str = "stop", usage: tuple[int, int] | None = (100, 10)) -> Reply:
    body: Json = {"choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": finish}]}
    if usage is not None:
        body["usage"] = {"prompt_tokens": usage[0], "completion_tokens": usage[1], "total_tokens": sum(usage)}
    return Reply(body)


def error(status: int, message: str, *, code: Any = None, type: str | None = None, headers: dict[str, str] | None = None) -> Reply:
    return Reply({"error": {"message": message, "code": code, "type": type}}, status, headers or {})


@dataclass
class FakeEndpoint:
    """``respond`` gets the number of the request, from 1, and its JSON. Everything that was asked is remembered."""

    url: str = ""
    respond: Callable[[int, Json], Reply | None] = lambda number, body: answer("[]")
    models: list[str] = field(default_factory=lambda: ["tiny"])
    asked: list[Json] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    num_at_once: int = 0
    most_at_once: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)
    die: Callable[[], None] = lambda: None


@contextmanager
def fake_endpoint(port: int = 0) -> Iterator[FakeEndpoint]:
    fake = FakeEndpoint()
    server = ThreadingHTTPServer(("127.0.0.1", port), _handler(fake))
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    fake.url = f"http://127.0.0.1:{server.server_address[1]}/v1"

    def die() -> None:
        """No more connections: new ones are refused, those that are open lose what they ask next."""
        server.socket.close()

    fake.die = die
    try:
        yield fake
    finally:
        server.shutdown()
        server.socket.close()
        thread.join()


def _handler(fake: FakeEndpoint) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if self.path != "/v1/chat/completions":
                self._say(error(404, f"no {self.path} here"))
                return
            with fake.lock:
                fake.asked.append(body)
                fake.headers.append(dict(self.headers))
                fake.times.append(time.monotonic())
                number = len(fake.asked)
                fake.num_at_once += 1
                fake.most_at_once = max(fake.most_at_once, fake.num_at_once)
            try:
                reply = fake.respond(number, body)
                if reply is not None:
                    time.sleep(reply.after_s)
            finally:
                with fake.lock:
                    fake.num_at_once -= 1
            self._say(reply)

        def do_GET(self) -> None:
            if self.path == "/v1/models":
                self._say(Reply({"object": "list", "data": [{"id": name} for name in fake.models]}))
            else:
                self._say(error(404, f"no {self.path} here"))

        def _say(self, reply: Reply | None) -> None:
            self.close_connection = reply is None or reply.promised is not None
            if reply is None:
                return
            content = reply.body if isinstance(reply.body, bytes) else json.dumps(reply.body).encode()
            try:
                self.send_response(reply.status)
                for name, value in reply.headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(content) if reply.promised is None else reply.promised))
                self.end_headers()
                self.wfile.write(content)
            except OSError:
                self.close_connection = True  # the client waits no longer

        def log_message(self, format: str, *args: Any) -> None:
            """Silent."""

    return Handler
