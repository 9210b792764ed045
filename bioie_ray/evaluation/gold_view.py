"""A document's gold as the scorings need it: compared keys, what each key names, and what else the text holds."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from bioie_ray.corpora.document import Argument, Document, Mention
from bioie_ray.corpora.tasks import Answer, Task, answer_key, gold, gold_concepts, spaced

Key = tuple[str, ...]
Item = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class GoldView:
    """One document for one task.

    ``gold`` holds the gold answers as they are compared. ``concepts`` says which gold concepts (or pairs of them) each of
    these names: several for a composite mention. ``identities`` are the concepts of every surface form of the document,
    of whatever type. ``other_types`` are the forms that are mentions of other types than the task's, and of no other kind.
    """

    task: Task
    gold: frozenset[Key]
    concepts: Mapping[Key, frozenset[Item]]
    identities: Mapping[str, frozenset[str]]
    other_types: frozenset[str]
    text: str

    @classmethod
    def of(cls, task: Task, document: Document) -> GoldView:
        """The view of a document."""
        answers = distinct(gold(task, document).answers)
        forms = _identities(task, document)
        return cls(
            task=task,
            gold=answers,
            concepts=_entity_concepts(task, document) if task.kind == "ner" else _pair_concepts(task, document),
            identities=forms,
            other_types=frozenset(forms) - {form for (form,) in answers} if task.kind == "ner" else frozenset(),
            text=spaced(document.text),
        )

    def in_text(self, answer: Key) -> bool:
        """Whether each form stands in the text, whatever the case and the white space."""
        return all(spaced(form) in self.text for form in answer)

    def as_meant(self, key: Key) -> Key:
        """The same key for both orders of a pair that has no direction; any other as it is."""
        return tuple(sorted(key)) if self.task.symmetric else key

    def names_another(self, answer: Key) -> bool:
        """Whether an answer plainly names something else than the gold: a mention of another type, or a gold pair reversed."""
        if len(answer) == 1:
            return answer[0] in self.other_types
        return answer[::-1] in self.gold


def distinct(answers: Iterable[Answer] | None) -> frozenset[Key]:
    """The keys of an answer's items, each once; ``None``, an answer that could not be read, is empty."""
    return frozenset(answer_key(answer) for answer in answers or ())


def _identities(task: Task, document: Document) -> dict[str, frozenset[str]]:
    anything = replace(task, kind="ner", types=None, labels=None)
    found: dict[str, frozenset[str]] = {}
    for mention in document.mentions:
        form = mention.text.lower()
        found[form] = found.get(form, frozenset()) | _mention_ids(anything, document, mention)
    return found


def _entity_concepts(task: Task, document: Document) -> dict[Key, frozenset[Item]]:
    found: dict[Key, frozenset[Item]] = {}
    for mention in document.mentions:
        alone = replace(document, mentions=(mention,), relations=())
        named = frozenset((concept,) for concept in gold_concepts(task, alone))
        if named:
            form = answer_key(mention.text)
            found[form] = found.get(form, frozenset()) | named
    return found


def _pair_concepts(task: Task, document: Document) -> dict[Key, frozenset[Item]]:
    found: dict[Key, frozenset[Item]] = {}
    for pair, named in _joined(task, document):
        found[pair] = found.get(pair, frozenset()) | {named}
    return found


def _joined(task: Task, document: Document) -> Iterator[tuple[Key, Item]]:
    """Every pair of forms of every pair of arguments that a relation joins, with what it joins."""
    anything = replace(task, kind="ner", types=None, labels=None)
    mentions = {mention.id: mention for mention in document.mentions}

    def identity(argument: Argument) -> str:
        if argument.kind == "mention" and argument.ref in mentions:
            return "|".join(sorted(_mention_ids(anything, document, mentions[argument.ref])))
        return argument.ref

    for relation in document.relations:
        for arguments in itertools.combinations(relation.arguments, 2):
            alone = replace(document, relations=(replace(relation, arguments=arguments),))
            named = tuple(identity(argument) for argument in arguments)
            for pair in distinct(gold(task, alone).answers):
                yield pair, named


def _mention_ids(anything: Task, document: Document, mention: Mention) -> frozenset[str]:
    """The cluster of a mention where it has one, else its concepts, else its own form."""
    if mention.entity_id is not None:
        return frozenset((mention.entity_id,))
    return gold_concepts(anything, replace(document, mentions=(mention,), relations=()))
