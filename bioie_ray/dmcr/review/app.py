"""The page's HTTP interface: a thin layer between the queue, the log and the browser."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from importlib.resources import files
from typing import Any, Final

from fastapi import FastAPI, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse, Response

from bioie_ray.artifacts.store import StoreError
from bioie_ray.dmcr.decision_log import ConflictError, DecisionLog
from bioie_ray.dmcr.decisions import Decision, Standing, new_id, read_answers
from bioie_ray.dmcr.review.exchange import export_jsonl, import_jsonl
from bioie_ray.dmcr.review.queue import Queue, find_item

_FILES = {"/": ("index.html", "text/html"), "/review.css": ("review.css", "text/css"), "/review.js": ("review.js", "text/javascript")}
# What a decision holds of the page; its id, time and, for a proposal, answers are given here.
_SENT: Final[Mapping[str, type]] = {
    "document_id": str, "repeat": int, "choice": str, "reviewer": str, "seen": str, "queue": str, "answer_digest": str,
}  # fmt: skip
_IN_WORDS: Final = {str: "a text", int: "a whole number", float: "a number", bool: "true or false", list: "a list", dict: "an object"}


class _ChangedError(ValueError):
    """What a browser shows is not what is served here now."""


def create_app(queue: Queue, log: DecisionLog) -> FastAPI:
    """The page, not yet guarded: see ``access.Guard``. Requests run in threads; the log takes care of who comes first."""
    app = FastAPI(title="bioie review", docs_url=None, redoc_url=None, openapi_url=None)
    app.add_exception_handler(ValueError, _explain)
    app.add_exception_handler(RequestValidationError, _explain_request)
    for path, (name, media_type) in _FILES.items():
        app.add_api_route(path, _page(name, media_type), include_in_schema=False)

    @app.get("/api/queue")
    def overview() -> dict[str, Any]:
        now = log.standings()
        items = [{"answer_digest": queue.item(key).answer_digest, **_summary(*key, now.get(key, Standing()))} for key in queue.keys]
        return {"name": queue.name, "queue": queue.identity, "items": items}

    @app.get("/api/items/{number}")
    def show(number: int, of: str | None = None) -> dict[str, Any]:
        if of is not None:
            _check_shown(of, queue)
        keys = queue.keys
        if not 0 <= number < len(keys):
            raise HTTPException(404, f"there are {len(keys)} answers to decide")
        item = queue.item(keys[number])
        about = {"number": number, "queue": queue.identity, "answer_digest": item.answer_digest}
        return {**asdict(item), **about, "standing": _standing(log.standing(item.key))}

    @app.post("/api/decisions")
    def decide(body: dict[str, Any]) -> JSONResponse:
        decision = _decision(body, queue)
        try:
            log.add(decision)
        except ConflictError as error:
            return JSONResponse({"detail": str(error), "standing": _standing(error.standing)}, 409)
        return JSONResponse({"standing": _standing(log.standing(decision.key))})

    @app.get("/api/export")
    def export() -> Response:
        disposition = 'attachment; filename="decisions.jsonl"'
        return PlainTextResponse(export_jsonl(queue, log), media_type="application/jsonl", headers={"Content-Disposition": disposition})

    @app.post("/api/import")
    def import_(body: dict[str, Any]) -> dict[str, Any]:
        sent = {"name": "the file", **body}
        _check_types(sent, {"text": str, "name": str})
        done = import_jsonl(sent["text"], queue, log, sent["name"])
        return {"added": done.num_added, "known": done.num_known, "refused": len(done.refused), "not_taken": list(done.not_taken)}

    return app


def _page(name: str, media_type: str) -> Any:
    content = files("bioie_ray.dmcr.review").joinpath("page", name).read_bytes()

    def read() -> Response:
        return Response(content, media_type=media_type)

    return read


async def _explain(_: Request, error: Exception) -> Response:
    """What is wrong with a request, or with the store, in one sentence."""
    detail = str(error).encode("utf-8", "backslashreplace").decode()  # a name in a request may hold half a surrogate pair
    if isinstance(error, _ChangedError):
        return JSONResponse({"detail": detail, "changed": True}, 409)
    return JSONResponse({"detail": detail}, 503 if isinstance(error, StoreError) else 422)


async def _explain_request(_: Request, error: Exception) -> Response:
    """What is no JSON object, or an address that is none of these."""
    assert isinstance(error, RequestValidationError)
    in_body = any(one["loc"][0] == "body" for one in error.errors())
    return JSONResponse({"detail": "send a JSON object" if in_body else "the number of an answer is a whole number"}, 422)


def _decision(body: dict[str, Any], queue: Queue) -> Decision:
    """The decision that a browser sends, about the answer that it shows: without id and time, and for a proposal without its answers."""
    _check_types(body, _SENT)
    _check_shown(body["queue"], queue)
    item = find_item(queue, body)
    if body["answer_digest"] != item.answer_digest:
        raise _ChangedError(f"this answer has changed since it was shown, and nothing was saved; {queue.name} has another one now")
    identifier, time = new_id()
    choice, given = body["choice"], read_answers(body.get("answers"))
    answers = item.answers_for(choice, given) if choice in {"a", "b", "edit"} else None
    sent = {name: value for name, value in body.items() if name not in {"id", "time", "queue"}}
    return Decision.from_fields({**sent, "answers": answers, "id": identifier, "time": time})


def _check_shown(identity: str, queue: Queue) -> None:
    if identity != queue.identity:
        raise _ChangedError(f"this answer is not one of those that are served now, and nothing was saved; they are of {queue.name}")


def _check_types(body: Mapping[str, Any], types: Mapping[str, type]) -> None:
    """Refuse a body that lacks one of these, or has it of another type, before anything is looked up by it."""
    for name, type_ in types.items():
        if name not in body:
            raise ValueError(f"{name} is missing; if a page sent this, load it anew: it is of another release than its server")
        if type(body[name]) is not type_:
            raise ValueError(f"{name} is {_IN_WORDS.get(type(body[name]), 'null')}, not {_IN_WORDS[type_]}")


def _summary(document_id: str, repeat: int, standing: Standing) -> dict[str, Any]:
    winner = standing.winner
    return {
        "document_id": document_id,
        "repeat": repeat,
        "head": standing.head,
        "choice": winner.choice if winner else None,
        "reviewer": winner.reviewer if winner else None,
        "decision": winner.id if winner else None,
        "skipped_by": sorted(standing.skipped_by),
    }


def _standing(standing: Standing) -> dict[str, Any]:
    return {
        "head": standing.head,
        "winner": asdict(standing.winner) if standing.winner else None,
        "last": asdict(standing.chain[-1]) if standing.chain else None,
        "num_conflicts": len(standing.conflicts),
    }
