"""Settings of generation that do not go together are errors that name the key."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from bioie_ray.config.generation import DmcrSettings, GenerateSettings, ModelSettings
from bioie_ray.config.recipe import Recipe


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"engine": "openai"}, r"endpoint\.url is needed"),
        (
            {"engine": "openai", "adapter": "a", "endpoint": {"url": "http://h/v1"}},
            "an adapter cannot be put on a model behind an endpoint",
        ),
        ({"endpoint": {"url": "http://me:secret@h/v1"}}, "the URL holds a user or password"),
        ({"endpoint": {"max_usd": 1.0}}, r"endpoint\.max_usd needs prices"),
        ({"temperature": -1}, "greater than or equal to 0"),
    ],
)
def test_settings_that_cannot_be_meant(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        GenerateSettings(**settings)


def test_two_evaluators_that_differ() -> None:
    one, other = ModelSettings(model="a"), ModelSettings(model="b")
    assert DmcrSettings(evaluators=(one, other)).evaluators == (one, other)
    assert DmcrSettings(evaluators=()).evaluators == ()
    with pytest.raises(ValidationError, match="are the same model twice"):
        DmcrSettings(evaluators=(one, one))
    with pytest.raises(ValidationError, match="lists 1; give two"):
        DmcrSettings(evaluators=(one,))


def test_names_hold_what_an_output_depends_on() -> None:
    matrix = {
        "task": ["biorelex"],
        "generate": [{"label": "m"}],
        "select": [{"label": "ders", "method": "ders"}],
        "prompt.num_examples": [0, 2],
    }
    zero, two = Recipe(name="g", job="evaluate", matrix=matrix, evaluate={"bootstrap_samples": 100}).cells()
    assert [two.name_of(kind) for kind in ("selections", "prompts", "dmcr", "scores")] == ["g-biorelex-ders", *["g-biorelex-m-ders-2"] * 3]
    assert [zero.name_of(kind) for kind in ("prompts", "generations", "scores")] == ["g-biorelex-m-0"] * 3
