"""BioC XML: what is read, that it streams, and what becomes of malformed files."""

from __future__ import annotations

import tracemalloc
from typing import TYPE_CHECKING
from xml.sax.saxutils import escape

import pytest
from corpus_builders import ABSTRACT, TITLE, place, pubtator
from hypothesis import given, settings
from hypothesis import strategies as st

from bioie_ray.corpora.document import Argument, Document, Section, Span
from bioie_ray.corpora.formats.bioc import BioCReader
from bioie_ray.corpora.formats.bioc_xml import stream_documents
from bioie_ray.corpora.formats.pubtator import PubTatorReader
from bioie_ray.corpora.reading import Read, Rejected, SourceError

if TYPE_CHECKING:
    from pathlib import Path

CDR_TRAIN = "CDR_TrainingSet.BioC.xml"
HEAD = '<?xml version="1.0" encoding="UTF-8"?>\n<!DOCTYPE collection SYSTEM "BioC.dtd">\n<collection>\n<source>own</source>\n'
TAIL = "</collection>\n"


def annotation(locations: list[tuple[int, int]], text: str, id: str = "0", **infons: str) -> str:
    """An annotation on a line of its own; underscores of infon names stand for spaces."""
    keys = "".join(f'<infon key="{key.replace("_", " ")}">{escape(value)}</infon>' for key, value in infons.items())
    places = "".join(f'<location offset="{start}" length="{length}"/>' for start, length in locations)
    return f'<annotation id="{id}">{keys}{places}<text>{escape(text)}</text></annotation>\n'


def passage(kind: str, offset: int, text: str, *annotations: str) -> str:
    return (
        f'<passage><infon key="type">{kind}</infon><offset>{offset}</offset><text>{escape(text)}</text>\n{"".join(annotations)}</passage>\n'
    )


def bioc(id: str = "101", *inner: str) -> str:
    return f"<document><id>{id}</id>\n{''.join(inner)}</document>\n"


def simple(id: str = "101") -> str:
    """The document that ``pubtator`` writes, as BioC."""
    text = f"{TITLE} {ABSTRACT}"
    mentions = [(place(text, "Zolvarin"), "Chemical", "D900001"), (place(text, "zolvarin"), "Chemical", "D900001")]
    mentions.append((place(text, "anaemia"), "Disease", "D900002"))
    lines = [annotation([(s, e - s)], text[s:e], str(i), type=kind, MESH=mesh) for i, ((s, e), kind, mesh) in enumerate(mentions)]
    relation = '<relation id="R0"><infon key="relation">CID</infon><infon key="Chemical">D900001</infon><infon key="Disease">D900002</infon></relation>\n'
    return bioc(id, passage("title", 0, TITLE, lines[0]), passage("abstract", len(TITLE) + 1, ABSTRACT, *lines[1:]), relation)


def read_xml(folder: Path, text: str | bytes, corpus: str = "bc5cdr", name: str = CDR_TRAIN, split: str = "train") -> list[Read]:
    (folder / name).write_bytes(text.encode() if isinstance(text, str) else text)
    reader = BioCReader(corpus)
    return list(reader.read(reader.discover(folder), split))


def one(folder: Path, *inner: str, corpus: str = "bc5cdr") -> Document:
    (found,) = read_xml(folder, HEAD + bioc("101", *inner) + TAIL, corpus, name="train.xml")
    assert isinstance(found, Document), found
    return found


def test_the_same_document_comes_out_of_bioc_and_pubtator(tmp_path: Path) -> None:
    (from_bioc,) = read_xml(tmp_path, HEAD + simple() + TAIL)
    (tmp_path / "CDR_TrainingSet.PubTator.txt").write_text(pubtator())
    reader = PubTatorReader("bc5cdr")
    (from_pubtator,) = reader.read(reader.discover(tmp_path), "train")
    assert isinstance(from_bioc, Document)
    assert isinstance(from_pubtator, Document)
    for name in ("id", "text", "sections", "split", "repairs"):
        assert getattr(from_bioc, name) == getattr(from_pubtator, name)
    assert [(m.text, m.type, m.spans, m.concept_ids) for m in from_bioc.mentions] == [
        (m.text, m.type, m.spans, m.concept_ids) for m in from_pubtator.mentions
    ]
    assert [(r.type, r.arguments) for r in from_bioc.relations] == [(r.type, r.arguments) for r in from_pubtator.relations]
    assert from_bioc.attributes == {"file": CDR_TRAIN, "line": 5}


def test_composite_and_individual_mentions_are_both_kept(tmp_path: Path) -> None:
    title = "Renal and hepatic toxicity"
    document = one(
        tmp_path,
        passage(
            "title",
            0,
            title,
            annotation([(0, 26)], title, "0", type="Disease", MESH="D1|D2", CompositeRole="CompositeMention"),
            annotation([(0, 5), (18, 8)], "Renal toxicity", "1", type="Disease", MESH="D1", CompositeRole="IndividualMention"),
            annotation([(10, 16)], "hepatic toxicity", "2", type="Disease", MESH="D2", CompositeRole="IndividualMention"),
        ),
    )
    assert [(m.text, m.spans, m.concept_ids) for m in document.mentions] == [
        (title, (Span(0, 26),), ("D1", "D2")),
        ("Renal toxicity", (Span(0, 5), Span(18, 26)), ("D1",)),
        ("hepatic toxicity", (Span(10, 26),), ("D2",)),
    ]
    assert document.mentions[1].attributes["infons"]["CompositeRole"] == "IndividualMention"


def test_passages_lie_at_their_offsets_and_gaps_are_spaces(tmp_path: Path) -> None:
    document = one(tmp_path, passage("title", 0, "Zolvarin"), passage("abstract", 11, "in mice"))
    assert document.text == "Zolvarin   in mice"
    assert document.sections == (Section("title", 0, 8), Section("abstract", 11, 18))


@pytest.mark.parametrize(("offset", "repaired"), [(13, True), (12, False), (7, True), (90_000, True)])
def test_a_passage_out_of_place_follows_with_a_note_and_its_annotations(tmp_path: Path, offset: int, repaired: bool) -> None:
    title = "Zolvarin κ2"  # 11 characters, 12 bytes
    mice = annotation([(offset + 3, 4)], "mice", type="Chemical", MESH="D1")
    document = one(tmp_path, passage("title", 0, title), passage("abstract", offset, "in mice", mice))
    assert document.text == f"{title} in mice"
    assert document.mentions[0].spans == (Span(15, 19),)
    assert [note.rule for note in document.repairs] == (["place_passage"] if repaired else [])


def test_offsets_in_bytes_are_mended_passage_by_passage(tmp_path: Path) -> None:
    title = "κ-Zolvarin in mice"
    mice = annotation([(15, 4)], "mice", type="Chemical", MESH="D1")
    rats = annotation([(27, 4)], "rats", id="1", type="Chemical", MESH="D1")
    document = one(tmp_path, passage("title", 0, title, mice), passage("abstract", 20, "β and rats", rats))
    assert [document.text[m.spans[0].start : m.spans[0].end] for m in document.mentions] == ["mice", "rats"]
    assert {note.rule for note in document.repairs} == {"offsets_in_bytes", "place_passage"}


def test_nlm_gene_infons_and_annotations_without_a_place(tmp_path: Path) -> None:
    title = "The β-catenin gene, Braf"
    document = one(
        tmp_path,
        passage(
            "title",
            0,
            title,
            annotation([(4, 9)], "b-catenin", "0", type="Gene", NCBI_Gene_identifier="12,34;56", code="222"),
            annotation([(20, 4)], "Braf", "1", type="Gene", NCBI_Gene_identifier="-"),
            annotation([], "Braf", "2", type="STARGENE", NCBI_Gene_identifier="78"),
        ),
        corpus="nlm_gene",
    )
    assert [(m.text, m.concept_ids) for m in document.mentions] == [("β-catenin", ("12", "34", "56")), ("Braf", ())]
    assert document.mentions[0].attributes["infons"] == {"type": "Gene", "NCBI Gene identifier": "12,34;56", "code": "222"}
    assert [note.rule for note in document.repairs] == ["take_text_symbol"]
    (star,) = document.attributes["unplaced_annotations"]
    assert star == {"id": "2", "text": "Braf", "infons": {"type": "STARGENE", "NCBI Gene identifier": "78"}}


def test_relations_by_nodes_join_mentions(tmp_path: Path) -> None:
    nodes = '<relation id="R0"><infon key="type">acts on</infon><node refid="b" role="x"/><node refid="a" role="y"/></relation>'
    inner = [annotation([(0, 3)], "One", "a", type="Chemical"), annotation([(4, 3)], "two", "b", type="Disease")]
    (relation,) = one(tmp_path, passage("title", 0, "One two", *inner), nodes).relations
    assert (relation.type, relation.arguments) == ("acts on", (Argument("mention", "m1"), Argument("mention", "m0")))
    assert relation.attributes["roles"] == ["x", "y"]


def test_sentences_and_cr_lf(tmp_path: Path) -> None:
    sentences = "".join(f"<sentence><offset>{o}</offset><text>{t}</text></sentence>" for o, t in ((0, "One."), (5, "Two.")))
    document = one(tmp_path, f'<passage><infon key="type">title</infon><offset>0</offset>{sentences}</passage>')
    assert document.text == "One. Two."
    unix = HEAD + simple() + simple("102") + TAIL
    assert read_xml(tmp_path, unix.replace("\n", "\r\n")) == read_xml(tmp_path, unix)


def release(folder: Path, train: list[str], test: list[str]) -> Path:
    """The original NLM-Gene release with one document a file."""
    (folder / "Corpus" / "FINAL").mkdir(parents=True)
    for split, ids in (("Train", train), ("Test", test)):
        (folder / "Corpus" / f"Pmidlist.{split}.txt").write_text("".join(f"{one}\r\n" for one in ids))
    for one in dict.fromkeys([*train, *test]):
        gene = annotation([(0, 4)], "Braf", type="Gene", NCBI_Gene_identifier="1")
        (folder / "Corpus" / "FINAL" / f"{one}.BioC.XML").write_text(HEAD + bioc(one, passage("title", 0, "Braf", gene)) + TAIL)
    return folder / "Corpus" / "FINAL"


def test_nlm_gene_split_lists(tmp_path: Path) -> None:
    release(tmp_path, ["3", "1"], ["2"])
    reader = BioCReader("nlm_gene")
    files = reader.discover(tmp_path)
    assert {file.name for file in files} == {
        "Corpus/Pmidlist.Train.txt",
        "Corpus/Pmidlist.Test.txt",
        *(f"Corpus/FINAL/{one}.BioC.XML" for one in "123"),
    }
    assert [[d.id for d in reader.read(files, split)] for split in ("train", "test")] == [["3", "1"], ["2"]]


@pytest.mark.parametrize("draft", ["A_ROUND1", "ROUND1"])
def test_the_final_annotations_of_a_document_win_over_drafts(tmp_path: Path, draft: str) -> None:
    final = release(tmp_path, ["1"], ["2"])
    (final.parent / draft).mkdir()
    for path in final.iterdir():
        (final.parent / draft / path.name).write_text("a draft")
    files = BioCReader("nlm_gene").discover(tmp_path)
    assert {file.path.parent.name for file in files if file.path.suffix == ".XML"} == {"FINAL"}


def test_a_broken_file_of_one_document_is_rejected_and_a_missing_one_refused(tmp_path: Path) -> None:
    final = release(tmp_path, ["1", "2"], ["3"])
    broken = final / "1.BioC.XML"
    broken.write_text(broken.read_text()[:200])
    reader = BioCReader("nlm_gene")
    reject, kept = reader.read(reader.discover(tmp_path), "train")
    assert isinstance(reject, Rejected)
    assert isinstance(kept, Document)
    assert (reject.file, reject.id) == ("Corpus/FINAL/1.BioC.XML", "1")
    assert "line 6" in reject.reason
    assert reject.raw == broken.read_text()
    broken.unlink()
    with pytest.raises(SourceError, match=r"Pmidlist.Train.txt names 1 documents without a file .*: 1;"):
        reader.discover(tmp_path)


def test_truncated_xml_gives_what_was_whole_and_then_fails_by_file_and_line(tmp_path: Path) -> None:
    whole = HEAD + "".join(simple(str(i)) for i in range(300))
    (tmp_path / CDR_TRAIN).write_text(whole[:-400])
    reader = BioCReader("bc5cdr")
    reads = reader.read(reader.discover(tmp_path), "train")
    for i in range(299):
        assert next(reads).id == str(i)
    with pytest.raises(SourceError) as caught:
        next(reads)
    last = whole[:-400].count("\n") + 1
    assert f"{CDR_TRAIN}: line {last}," in str(caught.value)
    assert "cut off" in str(caught.value)
    (tmp_path / CDR_TRAIN).write_text(whole)
    with pytest.raises(SourceError, match=f"{CDR_TRAIN}: line {whole.count(chr(10)) + 1}, .*no element found"):
        list(reader.read(reader.discover(tmp_path), "train"))


def test_bytes_that_are_not_utf8_fail_by_file_and_line(tmp_path: Path) -> None:
    text = (HEAD + simple() + TAIL).encode().replace(b"anaemia, none", b"an\xe6mia, none")
    with pytest.raises(SourceError, match=rf"{CDR_TRAIN}: line 9, column \d+: not well-formed XML .*UTF-8"):
        read_xml(tmp_path, text)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("", "is empty"),
        (pubtator(), "it looks like PubTator"),
        ('<?xml version="1.0"?>\n<document id="d1"></document>', "it looks like DDI XML"),
        (HEAD + bioc("1", passage("title", 0, "Braf", annotation([(0, 4)], "Braf", type="Gene"))) + TAIL, "it is nlm_gene"),
        (HEAD.replace("UTF-8", "klingon") + simple() + TAIL, "line 1: unknown encoding: klingon; convert it to UTF-8"),
        ("<article><collection/></article>", "line 1: not BioC: the outermost element is <article>"),
    ],
)
def test_an_empty_file_or_one_of_another_corpus_is_refused_by_name(tmp_path: Path, content: str, reason: str) -> None:
    with pytest.raises(SourceError, match=CDR_TRAIN) as caught:
        read_xml(tmp_path, content)
    assert reason in str(caught.value)


def test_entities_are_refused_before_they_expand(tmp_path: Path) -> None:
    bomb = '<!DOCTYPE c [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">]>'
    text = f'<?xml version="1.0"?>\n{bomb}\n<collection>{bioc("1", "<passage>&b;</passage>")}</collection>'
    with pytest.raises(SourceError, match="declares an entity"):
        read_xml(tmp_path, text)
    secret = tmp_path / "secret"
    secret.write_text("not to be read")
    fetched = f'<!DOCTYPE c [<!ENTITY a SYSTEM "{secret.as_uri()}">]><collection>{bioc("1", "<passage>&a;</passage>")}</collection>'
    with pytest.raises(SourceError, match="declares an entity"):
        read_xml(tmp_path, fetched)


@pytest.mark.parametrize(
    ("inner", "reason", "line"),
    [
        (passage("title", 0, "Braf", "\n", annotation([(900, 4)], "Braf", type="Chemical")), "lies beyond the text", 8),
        (passage("title", 0, "Braf", annotation([(0, 4)], "Kras", type="Chemical")), "does not match the text", 7),
        (passage("title", 0, "Braf", '<annotation id="1"><location offset="x" length="4"/></annotation>'), "not two numbers", 7),
        ("<passage><offset>no</offset><text>Braf</text></passage>", "the offset 'no', which is not a number", 5),
        (passage("title", 9, "Braf") + passage("abstract", 3, "Kras"), "does not follow", 5),
        ("", "no passage", 5),
        (passage("title", 0, "Braf") + '<relation id="R"><node refid="7" role=""/></relation>', "joins annotation '7'", 5),
    ],
)
def test_a_malformed_document_is_rejected_and_the_others_are_kept(tmp_path: Path, inner: str, reason: str, line: int) -> None:
    reject, kept = read_xml(tmp_path, HEAD + bioc("150", inner) + simple("151") + TAIL)
    assert isinstance(kept, Document)
    assert isinstance(reject, Rejected)
    assert (reject.id, reject.file, reject.line) == ("150", CDR_TRAIN, line)
    assert reason in reject.reason
    assert reject.raw.startswith("<document><id>150</id>")


def test_a_passage_of_ten_megabytes_is_read(tmp_path: Path) -> None:
    big, small = read_xml(tmp_path, HEAD + bioc("1", passage("title", 0, "a" * 10_000_001)) + simple("2") + TAIL)
    assert isinstance(big, Document)
    assert len(big.text) == 10_000_001
    assert isinstance(small, Document)


def test_memory_does_not_grow_with_the_number_of_documents(tmp_path: Path) -> None:
    def peak(num_documents: int) -> int:
        path = tmp_path / f"{num_documents}.xml"
        path.write_text(HEAD + "".join(simple(str(i)) for i in range(num_documents)) + TAIL)
        tracemalloc.start()
        assert sum(1 for _ in stream_documents(path)) == num_documents
        _, highest = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return highest

    peak(100)
    assert peak(1_500) < 1.5 * peak(150)


_CHARS = st.characters(codec="utf-8", categories=("L", "N", "P", "S", "Zs"))
_TEXTS = st.text(_CHARS, min_size=1, max_size=60).filter(str.strip)


@settings(deadline=None)
@given(_TEXTS, _TEXTS, st.data())
def test_random_documents_come_back_as_written(
    tmp_path_factory: pytest.TempPathFactory, title: str, abstract: str, data: st.DataObject
) -> None:
    text = f"{title} {abstract}"
    spans = data.draw(st.lists(st.tuples(st.integers(0, len(text) - 1), st.integers(1, 9)), max_size=4))
    spans = [(start, min(length, len(text) - start)) for start, length in spans]
    written = [annotation([(s, n)], text[s : s + n], str(i), type="Chemical", MESH=f"D{i}") for i, (s, n) in enumerate(spans)]
    inner = passage("title", 0, title) + passage("abstract", len(title) + 1, abstract, *written)
    (found,) = read_xml(tmp_path_factory.mktemp("written"), HEAD + bioc("7", inner) + TAIL)
    assert isinstance(found, Document)
    assert found.text == text
    assert [(m.spans, m.text, m.concept_ids) for m in found.mentions] == [
        ((Span(s, s + n),), text[s : s + n], (f"D{i}",)) for i, (s, n) in enumerate(spans)
    ]
    assert found.repairs == ()


@settings(deadline=None, max_examples=150)
@given(st.lists(st.tuples(st.integers(0, 1800), st.integers(0, 9), st.binary(max_size=6)), max_size=3))
def test_no_mutation_of_a_file_raises_anything_but_a_source_error(
    tmp_path_factory: pytest.TempPathFactory, edits: list[tuple[int, int, bytes]]
) -> None:
    data = (HEAD + simple() + TAIL).encode()
    for position, removed, added in edits:
        data = data[:position] + added + data[position + removed :]
    try:
        found = read_xml(tmp_path_factory.mktemp("mutated"), data)
    except SourceError as error:
        found, problem = [], str(error)
    else:
        problem = ""
    assert found or CDR_TRAIN in problem
    for item in found:
        assert isinstance(item, Document) or (item.reason and item.file == CDR_TRAIN)
