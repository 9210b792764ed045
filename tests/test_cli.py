"""The command people script against: exit codes, messages, and what is (not) marked finished."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest
import yaml
from typer.testing import CliRunner

from bioie_ray import __version__
from bioie_ray.cli import CORPORA, app
from bioie_ray.config.recipe import load_recipe
from bioie_ray.config.steps import CorpusName
from bioie_ray.pipeline.plan import Planner

TITLE = "Zolvarin lowers serum lipids in mice"
ABSTRACT = "Given for a month, zolvarin caused anaemia in mouse"


@dataclass(frozen=True)
class Outcome:
    code: int
    out: str
    err: str


def bioie(*arguments: object) -> Outcome:
    """The command in this process; an error that would be a traceback fails the test."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), repr(result.exception)
    return Outcome(result.exit_code, result.stdout, result.stderr)


def prepare(source: Path, out: Path, *more: str, corpus: str = "bc5cdr") -> Outcome:
    return bioie("prepare", corpus, source, "--out", out, *more)


def shown(out: Path) -> dict[str, Any]:
    done = bioie("show", out, "--json")
    assert done.code == 0, done.err
    record: dict[str, Any] = json.loads(done.out)
    return record


def counts(record: dict[str, Any]) -> dict[str, tuple[int, int, int]]:
    return {split: (n["documents"], n["mentions"], n["relations"]) for split, n in record["splits"].items()}


def quarantine(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for path in sorted(out.glob("_quarantine/*.jsonl")) for line in path.read_text().splitlines()]


def block(number: int, end: str = "\n") -> str:
    """A PubTator document with two mentions and a relation; each number gives another text."""
    title, abstract = TITLE, f"{ABSTRACT} {number}."
    text = f"{title} {abstract}"
    at = text.index("anaemia")
    lines = [
        f"{number}|t|{title}",
        f"{number}|a|{abstract}",
        f"{number}\t0\t8\tZolvarin\tChemical\tD900001",
        f"{number}\t{at}\t{at + 7}\tanaemia\tDisease\tD900002",
        f"{number}\tCID\tD900001\tD900002",
    ]
    return end.join([*lines, "", ""])


def write_source(folder: Path, train: bytes | str) -> Path:
    """A BC5CDR release of a train and a test file."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "CDR_TrainingSet.PubTator.txt").write_bytes(train.encode() if isinstance(train, str) else train)
    (folder / "CDR_TestSet.PubTator.txt").write_text(block(900) + block(901))
    return folder


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_source(tmp_path / "source", "".join(block(n) for n in range(5)))


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "store" / "corpora" / "bc5cdr@1"


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys, bioie_ray.cli\n"
        "heavy = {'torch', 'ray', 'pyarrow', 'numpy', 'transformers', 'sentence_transformers', 'faiss', 'pydantic', 'lxml'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_help_lists_what_works_and_nothing_else() -> None:
    names = {"prepare", "show", "run", "render", "submit", "status", "logs", "cancel", "doctor", "report", "review"}
    assert {command.name or command.callback.__name__ for command in app.registered_commands if command.callback} == names
    text = bioie("--help").out
    assert all(f" {name} " in text for name in names)
    assert bioie("--version").out.strip() == __version__


def test_the_commands_names_of_corpora_are_those_of_the_recipes() -> None:
    assert CorpusName.__args__ == CORPORA  # type: ignore[attr-defined]


def test_the_installed_command_ends_an_error_in_one_message(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "bioie_ray.cli", "prepare", "bc5", str(tmp_path), "--out", str(tmp_path / "corpora" / "x@1")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == f"error: no corpus is called 'bc5'; known: {', '.join(CORPORA)}\n"
    assert done.stdout == ""


FULL = {
    "bc5cdr": {"train": (500, 9385, 1038), "dev": (500, 9591, 1012), "test": (500, 9809, 1066)},
    "ncbi_disease": {"train": (592, 5134, 0), "dev": (100, 787, 0), "test": (100, 960, 0)},
    "nlm_gene": {"train": (450, 13797, 0)},
    "chemdner": {"train": (4, 23, 0)},
}


def count_ddi(folder: Path) -> dict[str, tuple[int, int, int]]:
    """Documents, entities and true pairs of the files, by a parser that is not ours."""
    found = {}
    for split, part in (("train", "Train"), ("test", "Test")):
        roots = [ET.parse(path).getroot() for path in sorted(folder.rglob("*.xml")) if part in path.relative_to(folder).parts]
        pairs = [pair for root in roots for pair in root.iter("pair") if pair.get("ddi") == "true"]
        found[split] = (len(roots), sum(len(list(root.iter("entity"))) for root in roots), len(pairs))
    return found


def count_biorelex(folder: Path) -> dict[str, tuple[int, int, int]]:
    found = {}
    for split, part in (("train", "train"), ("test", "dev")):
        (path,) = folder.rglob(f"*{part}*.json")
        records = json.loads(path.read_text())
        spans = [span for r in records for e in r["entities"] for name in e["names"].values() for span in name["mentions"]]
        found[split] = (len(records), len(spans), sum(len(r["interactions"]) for r in records))
    return found


@pytest.mark.parametrize("corpus", CORPORA)
def test_a_real_corpus_is_prepared_with_its_published_counts_and_only_once(corpora_dir: Path, tmp_path: Path, corpus: str) -> None:
    folder, out = corpora_dir / corpus, tmp_path / "corpora" / f"{corpus}@1"
    first = prepare(folder, out, corpus=corpus)
    assert (first.code, first.out) == (0, "")
    record = shown(out)
    expected = FULL.get(corpus) or (count_ddi if corpus == "ddi_corpus" else count_biorelex)(folder)
    assert counts(record) == expected
    assert {n["quarantined"] for n in record["splits"].values()} == {0}
    assert record["kind"] == "corpora"
    assert record["exit"] == 0
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    second = prepare(folder, out, corpus=corpus)
    assert second.code == 0
    assert "done before" in second.err
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before


def test_what_the_system_refuses_is_one_message(source: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert prepare(source, out).code == 0
    real = io.open

    def refuse(path: Any, *arguments: Any, **options: Any) -> Any:
        if os.fspath(path).endswith("record.json"):
            raise PermissionError(errno.EACCES, "Permission denied", os.fspath(path))
        return real(path, *arguments, **options)

    monkeypatch.setattr(io, "open", refuse)
    done = bioie("show", out)
    assert (done.code, done.out, done.err) == (1, "", f"error: {out / 'record.json'}: Permission denied\n")


def test_show_prints_counts_and_provenance_for_people(source: Path, out: Path) -> None:
    assert prepare(source, out).code == 0
    text = bioie("show", out).out
    assert "corpora bc5cdr@1" in text
    assert "train" in text
    assert shown(out)["fingerprint"][:16] in text


def test_the_same_version_with_another_setting_prints_the_difference(source: Path, out: Path) -> None:
    assert prepare(source, out).code == 0
    record = (out / "record.json").read_bytes()
    again = prepare(source, out, "--set", "prepare.documents_per_shard=2")
    assert again.code == 1
    assert "settings.documents_per_shard: 128 -> 2" in again.err
    assert "another version" in again.err
    assert (out / "record.json").read_bytes() == record


def test_the_same_version_from_another_source_prints_the_difference(source: Path, out: Path, tmp_path: Path) -> None:
    assert prepare(source, out).code == 0
    other = prepare(write_source(tmp_path / "other", block(1)), out)
    assert other.code == 1
    assert "source: " in other.err
    moved = tmp_path / "moved"
    source.rename(moved)
    assert "done before" in prepare(moved, out).err  # the bytes count, not where they lie


def test_what_is_not_there_is_said(tmp_path: Path, out: Path) -> None:
    nowhere = prepare(tmp_path / "nowhere", out)
    assert nowhere.code == 1
    assert "nowhere: no such file or folder; give the folder of the bc5cdr release, or use --download" in nowhere.err
    neither = bioie("prepare", "bc5cdr", "--out", out)
    assert neither.code == 1
    assert "give either the folder of the bc5cdr release or --download" in neither.err
    assert bioie("prepare", "bc5cdr", tmp_path, "--out", out, "--download").code == 1
    assert bioie("prepare", "bc5cdr", tmp_path).code == 2
    assert not out.exists()
    absent = bioie("show", out)
    assert absent.code == 1
    assert "holds no output" in absent.err


@pytest.mark.parametrize("asked", ["bc5cdr", "ncbi_disease", "ddi_corpus"])
def test_a_file_of_another_corpus_names_the_right_one(tmp_path: Path, asked: str) -> None:
    path = tmp_path / "train.json"
    path.write_text('[{"id": "1", "text": "A", "entities": [], "interactions": []}]')
    out = tmp_path / "store" / "corpora" / f"{asked}@1"
    done = prepare(path, out, corpus=asked)
    assert done.code == 1
    assert "This looks like biorelex; run: bioie prepare biorelex" in done.err
    assert not out.exists()


def test_a_setting_that_does_not_exist_or_is_out_of_range_is_named(source: Path, out: Path) -> None:
    unknown = prepare(source, out, "--set", "prepare.shards=3")
    assert (unknown.code, "prepare.shards: no such key; known here: documents_per_shard" in unknown.err) == (1, True)
    outside = prepare(source, out, "--set", "prepare.documents_per_shard=0")
    assert (outside.code, "prepare.documents_per_shard" in outside.err) == (1, True)
    assert prepare(source, out, "--set", "nonsense").code == 1
    assert not out.exists()


AT = len(TITLE) + 1 + ABSTRACT.index("anaemia")
BAD = {
    "not UTF-8": (block(77).encode().replace(b"anaemia in", b"anaemi\xe9 in"), r"not UTF-8: byte 0xe9", 2),
    "beyond the text": (block(77).replace(f"\t{AT}\t{AT + 7}", "\t5000\t5007").encode(), r"beyond the text", 4),
    "not its words": (block(77).replace("\tanaemia\t", "\tpyrexia\t").encode(), r"pyrexia", 4),
    "same id, other content": (
        block(3).replace("Zolvarin lowers", "Zolvarin raises").encode(),
        r"id occurs before, in train, with different content",
        None,
    ),
    "no abstract": (b"77|t|A title\n\n", r"the title has no abstract", 1),
    "10 MB": (b"77|t|A title\n77|a|" + b"word " * 2_000_000 + b"\n\n", r"10,000,008 characters, more than the limit of 2,000,000", None),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_document_among_few_is_an_error_with_file_and_place(tmp_path: Path, out: Path, name: str) -> None:
    data, reason, line = BAD[name]
    source = write_source(tmp_path / "source", "".join(block(n) for n in range(5)).encode() + data)
    done = prepare(source, out)
    assert done.code == 1
    assert "1 of 8 documents quarantined (12.5%), more than the limit of 1.0%" in done.err
    assert_described(done.err, reason, line, first_line=5 * 6)
    assert "Traceback" not in done.err
    assert not (out / "record.json").exists()
    unfinished = bioie("show", out)
    assert (unfinished.code, "no record.json" in unfinished.err) == (1, True)


@pytest.mark.parametrize("name", BAD)
def test_a_bad_document_among_many_is_quarantined_and_the_others_are_kept(tmp_path: Path, out: Path, name: str) -> None:
    data, reason, line = BAD[name]
    source = write_source(tmp_path / "source", "".join(block(n) for n in range(110)).encode() + data)
    done = prepare(source, out)
    assert (done.code, done.out) == (0, "")
    record = shown(out)
    assert counts(record) == {"train": (110, 220, 110), "test": (2, 4, 2)}
    assert [n["quarantined"] for n in record["splits"].values()] == [1, 0]
    (reject,) = quarantine(out)
    place = f"{reject['file']}:{reject['line']}: document {reject['id']}: {reject['reason']}"
    assert_described(place, reason, line, first_line=110 * 6)
    assert reject["raw"]


def assert_described(text: str, reason: str, line: int | None, first_line: int) -> None:
    assert reason in text
    assert "CDR_TrainingSet.PubTator.txt" in text
    assert "document 77" in text or "document 3" in text
    if line is not None:
        assert f"CDR_TrainingSet.PubTator.txt:{first_line + line}:" in text


def test_a_raised_limit_finishes_what_was_refused(tmp_path: Path, out: Path) -> None:
    source = write_source(tmp_path / "source", "".join(block(n) for n in range(5)).encode() + BAD["not UTF-8"][0])
    assert prepare(source, out).code == 1
    raised = prepare(source, out, "--set", "prepare.max_quarantined_share=0.5")
    assert raised.code == 0, raised.err
    assert counts(shown(out))["train"] == (5, 10, 5)


def test_a_mended_source_may_have_the_version_of_the_refused_one(tmp_path: Path, out: Path) -> None:
    write_source(tmp_path / "source", "".join(block(n) for n in range(5)).encode() + BAD["not UTF-8"][0])
    assert prepare(tmp_path / "source", out).code == 1
    source = write_source(tmp_path / "source", "".join(block(n) for n in range(5)))
    assert prepare(source, out).code == 0
    assert quarantine(out) == []


def bioc_source(folder: Path, tail: str = "</collection>\n") -> Path:
    document = (
        "<document><id>{0}</id><passage><infon key='type'>title</infon><offset>0</offset><text>Aspirin and ulcer {0}</text>\n"
        "<annotation id='0'><infon key='type'>Chemical</infon><infon key='MESH'>D1</infon><location offset='0' length='7'/>"
        "<text>Aspirin</text></annotation></passage></document>\n"
    )
    folder.mkdir()
    text = "<?xml version='1.0'?>\n<collection>\n" + "".join(document.format(n) for n in range(3)) + tail
    (folder / "CDR_TrainingSet.BioC.xml").write_text(text)
    return folder


def test_truncated_xml_is_an_error_with_file_and_line(tmp_path: Path, out: Path) -> None:
    whole = prepare(bioc_source(tmp_path / "whole"), out.with_name("whole@1"))
    assert whole.code == 0, whole.err
    done = prepare(bioc_source(tmp_path / "cut", tail="<document><id>4</id><passage><infon"), out)
    assert done.code == 1
    assert "CDR_TrainingSet.BioC.xml" in done.err
    assert "line 9" in done.err or ":9" in done.err
    assert "Traceback" not in done.err
    assert not (out / "record.json").exists()


def test_truncated_json_is_an_error_with_the_file(tmp_path: Path) -> None:
    record = {"id": "1", "text": "A binds B", "entities": [], "interactions": []}
    (tmp_path / "train.json").write_text(json.dumps([record, {**record, "id": "2"}])[:-20])
    out = tmp_path / "store" / "corpora" / "biorelex@1"
    done = prepare(tmp_path, out, corpus="biorelex")
    assert (done.code, "train.json" in done.err) == (1, True)
    assert not (out / "record.json").exists()


@pytest.mark.parametrize("content", [b"", b"\n \n"])
def test_an_empty_file_is_an_error_by_name(tmp_path: Path, out: Path, content: bytes) -> None:
    done = prepare(write_source(tmp_path / "source", content), out)
    assert done.code == 1
    assert "CDR_TrainingSet.PubTator.txt: the file is empty; fetch it again" in done.err
    assert not out.exists()


def test_cr_lf_changes_nothing_but_the_source(source: Path, out: Path, tmp_path: Path) -> None:
    other = write_source(tmp_path / "crlf", "".join(block(n, end="\r\n") for n in range(5)))
    assert prepare(source, out).code == 0
    assert prepare(other, out.with_name("bc5cdr@2")).code == 0
    shards = [(out.with_name(f"bc5cdr@{version}") / "train-00000.parquet").read_bytes() for version in (1, 2)]
    assert shards[0] == shards[1]


def test_a_place_that_cannot_be_written_is_one_message(source: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    done = prepare(source, tmp_path / "file" / "corpora" / "bc5cdr@1")
    assert (done.code, "file" in done.err) == (1, True)
    assert bioie("show", tmp_path / "file").code == 1
    assert bioie("show", tmp_path / "file" / "corpora" / "bc5cdr@1").code == 1


def test_any_folder_may_hold_an_output(source: Path, tmp_path: Path) -> None:
    assert prepare(source, tmp_path / "here").code == 0
    assert counts(shown(tmp_path / "here"))["train"] == (5, 10, 5)


def test_a_recipe_that_is_no_file_is_one_message(tmp_path: Path) -> None:
    assert "no recipe at" in bioie("run", tmp_path / "none.yaml").err
    folder = bioie("run", tmp_path)
    assert (folder.code, folder.err.count("\n")) == (1, 1)


def write_recipe(path: Path, **data: object) -> Path:
    path.write_text(yaml.safe_dump({"name": "r", "job": "prepare_corpora", "cluster": {"executor": "inline"}, **data}))
    return path


def test_a_recipe_takes_over_what_prepare_made(source: Path, out: Path, tmp_path: Path) -> None:
    assert prepare(source, out).code == 0
    recipe = write_recipe(tmp_path / "r.yaml", store=str(out.parents[1]), source=str(source))
    (step,) = Planner().plan(load_recipe(recipe))
    assert step.output.fingerprint == shown(out)["fingerprint"]
    dry = bioie("run", recipe, "--dry-run")
    assert (dry.code, dry.out.split("  ")[:2]) == (0, ["corpora/bc5cdr@1", "done"])
    done = bioie("run", recipe)
    assert (done.code, "done before" in done.err) == (0, True)


def test_a_dry_run_says_what_is_missing_and_makes_nothing(source: Path, tmp_path: Path) -> None:
    recipe = write_recipe(
        tmp_path / "r.yaml",
        job="select_examples",
        store=str(tmp_path / "s"),
        source=str(source),
        select={"method": "bm25", "rerank": False},
    )
    dry = bioie("run", recipe, "--dry-run")
    assert dry.code == 0
    assert [line.split("  ")[:2] for line in dry.out.splitlines()] == [
        ["corpora/bc5cdr@1", "0 shards done"],
        ["selections/r@1", "0 shards done"],
    ]
    assert not (tmp_path / "s").exists()


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, str]]:
    """A file server with a release as an archive: its URL and checksum. Downloads go to a cache of their own."""
    monkeypatch.setenv("BIOIE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("CDR_Data/CDR_TrainingSet.PubTator.txt", "".join(block(n) for n in range(5)))
    folder = tmp_path / "site"
    folder.mkdir()
    (folder / "CDR_Data.zip").write_bytes(buffer.getvalue())

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}/CDR_Data.zip", hashlib.sha256(buffer.getvalue()).hexdigest()
    server.shutdown()
    server.server_close()
    thread.join()


def test_download_with_its_checksum(site: tuple[str, str], out: Path) -> None:
    url, checksum = site
    done = bioie("prepare", "bc5cdr", "--download", "--url", url, "--sha256", checksum, "--out", out)
    assert done.code == 0, done.err
    record = shown(out)
    assert counts(record) == {"train": (5, 10, 5)}
    assert [(f["url"], f["sha256"], f["verified"]) for f in record["downloaded"]] == [(url, checksum, True)]
    assert os.environ["BIOIE_CACHE"] not in json.dumps(record["payload"])


def test_download_with_another_checksum_keeps_nothing(site: tuple[str, str], out: Path) -> None:
    url, checksum = site
    done = bioie("prepare", "bc5cdr", "--download", "--url", url, "--sha256", "0" * 64, "--out", out)
    assert done.code == 1
    assert f"received {checksum}" in done.err
    assert not out.exists()
    assert not [path for path in Path(os.environ["BIOIE_CACHE"]).rglob("*") if path.is_file()]


def test_a_download_that_is_not_there_names_the_address(site: tuple[str, str], out: Path) -> None:
    url = site[0].replace("CDR_Data", "Nothing")
    done = bioie("prepare", "bc5cdr", "--download", "--url", url, "--out", out)
    assert done.code == 1
    assert f"{url}: the server answers 404" in done.err
    assert not out.exists()
