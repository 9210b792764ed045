from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from score_builders import CID, DISEASE, answers, document, documents

from bioie_ray.corpora.document import Document
from bioie_ray.corpora.tasks import Answer, Task
from bioie_ray.evaluation.errors import ERROR_KINDS, ERROR_MEANINGS, MISSED_KINDS, WRONG_KINDS, errors
from bioie_ray.evaluation.gold_view import GoldView
from bioie_ray.evaluation.scoring import relaxed, strict

DOC = document(
    "Aspirin and lithium: acute renal\nfailure, tremor, no ulcer in the control group.",
    {
        "Aspirin": ("Chemical", ["C1"]),
        "lithium": ("Chemical", ["C2"]),
        "acute renal\nfailure": ("Disease", ["D1"]),
        "tremor": ("Disease", ["D2"]),
    },
    [("C2", "D2")],
)
SYMMETRIC = replace(CID, symmetric=True)


def kinds(task: Task, given: Sequence[Answer] | None) -> dict[str, int]:
    return {kind: number for kind, number in errors(GoldView.of(task, DOC), given).items() if number}


@pytest.mark.parametrize(
    ("task", "given", "expected"),
    [
        (DISEASE, None, {"missed": 2}),
        (DISEASE, ["Tremor", "renal\nfailure"], {"boundary": 1}),
        (DISEASE, ["tremor", "TREMOR", "tremor"], {"missed": 1, "duplicate": 2}),
        (DISEASE, ["aspirin"], {"missed": 2, "wrong_type": 1}),
        (DISEASE, ["ulcer", "control  group"], {"missed": 2, "spurious": 2}),
        (DISEASE, ["headache"], {"missed": 2, "invented": 1}),
        (CID, [("Lithium", "tremor")], {}),
        (CID, [("tremor", "lithium")], {"direction": 1}),
        (CID, [("lithium", "tremor"), ("tremor", "lithium")], {"spurious": 1}),
        (CID, [("aspirin", "tremor")], {"missed": 1, "partial": 1}),
        (CID, [("tremor", "aspirin")], {"missed": 1, "spurious": 1}),
        (SYMMETRIC, [("tremor", "aspirin")], {"missed": 1, "partial": 1}),
        (CID, [("lithium", "headache")], {"missed": 1, "invented": 1}),
        (CID, [("lithium:", "tremor")], {"boundary": 1}),
        (CID, [("tremor", "lithium"), ("lithium:", "tremor")], {"direction": 1, "partial": 1}),
    ],
)
def test_each_mistake_has_its_kind(task: Task, given: Sequence[Answer] | None, expected: dict[str, int]) -> None:
    assert kinds(task, given) == expected


def test_every_kind_is_counted_and_explained() -> None:
    assert set(errors(GoldView.of(CID, DOC), [])) == set(ERROR_KINDS) == set(ERROR_MEANINGS)
    assert {*WRONG_KINDS, *MISSED_KINDS, "duplicate"} == set(ERROR_KINDS)


@given(
    st.sampled_from([DISEASE, CID, SYMMETRIC]).flatmap(lambda task: st.tuples(st.just(task), documents(), answers(task))),
)
def test_kinds_add_up_to_the_strict_counts(case: tuple[Task, Document, list[Answer] | None]) -> None:
    task, doc, listed = case
    view = GoldView.of(task, doc)
    found, counts = errors(view, listed), strict(view, listed)
    assert sum(found[kind] for kind in WRONG_KINDS) == counts.fp
    assert sum(found[kind] for kind in MISSED_KINDS) == counts.fn
    assert found["duplicate"] == len(listed or ()) - counts.tp - counts.fp
    near = relaxed(view, listed).tp - counts.tp
    assert found["boundary"] <= near if found["direction"] else found["boundary"] == near
    assert min(found.values()) >= 0
