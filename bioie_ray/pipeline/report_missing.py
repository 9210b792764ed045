"""The runs that a recipe asks for and that have no scores yet."""

from __future__ import annotations

import re
from collections.abc import Iterable

from bioie_ray.config.recipe import Recipe
from bioie_ray.evaluation.score_results import MissingRun
from bioie_ray.pipeline.evaluate import EvaluateStep
from bioie_ray.pipeline.generate import model_name
from bioie_ray.pipeline.plan import Planner

_DECIDED = re.compile(r"\.d\d+-[0-9a-f]+$")


def missing_of_recipe(recipe: Recipe, scored: Iterable[str]) -> tuple[MissingRun, ...]:
    """The cells of a recipe without scores, in the order of its matrix.

    Args:
        recipe: of any job; the runs are those of ``evaluate``.
        scored: keys of finished ``scores/`` outputs.

    Raises:
        ValueError: the recipe cannot be planned.
    """
    there = {_DECIDED.sub("", key) for key in scored}
    steps = [step for step in Planner().plan(recipe, "evaluate") if isinstance(step, EvaluateStep)]
    return tuple(_missing(step) for step in steps if step.undecided_key not in there)


def _missing(step: EvaluateStep) -> MissingRun:
    recipe = step.recipe
    return MissingRun(
        task=recipe.task,
        model=model_name(recipe.generate.model),
        method=step.method,
        num_examples=recipe.prompt.num_examples,
        name=step.undecided_key.removeprefix("scores/"),
    )
