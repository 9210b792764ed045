"""One try at a chat server, and sentences about what came of it.

On httpx2, which huggingface-hub brings along anyway. The ``openai`` client is built on it too; it was left because what it adds is in
the way: it retries by itself (half a JSON not at all, a ``Retry-After`` of over a minute not as asked), out of sight of the budget
and the pace, for 2,000 files more, and one POST is all that is needed.
"""

from __future__ import annotations

import asyncio
import json
import os
from types import TracebackType
from typing import Any, Final, Self

import httpx2

from bioie_ray.config.generation import ModelSettings
from bioie_ray.generation.base import EngineError, EngineLostError, Request, Sampling
from bioie_ray.generation.endpoint_limits import retry_after_s
from bioie_ray.generation.endpoint_replies import LastingError, PassingError, Reply, read_reply
from bioie_ray.generation.structure import schema

_MODELS_TIMEOUT_S: Final = 10.0
_MAX_NAMED: Final = 10
# Local servers are given "x" or "none" for a key, which would be struck out of every word.
_SHORTEST_SECRET: Final = 5
_LOST: Final = frozenset({401, 402, 403, 429})  # about who asks, not about what is asked (429 is here where a quota is used up)
_ADVICE: Final = {
    400: "the message says what it does not take; generate.structured, endpoint.sends_seed, a smaller max_new_tokens and shorter prompts (prompt.max_tokens with "
    "generate.tokenizer) are the usual ones",
    402: "the account has to be paid for before it answers again",
    404: "check endpoint.url: it ends before /chat/completions, often with /v1",
    413: "make prompts shorter (prompt.max_tokens with generate.tokenizer)",
    422: "the message says what it does not take; generate.structured and endpoint.sends_seed are the usual ones",
    429: "the account's quota is used up; raise it there, then run again",
}


class Endpoint:
    """A server's address and this process' key to it. No message or repr of it has the key."""

    def __init__(self, settings: ModelSettings) -> None:
        endpoint = settings.endpoint
        try:
            url = httpx2.URL(endpoint.url or "")
        except httpx2.InvalidURL:
            url = httpx2.URL("")
        if url.scheme not in {"http", "https"} or not url.host:
            raise EngineError("endpoint.url is no URL of a server; give its base URL, for example http://localhost:8000/v1")
        self.model = settings.model
        self.key_variable = endpoint.key_variable
        self._base = url
        self.shown = str(url.copy_with(query=None, fragment=None)).rstrip("/")
        key = os.environ.get(endpoint.key_variable, "").strip()
        if not (key.isascii() and key.isprintable()):
            raise EngineError(f"{endpoint.key_variable} holds characters that no key has; set it anew")
        self.has_key = bool(key)
        self._secret = key if len(key) >= _SHORTEST_SECRET else None
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}

    def client(self, concurrency: int) -> httpx2.AsyncClient:
        """Connections to the server; how long a request may take is the caller's to watch."""
        limits = httpx2.Limits(max_connections=concurrency, max_keepalive_connections=concurrency)
        return httpx2.AsyncClient(headers=self._headers, timeout=None, limits=limits)

    def at(self, path: str) -> httpx2.URL:
        """The URL of a path under the base."""
        return self._base.copy_with(path=f"{self._base.path.rstrip('/')}{path}")

    def redact(self, message: str) -> str:
        """Without the key, which some servers echo: as it is, or with quotes and backslashes escaped, as in JSON."""
        if not self._secret:
            return message
        return message.replace(json.dumps(self._secret)[1:-1], "***").replace(self._secret, "***")


class EndpointClient:
    """An endpoint while requests are made: an async context manager."""

    def __init__(self, endpoint: Endpoint, settings: ModelSettings, sampling: Sampling) -> None:
        self._endpoint = endpoint
        self._settings = settings.endpoint
        self._sampling = sampling
        self._client = endpoint.client(settings.endpoint.concurrency)
        self._length_key = "max_tokens"

    async def __aenter__(self) -> Self:
        """Open."""
        await self._client.__aenter__()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        """Close."""
        await self._client.__aexit__(kind, error, traceback)

    async def ask(self, request: Request) -> Reply:
        """One try. The reply to a request that may go unanswered, and does, has no text and says why.

        Raises:
            PassingError: worth another.
            EngineError: not worth another.
        """
        key = self._length_key
        try:
            return await self._post(self.payload(request, key))
        except LastingError as error:
            if request.may_go_unanswered:
                if error.is_about_length and self._has_room_for_answers(error.context):
                    return Reply("", "too_long", 0, 0)
                if error.is_about_content:
                    return Reply("", "refused", 0, 0)
            if key == "max_tokens" and error.status == 400 and "max_completion_tokens" in str(error):
                self._length_key = "max_completion_tokens"  # what OpenAI's newer models call it, and many servers do not know
                return await self.ask(request)
            kind = EngineLostError if error.status in _LOST else EngineError
            raise kind(await self._refused(request, error)) from None

    def _has_room_for_answers(self, context: int | None) -> bool:
        """Else every request is too long, and it is the settings that have to change."""
        return context is None or self._sampling.max_new_tokens < context

    def payload(self, request: Request, length_key: str = "max_tokens") -> dict[str, Any]:
        """The JSON of a request. No stop strings: none can tell the bracket that closes a list from one inside a name."""
        body: dict[str, Any] = {
            "model": self._endpoint.model,
            "messages": [{"role": message.role, "content": message.content} for message in request.messages],
            "temperature": self._sampling.temperature,
            "top_p": self._sampling.top_p,
            length_key: self._sampling.max_new_tokens,
        }
        if self._settings.sends_seed:
            body["seed"] = request.seed
        if self._sampling.structured is not None:
            form = {"name": "answer", "schema": schema(self._sampling.structured), "strict": True}
            body["response_format"] = {"type": "json_schema", "json_schema": form}
        return body

    async def _post(self, payload: dict[str, Any]) -> Reply:
        try:
            async with asyncio.timeout(self._settings.timeout_s):
                response = await self._client.post(self._endpoint.at("/chat/completions"), json=payload)
        except TimeoutError:
            raise PassingError(f"no answer in {self._settings.timeout_s:g} s (endpoint.timeout_s)") from None
        except (httpx2.TransportError, httpx2.DecodingError) as error:
            raise PassingError(self._endpoint.redact(f"{_words(error)}: {error}" if str(error) else _words(error))) from None
        asked_s = retry_after_s(response.headers.get("Retry-After"))
        return read_reply(response.status_code, response.content, asked_s, self._endpoint.redact)

    async def _refused(self, request: Request, error: LastingError) -> str:
        end = self._endpoint
        said = f"{end.shown} refuses {request.id}: HTTP {error.status}: {error}"
        if error.status in {401, 403}:
            is_set = "is set, and it does not take it" if end.has_key else "is not set"
            return f"{said}; endpoint.key_variable names {end.key_variable}, which {is_set}: put the key in that environment variable (of pods: by a Secret in cluster.kube.env_secrets)"
        if 300 <= error.status < 400:
            return f"{said}; it sends requests elsewhere: set endpoint.url to where it really is"
        served = await self._served()
        if served and end.model not in served:
            more = f" and {len(served) - _MAX_NAMED} more" if len(served) > _MAX_NAMED else ""
            return f"{said}; it does not list a model {end.model}: set model to one that it does ({', '.join(served[:_MAX_NAMED])}{more})"
        return f"{said}; {_ADVICE.get(error.status, 'see the log of the server')}"

    async def _served(self) -> list[str]:
        """The models that the server lists; none where it does not say."""
        try:
            response = await self._client.get(self._endpoint.at("/models"), timeout=_MODELS_TIMEOUT_S)
            return [str(model["id"]) for model in response.json()["data"]]
        except (httpx2.HTTPError, ValueError, KeyError, TypeError):
            return []


def _words(error: httpx2.RequestError) -> str:
    if isinstance(error, httpx2.ConnectError):
        return "no connection"
    return "the connection broke" if isinstance(error, (httpx2.NetworkError, httpx2.ProtocolError)) else type(error).__name__
