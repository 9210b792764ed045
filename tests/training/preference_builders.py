"""Documents for tests of preferences: drawn ones of every kind of task, and by hand."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from hypothesis import strategies as st

from bioie_ray.corpora.document import Argument, Document, Mention, Relation, Span
from bioie_ray.corpora.tasks import Answer, Task, get_task, gold

TASKS = tuple(get_task(name) for name in ("bc5cdr_disease", "bc5cdr_cid", "ddi_corpus"))
DISEASE, CID, DDI = TASKS
FORMS = ("aspirin", "gastric ulcer", "ulcer", "acute renal failure", "Nausea", "IL-2", "IL-2 receptor", 'so-called "shock"', "β-blocker\\x")


def document(text: str, mentions: Mapping[str, str], pairs: Sequence[tuple[str, str]] = ()) -> Document:
    """Every place of each form is a mention of the type given; the pairs of forms are related in that order."""
    found = [
        Mention(f"m{number}-{match.start()}", match.group(), type_, (Span(match.start(), match.end()),), (f"C{number}",))
        for number, (form, type_) in enumerate(mentions.items())
        for match in re.finditer(re.escape(form), text)
    ]
    concept = {form: Argument("concept", f"C{number}") for number, form in enumerate(mentions)}
    relations = tuple(Relation(f"r{n}", "joins", "", (concept[a], concept[b])) for n, (a, b) in enumerate(pairs))
    return Document("d1", "bc5cdr", "train", text, mentions=tuple(found), relations=relations)


@st.composite
def documents(draw: st.DrawFn) -> Document:
    """Some forms among other words, each with a type, and relations between any of them: none, both ways and with themselves too."""
    forms = draw(st.lists(st.sampled_from(FORMS), unique=True, max_size=len(FORMS)))
    others = st.sampled_from(["after", "given to", "(severe)", "and", "dogs had", "."])
    text = " ".join(part for form in forms for part in (draw(others), form)) + draw(
        st.sampled_from(["", " .", " in two rats", ", seen once"])
    )
    mentions = {form: draw(st.sampled_from(["Disease", "Chemical"])) for form in forms}
    pair = st.tuples(st.sampled_from(forms), st.sampled_from(forms)) if forms else st.nothing()
    return document(text, mentions, draw(st.lists(pair, max_size=5)) if forms else [])


def right_answers(task: Task, document: Document) -> tuple[Answer, ...]:
    return gold(task, document).answers
