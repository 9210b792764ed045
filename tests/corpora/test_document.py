"""Documents as rows."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from bioie_ray.corpora.document import (
    DOCUMENT_SCHEMA,
    Argument,
    Document,
    Mention,
    Relation,
    Repair,
    Section,
    Span,
    from_table,
    to_table,
)

_TEXT = st.text(st.characters(codec="utf-8"), max_size=12)
_OFFSET = st.integers(0, 2**31 - 1)
_ATTRIBUTES = st.dictionaries(_TEXT, st.none() | st.booleans() | st.integers() | _TEXT | st.lists(_TEXT), max_size=3)


def _some(strategy: st.SearchStrategy[object]) -> st.SearchStrategy[tuple[object, ...]]:
    return st.lists(strategy, max_size=3).map(tuple)


_DOCUMENTS = st.builds(
    Document,
    _TEXT,
    _TEXT,
    _TEXT,
    _TEXT,
    _some(st.builds(Section, _TEXT, _OFFSET, _OFFSET)),
    _some(
        st.builds(
            Mention,
            _TEXT,
            _TEXT,
            _TEXT,
            _some(st.builds(Span, _OFFSET, _OFFSET)),
            _some(_TEXT),
            st.none() | _TEXT,
            _ATTRIBUTES,
        )
    ),
    _some(
        st.builds(
            Relation,
            _TEXT,
            _TEXT,
            _TEXT,
            _some(st.builds(Argument, st.sampled_from(["concept", "mention", "entity"]), _TEXT)),
            st.booleans(),
            _ATTRIBUTES,
        )
    ),
    _some(st.builds(Repair, _TEXT, _TEXT)),
    _ATTRIBUTES,
)


@settings(deadline=None)
@given(st.lists(_DOCUMENTS, max_size=3))
def test_documents_survive_the_table_unchanged(documents: list[Document]) -> None:
    table = to_table(documents)
    assert table.schema == DOCUMENT_SCHEMA
    assert from_table(table) == documents


def test_the_order_of_attributes_does_not_change_the_row() -> None:
    one = Document("1", "bc5cdr", "train", "x", attributes={"a": 1, "b": "µ"})
    other = Document("1", "bc5cdr", "train", "x", attributes={"b": "µ", "a": 1})
    assert one.to_row() == other.to_row()
    assert one.to_row()["attributes"] == '{"a":1,"b":"µ"}'
