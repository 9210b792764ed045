"""The report's scores, read from ``scores/``: one result a run, and its comparison with random examples."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

import pyarrow as pa

from bioie_ray.artifacts.output import RECORD, Output
from bioie_ray.dmcr.decision_log import DecisionLog
from bioie_ray.evaluation.score_results import ZERO_SHOT, ScoreResult, summary_variants
from bioie_ray.evaluation.statistics import Comparison, DocumentCounts, paired_bootstrap
from bioie_ray.evaluation.table import document_counts
from bioie_ray.pipeline.evaluate import decided_version
from bioie_ray.pipeline.report_selections import BASELINE
from bioie_ray.pipeline.report_upstream import Found

_DECIDED: Final = re.compile(r"\.d\d+-[0-9a-f]+$")
# What a run's place in the tables says already, or what cannot change a score.
_NOT_SETTINGS: Final = (
    "name",
    "version",
    "labels",
    "job",
    "store",
    "storage",
    "source",
    "cluster",
    "matrix",
    "task",
    "prompt.num_examples",
    "select.method",
)
_SETTINGS_NAMED: Final = 3  # a label of more is longer than the output's name
_COLUMNS: Final = ("document_id", "repeat", "variant", "strict_tp", "strict_fp", "strict_fn")


def latest_decisions(found: Sequence[Found]) -> list[Found]:
    """Of versions of one output that differ in people's decisions only (``1``, ``1.d3-abcdef``), the one of the decisions that stand.

    Where nobody can tell (the verdicts are gone, or no version has these decisions yet), it is the one that was made last.
    """
    versions: dict[tuple[str, str], list[Found]] = {}
    for output, record in found:
        versions.setdefault((output.address.url, _DECIDED.sub("", output.key)), []).append((output, record))
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
    settings = _settings([record for _, record in found])
    runs = [(_result(output, record, setting, names), output) for (output, record), setting in zip(found, settings, strict=True)]
    runs.sort(key=lambda run: (run[0].task, run[0].model, run[0].method != ZERO_SHOT, run[0].name, run[0].num_examples, run[0].source))
    counts: dict[str, DocumentCounts] = {}

    def counted(result: ScoreResult, output: Output) -> DocumentCounts:
        if result.source not in counts:
            tables = [output.read_shard(shard, _COLUMNS) for shard in output.shards()]
            counts[result.source] = document_counts(pa.concat_tables(tables), "corrected")
        return counts[result.source]

    compared = []
    for result, output in runs:
        other = _baseline_of(result, [run for run, _ in runs])
        against: Comparison | None = None
        if other is not None:
            theirs = next(place for run, place in runs if run is other)
            mine, its = counted(result, output), counted(other, theirs)
            against = paired_bootstrap(mine, its, confidence=result.confidence) if mine.documents == its.documents else None
        compared.append(replace(result, against=against))
    return tuple(compared)


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
        confidence=float(summary["confidence"]),
        baseline=BASELINE,
    )


def _baseline_of(result: ScoreResult, runs: Sequence[ScoreResult]) -> ScoreResult | None:
    """The run with as many random examples; of several, the one with the same setting, else none."""
    if result.method == BASELINE:
        return None
    place = (result.task, result.model, result.num_examples, BASELINE)
    others = [run for run in runs if (run.task, run.model, run.num_examples, run.method) == place]
    same = [run for run in others if run.setting == result.setting] or others
    return same[0] if len(same) == 1 else None


def _settings(records: Sequence[Mapping[str, Any]]) -> list[str]:
    """What sets each run apart from others of its task, model, method and number of examples: settings, else the output's name."""
    flat = [dict(_flattened(record["recipe"])) for record in records]
    told: list[str] = []
    for at, record in enumerate(records):
        alike = [n for n, other in enumerate(records) if _place(other) == _place(record)]
        keys = sorted({key for n in alike for key in {*flat[n], *flat[at]} if flat[n].get(key) != flat[at].get(key)})
        told.append(", ".join(f"{key} {flat[at].get(key, 'unset')}" for key in keys))
        if len(alike) > 1 and not 0 < len(keys) <= _SETTINGS_NAMED:
            told[-1] = f"{record['name']}@{record['version']}"
    return told


def _place(record: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(record[key] for key in ("task", "model", "method", "num_examples"))


def _flattened(section: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in section.items():
        name = f"{prefix}{key}"
        if name in _NOT_SETTINGS:
            continue
        if isinstance(value, Mapping):
            yield from _flattened(value, f"{name}.")
        else:
            yield name, str(value).lower() if isinstance(value, bool) else str(value)


def _decided(record: Mapping[str, Any]) -> int:
    return int(record.get("decisions", 0))
