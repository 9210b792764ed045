"""What sets runs apart in their settings, and which runs differ in nothing but their examples: from the recipes in their records."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

from bioie_ray.config.training import STAGE_PREFIX

Flat = Mapping[str, str]

# What a run's place in the tables says already, or what cannot change a score.
_NOT_SETTINGS: Final = (
    "name",
    "version",
    "labels",
    "job",
    "store",
    "storage",
    "source",
    "cluster",
    "matrix",
    "task",
    "prompt.num_examples",
    "select.method",
)
# What is asked about, what chooses examples, and what a model that is not trained by the recipe does not know.
_ABOUT_QUERIES: Final = ("select.queries", "select.dev_share")
_ABOUT_EXAMPLES: Final = ("select.", "embed.", "index.", "rerank.", "train_reranker.", "prepare.", "prompt.order")
_ABOUT_TRAINING: Final = ("train.", "preft.", "dpop.", "postft.", "instructions.", "preferences.")
# How often is asked, how a server is called, what only moves the last bits of a sum, and how scores are taken, which is compared as such.
_ABOUT_EXECUTION: Final = re.compile(
    r"generate\.repeats|evaluate\..*|(?:generate|dmcr\.evaluators\.\d+)\.(?:endpoint\..*|threads|batch_size|batch_tokens)"
)
_NAMED: Final = 3  # a label of more is longer than the output's name


def flat_settings(record: Mapping[str, Any]) -> Flat:
    """The settings of a record's recipe by their dotted keys."""
    return dict(_flattened(record["recipe"]))


def setting_labels(records: Sequence[Mapping[str, Any]]) -> list[str]:
    """What sets each run apart from others of its task, model, method and number of examples: settings, else the output's name."""
    flat = [flat_settings(record) for record in records]
    told: list[str] = []
    for at, record in enumerate(records):
        alike = [n for n, other in enumerate(records) if _place(other) == _place(record)]
        keys = sorted({key for n in alike for key in {*flat[n], *flat[at]} if flat[n].get(key) != flat[at].get(key)})
        told.append(", ".join(f"{key} {flat[at].get(key, 'unset')}" for key in keys))
        if len(alike) > 1 and not 0 < len(keys) <= _NAMED:
            told[-1] = f"{record['name']}@{record['version']}"
    return told


def asked_alike(one: Flat, other: Flat) -> bool:
    """Whether two runs asked the same model in the same way, whatever their examples.

    A key that only one has is one that an earlier version of this package did not know, and is passed over.
    """
    is_trained = one.get("generate.model", "").startswith(STAGE_PREFIX)
    passed_over = _ABOUT_EXAMPLES if is_trained else (*_ABOUT_EXAMPLES, *_ABOUT_TRAINING)
    return _same(one, other, lambda key: key.startswith(passed_over) or bool(_ABOUT_EXECUTION.fullmatch(key)))


def made_with(one: Flat, other: Flat, *, examples: bool) -> bool:
    """Whether two recipes of one output have the same settings, but for how a server is called, and where it has no ``examples`` their choice."""
    passed_over = () if examples else _ABOUT_EXAMPLES
    return _same(one, other, lambda key: key.startswith(passed_over) or ".endpoint." in key)


def _same(one: Flat, other: Flat, is_passed_over: Callable[[str], bool]) -> bool:
    """Whether the keys that both have are equal, but those that are passed over; what is asked about never is."""
    return all(one[key] == other[key] for key in one.keys() & other.keys() if key in _ABOUT_QUERIES or not is_passed_over(key))


def _place(record: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(record[key] for key in ("task", "model", "method", "num_examples"))


def _flattened(section: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in section.items():
        name = f"{prefix}{key}"
        if name in _NOT_SETTINGS:
            continue
        if isinstance(value, Mapping):
            yield from _flattened(value, f"{name}.")
        elif isinstance(value, list) and any(isinstance(entry, Mapping) for entry in value):
            yield from _flattened({str(place): entry for place, entry in enumerate(value)}, f"{name}.")
        else:
            yield name, str(value).lower() if isinstance(value, bool) else str(value)
