"""The runs that a recipe asks for and that have no scores yet."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from bioie_ray.config.recipe import Recipe
from bioie_ray.evaluation.score_results import MissingRun
from bioie_ray.pipeline.evaluate import EvaluateStep, undecided
from bioie_ray.pipeline.generate import model_name
from bioie_ray.pipeline.plan import Planner
from bioie_ray.pipeline.report_settings import flat_settings, made_with
from bioie_ray.pipeline.report_upstream import Found


def missing_of_recipe(recipe: Recipe, scored: Iterable[Found]) -> tuple[MissingRun, ...]:
    """The cells of a recipe without scores, in the order of its matrix, and those whose scores were made with other settings.

    Args:
        recipe: of any job; the runs are those of ``evaluate``.
        scored: finished ``scores/`` outputs with their records.

    Raises:
        ValueError: the recipe cannot be planned.
    """
    there = {undecided(output.key): record for output, record in scored}
    missing = []
    for step in Planner().plan(recipe, "evaluate"):
        if not isinstance(step, EvaluateStep):
            continue
        made = there.get(step.undecided_key)
        if made is None:
            missing.append(_missing(step, ""))
        elif not _is_of(step, made):
            missing.append(_missing(step, ", whose scores were made with other settings: it needs another version"))
    return tuple(missing)


def _is_of(step: EvaluateStep, record: Mapping[str, Any]) -> bool:
    """Whether scores were made with the settings of a step. Models and sources are told by their names here: they may be out of reach."""
    settings = flat_settings({"recipe": step.recipe.model_dump(mode="json", exclude={"matrix"})})
    asked = (step.method, step.recipe.prompt.num_examples)
    return (record["method"], record["num_examples"]) == asked and made_with(flat_settings(record), settings, examples=asked[1] > 0)


def _missing(step: EvaluateStep, why: str) -> MissingRun:
    recipe = step.recipe
    return MissingRun(
        task=recipe.task,
        model=model_name(recipe.generate.model),
        method=step.method,
        num_examples=recipe.prompt.num_examples,
        name=f"{step.undecided_key.removeprefix('scores/')}{why}",
    )
