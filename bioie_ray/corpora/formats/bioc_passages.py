"""The passages of a BioC document put together as one text."""

from __future__ import annotations

import re
from bisect import bisect_right
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from bioie_ray.corpora.document import Repair
from bioie_ray.corpora.formats.settling import MalformedError

if TYPE_CHECKING:
    import xml.etree.ElementTree as ET
    from collections.abc import Iterator

# Between title and abstract the releases leave 1; full texts some more for headings that are left out. A larger gap
# is a fault, and filling it would let one number ask for any amount of memory.
_MAX_GAP: Final = 1_000


@dataclass(frozen=True, slots=True)
class Passage:
    """``offset`` is the source's, ``start`` where it begins in the document text (code points)."""

    name: str
    offset: int
    start: int
    text: str


@dataclass(frozen=True, slots=True)
class PlacedText:
    """A document's text, its passages by offset, and a note for each that is not where its offset says."""

    text: str
    passages: tuple[Passage, ...]
    repairs: tuple[Repair, ...]

    def passage_at(self, offset: int) -> int:
        """Index of the passage that an annotation's offset points into: the last that does not begin after it."""
        return max(bisect_right([passage.offset for passage in self.passages], offset) - 1, 0)


def place_passages(document: ET.Element, line: int) -> PlacedText:
    """The text of a ``<document>``: passages at their offsets, gaps filled with spaces.

    A passage that begins before the end of the one before, or far behind it, follows after one space, with a note
    (rule ``place_passage``); so does one whose offset counts the bytes of what is before it.

    Raises:
        MalformedError: no passage, one without offset, or offsets that do not ascend.
    """
    parts: list[str] = []
    size = num_bytes = 0
    passages: list[Passage] = []
    repairs: list[Repair] = []
    for name, offset, text in _raw_passages(document, line):
        if passages and offset <= passages[-1].offset:
            raise MalformedError(f"passage {name!r} at {offset} does not follow the one at {passages[-1].offset}", line)
        gap = offset - size
        if passages and (not 0 <= gap <= _MAX_GAP or (num_bytes != size and offset == num_bytes + 1)):
            repairs.append(Repair("place_passage", f"{name}: {offset} -> {size + 1}"))
            gap = 1
        elif not passages and gap > _MAX_GAP:
            # A document cut out of a larger one counts on: only differences matter.
            repairs.append(Repair("place_passage", f"{name}: {offset} -> 0"))
            gap = 0
        parts += [" " * gap, text]
        passages.append(Passage(name, offset, size + gap, text))
        size += gap + len(text)
        num_bytes += gap + len(text.encode("utf-8", "surrogatepass"))
    if not passages:
        raise MalformedError("the document has no passage", line)
    return PlacedText("".join(parts), tuple(passages), tuple(repairs))


def _raw_passages(document: ET.Element, line: int) -> Iterator[tuple[str, int, str]]:
    """Name, offset and text of passages that have any; those split into sentences give their sentences."""
    for passage in document.iter("passage"):
        name = next((infon.text or "" for infon in passage.findall("infon") if infon.get("key") == "type"), "passage")
        parts = [passage] if passage.find("text") is not None else passage.findall("sentence")
        for part in parts:
            offset, text = (part.findtext("offset") or "").strip(), part.findtext("text") or ""
            if not re.fullmatch(r"[0-9]{1,12}", offset):
                raise MalformedError(f"passage {name!r} has the offset {offset!r}, which is not a number", line)
            if text:
                yield name, int(offset), text
