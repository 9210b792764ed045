from __future__ import annotations

import re
from collections import Counter
from html import unescape
from pathlib import Path
from xml.sax.saxutils import quoteattr

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bioie_ray.corpora.document import Argument, Document
from bioie_ray.corpora.formats.ddi import DdiReader
from bioie_ray.corpora.formats.ddi_offsets import OffsetError, fit, parse_offsets
from bioie_ray.corpora.reading import Read, Rejected, SourceError

SENTENCES = (
    '<sentence id="D1.s0" text="Aspirin may raise warfarin levels.&#xd;&#xa;">'
    '<entity id="D1.s0.e0" charOffset="0-6" type="drug" text="Aspirin"/>'
    '<entity id="D1.s0.e1" charOffset="18-25" type="drug" text="warfarin"/>'
    '<pair id="D1.s0.p0" e1="D1.s0.e0" e2="D1.s0.e1" ddi="true" type="mechanism"/></sentence>'
    '<sentence id="D1.s1" text=""/>'
    '<sentence id="D1.s2" text="Loop or thiazide diuretics.">'
    '<entity id="D1.s2.e0" charOffset="0-3;17-25" type="group" text="Loop diuretics"/>'
    '<entity id="D1.s2.e1" charOffset="8-25" type="group" text="thiazide diuretics"/>'
    '<pair id="D1.s2.p0" e1="D1.s2.e0" e2="D1.s2.e1" ddi="false"/></sentence>'
)


def write(folder: Path, inner: str = SENTENCES, name: str = "Train/DrugBank/a.xml", id: str = "D1") -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f'<?xml version="1.0" encoding="UTF-8"?>\n<document id="{id}">\n{inner}\n</document>\n', encoding="utf-8")
    return path


def read(source: Path, split: str = "train") -> list[Read]:
    reader = DdiReader()
    return list(reader.read(reader.discover(source), split))


def read_one(source: Path) -> Document:
    (document,) = read(source)
    assert isinstance(document, Document), document
    return document


def rejected(source: Path) -> Rejected:
    (reject,) = read(source)
    assert isinstance(reject, Rejected), reject
    return reject


def one_mention(text: str, offsets: str, mention: str) -> str:
    entity = f'<entity id="D1.s0.e0" charOffset="{offsets}" type="drug" text={quoteattr(mention)}/>'
    return f'<sentence id="D1.s0" text={quoteattr(text)}>\n{entity}</sentence>'


def test_offsets_become_half_open_offsets_into_sentences_joined_by_a_space(tmp_path: Path) -> None:
    write(tmp_path)
    document = read_one(tmp_path)

    assert document.text == "Aspirin may raise warfarin levels.\r\n  Loop or thiazide diuretics."
    slices = [[document.text[s.start : s.end] for s in m.spans] for m in document.mentions]
    assert slices == [["Aspirin"], ["warfarin"], ["Loop", "diuretics"], ["thiazide diuretics"]]
    assert [m.text for m in document.mentions] == ["Aspirin", "warfarin", "Loop diuretics", "thiazide diuretics"]
    assert [document.text[s.start : s.end] for s in document.sections][2] == "Loop or thiazide diuretics."
    assert document.repairs == ()


def test_every_pair_is_kept_and_only_positive_ones_are_counted(tmp_path: Path) -> None:
    write(tmp_path)
    positive, negative = read_one(tmp_path).relations
    assert (positive.counted, positive.label) == (True, "mechanism")
    assert positive.arguments == (Argument("mention", "D1.s0.e0"), Argument("mention", "D1.s0.e1"))
    assert (negative.counted, negative.label) == (False, "")


def test_an_interaction_without_type_is_kept_with_a_note(tmp_path: Path) -> None:
    write(tmp_path, SENTENCES.replace(' type="mechanism"', ""))
    document = read_one(tmp_path)
    assert document.relations[0].counted
    assert [(r.rule, "D1.s0.p0" in r.detail) for r in document.repairs] == [("ddi_untyped_positive", True)]


def test_attributes_without_a_column_are_kept(tmp_path: Path) -> None:
    write(tmp_path, SENTENCES.replace('type="mechanism"/>', 'type="mechanism" origin="x"/>'))
    document = read_one(tmp_path)
    assert document.relations[0].attributes == {"origin": "x"}
    assert document.attributes == {"file": "Train/DrugBank/a.xml"}


@pytest.mark.parametrize(
    ("folders", "split"),
    [
        ("Train/DrugBank", "train"),
        ("DDICorpus/Train/MedLine", "train"),
        ("Test/DrugBank", "test"),
        ("DDICorpus/Test/Test for DDI Extraction task/MedLine", "test"),
        ("DDICorpus/Test/Test for DrugNER task/DrugBank", "test_ner"),
    ],
)
def test_folders_tell_the_split(tmp_path: Path, folders: str, split: str) -> None:
    write(tmp_path, name=f"{folders}/x.xml")
    (file,) = DdiReader().discover(tmp_path)
    assert (file.split, file.name) == (split, f"{folders}/x.xml")
    (file,) = DdiReader().discover((tmp_path / folders).parent)
    assert file.split == split
    (file,) = DdiReader().discover(tmp_path / folders / "x.xml")
    assert file.split == split


@pytest.mark.parametrize(
    ("folders", "split"),
    [
        ("TestDDI/DrugBank", "test"),
        ("TestNER/MedLine", "test_ner"),
        ("test/Test_DrugNER_task/x", "test_ner"),
        ("DDI_TEST/drugbank", "test"),
    ],
)
def test_folders_of_other_copies_tell_the_split_too(tmp_path: Path, folders: str, split: str) -> None:
    write(tmp_path, name=f"{folders}/x.xml")
    (file,) = DdiReader().discover(tmp_path)
    assert file.split == split


def test_documents_come_sorted_by_file_name_and_archiver_leftovers_are_ignored(tmp_path: Path) -> None:
    for number, name in enumerate(("Train/MedLine/b.xml", "Train/DrugBank/z.xml", "Train/DrugBank/B.xml")):
        write(tmp_path, name=name, id=f"D{number}")
    write(tmp_path, name="__MACOSX/Train/DrugBank/._z.xml")
    assert [d.id for d in read(tmp_path)] == ["D2", "D1", "D0"]


def test_a_folder_that_tells_no_split_is_an_error(tmp_path: Path) -> None:
    write(tmp_path, name="DrugBank/x.xml")
    with pytest.raises(SourceError, match=r"DrugBank/x.xml: its folders do not tell its split; put it below"):
        DdiReader().discover(tmp_path)


def test_another_corpus_is_not_discovered(tmp_path: Path) -> None:
    (tmp_path / "Train").mkdir()
    (tmp_path / "Train" / "CDR.BioC.xml").write_text("<collection><document><id>1</id></document></collection>")
    with pytest.raises(SourceError, match="looked for Train/ and Test/"):
        DdiReader().discover(tmp_path)


def test_a_truncated_file_is_rejected_with_its_line_and_the_others_survive(tmp_path: Path) -> None:
    write(tmp_path, name="Train/DrugBank/good.xml")
    path = write(tmp_path, name="Train/DrugBank/cut.xml", id="D2")
    path.write_bytes(path.read_bytes()[:-30])
    cut, good = read(tmp_path)
    assert isinstance(cut, Rejected)
    assert isinstance(good, Document)
    assert cut.file == "Train/DrugBank/cut.xml"
    assert cut.line == 3
    assert "not well-formed" in cut.reason
    assert cut.raw.startswith("<?xml")


@pytest.mark.parametrize("num_bytes", [1, 30, 45, 60])
def test_a_file_cut_off_before_it_says_what_it_is_is_rejected_too(tmp_path: Path, num_bytes: int) -> None:
    write(tmp_path, name="Train/MedLine/good.xml")
    path = write(tmp_path, name="Train/MedLine/cut.xml", id="D2")
    path.write_bytes(path.read_bytes()[:num_bytes])
    cut, good = read(tmp_path)
    assert isinstance(cut, Rejected)
    assert isinstance(good, Document)
    assert cut.file == "Train/MedLine/cut.xml"


@pytest.mark.parametrize("encoding", ["klingon", "utf-32"])
def test_an_encoding_that_nobody_knows_rejects_its_file_and_no_other(tmp_path: Path, encoding: str) -> None:
    write(tmp_path, name="Train/DrugBank/good.xml")
    path = write(tmp_path, name="Train/DrugBank/bad.xml", id="D2")
    path.write_bytes(path.read_bytes().replace(b"UTF-8", encoding.encode()))
    bad, good = read(tmp_path)
    assert isinstance(bad, Rejected)
    assert isinstance(good, Document)
    assert (bad.line, bad.reason.split(":")[0]) == (1, "not readable XML")


def test_invalid_utf8_is_rejected_with_its_line(tmp_path: Path) -> None:
    path = write(tmp_path)
    path.write_bytes(path.read_bytes().replace(b"Aspirin may", b"Aspirin \xff may"))
    reject = rejected(tmp_path)
    assert reject.line == 3
    assert "not well-formed" in reject.reason
    assert "\\xff" in reject.raw


def test_an_empty_file_is_rejected(tmp_path: Path) -> None:
    write(tmp_path).write_bytes(b"")
    assert (rejected(tmp_path).reason, rejected(tmp_path).line) == ("the file is empty", 1)


def test_a_mention_beyond_its_sentence_is_rejected_with_line_and_id(tmp_path: Path) -> None:
    write(tmp_path, one_mention("Aspirin.", "3-12", "irin."))
    reject = rejected(tmp_path)
    assert (reject.id, reject.line) == ("D1", 4)
    assert "mention D1.s0.e0 ('irin.' at 3-12): not inside its sentence, which has 8 characters" in reject.reason


def test_a_pair_of_an_unknown_mention_is_rejected(tmp_path: Path) -> None:
    write(tmp_path, SENTENCES.replace('e2="D1.s0.e1"', 'e2="D1.s0.e9"'))
    assert "pair D1.s0.p0 joins D1.s0.e9" in rejected(tmp_path).reason


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ('ddi="true"', 'ddi="maybe"', 'ddi="maybe", neither true nor false'),
        (' charOffset="0-6"', "", "no attribute 'charOffset'"),
        ('charOffset="0-6"', 'charOffset="0:6"', "not of the form START-END"),
        ("<sentence", "<paragraph/><sentence", "elements other than <sentence>: paragraph, sentence"),
    ],
)
def test_what_is_malformed_is_said(tmp_path: Path, old: str, new: str, reason: str) -> None:
    write(tmp_path, SENTENCES.replace(old, new, 1))
    assert reason in rejected(tmp_path).reason


def test_a_dtd_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path)
    bomb = '<!DOCTYPE d [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]>\n<document'
    path.write_text(path.read_text().replace("<document", bomb))
    assert "not safe to read" in rejected(tmp_path).reason


def test_carriage_returns_between_elements_change_nothing(tmp_path: Path) -> None:
    path = write(tmp_path)
    before = read_one(tmp_path)
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n").replace(b"><", b">\r\n<"))
    assert read_one(tmp_path) == before


def test_a_document_of_10_megabytes_is_read(tmp_path: Path) -> None:
    long = "".join(f'<sentence id="D1.t{n}" text="{"warfarin " * 1000}"/>' for n in range(1_150))
    write(tmp_path, SENTENCES + long)
    document = read_one(tmp_path)
    assert len(document.text) > 10_000_000
    assert len(document.mentions) == 4


def test_hyphen_joined_text_is_taken_from_the_right_offsets(tmp_path: Path) -> None:
    write(tmp_path, one_mention("alpha and beta blockers", "0-4;15-22", "alpha-blockers"))
    document = read_one(tmp_path)
    (mention,) = document.mentions
    assert mention.text == "alpha blockers"
    assert mention.attributes == {"source_text": "alpha-blockers", "source_offsets": "0-4;15-22"}
    assert [r.rule for r in document.repairs] == ["ddi_text_from_spans"]


@pytest.mark.parametrize(
    ("sentence", "offsets", "text", "rule", "kept"),
    [
        ("the (R)- and (S)-warfarin dose", "3-6;16-23", "(R)-warfarin", "ddi_shifted_offsets", ["(R)-", "warfarin"]),
        ("take ibuprofen with care", "0-8", "ibuprofen", "ddi_unique_occurrence", ["ibuprofen"]),
        ("both R- and S-warfarin, R is not", "5-5;11-18", "R-warfarin", "ddi_refitted_parts", ["R", "warfarin"]),
    ],
)
def test_wrong_offsets_are_mended_by_rule(sentence: str, offsets: str, text: str, rule: str, kept: list[str]) -> None:
    fitted = fit(sentence, parse_offsets(offsets), text)
    assert fitted.rule == rule
    assert [sentence[start:end].rstrip("-") for start, end in fitted.spans] == [part.rstrip("-") for part in kept]


def test_what_no_rule_mends_is_an_error() -> None:
    with pytest.raises(OffsetError, match="the sentence has 'not a d' there"):
        fit("not a drug in sight", ((0, 7),), "ibuprofen")
    with pytest.raises(OffsetError, match="'as' there"):
        fit("as good as it gets, as they say", ((0, 2),), "gx")


@given(st.text(min_size=1, max_size=60), st.data())
def test_a_mention_that_matches_is_never_touched(sentence: str, data: st.DataObject) -> None:
    bounds = sorted(data.draw(st.sets(st.integers(0, len(sentence)), min_size=2, max_size=6)))
    parts = tuple(zip(bounds[::2], bounds[1::2], strict=False))
    text = " ".join(sentence[start:end] for start, end in parts)
    written = ";".join(f"{start}-{end - 1}" for start, end in parts)
    fitted = fit(sentence, parse_offsets(written), text)
    assert (fitted.spans, fitted.text, fitted.rule) == (parts, text, None)


def test_counts_of_the_real_part_equal_an_independent_count(corpora_dir: Path) -> None:
    reader = DdiReader()
    files = reader.discover(corpora_dir / "ddi_corpus")
    for split in ("train", "test"):
        sources = [file.path.read_text(encoding="utf-8") for file in files if file.split == split]
        types: Counter[str] = Counter()
        for source in sources:
            types.update(re.findall(r'<entity [^>]*?\stype="(\w+)"', source))
        documents = list(reader.read(files, split))
        assert len(documents) == len(sources) > 20
        kept = [document for document in documents if isinstance(document, Document)]
        assert len(kept) == len(documents)
        assert Counter(m.type for d in kept for m in d.mentions) == types
        pairs = [re.findall(r'<pair [^>]*?ddi="(\w+)"', source) for source in sources]
        assert [[str(r.counted).lower() for r in d.relations] for d in kept] == pairs
        texts = [[unescape(text) for text in re.findall(r'<sentence [^>]*?text="([^"]*)"', source)] for source in sources]
        assert [d.text for d in kept] == [" ".join(parts) for parts in texts]
        for document in kept:
            for mention in document.mentions:
                assert " ".join(document.text[s.start : s.end] for s in mention.spans) == mention.text
