"""What a reader, and a browser, find on a report's page."""

from __future__ import annotations

from collections.abc import Iterator
from html.parser import HTMLParser

HOSTILE = """</style><script>alert("x")</script><img src=http://evil.example/x onerror=alert(1)> & "aspirin" '"""


class Page(HTMLParser):
    """Collects tags with their attributes, and the text that a reader sees."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._hidden = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._hidden = tag if tag in {"style", "script"} else self._hidden

    def handle_endtag(self, tag: str) -> None:
        self._hidden = "" if tag == self._hidden else self._hidden

    def handle_data(self, data: str) -> None:
        self.text += "" if self._hidden else data

    def values(self, *names: str) -> Iterator[str]:
        for _, attributes in self.tags:
            yield from (str(attributes[name]) for name in names if name in attributes)
