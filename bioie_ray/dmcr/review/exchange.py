"""Decisions as JSONL, for people who work elsewhere.

A file has two sorts of lines: decisions as they were made (with an ``id``), and answers that are still open, with all that is needed
to decide them. Of those, ``choice`` (a, b, edit or skip), ``reviewer`` and, for an edit, ``answers`` are to be filled in; lines
whose ``choice`` is still null are passed over. Reading a file twice changes nothing.

Both sorts say by ``answer_digest`` which answer they are about. A line about an answer that the output does not have (the file is of
another run, or the output was made again) is not taken but named, and the others are. So is a decision without a digest, as releases up
to 0.3 wrote them, that is not in the log already: nobody can say what it is about. An export gives it to all that are in the log.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from bioie_ray.dmcr.decision_log import DecisionLog, Imported
from bioie_ray.dmcr.decisions import Decision, Standing, answer_digest, new_id, parse_object, read_answers, to_jsonl
from bioie_ray.dmcr.review.queue import Item, Queue, digests, find_item

_TO_FILL_IN: Final = ("choice", "answers", "reviewer")
_SHOWN: Final = ("task", "kind", "text", "answer", "conversion_a", "conversion_b", "list_a", "list_b", "invented_a", "invented_b")
_OPEN: Final = frozenset({"document_id", "repeat", "seen", "answer_digest", *_TO_FILL_IN, *_SHOWN})


class _NotTakenError(Exception):
    """A line is about another answer, or another decision, than there is here; the message says which."""


def export_jsonl(queue: Queue, log: DecisionLog) -> str:
    """All decisions, then all answers that are still open."""
    known = digests(queue)
    decisions = [replace(one, answer_digest=one.answer_digest or known.get(one.key, "")) for one in log.all()]
    now = log.standings()
    lines = [to_jsonl(decisions)]
    for key in queue.keys:
        standing = now.get(key, Standing())
        if standing.winner is None:
            item = queue.item(key)
            line = {"document_id": item.document_id, "repeat": item.repeat, **dict.fromkeys(_TO_FILL_IN), "seen": standing.head}
            line["answer_digest"] = item.answer_digest
            line |= {name: getattr(item, name) for name in _SHOWN}
            lines.append(json.dumps(line, ensure_ascii=False) + "\n")
    return "".join(lines)


def import_jsonl(text: str, queue: Queue, log: DecisionLog, name: str = "the file") -> Imported:
    """Add the decisions of such a file to the log: all about answers of this queue, or none where a line is wrong.

    Raises:
        ValueError: a line that is neither sort, or was filled in wrongly; the message names the file, line and reason.
    """
    decisions = []
    not_taken = []
    known = {decision.id: decision for decision in log.all()}
    for number, line in enumerate(text.removeprefix("\ufeff").split("\n"), start=1):
        if line.strip():
            try:
                decision = _read_line(parse_object(line), queue, known)
            except _NotTakenError as error:
                not_taken.append(f"line {number}: {error}")
                continue
            except ValueError as error:
                raise ValueError(f"{name}, line {number}: {error}") from None
            decisions += [decision] if decision else []
    return replace(log.merge(decisions), not_taken=tuple(not_taken))


def _read_line(values: dict[str, Any], queue: Queue, known: Mapping[str, Decision]) -> Decision | None:
    if "id" not in values:
        unknown = sorted(values.keys() - _OPEN)
        if unknown:
            raise ValueError(f"{', '.join(unknown)} is unknown; an open answer has {', '.join(sorted(_OPEN))}")
        return None if values.get("choice") is None else _filled_in(values, queue)
    decision = Decision.from_fields(values)
    if decision.id in known:
        if decision.substance != known[decision.id].substance:
            raise _NotTakenError(
                f"{decision.document_id}, repeat {decision.repeat}: decision {decision.id} is in the log with another content, and what was decided "
                f"stays; to replace it, take `id` and `time` out of the line and set `seen` to {decision.id}"
            )
        return decision
    item = _item(values, decision.answer_digest, queue)
    if decision.answers is not None:
        item.answers_for("edit", decision.answers)
    return decision


def _filled_in(values: Mapping[str, Any], queue: Queue) -> Decision:
    """The decision of a line that was open."""
    shown = values.get("answer")  # releases up to 0.3 wrote no digest, but the answer itself
    about = values.get("answer_digest") or (answer_digest(shown) if isinstance(shown, str) else "")
    item = _item(values, about, queue)
    answers = read_answers(values.get("answers"))
    if values["choice"] in {"a", "b"}:
        proposal = item.answers_for(values["choice"], None)
        if answers not in {None, proposal}:
            raise ValueError(f"answers are not proposal {values['choice'].upper()}; leave them null, or choose edit")
        answers = proposal
    identifier, time = new_id()
    sent: dict[str, Any] = {name: values[name] for name in ("document_id", "repeat", "choice", "reviewer", "seen") if name in values}
    decision = Decision.from_fields({**sent, "answers": answers, "id": identifier, "time": time, "answer_digest": about})
    if decision.answers is not None:
        item.answers_for("edit", decision.answers)
    return decision


def _item(values: Mapping[str, Any], about: str, queue: Queue) -> Item:
    """The item that a line is about, if it is here the answer with the digest ``about``."""
    try:
        item = find_item(queue, values)
    except ValueError as error:
        raise _NotTakenError(str(error)) from None
    named = f"document {item.document_id!r}, repeat {item.repeat}"
    if not about:
        raise _NotTakenError(f"{named} has no answer_digest, so nobody can say which answer it is about")
    if about != item.answer_digest:
        raise _NotTakenError(f"{named} is about another answer than {queue.name} has")
    return item
