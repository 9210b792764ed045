"""Small documents in the source formats, written anew for the tests."""

from __future__ import annotations

from bioie_ray.corpora.document import Document, Mention, Span

TITLE = "Zolvarin lowers serum lipids in mice."
ABSTRACT = "Mice were given zolvarin for a month. Two of them had mild anaemia, none had seizures."


def place(text: str, surface: str, nth: int = 0) -> tuple[int, int]:
    """Where a surface form occurs for the n-th time."""
    start = -1
    for _ in range(nth + 1):
        start = text.index(surface, start + 1)
    return start, start + len(surface)


def mention(text: str, surface: str, nth: int = 0, id: str = "m0", type: str = "Chemical", **more: object) -> Mention:
    """A mention where the text has it."""
    start, end = place(text, surface, nth)
    return Mention(id, surface, type, (Span(start, end),), **more)  # type: ignore[arg-type]


def document(text: str = f"{TITLE} {ABSTRACT}", *mentions: Mention, **more: object) -> Document:
    """A document of a training split."""
    return Document("1", "bc5cdr", "train", text, mentions=mentions, **more)  # type: ignore[arg-type]


def pubtator(id: str = "101", title: str = TITLE, abstract: str = ABSTRACT, lines: tuple[str, ...] | None = None, end: str = "\n") -> str:
    """A PubTator block with its blank line; three mentions and a relation unless ``lines`` says otherwise."""
    text = f"{title} {abstract}"
    if lines is None:
        lines = (
            "{}\t{}\tZolvarin\tChemical\tD900001".format(*place(text, "Zolvarin")),
            "{}\t{}\tzolvarin\tChemical\tD900001".format(*place(text, "zolvarin")),
            "{}\t{}\tanaemia\tDisease\tD900002".format(*place(text, "anaemia")),
            "CID\tD900001\tD900002",
        )
    return end.join([f"{id}|t|{title}", f"{id}|a|{abstract}", *(f"{id}\t{line}" for line in lines), "", ""])
