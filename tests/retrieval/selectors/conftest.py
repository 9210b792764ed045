from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest

from bioie_ray.corpora.document import Document, Mention, Span, to_table
from bioie_ray.retrieval.pool import DocumentPool, Loaders
from bioie_ray.retrieval.selectors import Query

# text, chemicals in it
SENTENCES: list[tuple[str, list[str]]] = [
    ("Lithium caused tremor in two elderly patients.", ["Lithium"]),
    ("Tremor and ataxia followed an overdose of lithium carbonate.", ["lithium carbonate"]),
    ("No adverse event was seen in the control group.", []),
    ("Haloperidol worsened parkinsonism, which amantadine relieved.", ["Haloperidol", "amantadine"]),
    ("Cisplatin and carboplatin are both nephrotoxic in rats.", ["Cisplatin", "carboplatin"]),
    ("Renal failure after cisplatin is dose dependent.", ["cisplatin"]),
    ("The renal biopsy showed tubular necrosis.", []),
    ("Cocaine-induced seizures were abolished by diazepam.", ["Cocaine", "diazepam"]),
    ("Seizures recurred when diazepam was withdrawn.", ["diazepam"]),
    ("Isoniazid, rifampicin and pyrazinamide raised transaminases.", ["Isoniazid", "rifampicin", "pyrazinamide"]),
    ("Hepatitis during isoniazid prophylaxis is rare in children.", ["isoniazid"]),
    ("Liver enzymes returned to normal within a month.", []),
    ("Heparin was stopped because of thrombocytopenia.", ["Heparin"]),
    ("Platelet counts fell in nine of forty patients given heparin and aspirin.", ["heparin", "aspirin"]),
    ("Warfarin with amiodarone prolonged the prothrombin time.", ["Warfarin", "amiodarone"]),
    ("Bleeding was the most frequent complication of warfarin.", ["warfarin"]),
    ("Patients were followed for a median of six years.", []),
    ("Doxorubicin cardiomyopathy appeared years after treatment.", ["Doxorubicin"]),
    ("Dexrazoxane protected the heart from doxorubicin.", ["Dexrazoxane", "doxorubicin"]),
    ("Echocardiography was repeated every three months.", []),
]
MakePool = Callable[..., DocumentPool]


def as_document(number: int) -> Document:
    text, chemicals = SENTENCES[number]
    mentions = tuple(
        Mention(f"T{n}", name, "Chemical", (Span(text.index(name), text.index(name) + len(name)),), (f"C:{name.lower()}",))
        for n, name in enumerate(chemicals)
    )
    return Document(f"t{number:02}", "demo", "train", text, mentions=mentions)


def as_vector(text: str) -> np.ndarray:
    """A bag of hashed letter trigrams: texts that share words lie near each other."""
    vector = np.full(64, 1e-3)
    for start in range(len(text) - 2):
        vector[hash_of(text[start : start + 3].lower()) % 64] += 1.0
    return (vector / np.linalg.norm(vector)).astype(np.float32)


def hash_of(trigram: str) -> int:
    return sum(ord(letter) * 31**place for place, letter in enumerate(trigram))


@pytest.fixture
def make_pool() -> MakePool:
    """Makes a pool of the sentences, ``per_shard`` in a shard, the documents' order turned around if ``reverse``."""

    def make(per_shard: int = 7, *, reverse: bool = False, numbers: Sequence[int] | None = None) -> DocumentPool:
        documents = [as_document(number) for number in (range(len(SENTENCES)) if numbers is None else numbers)]
        documents = documents[::-1] if reverse else documents
        shards = {f"train-{start:05}": documents[start : start + per_shard] for start in range(0, len(documents), per_shard)}
        loaders = Loaders(
            lambda name: to_table(shards[name]),
            lambda name: ([d.id for d in shards[name]], np.stack([as_vector(d.text) for d in shards[name]])),
        )
        return DocumentPool(
            list(shards),
            loaders,
            gold_of=lambda document: frozenset(m.text.lower() for m in document.mentions),
            concepts_of=lambda document: frozenset(c for m in document.mentions for c in m.concept_ids),
        )

    return make


@pytest.fixture
def queries() -> list[Query]:
    texts = [
        "Two patients on lithium had tremor and ataxia.",
        "Was cisplatin the cause of renal failure?",
        "Seizures after cocaine were treated with diazepam.",
        "Isoniazid hepatitis in children.",
        "Thrombocytopenia during heparin and warfarin treatment.",
    ]
    return [Query(f"q{number}", text, as_vector(text)) for number, text in enumerate(texts)]
