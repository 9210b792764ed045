"""What a chat server's reply means: an answer, a reason to try again, or a reason to stop."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from bioie_ray.generation.base import Finish

# In the `code` or `type` of an error: what may pass by itself, and what a 429 says that does not.
_PASSING = ("rate_limit", "ratelimit", "overload", "unavailable", "timeout", "internal", "server_error", "servererror")
_LASTING = ("insufficient_quota", "billing")
_MAX_MESSAGE = 300
_LENGTH_STATUSES = frozenset({400, 413, 422})
_CONTENT_STATUSES = frozenset({200, 400, 403, 422})
# How OpenAI, vLLM, TGI, llama.cpp, Anthropic, Google and others say that a request is longer than the model's context.
_TOO_LONG = re.compile(
    r"context[_ ](?:length|size|window)|maximum model length|(?:prompt|input|request) is too (?:long|large)|input token count|too many input tokens"
    r"|inputs?`? must have less than \d+ tokens|(?:input|prompt) length \S* ?exceeds|string_above_max_length",
    re.IGNORECASE,
)
# How OpenAI, Azure, OpenRouter, DashScope and gateways to others say that it is what a request is about that they do not answer.
_FORBIDDEN = re.compile(
    r"content[_ ](?:filter|policy|management policy)|usage[_ ]polic|ResponsibleAIPolicy|\binvalid_prompt\b|requires moderation|was flagged"
    r"|data_?inspection_?failed",
    re.IGNORECASE,
)
_CONTEXT = re.compile(r"(?:context (?:length|size|window)|model length)\D{0,12}(\d[\d,]*)", re.IGNORECASE)
# Half a surrogate pair: JSON can name it, and no file can hold it. It is a broken character, as a cut one is to any tokenizer.
_HALF_A_PAIR = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer. The numbers of tokens are ``None`` where the server does not report them."""

    text: str
    finish: Finish
    num_prompt_tokens: int | None
    num_answer_tokens: int | None


class PassingError(Exception):
    """Worth another try; the message says what happened, ``asked_s`` how long the server wants to be left alone."""

    def __init__(self, message: str, asked_s: float | None = None) -> None:
        super().__init__(message)
        self.asked_s = asked_s


class LastingError(Exception):
    """The server will say the same again. ``status`` is HTTP's, or the one that an error in a 200 names, if any.

    ``is_about_length``: the request is longer than what the model takes, ``context`` tokens if the server says so. ``is_about_content``:
    the server's content policy forbids it.
    """

    def __init__(self, status: int, message: str, code: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.is_about_length = status in _LENGTH_STATUSES and bool(_TOO_LONG.search(f"{message} {code}"))
        self.is_about_content = status in _CONTENT_STATUSES and not self.is_about_length and bool(_FORBIDDEN.search(f"{message} {code}"))
        context = _CONTEXT.search(message)
        self.context = int(context[1].replace(",", "")) if self.is_about_length and context else None


def read_reply(status: int, body: bytes, asked_s: float | None = None, redact: Callable[[str], str] = str) -> Reply:
    """The answer in a reply, as it is. ``redact`` takes out what no message may hold, before one is cut: half a key is a secret too.

    Raises:
        PassingError: 408, 429, 5xx, less than a whole answer, or an error in a 200 that says one of these.
        LastingError: any other refusal.
    """
    try:
        content = json.loads(body)
    except ValueError:
        if status == 200:
            raise PassingError(f"it broke off in the middle of an answer ({len(body)} bytes that are not JSON)") from None
        content = None
    error = _error_in(content)
    if status != 200 or error is not None:
        raise _refusal(status, error, body, asked_s, redact)
    return _answer(content, redact)


def _error_in(content: Any) -> dict[str, Any] | None:
    """Servers say ``{"error": {...}}``, ``{"error": "..."}``, ``{"object": "error", ...}`` or ``{"detail": ...}``."""
    if not isinstance(content, dict) or "choices" in content:
        return None
    if content.get("error"):
        error = content["error"]
        return error if isinstance(error, dict) else {"message": str(error)}
    if content.get("object") == "error":
        return content
    return {"message": content["detail"]} if content.get("detail") else None


def _refusal(
    status: int, error: dict[str, Any] | None, body: bytes, asked_s: float | None, redact: Callable[[str], str]
) -> PassingError | LastingError:
    message = redact(str((error or {}).get("message") or "").strip()) or redact(body.decode(errors="replace"))[:_MAX_MESSAGE].strip()
    message = " ".join(message.split())
    if len(message) > _MAX_MESSAGE:
        message = f"{message[:_MAX_MESSAGE]}..."
    words = " ".join(str((error or {}).get(key) or "") for key in ("code", "type")).lower()
    if status == 200:
        code = str((error or {}).get("code") or "")
        status = int(code) if code.isdecimal() and 400 <= int(code) <= 599 else 200
    passing = status in {408, 429} or status >= 500 or (status == 200 and any(word in words for word in _PASSING))
    if passing and not any(word in words for word in _LASTING):
        return PassingError(f"{_named(status)}{message}", asked_s)
    return LastingError(status, message, words)


def _named(status: int) -> str:
    return "" if status == 200 else f"HTTP {status}: "


def _answer(content: Any, redact: Callable[[str], str]) -> Reply:
    try:
        choice = content["choices"][0]
        is_filtered = choice.get("finish_reason") == "content_filter"
        text = (choice["message"] if not is_filtered else choice.get("message") or {}).get("content") or ""
        if isinstance(text, list):
            text = "".join(part.get("text") or "" for part in text)
        usage = content.get("usage") or {}
        tokens = [usage.get(key) for key in ("prompt_tokens", "completion_tokens")]
        num_prompt, num_answer = (int(number) if number is not None else None for number in tokens)
        return Reply(_HALF_A_PAIR.sub("\ufffd", str(text)), _finish(choice.get("finish_reason"), str(text)), num_prompt, num_answer)
    except (AttributeError, IndexError, KeyError, TypeError, ValueError):
        raise PassingError(f"its reply holds no answer: {redact(json.dumps(content, ensure_ascii=False))[:_MAX_MESSAGE]}") from None


def _finish(reason: Any, text: str) -> Finish:
    """An answer that a content filter ends is cut off, where there is any of it."""
    if reason == "content_filter":
        return "length" if text.strip() else "refused"
    return "length" if reason == "length" else "stop"
