"""The eight tasks: each a view of a corpus that says what the gold answer of a document is.

The gold answer is a set. Recognition (``ner``): the distinct surface forms of the task's types. Relations (``re``): the
distinct ordered pairs of surface forms; a relation between concepts or clusters stands for all pairs of the surface
forms of its two arguments, as in the reference method's copies of the corpora. Surface forms that differ in case only
are one, and the capitalised spelling is kept.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Final, Literal, get_args

from bioie_ray.config.steps import CorpusName, TaskName
from bioie_ray.corpora.document import Argument, Document, Mention, Relation

Answer = str | tuple[str, str]
# What the sources write where a mention has no concept: BC5CDR -1, the NLM-Gene release -000 and -111.
_NO_CONCEPT: Final = frozenset({"", "-", "-1", "-000", "-111"})
# The NLM-Gene release marks a gene that a database links to the article; its conversions call all of them Gene, and a
# domain DomainMotif.
_TYPE_NAMES: Final = MappingProxyType({"GENERIF": "Gene", "STARGENE": "Gene", "Domain": "DomainMotif"})
_NLM_GENE_TYPES: Final = ("Gene", "FamilyName", "DomainMotif", "Cell", "ChromosomeLocation")
_PAIR_JOINT: Final = "|"


@dataclass(frozen=True, slots=True)
class Task:
    """A view of a corpus.

    ``types`` are the mention types of a recognition task, ``None`` for all. ``labels`` are the relation labels that
    count, ``None`` for all; an empty label always counts, as the source then has none. ``symmetric`` says that the
    order of a pair means nothing. ``has_dev`` is false where a dev split has to be carved out of train.
    """

    key: TaskName
    kind: Literal["ner", "re"]
    corpus: CorpusName
    types: tuple[str, ...] | None = None
    labels: tuple[str, ...] | None = None
    symmetric: bool = False
    has_dev: bool = True


@dataclass(frozen=True, slots=True)
class GoldSet:
    """The gold answer of a document: distinct ``answers`` in the order of their first place in the text."""

    answers: tuple[Answer, ...]

    def keys(self) -> frozenset[str]:
        """The answers as they are compared: lower-cased, the two of a pair joined with ``|``."""
        return frozenset(_key(answer) for answer in self.answers)


TASKS: Final[Mapping[TaskName, Task]] = MappingProxyType(
    {
        task.key: task
        for task in (
            Task("bc5cdr_chemical", "ner", "bc5cdr", types=("Chemical",)),
            Task("bc5cdr_disease", "ner", "bc5cdr", types=("Disease",)),
            Task("ncbi_disease", "ner", "ncbi_disease"),
            Task("chemdner", "ner", "chemdner"),
            Task("nlm_gene", "ner", "nlm_gene", types=("Gene", "FamilyName", "DomainMotif"), has_dev=False),
            Task("bc5cdr_cid", "re", "bc5cdr"),
            Task("ddi_corpus", "re", "ddi_corpus", symmetric=True, has_dev=False),
            Task("biorelex", "re", "biorelex", labels=("1",), symmetric=True, has_dev=False),
        )
    }
)


def get_task(name: str, nlm_gene_types: Sequence[str] | None = None) -> Task:
    """A task by its key; ``nlm_gene_types`` sets which types count as genes in ``nlm_gene``.

    Raises:
        ValueError: no such task, or no such type; the message names the known ones.
    """
    known = get_args(TaskName)
    if name not in known:
        raise ValueError(f"no task is called {name!r}; known: {', '.join(known)}")
    task = next(task for task in TASKS.values() if task.key == name)
    if task.key != "nlm_gene" or nlm_gene_types is None:
        return task
    unknown = sorted(set(nlm_gene_types) - set(_NLM_GENE_TYPES))
    if unknown or not nlm_gene_types:
        raise ValueError(f"nlm_gene has no type {', '.join(unknown) or 'at all'}; known: {', '.join(_NLM_GENE_TYPES)}")
    return replace(task, types=tuple(dict.fromkeys(nlm_gene_types)))


def gold(task: Task, document: Document) -> GoldSet:
    """The gold answer of a document for a task, as the module describes it."""
    if task.kind == "ner":
        return GoldSet(tuple(_best_spellings(mention.text for mention in _mentions(task, document)).values()))
    spelling = _best_spellings(mention.text for mention in _in_text_order(document.mentions))
    places = {form: place for place, form in enumerate(spelling)}
    arguments = _arguments(document)
    pairs = {
        (left.text.lower(), right.text.lower())
        for relation in _relations(task, document)
        for a, b in _argument_pairs(relation)
        for left, right in itertools.product(arguments.get(a, ()), arguments.get(b, ()))
    }
    ordered = sorted(pairs, key=lambda pair: (places[pair[0]], places[pair[1]]))
    return GoldSet(tuple((spelling[left], spelling[right]) for left, right in ordered))


def gold_concepts(task: Task, document: Document) -> frozenset[str]:
    """What the gold answer of a document is about: concept ids, or pairs of them joined with ``|``.

    A composite mention stands for each of its concepts. A mention, or an argument, without a concept stands for itself:
    its lower-cased surface form.
    """
    if task.kind == "ner":
        return frozenset(concept for mention in _mentions(task, document) for concept in _concepts(mention))
    arguments = _arguments(document)
    return frozenset(
        _PAIR_JOINT.join(concepts)
        for relation in _relations(task, document)
        for a, b in _argument_pairs(relation)
        for concepts in itertools.product(_argument_concepts(a, arguments), _argument_concepts(b, arguments))
    )


def forms(answer: Answer) -> tuple[str, ...]:
    """Its one surface form, or its two."""
    return (answer,) if isinstance(answer, str) else answer


def answer_key(answer: Answer) -> tuple[str, ...]:
    """An answer as it is compared: its lower-cased forms. Pairs stay pairs, so a form may hold any character."""
    return tuple(form.lower() for form in forms(answer))


def spaced(text: str) -> str:
    """A text as forms are looked for in it: whatever the case and the white space."""
    return " ".join(text.lower().split())


def unordered(pairs: Iterable[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
    """Pairs of which the order means nothing: of ``(a, b)`` and ``(b, a)``, whatever their case, the first is kept."""
    kept: dict[frozenset[str], tuple[str, str]] = {}
    for left, right in pairs:
        kept.setdefault(frozenset((left.lower(), right.lower())), (left, right))
    return tuple(kept.values())


def carve_dev(ids: Iterable[str], share: float = 0.1, seed: int = 0) -> frozenset[str]:
    """The ids of train that make the dev split of a corpus without one: ``round(share * n)`` of them.

    The choice depends on the ids and the seed alone, not on their order.

    Args:
        ids: the ids of the training documents; repeated ones count once.
        share: of them, between 0 and 1.
        seed: another seed draws others.

    Raises:
        ValueError: a share outside 0 to 1.
    """
    if not 0.0 <= share <= 1.0:
        raise ValueError(f"the dev share is {share}; give one between 0 and 1, for example 0.1")
    drawn = sorted(set(ids), key=lambda name: (hashlib.sha256(f"{seed}:{name}".encode()).digest(), name))
    return frozenset(drawn[: round(share * len(drawn))])


def _mentions(task: Task, document: Document) -> list[Mention]:
    return [
        mention
        for mention in _in_text_order(document.mentions)
        if task.types is None or _TYPE_NAMES.get(mention.type, mention.type) in task.types
    ]


def _relations(task: Task, document: Document) -> Iterator[Relation]:
    for relation in document.relations:
        if relation.counted and (task.labels is None or not relation.label or relation.label in task.labels):
            yield relation


def _in_text_order(mentions: Iterable[Mention]) -> list[Mention]:
    return sorted(mentions, key=lambda mention: [(span.start, span.end) for span in mention.spans])


def _best_spellings(forms: Iterable[str]) -> dict[str, str]:
    """Lower-cased form -> its spelling: the first that begins with a capital, else the first; in order of appearance."""
    best: dict[str, str] = {}
    for form in forms:
        known = best.setdefault(form.lower(), form)
        if form[:1].isupper() and not known[:1].isupper():
            best[form.lower()] = form
    return best


def _arguments(document: Document) -> dict[Argument, list[Mention]]:
    """The mentions that each possible argument stands for; a composite mention takes part with each of its concepts."""
    found: dict[Argument, list[Mention]] = {}
    for mention in document.mentions:
        refs = [Argument("mention", mention.id)]
        refs += [Argument("concept", concept) for concept in _concept_parts(mention)]
        refs += [Argument("entity", mention.entity_id)] if mention.entity_id is not None else []
        for ref in refs:
            found.setdefault(ref, []).append(mention)
    return found


def _argument_pairs(relation: Relation) -> Iterator[tuple[Argument, Argument]]:
    """The ordered pairs of a relation's arguments: one where it joins two."""
    return itertools.combinations(relation.arguments, 2)


def _argument_concepts(argument: Argument, arguments: Mapping[Argument, Sequence[Mention]]) -> list[str]:
    if argument.kind == "concept":
        return [argument.ref]
    return sorted({concept for mention in arguments.get(argument, ()) for concept in _concepts(mention)})


def _concepts(mention: Mention) -> list[str]:
    return _concept_parts(mention) or [mention.text.lower()]


def _concept_parts(mention: Mention) -> list[str]:
    parts = (part.strip() for concept in mention.concept_ids for part in concept.split("|"))
    return list(dict.fromkeys(part for part in parts if part not in _NO_CONCEPT))


def _key(answer: Answer) -> str:
    return answer.lower() if isinstance(answer, str) else _PAIR_JOINT.join(answer).lower()
