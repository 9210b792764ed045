"""The corpus that ships with the package: its labels hold, it exercises the hard cases, and no two texts are alike.

The files are parsed here by small parsers of their own, so that a fault in a reader cannot hide one in the data.
"""

from __future__ import annotations

import itertools
import json
import math
import re
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

import pytest

import bioie_ray
from bioie_ray.corpora.catalog import find_reader, read_split, splits_of
from bioie_ray.corpora.document import Document

if TYPE_CHECKING:
    from collections.abc import Iterator

EMBEDDED = Path(bioie_ray.__file__).parent / "corpora" / "embedded"
CORPORA = ("bc5cdr", "ddi_corpus", "biorelex")
PUBTATOR = {"train": "CDR_TrainingSet", "dev": "CDR_DevelopmentSet", "test": "CDR_TestSet"}

MAX_SHINGLE_JACCARD = 0.03
MAX_TFIDF_COSINE = 0.6


@dataclass(frozen=True)
class Labelled:
    """One annotated mention: the stretches of text it covers, its words and, where there are any, its concept ids."""

    spans: tuple[tuple[int, int], ...]
    surface: str
    type: str
    concepts: tuple[str, ...] = ()
    parts: tuple[str, ...] = ()
    num_columns: int = 0


@dataclass(frozen=True)
class Piece:
    """A text that offsets count in: a whole document, or one sentence of it in DDI."""

    text: str
    mentions: tuple[Labelled, ...]


@dataclass(frozen=True)
class Parsed:
    id: str
    corpus: str
    split: str
    pieces: tuple[Piece, ...]
    relations: tuple[tuple[str, str], ...] = field(default=())

    @property
    def text(self) -> str:
        return "\n".join(piece.text for piece in self.pieces)


def parse_bc5cdr(folder: Path) -> Iterator[Parsed]:
    for split, stem in PUBTATOR.items():
        for block in (folder / f"{stem}.PubTator.txt").read_bytes().decode("ascii").strip().split("\n\n"):
            title, abstract, *lines = block.split("\n")
            pmid = title.split("|")[0]
            text = f"{title.removeprefix(f'{pmid}|t|')} {abstract.removeprefix(f'{pmid}|a|')}"
            rows = [line.split("\t") for line in lines]
            assert all(row[0] == pmid for row in rows)
            mentions = tuple(
                Labelled(
                    ((int(row[1]), int(row[2])),),
                    row[3],
                    row[4],
                    tuple(row[5].split("|")),
                    tuple(row[6].split("|")) if len(row) > 6 else (),
                    len(row),
                )
                for row in rows
                if row[1] != "CID"
            )
            relations = tuple((row[2], row[3]) for row in rows if row[1] == "CID")
            yield Parsed(pmid, "bc5cdr", split, (Piece(text, mentions),), relations)


def parse_ddi_corpus(folder: Path) -> Iterator[Parsed]:
    for path in sorted(folder.rglob("*.xml")):
        root = ET.parse(path).getroot()
        pieces, relations = [], []
        for sentence in root.iter("sentence"):
            mentions = []
            for entity in sentence.iter("entity"):
                ranges = [part.split("-") for part in entity.attrib["charOffset"].split(";")]
                spans = tuple((int(first), int(last) + 1) for first, last in ranges)
                mentions.append(Labelled(spans, entity.attrib["text"], entity.attrib["type"]))
            pieces.append(Piece(sentence.attrib["text"], tuple(mentions)))
            pairs = (pair.attrib for pair in sentence.iter("pair"))
            relations += [(pair["e1"], pair["e2"]) for pair in pairs if pair["ddi"] == "true"]
        split = path.relative_to(folder).parts[0].lower()
        yield Parsed(root.attrib["id"], "ddi_corpus", split, tuple(pieces), tuple(relations))


def parse_biorelex(folder: Path) -> Iterator[Parsed]:
    for path in sorted(folder.glob("*.json")):
        split = {"train": "train", "dev": "test"}[path.stem]  # the release has no other test set
        for record in json.loads(path.read_text(encoding="utf-8")):
            mentions = [
                Labelled(((start, end),), surface, entity["label"])
                for entity in record["entities"]
                for surface, name in entity["names"].items()
                for start, end in name["mentions"]
            ]
            relations = [tuple(map(str, i["participants"])) for i in record["interactions"] if i["label"] == 1]
            yield Parsed(record["id"], "biorelex", split, (Piece(record["text"], tuple(mentions)),), tuple(relations))


PARSERS = {"bc5cdr": parse_bc5cdr, "ddi_corpus": parse_ddi_corpus, "biorelex": parse_biorelex}


@pytest.fixture(scope="module")
def parsed() -> list[Parsed]:
    return [document for corpus in CORPORA for document in PARSERS[corpus](EMBEDDED / corpus)]


@pytest.fixture(scope="module")
def cdr() -> list[Parsed]:
    return list(parse_bc5cdr(EMBEDDED / "bc5cdr"))


def mentions_of(document: Parsed) -> Iterator[tuple[Piece, Labelled]]:
    return ((piece, mention) for piece in document.pieces for mention in piece.mentions)


def concepts_of(document: Parsed) -> set[str]:
    return {concept for _, mention in mentions_of(document) for concept in mention.concepts} - {"-1"}


def unlabelled_repeats(piece: Piece) -> list[str]:
    """Surface forms labelled somewhere in the text and, as whole words, standing elsewhere in it without a label."""
    covered = {place for mention in piece.mentions for start, end in mention.spans for place in range(start, end)}
    forms = {mention.surface for mention in piece.mentions if len(mention.spans) == 1}
    return [
        f"{form!r} at {match.start()}"
        for form in sorted(forms)
        for match in re.finditer(rf"(?<!\w){re.escape(form)}(?!\w)", piece.text)
        if covered.isdisjoint(range(*match.span()))
    ]


def shingles(text: str, size: int = 5) -> set[tuple[str, ...]]:
    words = re.findall(r"\w+", text.lower())
    return set(zip(*(words[start:] for start in range(size)), strict=False))


def tfidf(texts: list[str]) -> list[dict[str, float]]:
    """Unit vectors of (1 + log tf) * log(n / df); words in every text weigh nothing."""
    counts = [Counter(re.findall(r"\w+", text.lower())) for text in texts]
    spread = Counter(word for count in counts for word in count)
    vectors = []
    for count in counts:
        vector = {word: (1 + math.log(tf)) * math.log(len(texts) / spread[word]) for word, tf in count.items()}
        length = math.sqrt(sum(weight * weight for weight in vector.values()))
        vectors.append({word: weight / length for word, weight in vector.items()})
    return vectors


def test_about_150_documents_in_three_formats_with_train_and_test(parsed: list[Parsed]) -> None:
    splits = defaultdict(set)
    for document in parsed:
        splits[document.corpus].add(document.split)
    assert 140 <= len(parsed) <= 170
    assert splits["bc5cdr"] == {"train", "dev", "test"}
    assert splits["ddi_corpus"] == {"train", "test"}
    assert splits["biorelex"] == {"train", "test"}
    assert len({(document.corpus, document.id) for document in parsed}) == len(parsed)


@pytest.mark.parametrize("corpus", CORPORA)
def test_the_project_reader_takes_every_document_without_repair(corpus: str) -> None:
    reader, files = find_reader(corpus, EMBEDDED / corpus)
    read = [item for split in splits_of(files) for item in read_split(reader, files, split)]
    documents = [item for item in read if isinstance(item, Document)]
    assert documents == read, "nothing of our own corpus may be rejected"
    assert not [document.id for document in documents if document.repairs]
    expected = {document.id: document for document in PARSERS[corpus](EMBEDDED / corpus)}
    assert {document.id: document.split for document in documents} == {document.id: document.split for document in expected.values()}
    for document in documents:
        assert len(document.mentions) == len(list(mentions_of(expected[document.id])))


def test_every_span_holds_the_words_of_its_mention(parsed: list[Parsed]) -> None:
    wrong = [
        (document.id, mention.surface)
        for document in parsed
        for piece, mention in mentions_of(document)
        if "".join(piece.text[start:end] for start, end in mention.spans).replace(" ", "") != mention.surface.replace(" ", "")
    ]
    assert wrong == []


def test_no_labelled_form_recurs_unlabelled(parsed: list[Parsed]) -> None:
    missed = [(document.id, form) for document in parsed for piece in document.pieces for form in unlabelled_repeats(piece)]
    assert missed == []


def test_no_two_documents_share_their_wording(parsed: list[Parsed]) -> None:
    sets = [shingles(document.text) for document in parsed]
    alike = [
        (parsed[a].id, parsed[b].id)
        for a, b in itertools.combinations(range(len(parsed)), 2)
        if len(sets[a] & sets[b]) > MAX_SHINGLE_JACCARD * len(sets[a] | sets[b])
    ]
    assert alike == []


def test_no_two_documents_share_their_vocabulary(parsed: list[Parsed]) -> None:
    vectors = tfidf([document.text for document in parsed])
    alike = []
    for a, b in itertools.combinations(range(len(parsed)), 2):
        cosine = sum(weight * vectors[b].get(word, 0.0) for word, weight in vectors[a].items())
        if cosine > MAX_TFIDF_COSINE:
            alike.append((parsed[a].id, parsed[b].id, round(cosine, 3)))
    assert alike == []


def test_pubtator_files_are_plain_ascii_lines_of_abstract_length(cdr: list[Parsed]) -> None:
    for stem in PUBTATOR.values():
        data = (EMBEDDED / "bc5cdr" / f"{stem}.PubTator.txt").read_bytes()
        assert data.isascii()
        assert b"\r" not in data
    assert Counter(document.split for document in cdr) == {"train": 36, "dev": 8, "test": 18}
    assert all(60 <= len(document.text.split()) <= 155 for document in cdr)


def test_pubtator_mentions_neither_overlap_nor_repeat(cdr: list[Parsed]) -> None:
    for document in cdr:
        spans = sorted(span for _, mention in mentions_of(document) for span in mention.spans)
        assert all(left[1] <= right[0] for left, right in itertools.pairwise(spans)), document.id


def test_pubtator_relations_join_a_chemical_and_a_disease_of_the_document(cdr: list[Parsed]) -> None:
    for document in cdr:
        by_type = defaultdict(set)
        for _, mention in mentions_of(document):
            by_type[mention.type].update(mention.concepts)
        assert set(by_type) == {"Chemical", "Disease"}
        assert len(set(document.relations)) == len(document.relations)
        for chemical, disease in document.relations:
            assert chemical in by_type["Chemical"] - {"-1"}, document.id
            assert disease in by_type["Disease"] - {"-1"}, document.id


def test_pubtator_surface_form_always_has_the_same_ids(cdr: list[Parsed]) -> None:
    ids = defaultdict(set)
    for document in cdr:
        for _, mention in mentions_of(document):
            ids[mention.surface.lower()].add((mention.type, mention.concepts))
    assert {form: found for form, found in ids.items() if len(found) > 1} == {}


def test_pubtator_part_has_the_hard_cases(cdr: list[Parsed]) -> None:
    mentions = [mention for document in cdr for _, mention in mentions_of(document)]
    composites = [mention for mention in mentions if len(mention.concepts) > 1]
    assert all(len(mention.parts) == len(mention.concepts) for mention in composites if mention.parts)
    assert {mention.num_columns for mention in composites} == {6, 7}
    assert any(mention.concepts == ("-1",) and mention.type == "Chemical" for mention in mentions)
    assert any(mention.concepts == ("-1",) and mention.type == "Disease" for mention in mentions)
    assert any(", " in mention.surface for mention in mentions)
    assert any(re.search(r"\d,\d", mention.surface) for mention in mentions)
    assert any("[" in mention.surface for mention in mentions)
    assert any("(" in mention.surface for mention in mentions)
    assert {document.split for document in cdr if not document.relations} == {"train", "dev", "test"}


def test_every_pubtator_query_has_something_to_find_in_the_pool(cdr: list[Parsed]) -> None:
    pool = set().union(*(concepts_of(document) for document in cdr if document.split == "train"))
    queries = [document for document in cdr if document.split == "test"]
    shares = {document.id: len(concepts_of(document) & pool) / len(concepts_of(document)) for document in queries}
    assert min(shares.values()) > 0.35
    assert 0.5 < sum(shares.values()) / len(shares) < 0.9
