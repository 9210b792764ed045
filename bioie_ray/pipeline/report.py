"""``bioie report``: outputs in, one page out. Reads records and shards; every number on the page comes from one of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from bioie_ray.artifacts.output import Output
from bioie_ray.artifacts.record import now
from bioie_ray.config.recipe import Recipe
from bioie_ray.config.training import STAGES
from bioie_ray.evaluation.report import ReportData, build_report
from bioie_ray.evaluation.score_results import missing_runs
from bioie_ray.pipeline.locate import locate_all
from bioie_ray.pipeline.report_answers import sample_answers
from bioie_ray.pipeline.report_instructions import instructions_summary
from bioie_ray.pipeline.report_missing import missing_of_recipe
from bioie_ray.pipeline.report_parts import corpus_summary, provenance, reranker_summary, vectors_summary
from bioie_ray.pipeline.report_scores import latest_decisions, read_scores
from bioie_ray.pipeline.report_selections import BASELINE, Selection, selection_results
from bioie_ray.pipeline.report_training import preferences_summary, stage_summary
from bioie_ray.pipeline.report_upstream import with_upstream


def make_report(places: Sequence[str], out: Path, *, endpoint: str | None = None, recipe: Recipe | None = None) -> Path:
    """Write the page for the outputs at several places (a store stands for all of its outputs).

    Runs that are missing are those of the recipe, or without one what is lacking of the grid that the scores span.

    Raises:
        ValueError: nothing finished lies there, the recipe cannot be planned, or ``out`` is no HTML file name or cannot be written.
    """
    found = [(output, output.record()) for output in locate_all(places, endpoint)]
    by_kind: dict[str, list[tuple[Output, dict[str, Any]]]] = {}
    for output, record in sorted(found, key=lambda pair: pair[0].key):
        by_kind.setdefault(str(record["kind"]), []).append((output, record))
    scored = latest_decisions(by_kind.get("scores", []))
    made = with_upstream(found, [output for output, _ in scored])
    names = _source_names([output for output, _ in made])
    selections = [Selection.read(output, record, names) for output, record in by_kind.get("selections", [])]
    results, samples = selection_results(selections)
    scores = read_scores(scored, names)
    data = ReportData(
        title="Extraction scores" if scores else "In-context example selection" if selections else "Outputs",
        created=now().isoformat(timespec="minutes"),
        keep=max((selection.recipe.select.keep for selection in selections), default=10),
        baseline=BASELINE,
        results=tuple(results),
        samples=tuple(samples),
        corpora=tuple(corpus_summary(names(o), r) for o, r in by_kind.get("corpora", [])),
        vectors=tuple(vectors_summary(names(o), o, r) for o, r in by_kind.get("vectors", [])),
        instructions=tuple(instructions_summary(names(o), o, r) for o, r in by_kind.get("instructions", [])),
        preferences=tuple(preferences_summary(names(o), o, r) for o, r in by_kind.get("preferences", [])),
        stages=tuple(stage_summary(names(o), o, r) for stage in STAGES for o, r in by_kind.get(f"models-{stage}", [])),
        rerankers=tuple(reranker_summary(names(o), o, r) for o, r in by_kind.get("rerankers", [])),
        provenance=tuple(provenance(names(o), o, r) for o, r in made),
        scores=scores,
        missing=missing_runs(scores) if recipe is None else missing_of_recipe(recipe, scored),
        grid_recipe=recipe.name if recipe else "",
        answers=sample_answers(scored, scores, names),
    )
    try:
        return build_report(data, out)
    except OSError as error:
        raise ValueError(f"{out} cannot be written: {error.strerror}; give --out a file in a folder that you may write to") from None


def _source_names(outputs: Sequence[Output]) -> Callable[[Output], str]:
    """How the page refers to outputs: by their keys, and with the place where several stores have the same key."""
    keys = Counter(output.key for output in outputs)
    return lambda output: output.key if keys[output.key] == 1 else output.location
