from __future__ import annotations

import csv
import dataclasses
import json
import re
from pathlib import Path

import pytest
from page_reader import HOSTILE, Page

from bioie_ray.evaluation.coverage import CoverageSummary, Interval
from bioie_ray.evaluation.report import (
    CorpusSummary,
    ExampleView,
    MethodResult,
    Provenance,
    QueryView,
    RankingRow,
    ReportData,
    RerankerSummary,
    SplitCounts,
    VectorsSummary,
    build_report,
)


def interval(mean: float, num: int = 40) -> Interval:
    return Interval(mean, mean - 0.031, mean + 0.029, num)


def result(task: str, method: str, mean: float, role: str = "selector", **more: int) -> MethodResult:
    difference = None if method == "ders" else interval(mean - 0.2171)
    summary = CoverageSummary(42, 2, 3 if role == "random" else 1, interval(mean), difference, interval(mean / 3), 2345.6, 10.0)
    return MethodResult(task, method, (f"selections/{task}-{method}@1",), summary, role, **more)  # type: ignore[arg-type]


def sample(task: str) -> QueryView:
    chosen = ExampleView(
        "ex-chosen", "Aspirin caused an ULCER; so did ibuprofen.", (("Aspirin",), ("ULCER",), ("ibuprofen",)), 0.8125, 0.9375
    )
    drawn = ExampleView("ex-random", "No drug was given.", (("drug",),))
    return QueryView(
        task,
        "query-7",
        "An ulcer after aspirin.",
        (("ulcer",), ("aspirin",)),
        "hybrid",
        (chosen,),
        f"selections/{task}-hybrid@1",
        "ders",
        (drawn,),
    )


@pytest.fixture
def data() -> ReportData:
    results = (
        result("task_a", "longest", 0.3333, "baseline"),
        result("task_a", "ders", 0.2171, "random"),
        result("task_a", "hybrid", 0.6543, short_queries=11, excluded_query=5, excluded_duplicate_text=4, num_truncated=1234),
        result("task_a", "mmr", 0.5017),
    )
    corpora = (CorpusSummary("bc5cdr", "corpora/bc5cdr@1", (SplitCounts("train", 500, 9385, 1038, 3, 17),)),)
    vectors = (VectorsSummary("vectors/bc5cdr@1", "offline:all-minilm-l6-v2", "float32", 384, 1501, 250, 812),)
    rankings = (RankingRow("cosine", 10, interval(0.4123), interval(0.5)), RankingRow("reranked", 10, interval(0.4987), interval(0.6)))
    rerankers = (
        RerankerSummary("rerankers/r@1", "the-base", ("task_a",), 450, 3608, 451, 512.0, ((10, 0.7), (20, 0.5), (30, 0.4)), rankings),
    )
    sources = {s for r in results for s in r.sources} | {"corpora/bc5cdr@1", "vectors/bc5cdr@1", "rerankers/r@1"}
    provenance = tuple(
        Provenance(s, f"/store/{s}", "fe" * 32, "my_recipe@1", "0.1.0+abcdef", "2026-01-02", (0, 7), {"embedder": "the-embedder"})
        for s in sorted(sources)
    )
    return ReportData("A title", "2026-01-02 10:00", 10, "ders", results, (sample("task_a"),), corpora, vectors, rerankers, provenance)


def build(data: ReportData, folder: Path) -> Page:
    return Page(build_report(data, folder / "page.html").read_text(encoding="utf-8"))


def test_page_holds_the_numbers_it_was_given(data: ReportData, tmp_path: Path) -> None:
    text = re.sub(r"\s+", " ", build(data, tmp_path).text)
    assert (
        "On task_a, the 10 examples that hybrid chooses show 65.4 % of a query's gold answers. 10 random ones (ders) show 21.7 %." in text
    )
    for number in (
        "65.4 % 62.3 to 68.3",
        "+43.7 +40.6 to +46.6",
        "21.8 %",
        "2,346",
        "5 + 4",
        "1,234",
        "mean of 3 draws",
        "42 queries, 2 of them without",
    ):
        assert number in text, number
    for number in (
        "9,385",
        "1,038",
        "1,501",
        "812",
        "3,608",
        "0.499 0.468 to 0.528",
        "fefefefefefe",
        "my_recipe@1",
        "0, 7",
        "embedder: the-embedder",
    ):
        assert number in text, number


def test_methods_are_sorted_by_coverage(data: ReportData, tmp_path: Path) -> None:
    text = build(data, tmp_path).text
    table = text[text.index("Per 1,000 tokens") :]
    places = [table.index(method) for method in ("hybrid", "mmr", "longest", "ders")]
    assert places == sorted(places)


def test_nothing_is_fetched_from_anywhere(data: ReportData, tmp_path: Path) -> None:
    page = build(data, tmp_path)
    assert all(not re.match(r"(?i)\s*(\w+:)?//", value) for value in page.values("src", "href", "srcset", "action", "data", "xlink:href"))
    html = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "url(" not in html
    assert "@import" not in html
    assert not {"link", "iframe", "object", "embed", "base"} & {tag for tag, _ in page.tags}
    policy = next(a["content"] for t, a in page.tags if t == "meta" and a.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None
    assert policy.startswith("default-src 'none'")


def test_links_inside_the_page_lead_somewhere(data: ReportData, tmp_path: Path) -> None:
    page = build(data, tmp_path)
    ids = set(page.values("id"))
    assert {h[1:] for h in page.values("href") if h.startswith("#")} <= ids
    assert {h for h in page.values("href") if not h.startswith("#")} == {"page.csv", "page.json"}


def test_hostile_text_stays_text(data: ReportData, tmp_path: Path) -> None:
    clean = build(data, tmp_path / "clean")
    example = dataclasses.replace(data.samples[0].examples[0], id=HOSTILE, text=HOSTILE + " aspirin", answers=((HOSTILE,), ("aspirin",)))
    query = dataclasses.replace(data.samples[0], query_id=HOSTILE, text=HOSTILE, answers=((HOSTILE,), ("aspirin",)), examples=(example,))
    results = tuple(dataclasses.replace(r, method=r.method if r.method == "ders" else r.method + HOSTILE) for r in data.results)
    provenance = tuple(dataclasses.replace(p, path=HOSTILE, recipe=HOSTILE, models={HOSTILE: HOSTILE}) for p in data.provenance)
    reranker = dataclasses.replace(data.rerankers[0], base_model=HOSTILE)
    bad = dataclasses.replace(
        data, title=HOSTILE, created=HOSTILE, samples=(query,), results=results, provenance=provenance, rerankers=(reranker,)
    )
    page = build(bad, tmp_path / "bad")
    assert page.text.count(HOSTILE) >= 8
    allowed = {tag for tag, _ in clean.tags}
    assert {tag for tag, _ in page.tags} <= allowed
    assert [tag for tag, _ in page.tags].count("script") == 1
    assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on")]


def test_answers_that_query_and_example_share_are_marked(data: ReportData, tmp_path: Path) -> None:
    html = build_report(data, tmp_path / "page.html").read_text(encoding="utf-8")
    assert "An <mark>ulcer</mark> after <mark>aspirin</mark>." in html
    assert '<mark class="shared">Aspirin</mark> caused an <mark class="shared">ULCER</mark>; so did <mark>ibuprofen</mark>.' in html
    text = re.sub(r"\s+", " ", Page(html).text)
    assert "hybrid shows 2 of 2 answers · ders 0 of 2" in text
    assert "retrieval 0.812 rerank 0.938 · 2 shared" in text


def test_a_pair_is_shared_only_as_a_whole(data: ReportData, tmp_path: Path) -> None:
    example = dataclasses.replace(data.samples[0].examples[0], answers=(("aspirin", "ibuprofen"),))
    query = dataclasses.replace(data.samples[0], answers=(("Aspirin", "ulcer"),), examples=(example,))
    text = build(dataclasses.replace(data, samples=(query,)), tmp_path).text
    assert "Aspirin → ulcer" in text
    assert "hybrid shows 0 of 1 answers" in text


def test_several_tasks_are_summed_up_by_how_many_were_won(data: ReportData, tmp_path: Path) -> None:
    lost = (result("task_b", "ders", 0.4, "random"), result("task_b", "hybrid", 0.2))
    more = tuple(Provenance(s, "/p", "ab", "r@1", "0", "2026") for r in lost for s in r.sources)
    both = dataclasses.replace(data, results=data.results + lost, provenance=data.provenance + more)
    text = re.sub(r"\s+", " ", build(both, tmp_path).text)
    assert (
        "On 1 of 2 tasks the best selector's examples clearly show more of a query's gold answers than random ones (ders), 0.5 to 3.0 times as many."
        in text
    )


def test_a_selector_that_shows_nothing_is_not_called_best(data: ReportData, tmp_path: Path) -> None:
    def zero(task: str, method: str, role: str) -> MethodResult:
        line = result(task, method, 0.0, role)
        nothing = Interval(0.0, 0.0, 0.0, 40)
        return dataclasses.replace(line, summary=dataclasses.replace(line.summary, coverage=nothing, difference=nothing))

    lines = (zero("task_a", "ders", "random"), zero("task_a", "hybrid", "selector"))
    page = build(dataclasses.replace(data, results=lines), tmp_path)
    assert "best" not in set(page.values("class"))
    assert "No selector's examples show any gold answer of these queries." in page.text


def test_the_baseline_has_no_difference_to_itself(data: ReportData, tmp_path: Path) -> None:
    ders = dataclasses.replace(
        data.results[1], summary=dataclasses.replace(data.results[1].summary, difference=Interval(0.0, 0.0, 0.0, 40))
    )
    assert "+0.0" not in build(dataclasses.replace(data, results=(ders, *data.results[2:])), tmp_path).text


def test_a_task_whose_queries_have_no_gold_still_has_its_line(data: ReportData, tmp_path: Path) -> None:
    empty = CoverageSummary(5, 5, 1, None, None, None, 100.0, 10.0)
    only = dataclasses.replace(data.results[2], summary=empty)
    text = re.sub(r"\s+", " ", build(dataclasses.replace(data, results=(only,), samples=()), tmp_path).text)
    assert "5 queries, 5 of them without any gold answer." in text


@pytest.mark.parametrize("kept", ["corpora", "vectors", "rerankers"])
def test_a_report_of_one_kind_of_output(data: ReportData, tmp_path: Path, kept: str) -> None:
    only = ReportData("One kind", "2026", provenance=data.provenance, **{kept: getattr(data, kept)})
    page = build(only, tmp_path)
    expected = {"corpora": "1 corpora with 500 documents.", "vectors": "1,501 embedded texts.", "rerankers": "1 trained reranker."}
    assert expected[kept].replace("1 corpora", "1 corpus") in page.text
    assert "Gold coverage" not in page.text or kept == "rerankers"


def test_csv_and_json_hold_the_same_numbers(data: ReportData, tmp_path: Path) -> None:
    build_report(data, tmp_path / "page.html")
    with (tmp_path / "page.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["method"] for row in rows] == ["longest", "ders", "hybrid", "mmr"]
    assert float(rows[2]["coverage"]) == 0.6543
    assert float(rows[2]["difference_low"]) == pytest.approx(0.6543 - 0.2171 - 0.031)
    assert rows[1]["difference"] == ""
    assert (rows[2]["short_queries"], rows[2]["excluded_query"], rows[2]["num_truncated"]) == ("11", "5", "1234")
    assert rows[2]["sources"] == "selections/task_a-hybrid@1"
    whole = json.loads((tmp_path / "page.json").read_text(encoding="utf-8"))
    assert whole == json.loads(json.dumps(dataclasses.asdict(data)))


def test_same_data_same_bytes(data: ReportData, tmp_path: Path) -> None:
    one = build_report(data, tmp_path / "a" / "page.html").read_bytes()
    assert build_report(data, tmp_path / "b" / "page.html").read_bytes() == one


def test_a_failed_write_leaves_the_old_page_and_no_remains(data: ReportData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build_report(data, tmp_path / "page.html")
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        build_report(dataclasses.replace(data, title="another"), tmp_path / "page.html")
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


def test_what_cannot_be_reported_says_why(data: ReportData, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"--out is page\.pdf; name it page\.html"):
        build_report(data, tmp_path / "page.pdf")
    with pytest.raises(ValueError, match="nothing to report"):
        build_report(ReportData("t", "now"), tmp_path / "page.html")
    with pytest.raises(ValueError, match="no provenance was given for selections/task_a-longest@1"):
        build_report(dataclasses.replace(data, provenance=()), tmp_path / "page.html")
    with pytest.raises(ValueError, match="sample queries of task_z, but no result of that task"):
        build_report(dataclasses.replace(data, samples=(dataclasses.replace(data.samples[0], task="task_z"),)), tmp_path / "page.html")
    assert list(tmp_path.iterdir()) == []
