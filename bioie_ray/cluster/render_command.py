"""``bioie render``: from a recipe's file to the text of a manifest, with the command that makes it on top."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from bioie_ray.cluster.image import default_image, parse_reference
from bioie_ray.cluster.raycluster import render_raycluster
from bioie_ray.cluster.rayjob import render_raycronjob, render_rayjob, to_yaml
from bioie_ray.config.recipe import load_recipe

KINDS = ("rayjob", "raycronjob", "raycluster")


def render_recipe(path: Path, overrides: Sequence[str], *, image: str | None, kind: str, schedule: str) -> str:
    """The manifest as YAML.

    Raises:
        ValueError: a recipe, image or kind that cannot be used.
    """
    if kind not in KINDS:
        raise ValueError(f"--kind {kind} is not known; there are {', '.join(KINDS)}")
    recipe = load_recipe(path, overrides)
    reference = image or default_image(recipe.cluster.kube)
    parse_reference(reference)
    words = ["bioie", "render", path.as_posix(), *(word for override in overrides for word in ("--set", override)), "--image", reference]
    if kind == "rayjob":
        manifest = render_rayjob(recipe, image=reference)
    elif kind == "raycluster":
        manifest = render_raycluster(recipe.cluster.kube, image=reference)
        words += ["--kind", kind]
    else:
        manifest = render_raycronjob(recipe, image=reference, schedule=schedule)
        words += ["--kind", kind, "--schedule", schedule]
    alpha = ["RayCronJob is alpha in KubeRay 1.6: its operator needs --feature-gates=RayCronJob=true, and fields may change."]
    return to_yaml(manifest, header=[*_header(words), *(alpha if kind == "raycronjob" else [])])


def _header(words: Sequence[str]) -> list[str]:
    return ["Rendered by the command below; change the recipe or the command, not this file.", f"  {shlex.join(words)}"]
