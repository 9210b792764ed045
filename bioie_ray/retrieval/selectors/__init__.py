"""Ways to choose in-context examples. One module here is one selector: its ``SELECTOR`` class and its ``Options``.

A new file in this folder is found by itself; its name is the value of ``select.method``.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping
from functools import cache
from typing import Any, cast

from pydantic import ValidationError

from bioie_ray.retrieval.selectors.base import Candidate, Pool, Query, Selector

__all__ = ["RANDOM_METHODS", "Candidate", "Pool", "Query", "Selector", "known_methods", "make_selector"]

# Those that draw by the seed; each repeat of a run draws anew.
RANDOM_METHODS = frozenset({"ders", "fers"})


@cache
def known_methods() -> tuple[str, ...]:
    """Names of all selectors, sorted."""
    return tuple(sorted(module.name for module in pkgutil.iter_modules(__path__) if module.name != "base"))


def make_selector(method: str, options: Mapping[str, Any] | None = None, seed: int = 0) -> Selector:
    """The selector ``method`` with its ``options``; ``seed`` matters to the random ones only.

    Raises ``ValueError`` for an unknown method or for options that the method does not take.
    """
    if method not in known_methods():
        raise ValueError(f"select.method is {method!r}, which no selector is called; use one of {', '.join(known_methods())}")
    module = importlib.import_module(f"{__name__}.{method}")
    try:
        parsed = module.Options.model_validate(dict(options or {}))
    except ValidationError as error:
        raise ValueError(_explain(method, error, sorted(module.Options.model_fields))) from error
    return cast("Selector", module.SELECTOR(parsed, seed))


def _explain(method: str, error: ValidationError, known: list[str]) -> str:
    problems = [f"select.options{''.join(f'.{part}' for part in problem['loc'])}: {problem['msg']}" for problem in error.errors()]
    takes = f"it takes {', '.join(known)}" if known else "it takes no options"
    return f"{'; '.join(problems)} (method {method}: {takes})"
