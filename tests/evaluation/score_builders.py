"""Documents for tests of scores, by hand and drawn."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from hypothesis import strategies as st

from bioie_ray.corpora.document import Argument, Document, Mention, Relation, Span
from bioie_ray.corpora.tasks import Answer, Task, get_task

DISEASE = get_task("bc5cdr_disease")
CID = get_task("bc5cdr_cid")
DDI = get_task("ddi_corpus")
BIORELEX = get_task("biorelex")

FORMS = ("aspirin", "ASA", "gastric ulcer", "ulcer", "acute renal failure", "renal failure", "nausea", "IL-2", "IL-2 receptor")
OUTSIDE = ("dragon", "severe gastric ulcer", "failure", "the")


def document(
    text: str, mentions: Mapping[str, tuple[str, Sequence[str]]], pairs: Sequence[tuple[str, str]] = (), id: str = "d1"
) -> Document:
    """A document in which each form is a mention at each of its places in the text; ``pairs`` of concepts are related."""
    found = [
        Mention(f"m{number}-{match.start()}", match.group(), type_, (Span(match.start(), match.end()),), tuple(concepts))
        for number, (form, (type_, concepts)) in enumerate(mentions.items())
        for match in re.finditer(re.escape(form), text, re.IGNORECASE)
    ]
    assert len({mention.text.lower() for mention in found}) == len({form.lower() for form in mentions}), "a form is not in the text"
    relations = tuple(Relation(f"r{n}", "CID", "", (Argument("concept", a), Argument("concept", b))) for n, (a, b) in enumerate(pairs))
    return Document(id, "bc5cdr", "test", text, mentions=tuple(found), relations=relations)


@st.composite
def documents(draw: st.DrawFn) -> Document:
    """Some of the forms, each with a type and one to three concepts or none, and relations between any of these concepts."""
    forms = draw(st.lists(st.sampled_from(FORMS), unique=True, max_size=len(FORMS)))
    concepts = st.lists(st.sampled_from(["C1", "C2", "C3", "C4", "-1"]), unique=True, max_size=2)
    mentions = {form: (draw(st.sampled_from(["Disease", "Chemical"])), draw(concepts)) for form in forms}
    known = sorted({c for _, ids in mentions.values() for c in ids} - {"-1"}) or ["C1"]
    pairs = draw(st.lists(st.tuples(st.sampled_from(known), st.sampled_from(known)), max_size=4))
    return document(" . ".join([*forms, "the end"]), mentions, pairs)


def answers(task: Task) -> st.SearchStrategy[list[Answer] | None]:
    """Lists of forms, or of pairs of them: right and wrong, in several spellings, some twice; or no list at all."""
    form = st.sampled_from([*FORMS, *OUTSIDE]).flatmap(lambda f: st.sampled_from([f, f.upper(), f.capitalize()]))
    item: st.SearchStrategy[Answer] = form if task.kind == "ner" else st.tuples(form, form)
    return st.none() | st.lists(item, max_size=12)
