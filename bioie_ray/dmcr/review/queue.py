"""What is to be decided: answers that two evaluators turned into different lists."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from bioie_ray.dmcr.decisions import Choice, Key, answer_digest
from bioie_ray.prompting.answers import Answers, Kind


@dataclass(frozen=True, slots=True)
class Item:
    """An answer, the document it is about, and what the two evaluators made of it. The gold answer is not in here, on purpose.

    ``list_a`` is ``None`` where ``conversion_a``, the evaluator's reply, is no list; ``invented_a`` are those of its items that are
    neither in the answer nor in the text. The same for b.
    """

    document_id: str
    repeat: int
    task: str
    kind: Kind
    text: str
    answer: str
    conversion_a: str | None
    conversion_b: str | None
    list_a: Answers | None
    list_b: Answers | None
    invented_a: Answers = ()
    invented_b: Answers = ()

    @property
    def key(self) -> Key:
        """Which answer it is."""
        return self.document_id, self.repeat

    @property
    def answer_digest(self) -> str:
        """What a decision about it names it by."""
        return answer_digest(self.answer)

    def answers_for(self, choice: Choice, answers: Answers | None) -> Answers | None:
        """What a choice stands for: the proposal, or the reviewer's own list.

        Raises:
            ValueError: the proposal is no list, or the reviewer's list is missing or not of this kind.
        """
        if choice in {"skip", "undo"}:
            return None
        if choice in {"a", "b"}:
            proposal = self.list_a if choice == "a" else self.list_b
            if proposal is None:
                raise ValueError(f"proposal {choice.upper()} is no list and cannot be taken; write one instead")
            return proposal
        if answers is None:
            raise ValueError("an edit needs answers")
        if not all(isinstance(answer, str) == (self.kind == "ner") for answer in answers):
            raise ValueError(f"the answers to {self.task} are {'strings' if self.kind == 'ner' else 'pairs of strings'}")
        return answers


class Queue(Protocol):
    """What is to be decided, in a fixed order."""

    @property
    def name(self) -> str:
        """What it is a queue of, for people."""
        ...

    @property
    def identity(self) -> str:
        """What tells it from every other queue, and from itself once anything in it is another: for who shows it and decides later."""
        ...

    @property
    def keys(self) -> Sequence[Key]:
        """Which answers, in order."""
        ...

    def item(self, key: Key) -> Item:
        """All about one of them. Raises KeyError."""
        ...


class ItemQueue:
    """A queue of items that lie in memory: what evaluators disagree on is a small share of all answers.

    ``place`` is where their output lies: two stores may hold outputs of one name, and each has decisions of its own.
    """

    def __init__(self, name: str, items: Iterable[Item], place: str = "") -> None:
        self._name = name
        self._items = {item.key: item for item in items}
        # All that is shown, not the answers alone: the same answer with other proposals is another question.
        held = json.dumps([name, place, [asdict(item) for item in self._items.values()]])
        self._identity = hashlib.blake2b(held.encode(), digest_size=8).hexdigest()

    @property
    def name(self) -> str:
        """What it is a queue of, for people."""
        return self._name

    @property
    def identity(self) -> str:
        """A digest of its name, its place and all its items."""
        return self._identity

    @property
    def keys(self) -> Sequence[Key]:
        """Which answers, in the order they came in."""
        return tuple(self._items)

    def item(self, key: Key) -> Item:
        """All about one of them. Raises KeyError."""
        return self._items[key]


def digests(queue: Queue) -> dict[Key, str]:
    """Of the answers that are to be decided, as a log of decisions needs them."""
    return {key: queue.item(key).answer_digest for key in queue.keys}


def find_item(queue: Queue, values: Mapping[str, Any]) -> Item:
    """The item that an object with a ``document_id`` and a ``repeat`` is about.

    Raises:
        ValueError: there is none.
    """
    document_id, repeat = values.get("document_id"), values.get("repeat")
    if isinstance(document_id, str) and isinstance(repeat, int):
        try:
            return queue.item((document_id, repeat))
        except KeyError:
            pass
    raise ValueError(f"document {document_id!r}, repeat {repeat!r} is not to be decided in {queue.name}")
