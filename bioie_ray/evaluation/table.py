"""The rows of a ``scores/`` output, and what its record says of them.

One row for every document, repeat and variant: ``raw`` is the answer as it stands, ``cleaned`` undressed by fixed rules,
``corrected`` after the review. What was no list in a variant is an empty answer there, and ``malformed`` says so.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, Final, Literal, get_args

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from bioie_ray.config.generation import EvaluateSettings
from bioie_ray.corpora.document import Document
from bioie_ray.corpora.tasks import Task
from bioie_ray.evaluation import scoring
from bioie_ray.evaluation.errors import ERROR_KINDS, errors
from bioie_ray.evaluation.gold_view import GoldView
from bioie_ray.evaluation.scoring import Answers, Counts
from bioie_ray.evaluation.statistics import DocumentCounts, Ints, bootstrap_f1, spread

Variant = Literal["raw", "cleaned", "corrected"]
Scoring = Literal["strict", "concept", "relaxed", "unordered"]
VARIANTS: Final[tuple[Variant, ...]] = get_args(Variant)
SCORINGS: Final[tuple[Scoring, ...]] = get_args(Scoring)
_PARTS: Final = ("tp", "fp", "fn")

SCORES_SCHEMA: Final = pa.schema(
    [
        pa.field("document_id", pa.string(), nullable=False),
        pa.field("repeat", pa.int32(), nullable=False),
        pa.field("variant", pa.string(), nullable=False),
        pa.field("num_answers", pa.int32(), nullable=False),
        pa.field("num_gold", pa.int32(), nullable=False),
        *(pa.field(f"{name}_{part}", pa.int32(), nullable=name == "unordered") for name in SCORINGS for part in _PARTS),
        *(pa.field(f"error_{kind}", pa.int32(), nullable=False) for kind in ERROR_KINDS),
        pa.field("malformed", pa.bool_(), nullable=False),
        pa.field("undecided", pa.bool_(), nullable=False),
    ]
)


def score_document(
    task: Task,
    document: Document,
    repeat: int,
    raw: Answers,
    cleaned: Answers,
    corrected: Answers,
    *,
    malformed: bool,
    undecided: bool,
) -> list[dict[str, Any]]:
    """The three rows of one answer.

    Args:
        task: what was asked.
        document: with its gold annotations.
        repeat: which of the document's answers, from 1.
        raw: the list that the answer is, ``None`` where it is none as it stands.
        cleaned: the same after undressing, ``None`` where the rules find no list either.
        corrected: after the review, ``None`` where nobody has decided yet.
        malformed: not even undressing gave a list; of the ``cleaned`` row. That of the two others is whether their list is ``None``.
        undecided: a person still has to decide; of the ``corrected`` row, false in the others.
    """
    view = GoldView.of(task, document)
    given: dict[Variant, tuple[Answers, bool, bool]] = {
        "raw": (raw, raw is None, False),
        "cleaned": (cleaned, malformed, False),
        "corrected": (corrected, corrected is None, undecided),
    }
    return [
        {
            "document_id": document.id,
            "repeat": repeat,
            "variant": variant,
            "num_answers": len(answers or ()),
            "num_gold": len(view.gold),
            **_scores(view, answers),
            **{f"error_{kind}": number for kind, number in errors(view, answers).items()},
            "malformed": no_list,
            "undecided": open_,
        }
        for variant, (answers, no_list, open_) in given.items()
    ]


def _scores(view: GoldView, answers: Answers) -> dict[str, int | None]:
    counts: dict[Scoring, Counts | None] = {
        "strict": scoring.strict(view, answers),
        "concept": scoring.concept(view, answers),
        "relaxed": scoring.relaxed(view, answers),
        "unordered": scoring.unordered(view, answers) if view.task.symmetric else None,
    }
    return {f"{name}_{part}": getattr(count, part, None) for name, count in counts.items() for part in _PARTS}


def document_counts(table: pa.Table, variant: Variant, scored: Scoring = "strict") -> DocumentCounts:
    """The counts of one variant by repeat and document, both in ascending order.

    Raises:
        ValueError: no rows, a document that lacks a repeat, or one that is there twice.
    """
    rows = table.filter(pc.equal(table["variant"], variant)).sort_by([("repeat", "ascending"), ("document_id", "ascending")])
    repeats = np.unique(rows["repeat"].to_numpy())
    documents = tuple(sorted(set(rows["document_id"].to_pylist())))
    expected = [(repeat, document) for repeat in repeats.tolist() for document in documents]
    if not expected or list(zip(rows["repeat"].to_pylist(), rows["document_id"].to_pylist(), strict=True)) != expected:
        raise ValueError(
            f"{rows.num_rows} {variant} rows of {len(documents)} documents and {len(repeats)} repeats: each document needs each repeat once; "
            "score the run again"
        )
    counts: Ints = np.stack([rows[f"{scored}_{part}"].to_numpy() for part in _PARTS], axis=-1).astype(np.int64)
    return DocumentCounts(documents, counts.reshape(len(repeats), len(documents), len(_PARTS)))


def summarise(table: pa.Table, task: Task, settings: EvaluateSettings) -> dict[str, Any]:
    """What the record says of the rows: scores a repeat and over repeats, for each variant; plain JSON.

    ``variants`` maps a variant to ``repeats`` (strict precision, recall, F1, counts, malformed and undecided of each), to the
    spread of ``precision``, ``recall`` and ``f1`` over them, to the bootstrap ``interval`` of F1 over documents, to the other
    ``scorings`` (means over repeats, the spread of F1 and its interval), and to totals over all repeats: ``errors``,
    ``malformed``, ``undecided``.

    Raises:
        ValueError: as ``document_counts``.
    """
    runs = {variant: document_counts(table, variant) for variant in VARIANTS}
    return {
        "task": task.key,
        "kind": task.kind,
        "symmetric": task.symmetric,
        "num_documents": len(runs["raw"].documents),
        "num_repeats": len(runs["raw"].counts),
        "confidence": settings.confidence,
        "bootstrap_samples": settings.bootstrap_samples,
        "variants": {variant: _variant(table, task, variant, run, settings) for variant, run in runs.items()},
    }


def _variant(table: pa.Table, task: Task, variant: Variant, run: DocumentCounts, settings: EvaluateSettings) -> dict[str, Any]:
    rows = table.filter(pc.equal(table["variant"], variant))
    flags = {name: _by_repeat(rows, name) for name in ("malformed", "undecided")}
    others = [name for name in SCORINGS if name != "strict" and (name != "unordered" or task.symmetric)]
    repeats = [
        {"repeat": repeat, **_ratios(total), **asdict(total), **{name: counts[repeat] for name, counts in flags.items()}}
        for repeat, total in zip(sorted(flags["malformed"]), _totals(run), strict=True)
    ]
    return {
        "repeats": repeats,
        **{name: asdict(spread([row[name] for row in repeats])) for name in ("precision", "recall", "f1")},
        "interval": asdict(bootstrap_f1(run, settings.bootstrap_samples, settings.confidence)),
        "scorings": {name: _other(document_counts(table, variant, name), settings) for name in others},
        "errors": {kind: _sum(rows, f"error_{kind}") for kind in ERROR_KINDS},
        **{name: sum(counts.values()) for name, counts in flags.items()},
    }


def _other(run: DocumentCounts, settings: EvaluateSettings) -> dict[str, Any]:
    ratios = [_ratios(total) for total in _totals(run)]
    return {
        **{name: spread([row[name] for row in ratios]).mean for name in ("precision", "recall")},
        "f1": asdict(spread([row["f1"] for row in ratios])),
        "interval": asdict(bootstrap_f1(run, settings.bootstrap_samples, settings.confidence)),
    }


def _totals(run: DocumentCounts) -> list[Counts]:
    return [Counts(*(int(n) for n in sums)) for sums in run.counts.sum(axis=1)]


def _ratios(total: Counts) -> dict[str, float]:
    return {"precision": total.precision, "recall": total.recall, "f1": total.f1}


def _by_repeat(rows: pa.Table, name: str) -> Mapping[int, int]:
    grouped = rows.group_by("repeat").aggregate([(name, "sum")])
    return {int(row["repeat"]): int(row[f"{name}_sum"]) for row in grouped.to_pylist()}


def _sum(rows: pa.Table, name: str) -> int:
    return int(pc.sum(rows[name]).as_py() or 0)
