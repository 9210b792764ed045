"""One self-contained HTML page of results, with the same numbers as CSV and JSON beside it.

The caller reads artifacts and fills ``ReportData``; nothing here reads a store. The page needs no network: styles,
script and plots are inline, and its content security policy forbids anything else.
"""

from __future__ import annotations

import dataclasses
import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from bioie_ray.evaluation.coverage import CoverageSummary, Interval
from bioie_ray.evaluation.instruction_results import InstructionsSummary
from bioie_ray.evaluation.page import render
from bioie_ray.evaluation.report_csv import coverage_csv, scores_csv, training_csv
from bioie_ray.evaluation.score_results import AnswerView, MissingRun, ScoreResult
from bioie_ray.evaluation.training_results import PreferencesSummary, StageSummary

Answer = tuple[str, ...]  # one surface form (entity), or an ordered pair of them (relation)
Role = Literal["selector", "random", "baseline"]


@dataclass(frozen=True, slots=True)
class Provenance:
    """What made the numbers of one artifact. ``source`` (``kind/name@version``) is how everything else refers to it."""

    source: str
    path: str
    fingerprint: str
    recipe: str
    code_version: str
    created: str
    seeds: tuple[int, ...] = ()
    models: Mapping[str, str] = field(default_factory=dict)
    inputs: tuple[str, ...] = ()
    image: str | None = None
    seconds: float | None = None

    @property
    def kind(self) -> str:
        """The kind of output, by which the page groups many."""
        return self.source.rpartition("@")[0].split("/")[-2] if "/" in self.source and "@" in self.source else "outputs"


@dataclass(frozen=True, slots=True)
class MethodResult:
    """One method on one task: a line of the coverage table.

    ``sources`` names the artifacts measured (several where a random method was drawn with several seeds). ``role`` is
    ``random`` for DERS and FERS, ``baseline`` for a method that only shows what a cheap trick reaches (longest).
    ``short_queries`` got fewer examples than asked for; ``excluded_query`` and ``excluded_duplicate_text`` count
    candidates left out for being the query itself or having its text; ``num_truncated`` counts texts that a model cut.
    """

    task: str
    method: str
    sources: tuple[str, ...]
    summary: CoverageSummary
    role: Role = "selector"
    short_queries: int = 0
    excluded_query: int = 0
    excluded_duplicate_text: int = 0
    num_truncated: int = 0


@dataclass(frozen=True, slots=True)
class ExampleView:
    """A chosen example as the sample pages show it; scores are ``None`` where the method has none."""

    id: str
    text: str
    answers: tuple[Answer, ...]
    retrieval_score: float | None = None
    rerank_score: float | None = None


@dataclass(frozen=True, slots=True)
class QueryView:
    """One query with the examples of ``method`` and, to compare, of a random draw (``random_method``)."""

    task: str
    query_id: str
    text: str
    answers: tuple[Answer, ...]
    method: str
    examples: tuple[ExampleView, ...]
    source: str
    random_method: str = "ders"
    random_examples: tuple[ExampleView, ...] = ()


@dataclass(frozen=True, slots=True)
class SplitCounts:
    """One split of a corpus, counted before any task's filter."""

    split: str
    documents: int
    mentions: int
    relations: int
    quarantined: int
    repaired: int = 0


@dataclass(frozen=True, slots=True)
class CorpusSummary:
    """A prepared corpus."""

    name: str
    source: str
    splits: tuple[SplitCounts, ...]


@dataclass(frozen=True, slots=True)
class VectorsSummary:
    """An output of ``embed``: how many texts it holds, how many were taken over from an earlier one, how many were cut."""

    source: str
    model: str
    dtype: str
    dimensions: int
    num_texts: int
    num_reused: int
    num_truncated: int


@dataclass(frozen=True, slots=True)
class RankingRow:
    """One ranking on the held-out queries: nDCG@``k`` with graded gains, and gold coverage of its first ``k``."""

    method: str
    k: int
    ndcg: Interval
    coverage: Interval


@dataclass(frozen=True, slots=True)
class RerankerSummary:
    """An output of ``train_reranker``. ``losses`` are (step, mean loss since the point before)."""

    source: str
    base_model: str
    tasks: tuple[str, ...]
    num_queries: int
    num_pairs: int
    num_steps: int
    seconds: float
    losses: tuple[tuple[int, float], ...]
    rankings: tuple[RankingRow, ...]


@dataclass(frozen=True, slots=True)
class ReportData:
    """Everything the page shows. Any part may be empty: a report of a corpus alone has only ``corpora``.

    ``baseline`` is the method that ``CoverageSummary.difference`` was taken against. ``keep`` is how many examples
    a query was to get.
    """

    title: str
    created: str
    keep: int = 10
    baseline: str = "ders"
    results: tuple[MethodResult, ...] = ()
    samples: tuple[QueryView, ...] = ()
    corpora: tuple[CorpusSummary, ...] = ()
    vectors: tuple[VectorsSummary, ...] = ()
    rerankers: tuple[RerankerSummary, ...] = ()
    provenance: tuple[Provenance, ...] = ()
    scores: tuple[ScoreResult, ...] = ()
    missing: tuple[MissingRun, ...] = ()
    grid_recipe: str = ""
    answers: tuple[AnswerView, ...] = ()
    instructions: tuple[InstructionsSummary, ...] = ()
    preferences: tuple[PreferencesSummary, ...] = ()
    stages: tuple[StageSummary, ...] = ()


def build_report(data: ReportData, out: Path) -> Path:
    """Write ``out`` (HTML) and, beside it, the same numbers as CSV and JSON.

    ``.csv`` is the coverage table, ``.json`` all of ``data``; where there are any, ``.scores.csv`` has the scores and ``.training.csv`` the numbers
    of every training step.

    Each file is written whole or not at all.

    Raises:
        ValueError: ``out`` does not end in ``.html``, there is nothing to show, or a number has no provenance.
    """
    if out.suffix != ".html":
        raise ValueError(f"a report is an HTML file, but --out is {out.name}; name it {out.stem or 'report'}.html")
    tuned = data.instructions or data.preferences or data.stages
    if not (data.scores or data.results or data.corpora or data.vectors or tuned or data.rerankers):
        raise ValueError(
            "nothing to report: none of the given outputs holds counts, vectors, instructions, pairs, a trained model, a reranker, selections or scores"
        )
    _check_sources(data)
    tables = {out.with_suffix(".csv"): coverage_csv(data)} if data.results or not data.scores else {}
    if data.scores:
        tables[out.with_suffix(".scores.csv")] = scores_csv(data.scores)
    if data.stages:
        tables[out.with_suffix(".training.csv")] = training_csv(data.stages)
    html = render(data, files=[*(path.name for path in tables), out.with_suffix(".json").name])
    out.parent.mkdir(parents=True, exist_ok=True)
    _write(out.with_suffix(".json"), json.dumps(dataclasses.asdict(data), ensure_ascii=False, indent=1, allow_nan=False) + "\n")
    for path, text in tables.items():
        _write(path, text)
    _write(out, html)
    return out


def _check_sources(data: ReportData) -> None:
    known = {p.source for p in data.provenance}
    used = [s for r in data.results for s in r.sources] + [s.source for s in data.samples]
    shown = (data.corpora, data.vectors, data.instructions, data.preferences, data.stages, data.rerankers, data.scores, data.answers)
    used += [part.source for parts in shown for part in parts]
    for result in data.results:
        if not result.sources:
            raise ValueError(f"{result.method} on {result.task} names no source; every number needs a provenance")
    for source in used:
        if source not in known:
            raise ValueError(f"no provenance was given for {source}; every number needs one")


def _write(path: Path, text: str) -> None:
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o644)  # noqa: PTH101  mkstemp makes it 0600; a report is to be read by others
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
