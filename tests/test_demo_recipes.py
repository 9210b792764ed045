"""The recipes of ``scripts/demo.sh`` share a store: what two of them need they must mean alike, or the demo ends in drift."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

from bioie_ray.config.recipe import load_recipe
from bioie_ray.pipeline.plan import Planner


def test_what_recipes_of_the_demo_share_is_the_same(repository: Path, tmp_path: Path) -> None:
    script = (repository / "scripts/demo.sh").read_text(encoding="utf-8")
    runs = [shlex.split(line)[1:] for line in re.findall(r"bioie run (?:jobs/\S+)(?: --set \S+)*", script)]
    assert len(runs) == 3
    made: dict[str, str] = {}
    for _, recipe, *settings in runs:
        overrides = [one.rstrip(";").replace("$store", str(tmp_path)) for one in settings if one != "--set"]
        for step in Planner().plan(load_recipe(repository / recipe, overrides)):
            if step.output.key.startswith("corpora/"):  # what is trained has no fingerprint before
                assert made.setdefault(step.output.key, step.output.fingerprint) == step.output.fingerprint, step.output.key
    assert "corpora/embedded_biorelex@1" in made
