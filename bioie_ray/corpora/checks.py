"""What every kept document satisfies; the last gate before it becomes a row.

The text of a document is never altered: a mention has to agree with it, not the other way round.
Known defects are mended before, by the rules of ``bioie_ray.corpora.repair``.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

    from bioie_ray.corpora.document import Argument, Document, Mention, Relation, Span

_SHOWN_CHARS: Final = 60
# What joins concept ids in one column: `|` (BC5CDR, NCBI), `+` (NCBI), `,` and `;` (NLM-Gene).
_ID_SEPARATORS: Final = re.compile(r"[|+,;]")


class DocumentError(ValueError):
    """Why a document cannot be kept. ``mention_id`` names the mention at fault, ``None`` where it is not a mention."""

    def __init__(self, reason: str, mention_id: str | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.mention_id = mention_id


def check(document: Document) -> Document:
    """The document itself, if it is sound.

    Sound means: it has an id; sections and spans lie within the text (half-open, code points) and spans are not empty;
    a mention's text equals ``text[start:end]``, or, for a discontinuous mention, its fragments in their order with
    any white space between them; mention and relation ids are unique; each relation argument is a concept id, mention id
    or entity id of the document, as its kind says (a concept id may be a part of a composite one); every string can
    be written as UTF-8.

    Raises:
        DocumentError: the first thing found wrong.
    """
    if not document.id:
        raise DocumentError("it has no id")
    _check_encodable(document)
    _check_sections(document)
    _check_unique("mention", (m.id for m in document.mentions))
    _check_unique("relation", (r.id for r in document.relations))
    for mention in document.mentions:
        _check_mention(document.text, mention)
    if document.relations:
        known = _Known(document)
        for relation in document.relations:
            known.check(relation)
    return document


def agrees(text: str, mention: Mention) -> bool:
    """Whether the mention's spans lie in the text and spell the mention's text (as ``check`` demands)."""
    if not mention.spans or not all(_lies_within(text, span) for span in mention.spans):
        return False
    if len(mention.spans) == 1:
        return text[mention.spans[0].start : mention.spans[0].end] == mention.text
    joined = "".join(text[span.start : span.end] for span in mention.spans)
    # Fragments have no common spelling of the gap between them ("Ocular" + "toxicity", "beta-" + "blockers").
    return "".join(joined.split()) == "".join(mention.text.split())


def shown(value: str) -> str:
    """A string quoted for a message, cut to 60 characters."""
    return repr(value) if len(value) <= _SHOWN_CHARS else f"{value[:_SHOWN_CHARS]!r}..."


def _check_encodable(document: Document) -> None:
    try:
        json.dumps(document.to_row(), ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError as error:
        raise DocumentError(
            f"it holds half of a surrogate pair ({error.object[error.start : error.end]!r}), which is no character"
        ) from None


def _check_sections(document: Document) -> None:
    for section in document.sections:
        if not 0 <= section.start <= section.end <= len(document.text):
            raise DocumentError(
                f"section {section.name!r} is at {section.start}-{section.end}, but the text has {len(document.text)} characters"
            )


def _check_unique(what: str, ids: Iterable[str]) -> None:
    repeated = [known for known, count in Counter(ids).items() if count > 1]
    if repeated:
        raise DocumentError(f"{what} id {repeated[0]!r} occurs more than once")


def _check_mention(text: str, mention: Mention) -> None:
    if agrees(text, mention):
        return
    name = f"mention {shown(mention.text)} ({mention.type})"
    if not mention.spans:
        raise DocumentError(f"{name} has no place in the text", mention.id)
    for span in mention.spans:
        if span.end > len(text):
            reason = f"{name} at {span.start}-{span.end} lies beyond the text, which has {len(text)} characters"
            raise DocumentError(reason, mention.id)
        if not _lies_within(text, span):
            raise DocumentError(f"{name} at {span.start}-{span.end} is not a span of characters", mention.id)
    place = ";".join(f"{span.start}-{span.end}" for span in mention.spans)
    there = " ".join(text[span.start : span.end] for span in mention.spans)
    raise DocumentError(f"{name} at {place} does not match the text, which has {shown(there)} there", mention.id)


def _lies_within(text: str, span: Span) -> bool:
    return 0 <= span.start < span.end <= len(text)


class _Known:
    """The ids of a document that a relation may join."""

    def __init__(self, document: Document) -> None:
        concepts = {concept for mention in document.mentions for concept in mention.concept_ids}
        self._ids = {
            "concept": concepts | {part for concept in concepts for part in _ID_SEPARATORS.split(concept)},
            "mention": {mention.id for mention in document.mentions},
            "entity": {mention.entity_id for mention in document.mentions if mention.entity_id is not None},
        }

    def check(self, relation: Relation) -> None:
        if not relation.arguments:
            raise DocumentError(f"relation {relation.id} ({relation.type}) joins nothing")
        for argument in relation.arguments:
            if not self._holds(argument):
                raise DocumentError(
                    f"relation {relation.id} ({relation.type}) joins {argument.kind} {shown(argument.ref)}, "
                    f"which no mention of the document has"
                )

    def _holds(self, argument: Argument) -> bool:
        return argument.ref in self._ids.get(argument.kind, ())
