"""BioC XML as a stream of ``<document>`` elements, one in memory at a time, with line numbers.

Weighed: the ``bioc`` package streams documents too, but its iterator leaves every parsed element in the tree, reports no
line, expands entities, and ends quietly where the XML breaks off. ``lxml.etree.iterparse`` knows lines, but refuses a text
of more than 10 MB unless all its limits are lifted, entity expansion's among them. Expat under ``defusedxml`` has no such limit, refuses
entity declarations before anything is expanded, fetches nothing, and tells where it stopped.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO, Final

from defusedxml.common import DefusedXmlException
from defusedxml.ElementTree import DefusedXMLParser

from bioie_ray.corpora.reading import SourceError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

_CHUNK_BYTES: Final = 65_536


@dataclass(frozen=True, slots=True)
class XmlDocument:
    """A ``<document>``, its line, and the lines of its ``<annotation>`` elements in document order."""

    element: ET.Element
    line: int
    annotation_lines: tuple[int, ...]


def stream_documents(path: Path) -> Iterator[XmlDocument]:
    """The documents of a BioC collection in order.

    Raises:
        SourceError: the file is not well-formed to its end, not BioC, or declares entities; the message has file and
            line. Documents before the fault have been given by then.
    """
    target = _Documents()
    parser: Any = DefusedXMLParser(target=target)
    target.line_of = lambda: parser.parser.CurrentLineNumber
    with path.open("rb") as stream:
        yield from _parse(path, stream, parser, target)


def _parse(path: Path, stream: BinaryIO, parser: Any, target: _Documents) -> Iterator[XmlDocument]:
    try:
        while chunk := stream.read(_CHUNK_BYTES):
            parser.feed(chunk)
            yield from target.take()
        parser.close()
        yield from target.take()
    except ET.ParseError as error:
        line, column = error.position
        reason = str(error).partition(": line ")[0]
        raise SourceError(
            f"{path}: line {line}, column {column + 1}: not well-formed XML ({reason}); is the file cut off or not UTF-8? Fetch it again"
        ) from None
    except DefusedXmlException as error:
        raise SourceError(f"{path}: declares an entity or external part, which no BioC release does: {error}") from None
    except _NotBioCError as error:
        raise SourceError(f"{path}: line {error.line}: {error.reason}") from None
    except (LookupError, ValueError) as error:  # an encoding that is unknown, or of several bytes
        raise SourceError(f"{path}: line 1: {error}; convert it to UTF-8, in its first line too") from None


class _NotBioCError(ValueError):
    def __init__(self, reason: str, line: int) -> None:
        super().__init__(reason)
        self.reason = reason
        self.line = line


class _Documents:
    """Parser target that builds a tree for one ``<document>`` after another."""

    def __init__(self) -> None:
        self.line_of: Callable[[], int] = lambda: 0
        self._depth = 0
        self._builder: ET.TreeBuilder | None = None
        self._line = 0
        self._annotation_lines: list[int] = []
        self._done: list[XmlDocument] = []

    def take(self) -> Iterator[XmlDocument]:
        done, self._done = self._done, []
        yield from done

    def start(self, tag: str, attributes: dict[str, str]) -> None:
        self._depth += 1
        if self._depth == 1 and tag != "collection":
            raise _NotBioCError(f"not BioC: the outermost element is <{tag}>, not <collection>", self.line_of())
        if self._depth == 2 and tag == "document":
            self._builder, self._line, self._annotation_lines = ET.TreeBuilder(), self.line_of(), []
        if self._builder is not None:
            if tag == "annotation":
                self._annotation_lines.append(self.line_of())
            self._builder.start(tag, attributes)

    def data(self, text: str) -> None:
        if self._builder is not None:
            self._builder.data(text)

    def end(self, tag: str) -> None:
        self._depth -= 1
        if self._builder is None:
            return
        self._builder.end(tag)
        if self._depth == 1:
            element = self._builder.close()
            self._done.append(XmlDocument(element, self._line, tuple(self._annotation_lines)))
            self._builder = None

    def close(self) -> None:
        """Called by the parser at the end of the file; what is complete has been taken or waits in ``take``."""
