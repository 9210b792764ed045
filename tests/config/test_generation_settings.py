"""Settings of generation that do not go together are errors that name the key."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from bioie_ray.config.generation import DmcrSettings, GenerateSettings, ModelSettings
from bioie_ray.config.keys import RecipeError
from bioie_ray.config.recipe import Recipe, resolve


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"engine": "openai"}, r"endpoint\.url is needed"),
        (
            {"engine": "openai", "adapter": "a", "endpoint": {"url": "http://h/v1"}},
            "an adapter cannot be put on a model behind an endpoint",
        ),
        ({"endpoint": {"url": "http://me:secret@h/v1"}}, "the URL holds a user or password"),
        ({"endpoint": {"url": "https://h/v1?api-version=2&api-key=abc"}}, "the URL holds a parameter `api-key`"),
        ({"endpoint": {"url": "https://h/v1#accesskey=abc"}}, "the URL holds a parameter `accesskey`"),
        ({"endpoint": {"url": "https://h/v1?key=abc"}}, "the URL holds a parameter `key`"),
        ({"endpoint": {"url": "https://h/v1?subscription=abc"}}, "the URL holds a parameter `subscription`, which may be a key"),
        ({"endpoint": {"url": "https://h/v1?version=2#"}}, "the URL holds more than an address"),
        ({"endpoint": {"url": "https://h/v1?api-version=2&s3cret"}}, "the URL holds more than an address"),
        ({"endpoint": {"url": "https://h/v1#s3cret"}}, "the URL holds more than an address"),
        ({"endpoint": {"url": "https://h/v1?sk-s3cret-0123=1"}}, "the URL holds more than an address"),
        ({"endpoint": {"max_usd": 1.0}}, r"endpoint\.max_usd needs prices"),
        ({"temperature": -1}, "greater than or equal to 0"),
    ],
)
def test_settings_that_cannot_be_meant(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said) as caught:
        GenerateSettings(**settings)
    assert "s3cret" not in str(caught.value.errors(include_input=False))


def test_two_evaluators_that_differ() -> None:
    one, other = ModelSettings(model="a"), ModelSettings(model="b")
    assert DmcrSettings(evaluators=(one, other)).evaluators == (one, other)
    assert DmcrSettings(evaluators=()).evaluators == ()
    with pytest.raises(ValidationError, match="are the same model twice"):
        DmcrSettings(evaluators=(one, one))
    with pytest.raises(ValidationError, match="evaluators are models that are there before the recipe is run"):
        DmcrSettings(evaluators=(one, ModelSettings(model="stage:preft")))
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


def test_a_url_may_name_a_version() -> None:
    url = "https://h/openai/deployments/d?api-version=2024-10-21&deployment=d"
    assert GenerateSettings(engine="openai", endpoint={"url": url}).endpoint.url == url


def test_a_password_in_a_url_is_not_repeated() -> None:
    generate = {"engine": "openai", "endpoint": {"url": "http://me:p4ssw0rd@h/v1"}}
    with pytest.raises(RecipeError, match="the URL holds a user or password") as caught:
        resolve({"name": "x", "job": "generate", "generate": generate}, [], "r.yaml")
    assert "p4ssw0rd" not in str(caught.value)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ({"model": "m"}, {"model": "m", "threads": 2, "batch_size": 3, "dtype": "bfloat16"}, True),
        ({"model": "m"}, {"model": "m", "adapter": "a"}, False),
        ({"model": "m", "engine": "openai", "endpoint": {"url": "http://a/v1"}}, {"model": "m"}, False),
    ],
)
def test_evaluators_are_two_models_not_two_ways_to_run_one(one: dict[str, Any], other: dict[str, Any], same: bool) -> None:
    if not same:
        assert len(DmcrSettings(evaluators=(one, other)).evaluators) == 2
        return
    with pytest.raises(ValidationError, match="the same model twice"):
        DmcrSettings(evaluators=(one, other))


@pytest.mark.parametrize(
    ("prompt", "tokenizer", "said"),
    [
        ({"form": "plain"}, "t", r"prompt\.form is plain, but what a server"),
        ({"max_tokens": 99}, None, r"prompt\.max_tokens needs a tokenizer"),
        ({"max_document_tokens": 99}, None, r"prompt\.max_document_tokens needs a tokenizer"),
        ({"max_tokens": 99, "max_document_tokens": 99}, "t", None),
    ],
)
def test_what_a_server_cannot_be_asked_is_said_before_it_is(prompt: dict[str, Any], tokenizer: str | None, said: str | None) -> None:
    generate = {"engine": "openai", "tokenizer": tokenizer, "endpoint": {"url": "http://h/v1"}}
    data = {"name": "x", "job": "generate", "prompt": prompt, "generate": generate}
    if said is None:
        assert resolve(data, [], "r.yaml").prompt.max_tokens == 99
        return
    with pytest.raises(RecipeError, match=said):
        resolve(data, [], "r.yaml")
