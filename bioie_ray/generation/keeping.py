"""What is slow to load and large is kept, one at a time."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


def keep_one(load: Callable[P, T]) -> Callable[P, T]:
    """``load`` with its last result kept for the same arguments (hashable, by position).

    Unlike ``lru_cache(maxsize=1)`` the kept one goes before another is made: two models may not fit.
    """
    kept: dict[tuple[object, ...], T] = {}

    @wraps(load)
    def loaded(*args: P.args, **kwargs: P.kwargs) -> T:
        assert not kwargs, "by position only"
        if args not in kept:
            kept.clear()
            kept[args] = load(*args, **kwargs)
        return kept[args]

    return loaded
