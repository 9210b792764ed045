"""A review server in a thread, and plain requests to it."""

from __future__ import annotations

import http.client
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from bioie_ray.dmcr.decision_log import DecisionLog
from bioie_ray.dmcr.review.queue import Queue
from bioie_ray.dmcr.review.serve import ReviewServer


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    text: str

    def json(self) -> Any:
        return json.loads(self.text)


@dataclass(frozen=True)
class Client:
    url: str

    def __call__(self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None) -> Answer:
        address = urlsplit(self.url)
        connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=20)
        sent = {"X-Bioie-Review": "1", "Content-Type": "application/json"} if headers is None else headers
        connection.request(method, path, None if body is None else json.dumps(body), sent)
        response = connection.getresponse()
        answer = Answer(response.status, {name.lower(): value for name, value in response.getheaders()}, response.read().decode())
        connection.close()
        return answer

    def decide(self, document_id: str, choice: str, seen: str = "", **more: Any) -> Answer:
        """As a page sends it that was loaded just now; ``more`` is put in the place of anything in it."""
        body = {"document_id": document_id, "repeat": 1, "choice": choice, "answers": None, "reviewer": "Ada", "seen": seen, **more}
        overview = self("GET", "/api/queue").json()
        place = (body["document_id"], body["repeat"])
        shown = (item["answer_digest"] for item in overview["items"] if (item["document_id"], item["repeat"]) == place)
        return self("POST", "/api/decisions", {"queue": overview["queue"], "answer_digest": next(shown, "0" * 16), **body})


@contextmanager
def serving(queue: Queue, log: DecisionLog, **options: Any) -> Iterator[Client]:
    server = ReviewServer(queue, log, **options)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        yield Client(server.url)
    finally:
        server.stop()
        thread.join(20)
        assert not thread.is_alive()
