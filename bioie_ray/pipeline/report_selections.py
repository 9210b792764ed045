"""The report's coverage tables and sample queries, read from ``selections/``."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bioie_ray.artifacts.fingerprint import canonical_json
from bioie_ray.artifacts.output import Output
from bioie_ray.artifacts.record import input_key
from bioie_ray.artifacts.store import StoreAddress
from bioie_ray.config.recipe import Recipe
from bioie_ray.corpora.document import Document, from_table
from bioie_ray.corpora.tasks import Task, forms, get_task, gold
from bioie_ray.evaluation.coverage import PerQuery, measure, summarise
from bioie_ray.evaluation.report import Answer, ExampleView, MethodResult, QueryView, Role
from bioie_ray.pipeline.select import BEST_EXAMPLES, method_name
from bioie_ray.pipeline.view import View
from bioie_ray.retrieval.selectors import RANDOM_METHODS

BASELINE = "ders"
SAMPLES_PER_TASK = 3


@dataclass(frozen=True)
class Selection:
    """A selection with what is needed to measure it."""

    output: Output
    record: Mapping[str, Any]
    recipe: Recipe
    task: Task
    best: Mapping[str, Sequence[str]]
    source: str

    @classmethod
    def read(cls, output: Output, record: Mapping[str, Any], names: Callable[[Output], str]) -> Selection:
        """A finished selection; ``names`` says how the page refers to it."""
        recipe = Recipe.model_validate(record["recipe"])
        best = json.loads(output.store.read(f"{output.key}/{BEST_EXAMPLES}"))
        return cls(output, record, recipe, get_task(recipe.task, recipe.nlm_gene_types), best, names(output))

    @property
    def method(self) -> str:
        """The selector's name, and that it was reranked, as the tables show it."""
        return method_name(self.recipe, reranked=self.record["reranked"])

    @property
    def role(self) -> Role:
        """Whether examples were drawn, or chosen, or taken by a cheap trick."""
        method = self.recipe.select.method
        return "random" if method in RANDOM_METHODS else "baseline" if method == "longest" else "selector"

    @property
    def corpus(self) -> Output:
        """What it was chosen from."""
        return Output(self.output.address, input_key(self.record, "corpora"))

    @property
    def group(self) -> str:
        """What is one line of the table: selections that differ in nothing but their random draws."""
        payload = {name: value for name, value in self.record["payload"].items() if name != "seed"}
        settings = {name: value for name, value in payload["settings"].items() if name != "repeat"}
        return canonical_json({**payload, "settings": settings})

    @property
    def family(self) -> tuple[StoreAddress, str, Task, tuple[str, ...]]:
        """What can be compared: selections for the same queries of one corpus, measured on the same answers."""
        return (self.corpus.address, self.corpus.key, self.task, tuple(self.best))


class _Documents:
    """Queries and chosen examples of the selections over one corpus, by id."""

    def __init__(self, selections: Sequence[Selection]) -> None:
        corpus = selections[0].corpus
        shards: set[str] = set()
        for selection in selections:
            view = View(corpus, selection.recipe.select, selection.recipe.seed)
            shards.update(view.corpus_shard(unit) for unit in view.query_units())
            shards.update(view.pool_shards())
        wanted = {id_ for s in selections for query, examples in s.best.items() for id_ in (query, *examples)}
        self.by_id: dict[str, Document] = {}
        for shard in sorted(shards):
            for document in from_table(corpus.read_shard(shard)):
                if document.id in wanted:
                    self.by_id[document.id] = document

    def gold(self, task: Task, ids: Iterable[str]) -> dict[str, frozenset[str]]:
        return {id_: gold(task, self.by_id[id_]).keys() for id_ in ids}

    def num_tokens(self, ids: Iterable[str]) -> dict[str, int]:
        """Words and punctuation marks: a count that no model's vocabulary changes, so that pages can be compared."""
        return {id_: len(re.findall(r"\w+|[^\w\s]", self.by_id[id_].text)) for id_ in ids}


def selection_results(selections: Sequence[Selection]) -> tuple[list[MethodResult], list[QueryView]]:
    """Coverage of every method on every task, and a few sample queries of each task."""
    results: list[MethodResult] = []
    samples: list[QueryView] = []
    families: dict[object, list[Selection]] = {}
    for selection in selections:
        families.setdefault(selection.family, []).append(selection)
    for name, family in zip(_task_names([members[0] for members in families.values()]), families.values(), strict=True):
        documents = _Documents(family)
        results += _family_results(name, family, documents)
        samples += _samples(name, family, documents)
    return results, samples


def _family_results(name: str, family: Sequence[Selection], documents: _Documents) -> list[MethodResult]:
    """One line a method, each against DERS on the same queries where DERS is there."""
    groups: dict[str, list[Selection]] = {}
    for selection in family:
        groups.setdefault(selection.group, []).append(selection)
    measured = {group: _measure(members, documents) for group, members in groups.items()}
    baseline = next((measured[g] for g, members in groups.items() if members[0].recipe.select.method == BASELINE), None)
    names = _distinct_names(groups)
    return [
        MethodResult(
            task=name,
            method=names[group],
            sources=tuple(member.source for member in members),
            summary=summarise(measured[group], baseline),
            role=members[0].role,
            short_queries=max(int(member.record["queries"]["short"]) for member in members),
            excluded_query=int(members[0].record["queries"]["excluded_query"]),
            excluded_duplicate_text=int(members[0].record["queries"]["excluded_duplicate_text"]),
            num_truncated=max(int(member.record["counts"].get("pairs_truncated", 0)) for member in members),
        )
        for group, members in groups.items()
    ]


def _distinct_names(groups: Mapping[str, Sequence[Selection]]) -> dict[str, str]:
    """The method's name; where two lines would have the same one, the output's name tells them apart."""
    plain = [members[0].method for members in groups.values()]
    return {
        group: members[0].method if plain.count(members[0].method) == 1 else f"{members[0].method} ({members[0].recipe.name})"
        for group, members in groups.items()
    }


def _measure(members: Sequence[Selection], documents: _Documents) -> PerQuery:
    task = members[0].task
    examples = {id_ for member in members for chosen in member.best.values() for id_ in chosen}
    return measure(
        [member.best for member in members],
        documents.gold(task, members[0].best),
        documents.gold(task, examples),
        documents.num_tokens(examples),
    )


def _samples(name: str, family: Sequence[Selection], documents: _Documents) -> list[QueryView]:
    """A few queries of the strongest kind of selection beside a random draw, the same ones on every page."""
    ranked = sorted(family, key=lambda s: (s.role != "selector", not s.record["reranked"], s.output.key))
    random = next((s for s in ranked if s.recipe.select.method == BASELINE), None)
    shown = ranked[0]
    if shown.role == "random":
        return []
    answered = [query for query in shown.best if gold(shown.task, documents.by_id[query]).answers]
    chosen = sorted(answered, key=lambda query: hashlib.sha256(query.encode()).digest())[:SAMPLES_PER_TASK]
    views = []
    for query in chosen:
        document = documents.by_id[query]
        views.append(
            QueryView(
                task=name,
                query_id=query,
                text=document.text,
                answers=_answers(shown.task, document),
                method=shown.method,
                examples=_examples(shown, query, documents),
                source=shown.source,
                random_method=BASELINE,
                random_examples=_examples(random, query, documents) if random else (),
            )
        )
    return views


def _examples(selection: Selection, query: str, documents: _Documents) -> tuple[ExampleView, ...]:
    scores: dict[str, tuple[float | None, float | None]] = {}
    for shard in selection.output.shards():
        table = selection.output.read_shard(shard)
        for row in table.to_pylist():
            if row["query_id"] == query:
                scores[row["example_id"]] = (row["retrieval_score"], row["rerank_score"])
    views = []
    for id_ in selection.best[query]:
        document = documents.by_id[id_]
        retrieval, rerank = scores.get(id_, (None, None))
        shown = None if selection.role == "random" else retrieval
        views.append(ExampleView(id_, document.text, _answers(selection.task, document), shown, rerank))
    return tuple(views)


def _answers(task: Task, document: Document) -> tuple[Answer, ...]:
    return tuple(map(forms, gold(task, document).answers))


def _task_names(selections: Sequence[Selection]) -> list[str]:
    """A name for what each one is an example of: the task, the split if it is not test, and a number where that is not enough."""
    plain = [s.task.key if s.recipe.select.queries == "test" else f"{s.task.key} ({s.recipe.select.queries})" for s in selections]
    return [name if plain.count(name) == 1 else f"{name} [{plain[: i + 1].count(name)}]" for i, name in enumerate(plain)]
