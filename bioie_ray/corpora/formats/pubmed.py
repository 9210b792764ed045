"""The three corpora of annotated PubMed abstracts that come as PubTator and as BioC: what they have of their own."""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping
    from collections.abc import Set as AbstractSet


@dataclass(frozen=True, slots=True)
class PubMedCorpus:
    """``types`` are the mention types by which a file is told from another corpus's; ``id_separators`` part concept ids.

    ``pubtator_names`` and ``bioc_names`` are regular expressions (case ignored) for the official file of a split, and
    ``pubtator_files`` and ``bioc_files`` say them in words.
    """

    name: str
    types: AbstractSet[str]
    id_separators: str
    pubtator_names: Mapping[str, str]
    bioc_names: Mapping[str, str]
    pubtator_files: str
    bioc_files: str


def _names(pattern: str, **parts: str) -> Mapping[str, str]:
    return MappingProxyType({split: pattern.format(part) for split, part in parts.items()})


_CORPORA: Final = (
    PubMedCorpus(
        name="bc5cdr",
        types=frozenset({"Chemical", "Disease"}),
        id_separators="|",
        pubtator_names=_names(r"CDR_{}Set\.PubTator(\.txt)?", train="Training", dev="Development", test="Test"),
        bioc_names=_names(r"CDR_{}Set\.BioC\.xml", train="Training", dev="Development", test="Test"),
        pubtator_files="CDR_TrainingSet.PubTator.txt (DevelopmentSet, TestSet)",
        bioc_files="CDR_TrainingSet.BioC.xml (DevelopmentSet, TestSet)",
    ),
    PubMedCorpus(
        name="ncbi_disease",
        types=frozenset({"SpecificDisease", "DiseaseClass", "Modifier", "CompositeMention"}),
        id_separators="|+",
        pubtator_names=_names(r"NCBI{}set_corpus(\.txt)?", train="train", dev="develop", test="test"),
        bioc_names=_names(r"NCBI{}set_corpus(\.BioC)?\.xml", train="train", dev="develop", test="test"),
        pubtator_files="NCBItrainset_corpus.txt (developset, testset)",
        bioc_files="NCBItrainset_corpus.xml (developset, testset)",
    ),
    PubMedCorpus(
        name="nlm_gene",
        # The PubTator conversion has the first five; the original BioC release the others beside Gene.
        types=frozenset({"Gene", "FamilyName", "Cell", "DomainMotif", "ChromosomeLocation", "GENERIF", "STARGENE", "Domain", "Other"}),
        id_separators=",;|",
        pubtator_names=_names(r"NLM-?gene_{}\.PubTator(\.txt)?", train="Train", dev="Dev", test="Test"),
        bioc_names=_names(r"NLM-?gene_{}\.BioC\.xml", train="Train", dev="Dev", test="Test"),
        pubtator_files="NLMgene_Train.PubTator (Test)",
        bioc_files="Pmidlist.Train.txt (Test) with FINAL/PMID.BioC.XML",
    ),
)
PUBMED_CORPORA: Final[Mapping[str, PubMedCorpus]] = MappingProxyType({corpus.name: corpus for corpus in _CORPORA})


def corpus_of_types(types: AbstractSet[str]) -> str | None:
    """The corpus whose mention types these are, by the most in common; ``None`` where none has any."""
    best = max(_CORPORA, key=lambda corpus: len(corpus.types & types))
    return best.name if best.types & types else None
