"""The page and the summary of training say what was logged and recorded."""

from __future__ import annotations

import csv
import html
import json
import math
from pathlib import Path
from typing import Any

import pytest
import trained_store
from trained_store import losses, pair, write_preferences, write_stage
from typer.testing import CliRunner

from bioie_ray.cli import app

LONG = "Read <i>this</i> & that. " * 200


def page_of(store: Path) -> tuple[str, dict[str, Any]]:
    done = CliRunner().invoke(app, ["report", str(store), "--out", str(store / "report.html")])
    assert done.exit_code == 0, done.stderr
    return (store / "report.html").read_text(), json.loads((store / "report.json").read_text())


def table_rows(page: str) -> list[list[str]]:
    """Cells of every table row."""
    rows = [row.partition("</tr>")[0] for row in page.split("<tr>")[1:]]
    return [[html.unescape(cell.partition(">")[2].partition("</td>")[0]) for cell in row.split("<td")[1:]] for row in rows]


def test_each_stage_has_its_parameters_results_and_plots(tmp_path: Path) -> None:
    write_stage(tmp_path, "preft", best=True)
    write_stage(tmp_path, "dpop")
    page, told = page_of(tmp_path / "store")
    assert [stage["stage"] for stage in told["stages"]] == ["preft", "dpop"]
    rows = table_rows(page)
    for name, value in {
        "Started from": "offline:some",
        "Adapter": "r 12, alpha 5, dropout 0",
        "Learning rate": "0.0003, constant with warmup",
        "Steps": "9",
        "Records": "31",
        "Ranks": "2",
        "Tokens": "900",
        "Merged model": "differs by 2.5e-06 (at most 1e-04)",
    }.items():
        assert rows.count([name, value]) == 2, name
    assert rows.count(["Best by dev F1", "25.0% at step 4"]) == 1
    assert rows.count(["Beta, penalty", "0.4, 2"]) == 1
    for title, number in (("Loss", 2), ("F1 on dev documents", 1), ("Log-ratio of the chosen answer to the reference", 1)):
        assert page.count(f"<h4>{title}</h4>") == number
    assert page.count('<polyline class="way"') == 2 + 1 + 3
    assert "2 trained stages" in page
    assert [(made["models"], made["seeds"]) for made in told["provenance"]] == [({"base model": "offline:some"}, [0])] * 2


def test_runs_of_one_stage_share_its_plots_and_its_table(tmp_path: Path) -> None:
    for seed in (0, 1, 2):
        write_stage(tmp_path, "preft", f"r-{seed}", seed=seed)
    page, _ = page_of(tmp_path / "store")
    assert page.count("<h4>Loss</h4>") == 1
    assert page.count('<polyline class="way"') == 3
    assert ["Seed", "0", "1", "2"] in table_rows(page)
    assert all(f"</svg>models-preft/r-{seed}@1</span>" in page for seed in (0, 1, 2))


def test_the_csv_file_has_every_number_of_every_step(tmp_path: Path) -> None:
    write_stage(tmp_path, "dpop", num_steps=500)
    page, _ = page_of(tmp_path / "store")
    assert 'href="report.training.csv"' in page
    with (tmp_path / "store/report.training.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    for metric, values in losses("dpop", 0, 500).items():
        found = [row for row in rows if row["metric"] == metric]
        assert [float(row["value"]) for row in found] == values
        assert [int(row["step"]) for row in found] == list(range(1, 501))
        assert {(row["stage"], row["source"], row["seed"]) for row in found} == {("dpop", "models-dpop/r@1", "0")}
    assert len(page) < 60_000


def test_a_number_that_is_none_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trained_store, "losses", lambda *_: {"loss": [0.5, 0.25], "grad_norm": [math.inf, 1.0, math.nan]})
    write_stage(tmp_path, "preft")
    _, told = page_of(tmp_path / "store")
    assert told["stages"][0]["trace"] == {"loss": [[1, 0.5], [2, 0.25]], "grad_norm": [[2, 1.0]]}


def test_pairs_have_their_mix_and_a_sample_of_each_kind(tmp_path: Path) -> None:
    pairs = [
        pair(1, "model", "missed"),
        pair(2, "model", "missed"),
        pair(3, "model", "malformed", LONG, "<script>"),
        pair(4, "corruption", "missed"),
    ]
    write_preferences(tmp_path, pairs, {"model missed": 2, "model malformed": 1, "corruption missed": 1}, read=7, no_wrong_answer=3)
    page, told = page_of(tmp_path / "store")
    rows = table_rows(page)
    assert ["missed", "2", "1", "75.0\u00a0%"] in rows
    assert ["malformed", "1", "0", "25.0\u00a0%"] in rows
    assert "4 pairs of 7 documents; 3 gave none." in page
    assert "4 preference pairs" in page
    (summary,) = told["preferences"]
    assert [sample["id"] for sample in summary["samples"]] == ["t/4", "t/3", "t/1"]
    assert "List &lt;b&gt;all&lt;/b&gt;." in page
    assert "<script></pre>" not in page
    assert f"{html.escape(LONG[:1_200])} … ({len(LONG) - 1_200:,} more characters)" in page
    assert page.count('<rect class="part missed" x=') == page.count('<rect class="part malformed" x=') == 1


def test_given_pairs_are_not_judged(tmp_path: Path) -> None:
    write_preferences(tmp_path, [pair(1, "given", "")], {"given": 1}, read=3, quarantined=2)
    page, _ = page_of(tmp_path / "store")
    assert "1 pair of 3 records; 2 in quarantine." in page
    assert ["not judged", "1", "100.0\u00a0%"] in table_rows(page)
    assert 'class="part' not in page


@pytest.mark.parametrize("stage", ["preft", "dpop"])
def test_show_prints_parameters_and_results(tmp_path: Path, stage: str) -> None:
    output = write_stage(tmp_path, stage, best=True)
    done = CliRunner().invoke(app, ["show", output.location], env={"COLUMNS": "120"})
    assert done.exit_code == 0, done.stderr
    lines = [" ".join(line.split()) for line in done.stdout.splitlines()]
    for line in ("steps 9", "records 31", "sequences 11", "ranks 2", "adapter r 12, alpha 5, dropout 0", "best by dev F1 25.0% at step 4"):
        assert line in lines
    assert "merged model differs by 2.5e-06 (at most 1e-04)" in lines
    assert ("beta, penalty 0.4, 2" in lines) == (stage == "dpop")


def test_show_prints_other_numbers_of_ranks_and_records_that_were_not_seen(tmp_path: Path) -> None:
    begun = [{"step": 0, "ranks": 2}, {"step": 4, "ranks": 1}]
    output = write_stage(tmp_path, "preft", ranks=1, starts=begun, of={"records": 40, "sequences": 15})
    lines = [" ".join(line.split()) for line in CliRunner().invoke(app, ["show", output.location]).stdout.splitlines()]
    assert "ranks 2, from step 4 on 1" in lines
    assert "records 31 of 40" in lines


def test_show_prints_the_mix(tmp_path: Path) -> None:
    pairs = [pair(n, "model", "missed") for n in range(3)] + [pair(9, "corruption", "direction")]
    output = write_preferences(tmp_path, pairs, {"corruption direction": 1, "model missed": 3})
    lines = [" ".join(line.split()) for line in CliRunner().invoke(app, ["show", output.location]).stdout.splitlines()]
    assert lines.index("missed model 3 75.0%") < lines.index("direction corruption 1 25.0%")
