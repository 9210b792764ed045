from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bioie_ray.corpora.catalog import find_reader
from bioie_ray.corpora.document import Argument, ArgumentKind, Document, Mention, Relation, Span
from bioie_ray.corpora.tasks import TASKS, GoldSet, carve_dev, get_task, gold, gold_concepts, unordered


def document(*mentions: Mention, relations: tuple[Relation, ...] = ()) -> Document:
    return Document("1", "bc5cdr", "train", " " * 1000, mentions=mentions, relations=relations)


def mention(text: str, start: int = 0, type: str = "Disease", concepts: tuple[str, ...] = (), entity: str | None = None) -> Mention:
    return Mention(f"{text}@{start}", text, type, (Span(start, start + len(text)),), concepts, entity)


def relation(left: str, right: str, kind: ArgumentKind, label: str = "", counted: bool = True) -> Relation:
    return Relation(f"{left}-{right}-{label}", "x", label, (Argument(kind, left), Argument(kind, right)), counted)


def test_surface_forms_are_distinct_without_case_and_the_capitalised_spelling_is_kept() -> None:
    found = gold(
        TASKS["bc5cdr_disease"],
        document(mention("ulcer", 0), mention("Ulcer", 10), mention("ULCER", 20), mention("coma", 30)),
    )
    assert found == GoldSet(("Ulcer", "coma"))
    assert found.keys() == {"ulcer", "coma"}


def test_answers_are_in_text_order_whatever_the_order_of_the_source() -> None:
    forward = (mention("b", 5), mention("a", 9), mention("B", 50))
    assert gold(TASKS["bc5cdr_disease"], document(*forward)).answers == ("B", "a")
    assert gold(TASKS["bc5cdr_disease"], document(*reversed(forward))).answers == ("B", "a")


def test_a_task_takes_its_types_only() -> None:
    both = document(mention("aspirin", 0, "Chemical"), mention("ulcer", 9, "Disease"))
    assert gold(TASKS["bc5cdr_chemical"], both).answers == ("aspirin",)
    assert gold(TASKS["bc5cdr_disease"], both).answers == ("ulcer",)
    types = ("SpecificDisease", "DiseaseClass", "Modifier", "CompositeMention")
    assert len(gold(TASKS["ncbi_disease"], document(*(mention(name, 0, name) for name in types))).answers) == 4
    classes = ("ABBREVIATION", "FAMILY", "FORMULA", "IDENTIFIER", "MULTIPLE", "SYSTEMATIC", "TRIVIAL", "NO CLASS")
    assert len(gold(TASKS["chemdner"], document(*(mention(name, 0, name) for name in classes))).answers) == 8


def test_which_types_are_genes_is_a_setting() -> None:
    types = ("Gene", "FamilyName", "DomainMotif", "Cell", "ChromosomeLocation", "GENERIF", "STARGENE", "Domain", "Other")
    genes = document(*(mention(name.lower(), 10 * n, name) for n, name in enumerate(types)))
    default = gold(get_task("nlm_gene"), genes)
    assert default.answers == ("gene", "familyname", "domainmotif", "generif", "stargene", "domain")
    assert gold(get_task("nlm_gene", ["Cell"]), genes).answers == ("cell",)
    with pytest.raises(ValueError, match="nlm_gene has no type Genes; known: Gene, FamilyName"):
        get_task("nlm_gene", ["Genes"])
    with pytest.raises(ValueError, match="nlm_gene has no type at all"):
        get_task("nlm_gene", [])
    with pytest.raises(ValueError, match="no task is called 'bc5cdr'; known: bc5cdr_chemical"):
        get_task("bc5cdr")


def test_a_relation_of_concepts_stands_for_all_pairs_of_their_surface_forms() -> None:
    found = gold(
        TASKS["bc5cdr_cid"],
        document(
            mention("aspirin", 0, "Chemical", ("D1",)),
            mention("ASA", 10, "Chemical", ("D1",)),
            mention("Aspirin", 20, "Chemical", ("D1",)),
            mention("ulcer", 30, "Disease", ("D2",)),
            mention("gastric and duodenal ulcer", 40, "Disease", ("D3", "D2")),
            mention("pain", 70, "Disease", ("-1",)),
            relations=(relation("D1", "D2", "concept"),),
        ),
    )
    assert found.answers == (
        ("Aspirin", "ulcer"),
        ("Aspirin", "gastric and duodenal ulcer"),
        ("ASA", "ulcer"),
        ("ASA", "gastric and duodenal ulcer"),
    )
    assert {"asa|ulcer"} < found.keys()


def test_a_composite_id_takes_part_with_each_of_its_parts() -> None:
    one_column = document(
        mention("a/b", 0, concepts=("D1|D2",)),
        mention("c", 9, concepts=("D3",)),
        relations=(relation("D3", "D2", "concept"),),
    )
    assert gold(TASKS["bc5cdr_cid"], one_column).answers == (("c", "a/b"),)
    assert gold_concepts(TASKS["bc5cdr_disease"], one_column) == {"D1", "D2", "D3"}


def test_drug_interactions_join_two_mentions_in_their_order_and_negatives_do_not_count() -> None:
    found = gold(
        TASKS["ddi_corpus"],
        document(
            mention("warfarin", 0),
            mention("Aspirin", 20),
            mention("aspirin", 40),
            relations=(
                relation("warfarin@0", "aspirin@40", "mention", "effect"),
                relation("aspirin@40", "Aspirin@20", "mention", "int"),
                relation("Aspirin@20", "warfarin@0", "mention", "advise", counted=False),
            ),
        ),
    )
    assert found.answers == (("warfarin", "Aspirin"), ("Aspirin", "Aspirin"))


def test_a_binding_pair_counts_when_one_of_its_labels_is_1_and_self_pairs_stay() -> None:
    found = gold(
        TASKS["biorelex"],
        document(
            mention("A", 0, entity="0"),
            mention("a1", 5, entity="0"),
            mention("B", 10, entity="1"),
            mention("C", 20, entity="2"),
            relations=(
                relation("1", "2", "entity", "-1"),
                relation("1", "2", "entity", "1"),
                relation("0", "2", "entity", "0"),
                relation("0", "0", "entity", "1"),
            ),
        ),
    )
    assert found.answers == (("A", "A"), ("A", "a1"), ("a1", "A"), ("a1", "a1"), ("B", "C"))


def test_concepts_fall_back_to_the_surface_form_where_there_is_none() -> None:
    mentions = (mention("Ulcer", 0, concepts=("D1",)), mention("Pain", 9, concepts=("-1",)), mention("Coma", 20))
    assert gold_concepts(TASKS["bc5cdr_disease"], document(*mentions)) == {"D1", "pain", "coma"}
    pair = document(
        mention("A", 0, concepts=("u:1",), entity="0"),
        mention("B", 5, entity="1"),
        relations=(relation("0", "1", "entity", "1"),),
    )
    assert gold_concepts(TASKS["biorelex"], pair) == {"u:1|b"}
    cid = document(mention("A", concepts=("D1",)), mention("b", 5, concepts=("D2",)), relations=(relation("D1", "D2", "concept"),))
    assert gold_concepts(TASKS["bc5cdr_cid"], cid) == {"D1|D2"}


def test_unordered_keeps_one_of_a_pair_and_its_mirror() -> None:
    assert unordered([("a", "B"), ("b", "A"), ("a", "a"), ("c", "a")]) == (("a", "B"), ("a", "a"), ("c", "a"))


@given(st.lists(st.tuples(st.sampled_from("abcABC"), st.sampled_from("abcABC"))))
def test_unordered_pairs_are_distinct_and_complete(pairs: list[tuple[str, str]]) -> None:
    def keys(some: tuple[tuple[str, str], ...] | list[tuple[str, str]]) -> list[frozenset[str]]:
        return [frozenset((a.lower(), b.lower())) for a, b in some]

    kept = unordered(pairs)
    assert len(set(keys(kept))) == len(kept)
    assert set(keys(kept)) == set(keys(pairs))


@given(st.sets(st.text(min_size=1), max_size=60), st.integers(0, 5), st.sampled_from([0.0, 0.1, 0.5, 1.0]))
def test_the_dev_split_depends_on_ids_and_seed_alone(ids: set[str], seed: int, share: float) -> None:
    drawn = carve_dev(sorted(ids), share, seed)
    assert drawn == carve_dev(sorted(ids, reverse=True) * 2, share, seed)
    assert drawn <= ids
    assert len(drawn) == round(share * len(ids))


def test_another_seed_carves_another_dev_split() -> None:
    ids = [str(number) for number in range(200)]
    assert len(carve_dev(ids)) == 20
    assert carve_dev(ids, seed=1) != carve_dev(ids, seed=2)
    with pytest.raises(ValueError, match=r"between 0 and 1, for example 0\.1"):
        carve_dev(ids, 1.5)


def test_tasks_with_a_dev_split_are_those_whose_release_has_one() -> None:
    assert {key for key, task in TASKS.items() if not task.has_dev} == {"nlm_gene", "ddi_corpus", "biorelex"}


@pytest.mark.parametrize("name", ["bc5cdr_chemical", "bc5cdr_disease", "bc5cdr_cid", "nlm_gene", "ddi_corpus", "biorelex"])
def test_gold_of_real_documents_agrees_with_a_naive_reading(corpora_dir: Path, name: str) -> None:
    task = get_task(name)
    reader, files = find_reader(task.corpus, corpora_dir / task.corpus)
    num_answers = 0
    for item in reader.read(files, "train"):
        assert isinstance(item, Document)
        found = gold(task, item)
        assert found.keys() == frozenset(naive(name, item))
        assert len(found.keys()) == len(found.answers)
        num_answers += len(found.answers)
    assert num_answers > 100


def naive(name: str, item: Document) -> Iterator[str]:
    """The keys by brute force over mentions, written from the task's description."""
    wanted = {"bc5cdr_chemical": "Chemical", "bc5cdr_disease": "Disease", "nlm_gene": "Gene FamilyName DomainMotif"}
    if name in wanted:
        yield from (m.text.lower() for m in item.mentions if m.type in wanted[name].split())
        return
    for listed in item.relations:
        a, b = (argument.ref for argument in listed.arguments)
        for x in item.mentions:
            for y in item.mentions:
                joined = {
                    "bc5cdr_cid": a in x.concept_ids and b in y.concept_ids,
                    "ddi_corpus": listed.counted and a == x.id and b == y.id,
                    "biorelex": listed.label == "1" and a == x.entity_id and b == y.entity_id,
                }[name]
                if joined:
                    yield f"{x.text}|{y.text}".lower()
