"""Keys of a recipe: set by their dotted names, laid over each other, and told of by name where a value will not do."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import ValidationError

from bioie_ray.config.base import Settings

T = TypeVar("T", bound=Settings)


class RecipeError(ValueError):
    """A recipe that cannot be used; the message names the file, the key and a value that would do."""


def with_key(data: Mapping[str, Any], dotted: str, value: Any, *, merge: bool) -> dict[str, Any]:
    """``data`` with one key set; ``merge``: a section goes on top of the one that is there.

    Raises:
        RecipeError: what is above the key is a value.
    """
    head, _, rest = dotted.partition(".")
    result = dict(data)
    below = result.get(head)
    if rest:
        if below is not None and not isinstance(below, Mapping):
            raise RecipeError(f"{dotted}: `{head}` is a value, not a section; nothing can be set below it")
        result[head] = with_key(below or {}, rest, value, merge=merge)
    elif merge and isinstance(value, Mapping) and isinstance(below, Mapping):
        result[head] = {**below, **value}
    else:
        result[head] = value
    return result


def merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Sections are merged; everything else of ``above`` replaces what is below."""
    result = dict(below)
    for key, value in above.items():
        under = result.get(key)
        result[key] = merged(under, value) if isinstance(value, Mapping) and isinstance(under, Mapping) else value
    return result


def validate(model: type[T], data: Mapping[str, Any], where: str) -> T:
    """The settings that ``data`` holds.

    Raises:
        RecipeError: a line for each key that will not do; ``where`` goes before them.
    """
    try:
        return model.model_validate(data)
    except ValidationError as error:
        lines = [_explain(model, e["loc"], e["type"], e["msg"], e.get("input")) for e in error.errors()]
        raise RecipeError(f"{where}:\n" + "\n".join(f"  {line}" for line in lines)) from None


def _explain(model: type[Settings], loc: tuple[int | str, ...], kind: str, message: str, value: Any) -> str:
    key = ".".join(str(part) for part in loc)
    if kind == "extra_forbidden":
        fields: Any = model.model_fields
        for part in loc[:-1]:
            annotation = fields[part].annotation if part in fields else None
            fields = getattr(annotation, "model_fields", {})
        return f"{key}: no such key; known here: {', '.join(sorted(fields))}"
    text = message.removeprefix("Value error, ")
    return f"{key}: {text} (given: {value!r})" if key and not isinstance(value, dict) else (f"{key}: {text}" if key else text)
