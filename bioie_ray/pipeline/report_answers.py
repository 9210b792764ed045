"""The report's sample answers: read from the ``dmcr/`` output that scores were made from, beside the document and its gold."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from bioie_ray.artifacts.output import Output
from bioie_ray.corpora.document import Document, from_table
from bioie_ray.corpora.tasks import Task, answer_key, forms, get_task, gold
from bioie_ray.dmcr.decisions import load_answers
from bioie_ray.evaluation.errors import judge
from bioie_ray.evaluation.gold_view import GoldView
from bioie_ray.evaluation.marking import Kind
from bioie_ray.evaluation.score_results import ZERO_SHOT, AnswerItem, AnswerView, ScoreResult
from bioie_ray.pipeline.report_upstream import Found, upstream

SAMPLES_PER_TASK: Final = 3
_STATUSES: Final = ("malformed", "dressed", "valid")


def sample_answers(found: Sequence[Found], results: Sequence[ScoreResult], names: Callable[[Output], str]) -> tuple[AnswerView, ...]:
    """A few answers of each task's best run, one of every status where there is one; the same ones on every page.

    None where the outputs below the scores are not in the store any more.
    """
    by_source = {names(output): (output, record) for output, record in found}
    views: list[AnswerView] = []
    for task in dict.fromkeys(result.task for result in results):
        mine = [result for result in results if result.task == task]
        best = max(mine, key=lambda result: (result.corrected.f1.mean, result.method != ZERO_SHOT))
        views += _samples(best, *by_source[best.source])
    return tuple(views)


def _samples(result: ScoreResult, output: Output, record: dict[str, Any]) -> list[AnswerView]:
    below = {place.key.partition("/")[0]: place for place, _ in reversed(list(upstream(output, record)))}
    if "dmcr" not in below or "corpora" not in below:
        return []
    task = get_task(record["task"], record["recipe"].get("nlm_gene_types"))
    first = min(repeat.repeat for repeat in result.corrected.repeats)
    unread = _unread(output, first)
    rows = [row for shard in below["dmcr"].shards() for row in below["dmcr"].read_shard(shard).to_pylist() if row["repeat"] == first]
    # No list after the review, but one in the scores: a person decided since, and the review's row does not say what.
    shown = {row["document_id"]: row for row in rows if row["corrected"] is not None or row["document_id"] in unread}
    documents = {d.id: d for d in _documents(below["corpora"], shown) if gold(task, d).answers}
    order = sorted(documents, key=lambda id_: hashlib.sha256(id_.encode()).digest())
    picked = [next((id_ for id_ in order if shown[id_]["status"] == status), None) for status in _STATUSES]
    chosen = list(dict.fromkeys([*(id_ for id_ in picked if id_ is not None), *order]))[:SAMPLES_PER_TASK]
    return [_view(result, task, documents[id_], shown[id_]) for id_ in chosen]


def _view(result: ScoreResult, task: Task, document: Document, row: Mapping[str, Any]) -> AnswerView:
    answers = load_answers(row["corrected"])
    view = GoldView.of(task, document)
    judged = judge(view, answers)
    spelling = {answer_key(answer): forms(answer) for answer in reversed(answers or ())}
    missed = [forms(answer) for answer in gold(task, document).answers if answer_key(answer) not in judged]
    marks: dict[str, Kind] = {form.lower(): "missed" for answer in missed for form in answer}
    marks |= {form: "wrong" for answer, kind in judged.items() if kind != "right" for form in answer if form not in marks}
    marks |= {form: "found" for answer, kind in judged.items() if kind == "right" for form in answer}
    return AnswerView(
        task=result.task,
        model=result.model,
        method=result.name,
        num_examples=result.num_examples,
        source=result.source,
        document_id=document.id,
        repeat=int(row["repeat"]),
        text=document.text,
        answer=str(row["answer"]),
        status=str(row["status"]),
        verdict=str(row["verdict"]),
        items=None if answers is None else tuple(AnswerItem(spelling[key], kind) for key, kind in judged.items()),
        missed=tuple(missed),
        marks=marks,
        conversions=(row["conversion_a"], row["conversion_b"]),
    )


def _unread(output: Output, repeat: int) -> set[str]:
    """Documents whose answer was no list even in the corrected scores."""
    columns = ["document_id", "repeat", "variant", "malformed"]
    rows = (row for shard in output.shards() for row in output.read_shard(shard, columns).to_pylist())
    return {row["document_id"] for row in rows if row["variant"] == "corrected" and row["repeat"] == repeat and row["malformed"]}


def _documents(corpus: Output, wanted: Mapping[str, Any]) -> list[Document]:
    found: list[Document] = []
    for shard in corpus.shards():
        if any(id_ in wanted for id_ in corpus.read_shard(shard, ["id"])["id"].to_pylist()):
            found += [document for document in from_table(corpus.read_shard(shard)) if document.id in wanted]
    return found
