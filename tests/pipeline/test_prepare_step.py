"""``prepare_corpus``: what ``bioie prepare`` does, in this process."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bioie_ray.pipeline.prepare_command import prepare_corpus

_BLOCK = "{0}|t|Zolvarin lowers lipids.\n{0}|a|Case {0} was mild.\n{0}\t0\t8\tZolvarin\tChemical\tD900001\n\n"


def run(source: Path, out: Path | str, corpus: str = "bc5cdr", overrides: tuple[str, ...] = ()) -> None:
    prepare_corpus(corpus, str(source), str(out), download=False, urls=(), sha256=(), overrides=overrides)


def pubtator(folder: Path, text: str, name: str = "CDR_TrainingSet.PubTator.txt") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(text)
    return folder


def test_a_source_that_fails_takes_no_file_of_the_users_folder_with_it(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (home / "thesis.txt").write_text("years of work")
    source = pubtator(tmp_path / "source", _BLOCK.format(1).replace("\t8\t", "\t800\t"))
    with pytest.raises(ValueError, match=r"holds files that are not of an output \(thesis\.txt\)"):
        run(source, home)
    assert (home / "thesis.txt").read_text() == "years of work"


@pytest.mark.parametrize("out", ["/", "", "s3://bucket", "s3://bucket/"])
def test_a_root_is_no_place_for_a_corpus(tmp_path: Path, out: str) -> None:
    source = pubtator(tmp_path / "source", _BLOCK.format(1))
    with pytest.raises(ValueError, match="give a folder for the corpus itself"):
        run(source, out)


def test_what_was_quarantined_is_said_and_recorded_though_the_corpus_is_finished(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = [_BLOCK.format(n).replace("\t8\t", "\t800\t") for n in range(901, 906)]
    source = pubtator(tmp_path / "source", "".join([_BLOCK.format(1), *bad]))
    run(source, tmp_path / "corpora/bc5cdr@1", overrides=("prepare.max_quarantined_share=1",))
    told = capsys.readouterr().err
    assert "5 documents quarantined: CDR_TrainingSet.PubTator.txt:7: document 901: mention 'Zolvarin'" in told
    assert "2 more in _quarantine/" in told
    record = json.loads((tmp_path / "corpora/bc5cdr@1/record.json").read_text())
    (warning,) = record["warnings"]
    assert warning in told.replace("\n", " ")
    assert record["splits"]["train"]["quarantined"] == 5


def test_a_corpus_without_a_flaw_warns_of_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(pubtator(tmp_path / "source", _BLOCK.format(1)), tmp_path / "corpora/bc5cdr@1")
    assert "quarantined" not in capsys.readouterr().err
    assert json.loads((tmp_path / "corpora/bc5cdr@1/record.json").read_text())["warnings"] == []


@pytest.mark.parametrize("separator", ["\u2028", "\u0085"])
def test_a_quarantined_text_may_hold_any_line_separator(tmp_path: Path, separator: str) -> None:
    bad = _BLOCK.format(2).replace("\t8\t", "\t800\t").replace("was mild", f"was{separator}mild")
    source = pubtator(tmp_path / "source", _BLOCK.format(1) + bad)
    run(source, tmp_path / "corpora/bc5cdr@1", overrides=("prepare.max_quarantined_share=0.5",))
    assert json.loads((tmp_path / "corpora/bc5cdr@1/record.json").read_text())["splits"]["train"]["quarantined"] == 1


@pytest.mark.parametrize("override", ["store=elsewhere", "source=elsewhere", "task=biorelex", "corpus_version=2", "matrix.task=[biorelex]"])
def test_an_override_does_not_silently_win_over_an_argument(tmp_path: Path, override: str) -> None:
    source = pubtator(tmp_path / "source", _BLOCK.format(1))
    with pytest.raises(
        ValueError, match=rf"--set {override.split('=', maxsplit=1)[0].split('.', maxsplit=1)[0]}: the arguments of bioie prepare say that"
    ):
        run(source, tmp_path / "corpora/bc5cdr@1", overrides=(override,))


def test_a_wrong_override_is_blamed_on_the_command_and_not_on_a_file(tmp_path: Path) -> None:
    source = pubtator(tmp_path / "source", _BLOCK.format(1))
    with pytest.raises(ValueError, match=r"^bioie prepare bc5cdr:\n  prepare\.shards: no such key; known here: documents_per_shard"):
        run(source, tmp_path / "corpora/bc5cdr@1", overrides=("prepare.shards=3",))


def test_a_source_that_breaks_off_is_not_called_done_in_part(tmp_path: Path) -> None:
    source = pubtator(tmp_path / "source", "".join(map(_BLOCK.format, range(1, 200))) + "200|t|Zolvarin")
    with pytest.raises(ValueError, match=r"^bc5cdr is not prepared: .*:797: document 200: .* it is cut off\. Fetch it again$"):
        run(source, tmp_path / "corpora/bc5cdr@1")
    assert not list((tmp_path / "corpora/bc5cdr@1").glob("*.parquet"))
