"""What lies under a source folder: nothing of it may be passed over without a word."""

from __future__ import annotations

import errno
import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from corpus_builders import pubtator

from bioie_ray.corpora.catalog import find_reader, fingerprint_source
from bioie_ray.corpora.formats.discovery import visible_files
from bioie_ray.corpora.reading import SourceError, SourceFile

DDI = '<document id="{0}"><sentence id="{0}.s0" text="Aspirin."/></document>'
Forbid = Callable[[Path], None]


@pytest.fixture
def forbid(monkeypatch: pytest.MonkeyPatch) -> Forbid:
    """Make the system refuse a file or folder, for root too."""

    def refuse(path: Path) -> None:
        def refusing(real: Callable[..., Any]) -> Callable[..., Any]:
            def call(place: Any, *arguments: Any, **options: Any) -> Any:
                if os.fspath(place) == os.fspath(path):
                    raise PermissionError(errno.EACCES, "Permission denied", os.fspath(path))
                return real(place, *arguments, **options)

            return call

        monkeypatch.setattr(os, "scandir", refusing(os.scandir))
        monkeypatch.setattr(io, "open", refusing(io.open))

    return refuse


def ddi(folder: Path, id: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{id}.xml").write_text(DDI.format(id))
    return folder


def test_hidden_files_and_what_archivers_leave_are_not_the_corpus(tmp_path: Path) -> None:
    for name in ("b/train.txt", "a.txt", ".git/train.txt", "__MACOSX/b/._train.txt", "b/._train.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    assert [path.relative_to(tmp_path).as_posix() for path in visible_files(tmp_path)] == ["a.txt", "b/train.txt"]


def test_linked_folders_are_part_of_the_source_and_a_circle_of_links_ends(tmp_path: Path) -> None:
    source, elsewhere = tmp_path / "source", ddi(tmp_path / "elsewhere/DrugBank", "D2").parent
    ddi(source / "Train/DrugBank", "D1")
    (source / "Test").symlink_to(elsewhere)
    (source / "Train/again").symlink_to(source)
    _, files = find_reader("ddi_corpus", source)
    assert [(file.name, file.split) for file in files] == [("Test/DrugBank/D2.xml", "test"), ("Train/DrugBank/D1.xml", "train")]


def test_a_folder_that_may_not_be_read_is_an_error_and_not_a_smaller_corpus(tmp_path: Path, forbid: Forbid) -> None:
    ddi(tmp_path / "Train/DrugBank", "D1")
    forbid(ddi(tmp_path / "Train/MedLine", "D2"))
    with pytest.raises(SourceError, match=r"Train/MedLine: cannot be read \(Permission denied\); make it readable"):
        find_reader("ddi_corpus", tmp_path)


@pytest.mark.parametrize(
    ("corpus", "name", "text"),
    [
        ("bc5cdr", "CDR_TrainingSet.PubTator.txt", pubtator()),
        ("ddi_corpus", "Train/DrugBank/D1.xml", DDI.format("D1")),
        ("biorelex", "1.0alpha7.train.json", '[{"id": "1", "text": "A", "entities": [], "interactions": []}]'),
        ("nlm_gene", "Corpus/Pmidlist.Train.txt", "1\n"),
        ("chemdner", "training.abstracts.txt", "1\tTitle\tAbstract\n"),
    ],
)
def test_a_file_that_may_not_be_read_is_named(tmp_path: Path, forbid: Forbid, corpus: str, name: str, text: str) -> None:
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    forbid(path)
    with pytest.raises(SourceError, match=rf"{path.name}: cannot be read \(Permission denied\)"):
        find_reader(corpus, tmp_path)


def test_a_file_that_goes_unreadable_after_it_was_found_is_named_too(tmp_path: Path, forbid: Forbid) -> None:
    path = tmp_path / "CDR_TrainingSet.PubTator.txt"
    path.write_text(pubtator())
    _, files = find_reader("bc5cdr", tmp_path)
    forbid(path)
    with pytest.raises(SourceError, match=r"CDR_TrainingSet\.PubTator\.txt: cannot be read"):
        fingerprint_source(files)
    assert files == [SourceFile(path, path.name, "train")]


def test_an_empty_file_named_after_a_split_is_an_error_though_other_splits_are_there(tmp_path: Path) -> None:
    (tmp_path / "my_train.txt").write_text(pubtator())
    (tmp_path / "my_test.txt").write_text("\n")
    with pytest.raises(SourceError, match=r"my_test\.txt: the file is empty"):
        find_reader("bc5cdr", tmp_path)


def test_a_file_of_another_kind_beside_the_corpus_does_no_harm(tmp_path: Path) -> None:
    (tmp_path / "my_train.txt").write_text(pubtator())
    (tmp_path / "about_the_test.txt").write_text("The test set comes later.\n")
    _, files = find_reader("bc5cdr", tmp_path)
    assert [file.name for file in files] == ["my_train.txt"]


def test_an_empty_file_of_an_archiver_is_not_a_second_version_of_a_split(tmp_path: Path) -> None:
    for name, text in (
        ("BioRelEx/train.json", '[{"id": "1", "text": "A", "entities": [], "interactions": []}]'),
        ("__MACOSX/train.json", ""),
    ):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text(text)
    _, files = find_reader("biorelex", tmp_path)
    assert [file.name for file in files] == ["BioRelEx/train.json"]
