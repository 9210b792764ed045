from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from score_builders import CID, DISEASE, answers, document, documents

from bioie_ray.artifacts.output import to_parquet
from bioie_ray.config.generation import EvaluateSettings
from bioie_ray.corpora.document import Document
from bioie_ray.corpora.tasks import Answer, Task
from bioie_ray.evaluation.errors import ERROR_KINDS, MISSED_KINDS, WRONG_KINDS
from bioie_ray.evaluation.statistics import paired_bootstrap
from bioie_ray.evaluation.table import SCORES_SCHEMA, VARIANTS, document_counts, score_document, summarise

SETTINGS = EvaluateSettings(bootstrap_samples=200)
SYMMETRIC = replace(CID, symmetric=True)
DOCS = [
    document("Tremor and renal failure", {"Tremor": ("Disease", ["D1"]), "renal failure": ("Disease", ["D2"])}, id="a"),
    document("An ulcer after lithium", {"ulcer": ("Disease", ["D3"]), "lithium": ("Chemical", ["C1"])}, id="b"),
]


def rows() -> list[dict[str, Any]]:
    """Two documents, two repeats; the second answer of ``b`` is undecided, its first only cleaned."""
    table = []
    table += score_document(DISEASE, DOCS[0], 1, ["tremor"], ["tremor"], ["tremor"], malformed=False, undecided=False)
    table += score_document(DISEASE, DOCS[1], 1, None, ["ulcer"], ["ulcer"], malformed=False, undecided=False)
    table += score_document(
        DISEASE, DOCS[0], 2, ["tremor", "failure"], ["tremor", "failure"], ["tremor", "failure"], malformed=False, undecided=False
    )
    table += score_document(DISEASE, DOCS[1], 2, None, None, None, malformed=True, undecided=True)
    return table


def as_table(listed: list[dict[str, Any]]) -> pa.Table:
    return pa.Table.from_pylist(listed, schema=SCORES_SCHEMA)


@given(st.sampled_from([DISEASE, CID, SYMMETRIC]).flatmap(lambda task: st.tuples(st.just(task), documents(), answers(task), answers(task))))
def test_rows_fit_the_schema_and_add_up(case: tuple[Task, Document, list[Answer] | None, list[Answer] | None]) -> None:
    task, doc, raw, corrected = case
    made = score_document(task, doc, 3, raw, corrected, corrected, malformed=corrected is None, undecided=corrected is None)
    table = as_table(made)
    table.validate(full=True)
    assert table.to_pylist() == made
    assert [row["variant"] for row in made] == list(VARIANTS)
    for row, given_ in zip(made, (raw, corrected, corrected), strict=True):
        assert (row["document_id"], row["repeat"], row["num_answers"]) == (doc.id, 3, len(given_ or ()))
        assert row["num_answers"] == row["strict_tp"] + row["strict_fp"] + row["error_duplicate"]
        assert row["num_gold"] == row["strict_tp"] + row["strict_fn"]
        assert row["strict_fp"] == sum(row[f"error_{kind}"] for kind in WRONG_KINDS)
        assert row["strict_fn"] == sum(row[f"error_{kind}"] for kind in MISSED_KINDS)
        assert row["malformed"] == (given_ is None)
        assert (row["unordered_tp"] is None) == (not task.symmetric)
    assert [row["undecided"] for row in made] == [False, False, corrected is None]


def test_the_summary_holds_scores_by_repeat_and_over_them() -> None:
    summary = summarise(as_table(rows()), DISEASE, SETTINGS)
    assert (summary["num_documents"], summary["num_repeats"], summary["task"]) == (2, 2, "bc5cdr_disease")
    raw, cleaned, corrected = (summary["variants"][name] for name in VARIANTS)
    assert raw["repeats"][0] == {
        "repeat": 1, "precision": 1.0, "recall": 1 / 3, "f1": 0.5, "tp": 1, "fp": 0, "fn": 2, "malformed": 1, "undecided": 0
    }  # fmt: skip
    assert [(row["tp"], row["fp"], row["fn"], row["malformed"]) for row in cleaned["repeats"]] == [(2, 0, 1, 0), (1, 1, 2, 1)]
    assert [row["undecided"] for row in corrected["repeats"]] == [0, 1]
    f1 = [0.8, 0.4]
    assert cleaned["f1"] == {"mean": pytest.approx(0.6), "sd": pytest.approx(0.2828, abs=1e-4), "min": f1[1], "max": f1[0], "num": 2}
    assert cleaned["interval"]["mean"] == pytest.approx(0.6)
    assert cleaned["interval"]["low"] <= 0.6 <= cleaned["interval"]["high"]
    assert cleaned["errors"] == {**dict.fromkeys(ERROR_KINDS, 0), "missed": 2, "boundary": 1}
    assert (raw["malformed"], cleaned["malformed"], corrected["malformed"], corrected["undecided"]) == (2, 1, 1, 1)
    assert cleaned["scorings"]["relaxed"]["f1"]["mean"] == pytest.approx((0.8 + 0.8) / 2)
    assert set(cleaned["scorings"]) == {"concept", "relaxed"}
    assert summary == json.loads(json.dumps(summary, allow_nan=False))


def test_unordered_scores_are_there_for_symmetric_tasks_only() -> None:
    doc = document("A binds B", {"A ": ("Chemical", ["C1"]), " B": ("Disease", ["D1"])}, [("C1", "D1")])
    pair = [(" B", "A ")]
    made = as_table(score_document(SYMMETRIC, doc, 1, pair, pair, pair, malformed=False, undecided=False))
    scored = summarise(made, SYMMETRIC, SETTINGS)["variants"]["raw"]
    assert scored["f1"] == {"mean": 0.0, "sd": None, "min": 0.0, "max": 0.0, "num": 1}
    assert scored["scorings"]["unordered"]["f1"]["mean"] == 1.0


def test_the_summary_does_not_depend_on_the_order_of_rows_nor_on_the_file() -> None:
    listed = rows()
    one = summarise(as_table(listed), DISEASE, SETTINGS)
    assert summarise(as_table(listed[::-1]), DISEASE, SETTINGS) == one
    assert summarise(pa.parquet.read_table(pa.BufferReader(to_parquet(as_table(listed)))), DISEASE, SETTINGS) == one


def test_a_document_that_lacks_a_repeat_is_refused() -> None:
    listed = rows()
    with pytest.raises(ValueError, match="3 raw rows of 2 documents and 2 repeats: each document needs each repeat once"):
        summarise(as_table(listed[:-3]), DISEASE, SETTINGS)
    with pytest.raises(ValueError, match="5 raw rows"):
        summarise(as_table([*listed, listed[0]]), DISEASE, SETTINGS)
    with pytest.raises(ValueError, match="0 raw rows"):
        summarise(as_table([]), DISEASE, SETTINGS)


def test_two_runs_are_compared_from_their_tables() -> None:
    table = as_table(rows())
    compared = paired_bootstrap(document_counts(table, "corrected"), document_counts(table, "raw"))
    assert compared.difference.mean == pytest.approx((0.8 + 0.4) / 2 - (0.5 + 0.4) / 2)
