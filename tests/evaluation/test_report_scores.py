from __future__ import annotations

import csv
import dataclasses
import json
import re
from pathlib import Path

import pytest
from page_reader import HOSTILE, Page

from bioie_ray.evaluation.coverage import Interval
from bioie_ray.evaluation.errors import ERROR_KINDS
from bioie_ray.evaluation.report import Provenance, ReportData, build_report
from bioie_ray.evaluation.score_results import (
    AnswerItem,
    AnswerView,
    MissingRun,
    OtherScore,
    RepeatScore,
    ReviewCounts,
    ScoreResult,
    VariantScore,
    missing_runs,
)
from bioie_ray.evaluation.statistics import Comparison, Spread


def spread(mean: float) -> Spread:
    return Spread(mean, 0.012, mean - 0.01, mean + 0.014, 2)


def variant(f1: float, malformed: int) -> VariantScore:
    errors = dict.fromkeys(ERROR_KINDS, 0) | {"missed": 50, "boundary": 10, "invented": 5, "duplicate": 3}
    repeats = tuple(RepeatScore(n, f1, f1, f1, 70, 8 - n, 30, malformed // 2, 0) for n in (1, 2))
    other = OtherScore(0.9, 0.8, spread(f1 + 0.1), Interval(f1 + 0.1, f1, f1 + 0.2, 40))
    interval = Interval(f1, f1 - 0.031, f1 + 0.029, 40)
    return VariantScore(spread(f1 + 0.05), spread(f1 - 0.05), spread(f1), interval, malformed, 1, errors, {"concept": other}, repeats)


def result(method: str, number: int, f1: float, task: str = "task_a", model: str = "small") -> ScoreResult:
    against = None
    if method not in ("ders", "zero-shot"):
        against = Comparison(Interval(0.123, 0.045, 0.201, 40), 0.0004)
    variants = {"raw": variant(f1 - 0.2, 36), "cleaned": variant(f1 - 0.1, 20), "corrected": variant(f1, 4)}
    return ScoreResult(task, model, method, number, f"scores/{task}-{model}-{method}-{number}@1", 40, 2, variants, against=against)


def report(*scores: ScoreResult, answers: tuple[AnswerView, ...] = (), **more: object) -> ReportData:
    provenance = tuple(
        Provenance(
            s.source, s.source, "fe" * 32, "my_recipe", "0.3.0", "2026", (7,), {"model": "offline:small"}, ("dmcr/x@1",), "an/image:1"
        )
        for s in scores
    )
    missing = missing_runs(scores)
    return ReportData("Scores", "2026", provenance=provenance, scores=scores, missing=missing, answers=answers, **more)  # type: ignore[arg-type]


@pytest.fixture
def data() -> ReportData:
    return report(result("zero-shot", 0, 0.21), result("ders", 3, 0.4321), result("similarity + reranker", 3, 0.6543), answers=(answer(),))


def answer() -> AnswerView:
    return AnswerView(
        task="task_a",
        model="small",
        method="similarity + reranker",
        num_examples=3,
        source="scores/task_a-small-similarity + reranker-3@1",
        document_id="doc-7",
        repeat=1,
        text="Ulcer and nausea after aspirin.",
        answer="I think: ulcer, aspirin",
        status="malformed",
        verdict="agreed",
        items=(AnswerItem(("Ulcer",), "right"), AnswerItem(("aspirin",), "wrong_type")),
        missed=(("nausea",),),
        marks={"ulcer": "found", "nausea": "missed", "aspirin": "wrong"},
        conversions=(None, '["Ulcer", "aspirin"]'),
    )


def build(data: ReportData, folder: Path) -> Page:
    return Page(build_report(data, folder / "page.html").read_text(encoding="utf-8"))


def text_of(page: Page) -> str:
    return re.sub(r"\s+", " ", page.text)


def test_page_holds_the_numbers_it_was_given(data: ReportData, tmp_path: Path) -> None:
    text = text_of(build(data, tmp_path))
    assert (
        "On task_a, small reaches an F1 of 65.4 % with 3 examples chosen by similarity + reranker, 21.0 % without examples and 43.2 % with random ones (ders)."
        in text
    )
    for number in (
        "That is +12.3 points against ders (95 % interval +4.5 to +20.1), over 40 documents.",
        "45.4 ±1.2",  # raw
        "55.4 ±1.2",  # cleaned
        "65.4 ±1.2 62.3 to 68.3",  # corrected
        "+12.3 p < 0.001 +4.5 to +20.1",
        "45.0 % → 25.0 → 5.0",  # malformed of 80 answers
        "75.4 ±1.2",  # concept
        "40 documents, 2 repeats",
        "my_recipe",
        "an/image:1",
        "model: offline:small",
        "from dmcr/x@1",
    ):
        assert number in text, number


def test_best_comes_first(data: ReportData, tmp_path: Path) -> None:
    html = build_report(data, tmp_path / "page.html").read_text(encoding="utf-8")
    table = html[html.index("Against ders") : html.index("</table>")]
    places = [table.index(f'data-value="{method}"') for method in ("similarity + reranker", "ders", "zero-shot")]
    assert places == sorted(places)
    assert html.count('<tr class="best">') == 1


def test_bars_say_what_they_show(data: ReportData, tmp_path: Path) -> None:
    labels = set(build(data, tmp_path).values("aria-label"))
    assert (
        "What became of the answers: as it stands 44 (55.0\u00a0%), undressed 16 (20.0\u00a0%), converted 16 (20.0\u00a0%), no list 4 (5.0\u00a0%)"
        in labels
    )
    assert "Gold answers: right 140 (70.0\u00a0%), boundary 10 (5.0\u00a0%), missed 50 (25.0\u00a0%)" in labels


def test_answers_that_say_nothing_are_not_shown_as_converted(data: ReportData, tmp_path: Path) -> None:
    """Nor are those of which two evaluators agree that they name nothing; what they made up is beside them."""
    reviewed = dataclasses.replace(data.scores[0], review=ReviewCounts(empty=3, agreed=9, agreed_empty=5, invented=2345))
    page = build(dataclasses.replace(data, scores=(reviewed, *data.scores[1:])), tmp_path)
    bars = [label for label in page.values("aria-label") if label.startswith("What became of the answers")]
    share = "16 (20.0\u00a0%), converted 11 (13.8\u00a0%), agreed empty 5 (6.2\u00a0%), empty 3 (3.8\u00a0%), no list 1 (1.2\u00a0%)"
    assert [bar for bar in bars if "agreed empty" in bar] == [
        f"What became of the answers: as it stands 44 (55.0\u00a0%), undressed {share}"
    ]
    html = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert '<td data-value="3">3</td><td data-value="5">5</td><td data-value="2345">2,345</td></tr>' in html
    text = text_of(page)
    for meaning in ("says nothing: nobody was asked to convert it", "two evaluators agree that it names nothing", "Made up are items"):
        assert meaning in text, meaning
    with (tmp_path / "page.scores.csv").open(encoding="utf-8", newline="") as file:
        rows = {
            row["method"]: [row[f"num_{name}"] for name in ("empty", "agreed", "agreed_empty", "invented")] for row in csv.DictReader(file)
        }
    assert rows == {"zero-shot": ["3", "9", "5", "2345"], "ders": [""] * 4, "similarity + reranker": [""] * 4}
    first = json.loads((tmp_path / "page.json").read_text(encoding="utf-8"))["scores"][0]
    assert first["review"] == {"empty": 3, "agreed": 9, "agreed_empty": 5, "invented": 2345}


def test_a_sample_that_says_nothing_is_not_shown_as_agreed_on(data: ReportData, tmp_path: Path) -> None:
    silent = dataclasses.replace(answer(), answer=" \n", verdict="empty", items=None, conversions=(None, None))
    text = text_of(build(dataclasses.replace(data, answers=(silent,)), tmp_path))
    assert "· malformed, says nothing · no list, 1 missed" in text


def test_nothing_is_fetched_and_every_link_leads_somewhere(data: ReportData, tmp_path: Path) -> None:
    page = build(data, tmp_path)
    html = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "url(" not in html
    ids = set(page.values("id"))
    inside = {href[1:] for href in page.values("href") if href.startswith("#")}
    assert inside <= ids
    assert len([i for i in inside if i.startswith("made-")]) == 3, "each run leads to what made it"
    assert {href for href in page.values("href") if not href.startswith("#")} == {"page.scores.csv", "page.json"}


def test_hostile_text_stays_text(data: ReportData, tmp_path: Path) -> None:
    clean = build(data, tmp_path / "clean")
    bad_answer = dataclasses.replace(
        answer(),
        document_id=HOSTILE,
        text=HOSTILE + " ulcer",
        answer=HOSTILE,
        items=(AnswerItem((HOSTILE,), "invented"),),
        missed=((HOSTILE,),),
        marks={HOSTILE.lower(): "wrong", "ulcer": "missed"},
    )
    scores = tuple(dataclasses.replace(s, task=HOSTILE, model=HOSTILE, setting=HOSTILE) for s in data.scores)
    missing = (MissingRun(HOSTILE, HOSTILE, HOSTILE, 1),)
    bad = dataclasses.replace(data, scores=scores, answers=(dataclasses.replace(bad_answer, task=HOSTILE),), missing=missing)
    page = build(bad, tmp_path / "bad")
    assert page.text.count(HOSTILE) >= 20
    assert {tag for tag, _ in page.tags} <= {tag for tag, _ in clean.tags} | {"ul", "li", "b"}
    assert [tag for tag, _ in page.tags].count("script") == 1
    assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on")]


def test_a_sample_shows_text_answer_and_judgement(data: ReportData, tmp_path: Path) -> None:
    html = build_report(data, tmp_path / "page.html").read_text(encoding="utf-8")
    assert '<mark class="found">Ulcer</mark> and <mark class="missed">nausea</mark> after <mark class="wrong">aspirin</mark>.' in html
    text = text_of(Page(html))
    assert "doc-7 · small, similarity + reranker, 3 examples · malformed, evaluators agreed · 1 of 2 right, 1 missed" in text
    assert 'I think: ulcer, aspirin Converted by evaluator B ["Ulcer", "aspirin"]' in text
    assert "aspirin wrong type" in text


def test_what_the_grid_lacks_is_named(tmp_path: Path) -> None:
    lacking = report(
        result("zero-shot", 0, 0.2),
        result("ders", 1, 0.3),
        result("ders", 3, 0.4),
        result("bm25", 1, 0.5),
        result("bm25", 3, 0.5, task="task_b"),
    )
    names = {(m.task, m.model, m.method, m.num_examples) for m in lacking.missing}
    assert names == {
        ("task_a", "small", "bm25", 3),
        ("task_b", "small", "zero-shot", 0),
        ("task_b", "small", "ders", 1),
        ("task_b", "small", "ders", 3),
        ("task_b", "small", "bm25", 1),
    }
    page = build(lacking, tmp_path)
    text = text_of(page)
    assert "5 of the 10 combinations of what has scores here have none themselves" in text
    assert "task_b, small, zero-shot" in text
    assert "task_a, small, bm25, 3 examples" in text
    assert list(page.values("class")).count("lacking") == 5


def test_a_whole_grid_lacks_nothing(data: ReportData, tmp_path: Path) -> None:
    assert data.missing == ()
    assert "None: all 3 combinations of what has scores here are scored." in text_of(build(data, tmp_path))


def test_several_tasks_are_summed_up_by_how_many_were_won(tmp_path: Path) -> None:
    lost = dataclasses.replace(result("bm25", 3, 0.2, task="task_b"), against=Comparison(Interval(-0.01, -0.05, 0.03, 40), 0.6))
    both = report(result("bm25", 3, 0.5), lost)
    text = text_of(build(both, tmp_path))
    assert "On 1 of 2 tasks, the best run with chosen examples has a clearly higher F1 than as many random ones (ders)." in text


def test_a_single_repeat_has_no_deviation(tmp_path: Path) -> None:
    one = result("zero-shot", 0, 0.5)
    alone = Spread(0.5, None, 0.5, 0.5, 1)
    corrected = dataclasses.replace(one.corrected, f1=alone)
    only = dataclasses.replace(one, num_repeats=1, variants={**one.variants, "corrected": corrected})
    text = text_of(build(report(only), tmp_path))
    assert "50.0 46.9 to 52.9" in text
    assert "On task_a, small without examples reaches an F1 of 50.0 %." in text
    assert "None: the dmcr/ outputs or the corpora" in text


def test_csv_and_json_hold_the_same_numbers(data: ReportData, tmp_path: Path) -> None:
    build_report(data, tmp_path / "page.html")
    with (tmp_path / "page.scores.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 3 * 3 * 3, "runs by variants by (all, two repeats)"
    assert all(None not in row and None not in row.values() for row in rows)
    row = next(r for r in rows if (r["method"], r["variant"], r["repeat"]) == ("similarity + reranker", "corrected", "all"))
    assert (float(row["f1"]), float(row["f1_sd"]), float(row["f1_low"])) == (0.6543, 0.012, pytest.approx(0.6233))
    assert (row["malformed"], row["error_missed"], row["difference_p"], row["baseline"]) == ("4", "50", "0.0004", "ders")
    assert (float(row["concept_f1"]), row["unordered_f1"]) == (pytest.approx(0.7543), "")
    single = next(r for r in rows if (r["method"], r["variant"], r["repeat"]) == ("ders", "raw", "2"))
    assert (single["tp"], single["fp"], single["malformed"], single["f1_sd"], single["source"]) == (
        "70",
        "6",
        "18",
        "",
        "scores/task_a-small-ders-3@1",
    )
    whole = json.loads((tmp_path / "page.json").read_text(encoding="utf-8"))
    assert whole == json.loads(json.dumps(dataclasses.asdict(data)))
    assert not (tmp_path / "page.csv").exists(), "no coverage, no table of it"


def test_many_outputs_are_grouped_by_kind(tmp_path: Path) -> None:
    many = report(*(result("bm25", number, 0.5) for number in range(1, 26)))
    assert "scores 25 outputs" in text_of(build(many, tmp_path))


def test_scores_without_provenance_are_refused(data: ReportData, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no provenance was given for scores/task_a-small-zero-shot-0@1"):
        build_report(dataclasses.replace(data, provenance=()), tmp_path / "page.html")
