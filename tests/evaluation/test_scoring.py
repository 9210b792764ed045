from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nervaluate import Evaluator
from score_builders import BIORELEX, CID, DDI, DISEASE, answers, document, documents
from sklearn.metrics import f1_score, precision_score, recall_score
from sklearn.preprocessing import MultiLabelBinarizer

from bioie_ray.corpora.document import Argument, Document, Relation
from bioie_ray.corpora.tasks import Task, gold, gold_concepts
from bioie_ray.evaluation.gold_view import GoldView
from bioie_ray.evaluation.scoring import Counts, concept, relaxed, strict, unordered

TASKS = st.sampled_from([DISEASE, CID, replace(CID, symmetric=True)])
ULCER = document(
    "Gastric ulcer (peptic ulcer) and renal failure after aspirin (ASA).",
    {
        "Gastric ulcer": ("Disease", ["D1"]),
        "peptic ulcer": ("Disease", ["D1"]),
        "renal failure": ("Disease", ["D2"]),
        "aspirin": ("Chemical", ["C1"]),
        "ASA": ("Chemical", ["C1"]),
    },
    [("C1", "D1")],
)


def drawn(task: Task) -> st.SearchStrategy[tuple[Task, Document, object]]:
    return st.tuples(st.just(task), documents(), answers(task))


CASES = TASKS.flatmap(drawn)


def test_ratios_of_nothing_are_zero() -> None:
    assert (Counts().precision, Counts().recall, Counts().f1) == (0.0, 0.0, 0.0)
    assert (Counts(fn=3).precision, Counts(fp=3).recall, Counts(fp=1, fn=1).f1) == (0.0, 0.0, 0.0)


def test_counts_add_up_before_ratios_are_taken() -> None:
    total = Counts(1, 0, 1) + Counts(2, 3, 1)
    assert total == Counts(3, 3, 2)
    assert (total.precision, total.recall, total.f1) == (0.5, 0.6, pytest.approx(6 / 11))


def test_strict_compares_lower_cased_forms_once_each() -> None:
    view = GoldView.of(DISEASE, ULCER)
    assert strict(view, ["GASTRIC ULCER", "gastric ulcer", "ulcer", "aspirin"]) == Counts(1, 2, 2)
    assert strict(view, None) == strict(view, []) == Counts(0, 0, 3)


def test_strict_expands_a_relation_to_all_pairs_of_forms_in_order() -> None:
    view = GoldView.of(CID, ULCER)
    assert strict(view, [("Aspirin", "gastric ulcer"), ("gastric ulcer", "ASA")]) == Counts(1, 1, 3)


@given(
    st.sampled_from([DISEASE, CID]).flatmap(
        lambda task: st.tuples(st.just(task), st.lists(st.tuples(documents(), answers(task)), min_size=1, max_size=5))
    )
)
def test_strict_is_the_micro_average_of_a_multilabel_classification(case: tuple[Task, list[tuple[Document, list[object] | None]]]) -> None:
    task, rows = case
    total = sum((strict(GoldView.of(task, doc), given) for doc, given in rows), Counts())  # type: ignore[arg-type]
    truth = [gold(task, doc).keys() for doc, _ in rows]
    told = [{a.lower() if isinstance(a, str) else "|".join(a).lower() for a in given or ()} for _, given in rows]  # type: ignore[arg-type]
    labels = [*sorted(set().union(*truth, *told)), "never", "nowhere"]  # with one label alone scikit-learn would see classes
    binarizer = MultiLabelBinarizer(classes=labels)
    y_true, y_told = binarizer.fit_transform(truth), binarizer.transform(told)
    scores = [f(y_true, y_told, average="micro", zero_division=0) for f in (precision_score, recall_score, f1_score)]
    np.testing.assert_allclose([total.precision, total.recall, total.f1], scores)


def test_unordered_takes_a_pair_either_way_round() -> None:
    view = GoldView.of(replace(CID, symmetric=True), ULCER)
    given = [("gastric ulcer", "aspirin"), ("Aspirin", "Gastric ulcer"), ("aspirin", "aspirin")]
    assert unordered(view, given) == Counts(1, 1, 3)
    assert strict(view, given) == Counts(1, 2, 3)


def test_unordered_scores_of_ordered_answers_are_refused() -> None:
    for task in (CID, DISEASE):
        with pytest.raises(ValueError, match=f"{task.key} is not symmetric"):
            unordered(GoldView.of(task, ULCER), [])


def test_concept_found_by_any_of_its_names_counts_once() -> None:
    view = GoldView.of(DISEASE, ULCER)
    assert concept(view, ["peptic ulcer"]) == Counts(1, 0, 1)
    assert concept(view, ["peptic ulcer", "Gastric ulcer"]) == Counts(1, 0, 1)
    assert concept(view, []) == Counts(0, 0, 2)


def test_two_names_of_one_wrong_concept_are_one_mistake() -> None:
    assert concept(GoldView.of(DISEASE, ULCER), ["aspirin", "ASA", "dragon", "Dragon"]) == Counts(0, 2, 2)


def test_a_concept_id_is_no_name() -> None:
    numbered = document("BRCA1 and TP53", {"BRCA1": ("Disease", ["672"]), "TP53": ("Disease", [])})
    assert concept(GoldView.of(DISEASE, numbered), ["672"]) == Counts(0, 1, 2)


def test_a_composite_mention_names_all_its_concepts() -> None:
    both = document("breast and ovarian cancer", {"breast and ovarian cancer": ("Disease", ["D5", "D6"])})
    assert concept(GoldView.of(DISEASE, both), ["breast and ovarian cancer"]) == Counts(2, 0, 0)


def test_a_related_pair_of_concepts_is_named_by_any_pair_of_forms() -> None:
    view = GoldView.of(CID, ULCER)
    assert concept(view, [("asa", "peptic ulcer"), ("aspirin", "renal failure"), ("ASA", "renal failure")]) == Counts(1, 1, 0)


def test_a_cluster_is_a_concept_of_its_own() -> None:
    text = "Raf kinase (Raf) binds Ras."
    doc = document(text, {"Raf kinase": ("protein", []), "(Raf)": ("protein", []), "Ras": ("protein", [])})
    clusters = {"raf kinase": "e1", "(raf)": "e1", "ras": "e2"}
    mentions = tuple(replace(m, entity_id=clusters[m.text.lower()]) for m in doc.mentions)
    relation = Relation("r", "bind", "1", (Argument("entity", "e1"), Argument("entity", "e2")))
    view = GoldView.of(BIORELEX, replace(doc, mentions=mentions, relations=(relation,)))
    assert strict(view, [("(Raf)", "Ras")]) == Counts(1, 0, 1)
    assert concept(view, [("(Raf)", "Ras")]) == Counts(1, 0, 0)
    assert concept(view, [("Ras", "(Raf)"), ("Ras", "Raf kinase")]) == Counts(0, 1, 1), "two names of one cluster are one mistake"


def test_mentions_that_a_relation_joins_are_known_by_their_form() -> None:
    doc = document("warfarin, and Warfarin with aspirin", {"warfarin": ("drug", []), "aspirin": ("drug", [])})
    first, second, other = sorted(doc.mentions, key=lambda m: m.spans[0].start)
    relations = tuple(
        Relation(f"r{n}", "effect", "", (Argument("mention", m.id), Argument("mention", other.id))) for n, m in enumerate((first, second))
    )
    assert concept(GoldView.of(DDI, replace(doc, relations=relations)), [("WARFARIN", "aspirin")]) == Counts(1, 0, 0)


@given(documents())
def test_gold_concepts_are_those_of_the_task(doc: Document) -> None:
    view = GoldView.of(DISEASE, doc)
    assert {item for named in view.concepts.values() for (item,) in named} == gold_concepts(DISEASE, doc)
    assert set(view.concepts) == view.gold
    pairs = GoldView.of(CID, doc)
    assert set(pairs.concepts) == pairs.gold


@pytest.mark.parametrize(
    ("answer", "found"),
    [
        ("acute renal failure", True),  # longer
        ("failure", True),  # shorter
        ("severe renal", True),  # their stretches share half of the longer one
        ("very severe renal", False),  # ... or less than that
        ("renal insufficiency", False),  # a common word, but never one stretch
        ("renal failures", False),  # half a token
        ("adrenal failure", False),
        ("ASA", False),
    ],
)
def test_relaxed_takes_what_could_overlap_in_the_text(answer: str, found: bool) -> None:
    only = document("renal failure after ASA", {"renal failure": ("Disease", ["D2"]), "ASA": ("Chemical", ["C1"])})
    assert relaxed(GoldView.of(DISEASE, only), [answer]) == (Counts(1, 0, 0) if found else Counts(0, 1, 1))


def test_relaxed_counts_nothing_twice() -> None:
    view = GoldView.of(DISEASE, ULCER)
    assert relaxed(view, ["renal failure", "acute renal failure", "failure"]) == Counts(1, 2, 2)
    assert relaxed(view, ["ulcer", "gastric"]) == Counts(2, 0, 1)  # "gastric" can only be one of the two, so "ulcer" is the other


def test_relaxed_takes_a_pair_when_both_sides_are_near() -> None:
    view = GoldView.of(
        CID, document("low dose aspirin gave ulcers", {"aspirin": ("Chemical", ["C"]), "ulcers": ("Disease", ["D"])}, [("C", "D")])
    )
    assert relaxed(view, [("low dose aspirin", "ulcers")]) == Counts(1, 0, 0)
    assert relaxed(view, [("low dose aspirin", "dose")]) == Counts(0, 1, 1)
    assert relaxed(view, [("ulcers", "aspirin")]) == Counts(0, 1, 1)


def test_a_reversed_pair_is_not_taken_for_a_boundary() -> None:
    view = GoldView.of(
        CID, document("IL-2 and IL-2 receptor", {"IL-2": ("Chemical", ["C"]), "IL-2 receptor": ("Chemical", ["D"])}, [("C", "D")])
    )
    assert relaxed(view, [("IL-2 receptor", "IL-2")]) == Counts(0, 1, 1)


@given(CASES)
def test_every_scoring_accounts_for_each_answer_and_each_gold(case: tuple[Task, Document, list[object] | None]) -> None:
    task, doc, given = case
    view = GoldView.of(task, doc)
    exact, near, named = (score(view, given) for score in (strict, relaxed, concept))  # type: ignore[arg-type]
    assert exact.tp + exact.fn == near.tp + near.fn == len(view.gold)
    assert exact.tp + exact.fp == near.tp + near.fp
    assert near.tp >= exact.tp
    assert named.tp + named.fn == len({item for items in view.concepts.values() for item in items})
    assert named.fp <= exact.fp
    if task.symmetric:
        either = unordered(view, given)  # type: ignore[arg-type]
        assert either.tp + either.fn <= len(view.gold)
        assert (either.fp == 0) >= (exact.fp == 0)


@given(CASES)
def test_the_gold_itself_is_perfect_in_every_scoring(case: tuple[Task, Document, list[object] | None]) -> None:
    task, doc, _ = case
    view, right = GoldView.of(task, doc), gold(task, doc).answers
    scores = [strict, relaxed, concept, *([unordered] if task.symmetric else [])]
    assert all((counts.fp, counts.fn) == (0, 0) for counts in (score(view, right) for score in scores))


@st.composite
def spans_in_blocks(draw: st.DrawFn) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    """Gold and answered spans (in tokens), at most one of each in every block of six, one inside the other where both are there."""
    truth, told = [], []
    for block in range(draw(st.integers(1, 5))):
        outer = sorted(draw(st.lists(st.integers(0, 5), min_size=2, max_size=2)))
        inner = sorted(draw(st.lists(st.integers(*outer), min_size=2, max_size=2)))
        one, other = draw(st.permutations([outer, inner]))
        present = draw(st.sampled_from(["both", "gold", "answer"]))
        truth += [(block * 7 + one[0], block * 7 + one[1])] if present != "answer" else []
        told += [(block * 7 + other[0], block * 7 + other[1])] if present != "gold" else []
    return truth, told


@given(spans_in_blocks())
def test_strict_and_relaxed_agree_with_nervaluate_where_forms_are_spans(case: tuple[list[tuple[int, int]], list[tuple[int, int]]]) -> None:
    truth, told = case
    words = [f"w{n}" for n in range(36)]

    def form(span: tuple[int, int]) -> str:
        return " ".join(words[span[0] : span[1] + 1])

    def labelled(spans: list[tuple[int, int]]) -> list[list[dict[str, object]]]:
        return [[{"label": "Disease", "start": start, "end": end} for start, end in spans]]

    view = GoldView.of(DISEASE, document(" ".join(words), {form(span): ("Disease", []) for span in truth}))
    given = [form(span) for span in told]
    overall = Evaluator(labelled(truth), labelled(told), tags=["Disease"], loader="dict").evaluate()["overall"]
    by_strict, by_partial = overall["strict"], overall["partial"]
    exact, near = strict(view, given), relaxed(view, given)
    assert (exact.tp, exact.tp + exact.fp, exact.tp + exact.fn) == (by_strict.correct, by_strict.actual, by_strict.possible)
    assert (near.tp, near.fp, near.fn) == (by_partial.correct + by_partial.partial, by_partial.spurious, by_partial.missed)
