"""The page's HTTP interface: a thin layer between the queue, the log and the browser."""

from __future__ import annotations

from dataclasses import asdict
from importlib.resources import files
from typing import Any

from fastapi import FastAPI, HTTPException, Request
from fastapi.responses import JSONResponse, PlainTextResponse, Response

from bioie_ray.artifacts.store import StoreError
from bioie_ray.dmcr.decision_log import ConflictError, DecisionLog
from bioie_ray.dmcr.decisions import Decision, Standing, new_id, read_answers
from bioie_ray.dmcr.review.exchange import export_jsonl, import_jsonl
from bioie_ray.dmcr.review.queue import Queue, find_item

_FILES = {"/": ("index.html", "text/html"), "/review.css": ("review.css", "text/css"), "/review.js": ("review.js", "text/javascript")}


def create_app(queue: Queue, log: DecisionLog) -> FastAPI:
    """The page, not yet guarded: see ``access.Guard``. Requests run in threads; the log takes care of who comes first."""
    app = FastAPI(title="bioie review", docs_url=None, redoc_url=None, openapi_url=None)
    app.add_exception_handler(ValueError, _explain)
    for path, (name, media_type) in _FILES.items():
        app.add_api_route(path, _page(name, media_type), include_in_schema=False)

    @app.get("/api/queue")
    def overview() -> dict[str, Any]:
        now = log.standings()
        return {"name": queue.name, "items": [_summary(*key, now.get(key, Standing())) for key in queue.keys]}

    @app.get("/api/items/{number}")
    def show(number: int) -> dict[str, Any]:
        keys = queue.keys
        if not 0 <= number < len(keys):
            raise HTTPException(404, f"there are {len(keys)} answers to decide")
        item = queue.item(keys[number])
        return {**asdict(item), "number": number, "standing": _standing(log.standing(item.key))}

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
    def import_(body: dict[str, str]) -> dict[str, Any]:
        if "text" not in body:
            raise ValueError("an import needs its text")
        done = import_jsonl(body["text"], queue, log, body.get("name", "the file"))
        return {"added": done.num_added, "known": done.num_known, "refused": len(done.refused), "not_taken": list(done.not_taken)}

    return app


def _page(name: str, media_type: str) -> Any:
    content = files("bioie_ray.dmcr.review").joinpath("page", name).read_bytes()

    def read() -> Response:
        return Response(content, media_type=media_type)

    return read


async def _explain(_: Request, error: Exception) -> Response:
    """What is wrong with a request, or with the store, in one sentence."""
    return JSONResponse({"detail": str(error)}, 503 if isinstance(error, StoreError) else 422)


def _decision(body: dict[str, Any], queue: Queue) -> Decision:
    """The decision that a browser sends: without id and time, and for a proposal without its answers."""
    identifier, time = new_id()
    choice = body.get("choice")
    item = find_item(queue, body)
    answers = item.answers_for(choice, read_answers(body.get("answers"))) if choice in {"a", "b", "edit"} else None
    sent = {name: value for name, value in body.items() if name not in {"id", "time"}}
    return Decision.from_fields({**sent, "answers": answers, "id": identifier, "time": time, "answer_digest": item.answer_digest})


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
