"""A store with scores, written as the steps write them: corpora of the package, answers made from their gold by a seeded spoiler."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
from pipeline_builders import run

from bioie_ray.artifacts.output import Output
from bioie_ray.artifacts.record import Provenance, Timings, make_record, now
from bioie_ray.artifacts.store import StoreAddress
from bioie_ray.config.generation import EvaluateSettings
from bioie_ray.corpora.document import Document, from_table
from bioie_ray.corpora.tasks import Answer, get_task, gold
from bioie_ray.evaluation.table import SCORES_SCHEMA, score_document, summarise

CORPORA = {"bc5cdr_disease": "bc5cdr", "bc5cdr_cid": "bc5cdr", "biorelex": "biorelex"}
DMCR_SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in ("document_id", "answer", "status", "raw", "cleaned", "conversion_a", "conversion_b", "verdict", "corrected")),
        ("repeat", pa.int32()),
    ]
)  # fmt: skip
SETTINGS = EvaluateSettings(bootstrap_samples=200)


@dataclass(frozen=True)
class Run:
    """A cell of the grid; ``skill`` is how much of the gold its answers keep."""

    task: str
    method: str
    num_examples: int
    skill: float
    model: str = "smollm2-135m-instruct"
    repeats: int = 3
    temperature: float = 0.5
    name: str = ""

    @property
    def key(self) -> str:
        label = self.method.replace(" + ", "-")
        return self.name or f"grid-{self.task}-{self.model}-{label}-{self.num_examples}"


@dataclass(frozen=True)
class Answered:
    """What a model said of a document in one repeat, and what was made of it."""

    document: Document
    repeat: int
    answer: str
    raw: list[Answer] | None
    cleaned: list[Answer] | None
    corrected: list[Answer] | None
    conversions: tuple[str | None, str | None]

    @property
    def status(self) -> str:
        return "valid" if self.raw is not None else "dressed" if self.cleaned is not None else "malformed"

    @property
    def undecided(self) -> bool:
        return self.corrected is None


def write_scores(folder: Path, runs: Iterable[Run]) -> Path:
    """The store of these runs, with everything below them."""
    listed = list(runs)
    for corpus in sorted({CORPORA[r.task] for r in listed}):
        task = next(r.task for r in listed if CORPORA[r.task] == corpus)
        run(folder, job="prepare_corpora", task=task)
    for one in listed:
        write_run(folder / "store", one)
    return folder / "store"


def write_run(store: Path, one: Run) -> None:
    """Generations, review and scores of one run."""
    corpus = Output(StoreAddress(str(store)), f"corpora/embedded_{CORPORA[one.task]}@1")
    answered = answers_of(one, corpus)
    below = finish(store, "generations", one, {"test-00000": generated(answered)}, [corpus])
    reviewed = finish(store, "dmcr", one, {"test-00000": review_table(answered)}, [below], {"evaluators": ["offline:a", "offline:b"]})
    score(store, one, answered, [reviewed, corpus])


def score(store: Path, one: Run, answered: Sequence[Answered], inputs: Sequence[Output], version: str = "1", decisions: int = 0) -> Output:
    """The scores of answers, as a version of their own where people decided."""
    task = get_task(one.task)
    rows = [
        row
        for a in answered
        for row in score_document(
            task, a.document, a.repeat, a.raw, a.cleaned, a.corrected, malformed=a.cleaned is None, undecided=a.undecided
        )
    ]
    table = pa.Table.from_pylist(rows, schema=SCORES_SCHEMA)
    extra = {
        "task": one.task,
        "model": one.model,
        "method": one.method,
        "num_examples": one.num_examples,
        "summary": summarise(table, task, SETTINGS),
        "decisions": decisions,
    }
    return finish(store, "scores", one, {"test-00000": table}, inputs, extra, version)


def finish(
    store: Path,
    kind: str,
    one: Run,
    tables: Mapping[str, pa.Table],
    inputs: Sequence[Output],
    extra: Mapping[str, Any] | None = None,
    version: str = "1",
) -> Output:
    payload = {"kind": kind, "settings": {"key": one.key, "version": version}}
    output = Output(StoreAddress(str(store)), f"{kind}/{one.key}@{version}", payload)
    output.claim()
    markers = [output.commit(shard, table, {}) for shard, table in tables.items()]
    recipe = {
        "name": one.key,
        "job": "evaluate",
        "task": one.task,
        "seed": 7,
        "nlm_gene_types": None,
        "select": {"method": one.method.partition(" ")[0], "repeat": 0},
        "prompt": {"num_examples": one.num_examples},
        "generate": {"model": f"offline:{one.model}", "engine": "transformers", "temperature": one.temperature},
    }
    made = [{"output": below.key, "fingerprint": str(below.record()["fingerprint"])} for below in inputs]
    started = now()
    record = make_record(
        output, markers, Provenance(recipe, made, {"generate": 7}), Timings(started, started, len(markers), 0), extra or {}
    )
    output.finish({**record, "image": "registry/bioie-ray:0.3.0"})
    return output


def answers_of(one: Run, corpus: Output) -> list[Answered]:
    documents = [d for shard in corpus.shards(["test"]) for d in from_table(corpus.read_shard(shard))]
    return [answer(one, document, repeat) for repeat in range(1, one.repeats + 1) for document in documents]


def answer(one: Run, document: Document, repeat: int) -> Answered:
    """A spoilt copy of the gold; in a fence now and then, and more often without its brackets the less skill there is."""
    rng = random.Random(f"{one.key} {document.id} {repeat}")
    items = spoilt(one, document, rng)
    listed = json.dumps([a if isinstance(a, str) else list(a) for a in items], ensure_ascii=False)
    fate = rng.random() + 0.45 * one.skill
    if fate > 0.55:
        return Answered(document, repeat, listed, items, items, items, (None, None))
    if fate > 0.4:
        return Answered(document, repeat, f"Here is the list:\n```json\n{listed}\n```", None, items, items, (None, None))
    prose = "The answers are: " + "; ".join(a if isinstance(a, str) else " and ".join(a) for a in items)
    if fate > 0.12:
        return Answered(document, repeat, prose, None, None, items, (listed, listed))
    return Answered(document, repeat, prose, None, None, None, (listed, "[]"))


def spoilt(one: Run, document: Document, rng: random.Random) -> list[Answer]:
    items: list[Answer] = []
    for known in gold(get_task(one.task), document).answers:
        if rng.random() < one.skill:
            items.append(known)
        elif isinstance(known, str):
            items += [known.split()[-1]] if rng.random() < 0.3 and " " in known else []
        elif rng.random() < 0.25:
            items.append((known[1], known[0]))
    forms = [mention.text for mention in document.mentions] or ["nothing"]
    for _ in range(3):
        if rng.random() > 0.25 + one.skill:
            wrong = rng.choice([rng.choice(forms), "hypertension", document.text.split()[0]])
            items.append(wrong if get_task(one.task).kind == "ner" else (rng.choice(forms), wrong))
    return items + items[:1] if rng.random() < 0.1 else items


def generated(answered: Sequence[Answered]) -> pa.Table:
    return pa.table({"document_id": [a.document.id for a in answered], "repeat": [a.repeat for a in answered]})


def review_table(answered: Sequence[Answered]) -> pa.Table:
    def dumped(items: list[Answer] | None) -> str | None:
        return None if items is None else json.dumps(items, ensure_ascii=False)

    def verdict(a: Answered) -> str:
        return "none" if a.status != "malformed" else "differ" if a.undecided else "agreed"

    rows = [
        {
            "document_id": a.document.id,
            "repeat": a.repeat,
            "answer": a.answer,
            "status": a.status,
            "raw": dumped(a.raw),
            "cleaned": dumped(a.cleaned),
            "conversion_a": a.conversions[0],
            "conversion_b": a.conversions[1],
            "verdict": verdict(a),
            "corrected": dumped(a.corrected),
        }
        for a in answered
    ]
    return pa.Table.from_pylist(rows, schema=DMCR_SCHEMA)
