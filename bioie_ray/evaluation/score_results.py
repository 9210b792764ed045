"""Scores as the report shows them: one ``ScoreResult`` a run, what the grid still lacks, and sample answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, Self

from bioie_ray.evaluation.coverage import Interval
from bioie_ray.evaluation.marking import Kind
from bioie_ray.evaluation.statistics import Comparison, Spread
from bioie_ray.evaluation.table import VARIANTS, Scoring, Variant
from bioie_ray.retrieval.selectors import RANDOM_METHODS

ZERO_SHOT = "zero-shot"


@dataclass(frozen=True, slots=True)
class RepeatScore:
    """One repeat: strict scores and counts, and how many of its answers were no list or still wait for a person."""

    repeat: int
    precision: float
    recall: float
    f1: float
    tp: int
    fp: int
    fn: int
    malformed: int
    undecided: int


@dataclass(frozen=True, slots=True)
class OtherScore:
    """Means over repeats under another scoring."""

    precision: float
    recall: float
    f1: Spread
    interval: Interval


@dataclass(frozen=True, slots=True)
class VariantScore:
    """Scores of one variant of a run's answers; ``errors``, ``malformed`` and ``undecided`` are totals over all repeats."""

    precision: Spread
    recall: Spread
    f1: Spread
    interval: Interval
    malformed: int
    undecided: int
    errors: Mapping[str, int]
    scorings: Mapping[Scoring, OtherScore]
    repeats: tuple[RepeatScore, ...]

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """What ``table.summarise`` wrote of a variant."""
        others = {
            name: OtherScore(float(s["precision"]), float(s["recall"]), Spread(**s["f1"]), Interval(**s["interval"]))
            for name, s in data["scorings"].items()
        }
        repeats = tuple(RepeatScore(**{f.name: row[f.name] for f in fields(RepeatScore)}) for row in data["repeats"])
        return cls(
            precision=Spread(**data["precision"]),
            recall=Spread(**data["recall"]),
            f1=Spread(**data["f1"]),
            interval=Interval(**data["interval"]),
            malformed=int(data["malformed"]),
            undecided=int(data["undecided"]),
            errors=dict(data["errors"]),
            scorings=others,
            repeats=repeats,
        )

    def total(self, part: Literal["tp", "fp", "fn"]) -> int:
        """Strict counts over all repeats."""
        return sum(int(getattr(row, part)) for row in self.repeats)


@dataclass(frozen=True, slots=True)
class ReviewCounts:
    """What the review of a run's answers came to, over all repeats and before any person decided.

    ``empty`` answers say nothing at all, so nobody was asked about them. Of the others without a list, two evaluators ``agreed`` on one, or
    (``agreed_empty``) that nothing is named. ``invented`` are items of conversions, not answers, that are neither in the answer nor in
    the document.
    """

    empty: int = 0
    agreed: int = 0
    agreed_empty: int = 0
    invented: int = 0


# Task, model, method and number of examples.
Place = tuple[str, str, str, int]


@dataclass(frozen=True, slots=True)
class ScoreResult:
    """One run: a model asked about a task's documents with examples of one method.

    ``mean_examples`` were in a prompt, ``num_examples`` less those that did not fit; ``num_not_asked`` answers are none because the query did not.
    ``setting`` says what sets runs apart that are otherwise the same (``generate.structured true``), commonly nothing.
    ``against`` compares corrected F1 with that of the ``baseline`` with as many examples, where there is one over the same documents
    whose model was asked in the same way; ``zero_shot`` is the ``source`` of the run without examples that was. ``review`` is not known of
    scores that releases up to 0.4 made.
    """

    task: str
    model: str
    method: str
    num_examples: int
    source: str
    num_documents: int
    num_repeats: int
    variants: Mapping[Variant, VariantScore]
    symmetric: bool = False
    setting: str = ""
    num_decisions: int = 0
    mean_examples: float | None = None
    num_not_asked: int = 0
    confidence: float = 0.95
    baseline: str = "ders"
    against: Comparison | None = None
    zero_shot: str | None = None
    review: ReviewCounts | None = None

    @property
    def place(self) -> Place:
        """Where the run stands in a grid."""
        return (self.task, self.model, self.method, self.num_examples)

    @property
    def name(self) -> str:
        """The method, with the setting where runs differ in one."""
        return f"{self.method} ({self.setting})" if self.setting else self.method

    @property
    def num_answers(self) -> int:
        """Answers over all repeats."""
        return self.num_documents * self.num_repeats

    @property
    def corrected(self) -> VariantScore:
        """The variant that runs are ranked by."""
        return self.variants["corrected"]

    @property
    def role(self) -> Literal["selector", "random", "baseline"]:
        """How the run is drawn: random draws of examples, none at all, or chosen ones."""
        return "random" if self.method in RANDOM_METHODS else "baseline" if self.method == ZERO_SHOT else "selector"


@dataclass(frozen=True, slots=True)
class MissingRun:
    """A run that is not scored yet: one that a recipe asks for, by its ``name``, or a combination of what the other runs have."""

    task: str
    model: str
    method: str
    num_examples: int
    name: str = ""

    @property
    def place(self) -> Place:
        """Where the run would stand in a grid."""
        return (self.task, self.model, self.method, self.num_examples)


@dataclass(frozen=True, slots=True)
class AnswerItem:
    """One item of an answer: one form or two, and ``right`` or the kind of its error."""

    forms: tuple[str, ...]
    kind: str


@dataclass(frozen=True, slots=True)
class AnswerView:
    """A sample: one answer to one document, before and after.

    ``status`` is the parser's word (valid, dressed, malformed), ``verdict`` the review's. ``marks`` says what each lower-cased form
    of gold and answer is in the text. ``items`` is ``None`` where there is no list: a person still has to decide, or nobody was asked to.
    """

    task: str
    model: str
    method: str
    num_examples: int
    source: str
    document_id: str
    repeat: int
    text: str
    answer: str
    status: str
    verdict: str
    items: tuple[AnswerItem, ...] | None
    missed: tuple[tuple[str, ...], ...]
    marks: Mapping[str, Kind]
    conversions: tuple[str | None, str | None] = (None, None)


def summary_variants(summary: Mapping[str, Any]) -> dict[Variant, VariantScore]:
    """The variants of a record's ``summary``."""
    return {variant: VariantScore.from_json(summary["variants"][variant]) for variant in VARIANTS}


def missing_runs(results: tuple[ScoreResult, ...]) -> tuple[MissingRun, ...]:
    """Every task and model by every method and number of examples that any run has, less the runs there are.

    Zero-shot has no method, so it is one combination for each task and model.
    """
    there = {r.place for r in results}
    counts = sorted({r.num_examples for r in results if r.method != ZERO_SHOT})
    methods = list(dict.fromkeys(r.method for r in results if r.method != ZERO_SHOT))
    columns = [(ZERO_SHOT, 0)] if any(r.method == ZERO_SHOT for r in results) else []
    columns += [(method, number) for method in methods for number in counts]
    rows = [(task, model) for task in dict.fromkeys(r.task for r in results) for model in dict.fromkeys(r.model for r in results)]
    return tuple(MissingRun(*row, *column) for row in rows for column in columns if (*row, *column) not in there)
