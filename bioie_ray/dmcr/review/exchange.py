"""Decisions as JSONL, for people who work elsewhere.

A file has two sorts of lines: decisions as they were made (with an ``id``), and answers that are still open, with all that is needed
to decide them. Of those, ``choice`` (a, b, edit or skip), ``reviewer`` and, for an edit, ``answers`` are to be filled in; lines
whose ``choice`` is still null are passed over. Reading a file twice changes nothing.
"""

from __future__ import annotations

import json
from typing import Any, Final

from bioie_ray.dmcr.decision_log import DecisionLog, Imported
from bioie_ray.dmcr.decisions import Decision, Standing, new_id, parse_object, read_answers, to_jsonl
from bioie_ray.dmcr.review.queue import Queue, find_item

_TO_FILL_IN: Final = ("choice", "answers", "reviewer")
_SHOWN: Final = ("task", "kind", "text", "answer", "conversion_a", "conversion_b", "list_a", "list_b", "invented_a", "invented_b")
_OPEN: Final = frozenset({"document_id", "repeat", "seen", *_TO_FILL_IN, *_SHOWN})


def export_jsonl(queue: Queue, log: DecisionLog) -> str:
    """All decisions, then all answers that are still open."""
    decisions = log.all()
    now = log.standings()
    lines = [to_jsonl(decisions)]
    for key in queue.keys:
        standing = now.get(key, Standing())
        if standing.winner is None:
            item = queue.item(key)
            line = {"document_id": item.document_id, "repeat": item.repeat, **dict.fromkeys(_TO_FILL_IN), "seen": standing.head}
            line |= {name: getattr(item, name) for name in _SHOWN}
            lines.append(json.dumps(line, ensure_ascii=False) + "\n")
    return "".join(lines)


def import_jsonl(text: str, queue: Queue, log: DecisionLog, name: str = "the file") -> Imported:
    """Add the decisions of such a file to the log: all of them, or none where a line is wrong.

    Raises:
        ValueError: a line that is neither sort, or is about no answer of this queue; the message names the file, line and reason.
    """
    decisions = []
    for number, line in enumerate(text.removeprefix("\ufeff").split("\n"), start=1):
        if line.strip():
            try:
                decision = _read_line(parse_object(line), queue)
            except ValueError as error:
                raise ValueError(f"{name}, line {number}: {error}") from None
            decisions += [decision] if decision else []
    return log.merge(decisions)


def _read_line(values: dict[str, Any], queue: Queue) -> Decision | None:
    if "id" not in values:
        unknown = sorted(values.keys() - _OPEN)
        if unknown:
            raise ValueError(f"{', '.join(unknown)} is unknown; an open answer has {', '.join(sorted(_OPEN))}")
        if values.get("choice") is None:
            return None
        values = _filled_in(values, queue)
    decision = Decision.from_fields(values)
    if decision.answers is not None:
        find_item(queue, values).answers_for("edit", decision.answers)
    return decision


def _filled_in(values: dict[str, Any], queue: Queue) -> dict[str, Any]:
    """The fields of a decision from those of a line that was open."""
    item = find_item(queue, values)
    answers = read_answers(values.get("answers"))
    if values["choice"] in {"a", "b"}:
        proposal = item.answers_for(values["choice"], None)
        if answers not in {None, proposal}:
            raise ValueError(f"answers are not proposal {values['choice'].upper()}; leave them null, or choose edit")
        answers = proposal
    identifier, time = new_id()
    sent: dict[str, Any] = {name: values[name] for name in ("document_id", "repeat", "choice", "reviewer", "seen") if name in values}
    return {**sent, "answers": answers, "id": identifier, "time": time}
