from __future__ import annotations

import shutil
from pathlib import Path
from typing import get_args

import pytest

from bioie_ray.config.steps import CorpusName
from bioie_ray.corpora.catalog import CORPORA, corpus_info, find_reader, fingerprint_source, read_split, splits_of
from bioie_ray.corpora.document import Document
from bioie_ray.corpora.reading import SourceError, SourceFile

PUBTATOR = "1|t|Aspirin\n1|a|Ulcer.\n1\t0\t7\tAspirin\tChemical\tD1\n1\t8\t13\tUlcer\tDisease\tD2\n1\tCID\tD1\tD2\n\n"
DDI = '<document id="D1"><sentence id="D1.s0" text="Aspirin."/></document>'
BIORELEX = '[{"id": "1", "text": "A", "entities": [], "interactions": []}]'


@pytest.fixture
def bc5cdr(tmp_path: Path) -> Path:
    (tmp_path / "CDR_TrainingSet.PubTator.txt").write_text(PUBTATOR)
    return tmp_path


def test_every_corpus_has_readers_a_release_and_terms() -> None:
    assert tuple(CORPORA) == get_args(CorpusName)
    for name, info in CORPORA.items():
        assert info.licence
        assert info.release.files
        assert all(file.url.startswith("https://") for file in info.release.files)
        assert [reader.corpus for reader in info.readers] == [name] * len(info.readers)
        formats = [reader.format for reader in info.readers]
        assert len(set(formats)) == len(formats) >= 2
        assert formats[-1] == "bigbio_kb"


def test_the_reader_that_recognises_the_source_is_found(bc5cdr: Path) -> None:
    reader, files = find_reader("bc5cdr", bc5cdr)
    assert reader.format == "pubtator"
    assert [file.name for file in files] == ["CDR_TrainingSet.PubTator.txt"]
    (document,) = read_split(reader, files, "train")
    assert isinstance(document, Document)
    assert len(document.mentions) == 2


def test_a_named_format_is_the_only_one_tried(bc5cdr: Path) -> None:
    with pytest.raises(SourceError, match=r"is not a source of bc5cdr\.\n  bioc: "):
        find_reader("bc5cdr", bc5cdr, "bioc")
    with pytest.raises(SourceError, match="bc5cdr has no format 'brat'; known: auto, pubtator, bioc, bigbio_kb"):
        find_reader("bc5cdr", bc5cdr, "brat")


def test_nothing_there_and_no_such_corpus(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"nowhere: no such file or folder; give the folder of the bc5cdr release"):
        find_reader("bc5cdr", tmp_path / "nowhere")
    with pytest.raises(SourceError, match="no corpus is called 'bc5'; known: bc5cdr, ncbi_disease"):
        corpus_info("bc5")


def test_a_folder_of_archives_says_to_unpack_them(tmp_path: Path) -> None:
    (tmp_path / "CDR_Data.zip").write_bytes(b"PK\x03\x04")
    with pytest.raises(SourceError, match=r"archives, which are not opened: unpack CDR_Data\.zip there first"):
        find_reader("bc5cdr", tmp_path)


def test_an_empty_folder_says_what_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"(?s)is not a source of ddi_corpus.*ddi_xml: looked for Train/.*It holds: nothing"):
        find_reader("ddi_corpus", tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "belongs"),
    [
        ("CDR_TestSet.PubTator.txt", PUBTATOR, "bc5cdr"),
        ("Train/DrugBank/x.xml", DDI, "ddi_corpus"),
        ("train.json", BIORELEX, "biorelex"),
    ],
)
@pytest.mark.parametrize("asked", ["ncbi_disease", "nlm_gene", "chemdner", "ddi_corpus", "biorelex", "bc5cdr"])
def test_a_source_of_another_corpus_is_told_by_name(tmp_path: Path, name: str, content: str, belongs: str, asked: str) -> None:
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    if asked == belongs:
        assert find_reader(asked, tmp_path)[0].corpus == belongs
        return
    for source in (tmp_path, path):
        with pytest.raises(SourceError, match=f"This looks like {belongs}; run: bioie prepare {belongs} "):
            find_reader(asked, source)


def test_each_real_corpus_is_recognised_as_itself_and_as_no_other(corpora_dir: Path) -> None:
    for name in CORPORA:
        assert find_reader(name, corpora_dir / name)[0].corpus == name
        for other in CORPORA:
            if other != name:
                with pytest.raises(SourceError, match=f"This looks like {name}"):
                    find_reader(other, corpora_dir / name)


def test_a_split_that_is_not_there_is_an_error(bc5cdr: Path) -> None:
    reader, files = find_reader("bc5cdr", bc5cdr)
    with pytest.raises(SourceError, match="bc5cdr has no 'test' here; found: train"):
        read_split(reader, files, "test")


def test_splits_come_in_their_order() -> None:
    files = [SourceFile(Path("x"), "x", split) for split in ("test_ner", "test", "dev", "train", "test")]
    assert splits_of(files) == ["train", "dev", "test", "test_ner"]


def test_the_fingerprint_is_of_names_and_contents_and_of_nothing_else(tmp_path: Path) -> None:
    for folder, content in (("a", "1"), ("b", "1"), ("c", "2")):
        (tmp_path / folder).mkdir()
        for name in ("x", "y"):
            (tmp_path / folder / name).write_text(content + name)

    def files(folder: str, *names: str) -> list[SourceFile]:
        return [SourceFile(tmp_path / folder / name, name, "train") for name in names]

    first = fingerprint_source(files("a", "x", "y"))
    assert len(first) == 64
    assert first == fingerprint_source(files("b", "y", "x"))
    assert first != fingerprint_source(files("c", "x", "y"))
    assert first != fingerprint_source(files("a", "x"))
    shutil.copy(tmp_path / "a" / "x", tmp_path / "a" / "z")
    assert fingerprint_source(files("a", "x")) != fingerprint_source(files("a", "z"))


def test_a_hub_source_must_name_a_data_set() -> None:
    with pytest.raises(SourceError, match="hub:nothing: a hub data set is written hub:ORGANISATION/NAME"):
        find_reader("bc5cdr", "hub:nothing")
