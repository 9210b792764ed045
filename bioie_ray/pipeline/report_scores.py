"""The report's scores, read from ``scores/``: one result a run, and its comparison with random examples."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import pyarrow as pa

from bioie_ray.artifacts.output import RECORD, Output
from bioie_ray.dmcr.decision_log import DecisionLog
from bioie_ray.evaluation.score_results import ZERO_SHOT, ReviewCounts, ScoreResult, summary_variants
from bioie_ray.evaluation.statistics import Comparison, DocumentCounts, paired_bootstrap
from bioie_ray.evaluation.table import document_counts
from bioie_ray.pipeline.evaluate import decided_version, undecided
from bioie_ray.pipeline.report_selections import BASELINE
from bioie_ray.pipeline.report_settings import Flat, asked_alike, flat_settings, setting_labels
from bioie_ray.pipeline.report_upstream import Found

_COLUMNS: Final = ("document_id", "repeat", "variant", "strict_tp", "strict_fp", "strict_fn")


def latest_decisions(found: Sequence[Found]) -> list[Found]:
    """Of versions of one output that differ in people's decisions only (``1``, ``1.d3-abcdef``), the one of the decisions that stand.

    Where nobody can tell (the verdicts are gone, or no version has these decisions yet), it is the one that was made last.
    """
    versions: dict[tuple[str, str], list[Found]] = {}
    for output, record in found:
        versions.setdefault((output.address.url, undecided(output.key)), []).append((output, record))
    return [entries[0] if len(entries) == 1 else _standing(place, entries) for (_, place), entries in versions.items()]


def _standing(place: str, versions: Sequence[Found]) -> Found:
    name, _, version = place.partition("/")[2].rpartition("@")
    verdicts = Output(versions[0][0].address, f"dmcr/{name}@{version}")
    if verdicts.store.exists(f"{verdicts.key}/{RECORD}"):
        key = f"scores/{name}@{decided_version(version, DecisionLog(verdicts).digest())}"
        of_now = next((entry for entry in versions if entry[0].key == key), None)
        if of_now is not None:
            return of_now
    return max(versions, key=lambda entry: (str(entry[1]["timings"]["finished"]), _decided(entry[1]), entry[0].key))


def read_scores(found: Sequence[Found], names: Callable[[Output], str]) -> tuple[ScoreResult, ...]:
    """Every run, by task, model, method and number of examples; each with what sets it apart where runs are otherwise the same."""
    labels = setting_labels([record for _, record in found])
    runs = [
        _Run(_result(output, record, label, names), output, flat_settings(record))
        for (output, record), label in zip(found, labels, strict=True)
    ]
    runs.sort(key=lambda run: _order(run.result))
    counts: dict[str, DocumentCounts] = {}

    def counted(run: _Run) -> DocumentCounts:
        if run.result.source not in counts:
            tables = [run.output.read_shard(shard, _COLUMNS) for shard in run.output.shards()]
            counts[run.result.source] = document_counts(pa.concat_tables(tables), "corrected")
        return counts[run.result.source]

    compared = []
    for run in runs:
        other, zero = _counterpart(run, runs, BASELINE, run.result.num_examples), _counterpart(run, runs, ZERO_SHOT, 0)
        against: Comparison | None = None
        if other is not None:
            mine, its = counted(run), counted(other)
            against = paired_bootstrap(mine, its, confidence=run.result.confidence) if mine.documents == its.documents else None
        compared.append(replace(run.result, against=against, zero_shot=zero.result.source if zero else None))
    return tuple(compared)


@dataclass(frozen=True)
class _Run:
    result: ScoreResult
    output: Output
    settings: Flat


def _order(result: ScoreResult) -> tuple[Any, ...]:
    return (result.task, result.model, result.method != ZERO_SHOT, result.name, result.num_examples, result.source)


def _result(output: Output, record: Mapping[str, Any], setting: str, names: Callable[[Output], str]) -> ScoreResult:
    summary = record["summary"]
    return ScoreResult(
        task=str(record["task"]),
        model=str(record["model"]),
        method=str(record["method"]),
        num_examples=int(record["num_examples"]),
        source=names(output),
        num_documents=int(summary["num_documents"]),
        num_repeats=int(summary["num_repeats"]),
        variants=summary_variants(summary),
        symmetric=bool(summary["symmetric"]),
        setting=setting,
        num_decisions=_decided(record),
        mean_examples=float(record.get("mean_examples", record["num_examples"])),
        num_not_asked=int(record.get("not_asked", 0)),
        review=ReviewCounts(**record["review"]) if "review" in record else None,
        confidence=float(summary["confidence"]),
        baseline=BASELINE,
    )


def _counterpart(run: _Run, runs: Sequence[_Run], method: str, num_examples: int) -> _Run | None:
    """The run of another method whose model was asked in the same way; ``None`` where there is none, or nobody can say which of several."""
    mine = run.result
    if mine.method in {method, ZERO_SHOT}:
        return None
    place = (mine.task, mine.model, method, num_examples)
    others = [other for other in runs if other.result.place == place]
    alike = [other for other in others if asked_alike(other.settings, run.settings)]
    if len(alike) > 1:
        alike = [other for other in alike if other.result.setting == mine.setting]
    return alike[0] if len(alike) == 1 else None


def _decided(record: Mapping[str, Any]) -> int:
    return int(record.get("decisions", 0))
