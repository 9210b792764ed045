"""The last step of a reader: mend what rules mend, check, and give the document or why not."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from bioie_ray.corpora.checks import DocumentError, check
from bioie_ray.corpora.reading import Read, Rejected, SourceFile
from bioie_ray.corpora.repair import mend

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from bioie_ray.corpora.document import Document


class MalformedError(ValueError):
    """Why a document cannot be read, and the line that shows it."""

    def __init__(self, reason: str, line: int | None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.line = line


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a document was read: ``raw`` gives its source text, ``lines`` the line of a mention id."""

    file: SourceFile
    line: int | None
    raw: Callable[[], str]
    lines: Mapping[str, int]

    def reject(self, id: str | None, reason: str, line: int | None = None) -> Rejected:
        """The document as quarantined; ``line`` where known is the one at fault, else its first."""
        return Rejected(
            file=self.file.name,
            line=self.line if line is None else line,
            id=id,
            split=self.file.split,
            reason=reason,
            raw=self.raw(),
        )


def settle(document: Document, origin: Origin) -> Read:
    """The document with its mentions mended and checked, or its rejection naming the line of the mention at fault."""
    mentions, repairs = mend(document.text, document.mentions)
    document = replace(document, mentions=mentions, repairs=(*document.repairs, *repairs))
    try:
        return check(document)
    except DocumentError as error:
        line = None if error.mention_id is None else origin.lines.get(error.mention_id)
        return origin.reject(document.id, error.reason, line)
