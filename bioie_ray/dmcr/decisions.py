"""What people decided: decisions that build on each other, and which one stands.

A decision says which one its reviewer saw as the last (``seen``, empty for none). So the decisions on an answer are a tree, and
what counts is one chain of it: from the root always to the child with the smallest id, which is the one made first. The others
are *conflicts*: made without knowledge of what stood already, kept, and without effect, as is all that builds on them. Ids and
``seen`` alone decide this, so it does not depend on the order of files, nor on clocks of two machines that disagree.

Along the chain, ``undo`` takes back the last decision of the same reviewer that stands; the last that is left wins. A ``skip`` is
outside of the chain: it only notes that somebody looked, and gets in nobody's way.

A decision names the answer that it is about by its digest, because the answer to a document may be another one some day: the output
was made again, or the decision comes from another run. It counts for that answer only; for any other it is *stale*: kept, without
effect, and reported. Decisions of releases that knew no digest (up to 0.3) count where they lie, beside the answers that they were
made about, as they did before.
"""

from __future__ import annotations

import hashlib
import json
import re
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, asdict, dataclass, fields
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any, Final, Literal, get_args

from bioie_ray.prompting.answers import Answers

Choice = Literal["a", "b", "edit", "skip", "undo"]
Key = tuple[str, int]

_ID: Final = re.compile(r"\d{8}T\d{12}Z-[0-9a-f]{12}")
_DIGEST: Final = re.compile(r"[0-9a-f]{16}|")
_TIME: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z")
_WITH_ANSWERS: Final = frozenset({"a", "b", "edit"})
# Half a surrogate pair: JSON can name it, and no file can hold it.
_HALF_A_PAIR: Final = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class Decision:
    """What a reviewer decided about the answer ``repeat`` to a document.

    ``choice``: proposal ``a`` or ``b``, a list of the reviewer's own (``edit``), ``skip`` or ``undo``; the first three have
    ``answers``. ``time`` is UTC with microseconds, as ISO 8601 with a Z. ``id`` sorts by time. ``answer_digest`` is that of the answer
    it is about (see ``answer_digest``), and empty for one of an older release.
    """

    document_id: str
    repeat: int
    choice: Choice
    answers: Answers | None
    reviewer: str
    time: str
    id: str
    seen: str
    answer_digest: str = ""

    def __post_init__(self) -> None:
        """Refuse what cannot have been decided.

        Raises:
            ValueError: a field has a value that it cannot have; the message names both.
        """
        if not self.document_id:
            raise ValueError("document_id is empty")
        if self.repeat < 1:
            raise ValueError(f"repeat is {self.repeat}; repeats count from 1")
        if self.choice not in get_args(Choice):
            raise ValueError(f"choice is {self.choice!r}; known: {', '.join(get_args(Choice))}")
        if (self.answers is not None) != (self.choice in _WITH_ANSWERS):
            raise ValueError(f"choice {self.choice!r} needs answers" if self.answers is None else f"choice {self.choice!r} has no answers")
        if not self.reviewer.strip():
            raise ValueError("reviewer is empty; say who decided")
        if not _TIME.fullmatch(self.time):
            raise ValueError(f"time is {self.time!r}; write it as 2026-01-31T12:00:00.000000Z")
        for name in ("id", "seen"):
            value = getattr(self, name)
            if not _ID.fullmatch(value) and (name == "id" or value):
                raise ValueError(f"{name} is {value!r}, which is no id of a decision")
        if not _DIGEST.fullmatch(self.answer_digest):
            raise ValueError(f"answer_digest is {self.answer_digest!r}, which is no digest of an answer (16 hexadecimal digits)")
        _check_whole(self.to_json())

    @property
    def key(self) -> Key:
        """Which answer it is about."""
        return self.document_id, self.repeat

    @property
    def substance(self) -> tuple[object, ...]:
        """All but id and time: two decisions with the same are one, perhaps sent twice."""
        return self.key, self.choice, self.answers, self.reviewer, self.seen, self.answer_digest

    def is_about(self, answer_digest: str) -> bool:
        """Whether it is about the answer with that digest, as far as it says."""
        return self.answer_digest in {"", answer_digest}

    def to_json(self) -> str:
        """One line of JSON."""
        return json.dumps(asdict(self), ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> Decision:
        """The inverse of ``to_json``.

        Raises:
            ValueError: no JSON, not the right fields, or values that they cannot have.
        """
        return cls.from_fields(parse_object(text))

    @classmethod
    def from_fields(cls, values: Mapping[str, Any]) -> Decision:
        """A decision from the fields of a JSON object.

        Raises:
            ValueError: a field is missing, unknown, or has a value that it cannot have.
        """
        names = [field.name for field in fields(cls)]
        wrong = [f"{field.name} is missing" for field in fields(cls) if field.default is MISSING and field.name not in values] + [
            f"{name} is unknown" for name in values if name not in names
        ]
        if wrong:
            raise ValueError(f"{', '.join(wrong)}; a decision has {', '.join(names)}")
        for name in values:
            expected = int if name == "repeat" else str
            if name != "answers" and (not isinstance(values[name], expected) or isinstance(values[name], bool)):
                raise ValueError(f"{name} is {values[name]!r}, not {'a whole number' if expected is int else 'a text'}")
        return cls(**{**values, "answers": read_answers(values["answers"])})


@dataclass(frozen=True, slots=True)
class Standing:
    """How things stand with one answer. ``head`` is the id a new decision has to name as ``seen``; ``winner`` is what counts."""

    head: str = ""
    winner: Decision | None = None
    chain: tuple[Decision, ...] = ()
    conflicts: tuple[Decision, ...] = ()
    skipped_by: frozenset[str] = frozenset()


def answer_digest(answer: str) -> str:
    """What names an answer in decisions about it."""
    return hashlib.blake2b(answer.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()


def standings(decisions: Iterable[Decision], digests: Mapping[Key, str] = MappingProxyType({})) -> dict[Key, Standing]:
    """How things stand with every answer that somebody looked at; the order of the decisions does not matter.

    Args:
        decisions: on any answers.
        digests: of the answers as they are now; where one is not in it, all decisions count.
    """
    by_key: dict[Key, dict[str, Decision]] = {}
    for decision in sorted(decisions, key=Decision.to_json):  # an id that two share, which only hands can do, is the first one's
        if decision.is_about(digests.get(decision.key, decision.answer_digest)):
            by_key.setdefault(decision.key, {}).setdefault(decision.id, decision)
    return {key: _standing(found.values()) for key, found in sorted(by_key.items())}


def resolve(decisions: Iterable[Decision], digests: Mapping[Key, str] = MappingProxyType({})) -> dict[Key, Answers]:
    """What was decided, by answer, as the module describes it; ``digests`` as for ``standings``."""
    return {
        key: standing.winner.answers
        for key, standing in standings(decisions, digests).items()
        if standing.winner is not None and standing.winner.answers is not None
    }


def stale(decisions: Iterable[Decision], digests: Mapping[Key, str]) -> set[Key]:
    """The answers that were decided, are others now, and have not been decided anew."""
    decisions = list(decisions)
    olds = [decision for decision in decisions if not decision.is_about(digests.get(decision.key, decision.answer_digest))]
    return resolve(olds).keys() - resolve(decisions, digests).keys()


def winners(decisions: Iterable[Decision]) -> list[Decision]:
    """The decisions that count, each for the answer that it is about, without knowing which answers there are now; by id."""
    decisions = list(decisions)
    digests: dict[Key, set[str]] = {}
    for decision in decisions:
        digests.setdefault(decision.key, set()).add(decision.answer_digest)
    found: dict[str, Decision] = {}
    while digests:  # one digest of each answer in turn; mostly there is one
        now = standings(decisions, {key: max(known) for key, known in digests.items()})
        found |= {one.winner.id: one.winner for key, one in now.items() if key in digests and one.winner is not None}
        digests = {key: known - {max(known)} for key, known in digests.items() if known - {max(known), ""}}
    return sorted(found.values(), key=lambda decision: decision.id)


def new_id(after: str = "") -> tuple[str, str]:
    """A new id and its time: now, or a microsecond after the one of an earlier id that a faster clock made."""
    now = datetime.now(UTC)
    time = f"{now:%Y-%m-%dT%H:%M:%S.%f}Z"
    stamp = f"{now:%Y%m%dT%H%M%S%f}Z"
    if after and after.partition("-")[0] >= stamp:
        date, _, digits = after.partition("-")[0].removesuffix("Z").partition("T")
        stamp = f"{date}T{int(digits) + 1:012d}Z"
    return f"{stamp}-{secrets.token_hex(6)}", time


def to_jsonl(decisions: Iterable[Decision]) -> str:
    """The decisions as JSONL, in the order of their ids."""
    return "".join(f"{decision.to_json()}\n" for decision in sorted(decisions, key=lambda decision: decision.id))


def from_jsonl(text: str, name: str = "the file") -> list[Decision]:
    """The inverse of ``to_jsonl``.

    Raises:
        ValueError: a line that is no decision; the message names the file, the line and the reason.
    """
    found = []
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            try:
                found.append(Decision.from_json(line))
            except ValueError as error:
                raise ValueError(f"{name}, line {number}: {error}") from None
    return found


def parse_object(text: str) -> dict[str, Any]:
    """A JSON object.

    Raises:
        ValueError: it is none.
    """
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"no JSON ({error})") from None
    if not isinstance(values, dict):
        raise ValueError("not a JSON object")  # noqa: TRY004 -- what a person typed is wrong, not our call
    _check_whole(json.dumps(values, ensure_ascii=False))
    return values


def read_answers(value: Any) -> Answers | None:
    """Answers from JSON: strings, or pairs as lists of two strings, and never both.

    Raises:
        ValueError: it is neither such a list nor null.
    """
    if value is None:
        return None
    if isinstance(value, list | tuple):
        if all(isinstance(item, str) for item in value):
            return tuple(value)
        pairs = tuple(tuple(item) for item in value if isinstance(item, list | tuple))
        if len(pairs) == len(value) and all(len(pair) == 2 and all(isinstance(side, str) for side in pair) for pair in pairs):
            return tuple((left, right) for left, right in pairs)
    raise ValueError("answers are neither a list of strings nor a list of pairs of strings")


def load_answers(text: str | None) -> Answers | None:
    """Answers as the outputs hold them: JSON, or nothing where there is no list."""
    return None if text is None else read_answers(json.loads(text))


def _check_whole(text: str) -> None:
    """Refuse what could not be written to the log, before anything of the same file is."""
    half = _HALF_A_PAIR.search(text)
    if half:
        raise ValueError(f"holds {half[0]!a}, half a surrogate pair, which no file can hold; write the whole character, or leave it out")


def _standing(decisions: Iterable[Decision]) -> Standing:
    in_order = sorted(decisions, key=lambda decision: decision.id)
    first_child: dict[str, Decision] = {}
    for decision in in_order:
        if decision.choice != "skip":
            first_child.setdefault(decision.seen, decision)
    chain: list[Decision] = []
    while child := first_child.pop(chain[-1].id if chain else "", None):
        chain.append(child)
    standing: list[Decision] = []
    for decision in chain:
        if decision.choice != "undo":
            standing.append(decision)
            continue
        own = [other for other in standing if other.reviewer == decision.reviewer]
        if own:
            standing.remove(own[-1])
    in_chain = {decision.id for decision in chain}
    return Standing(
        head=chain[-1].id if chain else "",
        winner=standing[-1] if standing else None,
        chain=tuple(chain),
        conflicts=tuple(decision for decision in in_order if decision.choice != "skip" and decision.id not in in_chain),
        skipped_by=frozenset(decision.reviewer for decision in in_order if decision.choice == "skip"),
    )
