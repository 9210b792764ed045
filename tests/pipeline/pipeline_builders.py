"""A small corpus of our own making and tiny models, for tests of whole pipelines."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import yaml

from bioie_ray.config.recipe import Recipe, load_recipe
from bioie_ray.pipeline.job import run_recipe
from bioie_ray.pipeline.plan import Planner

CHEMICALS = ("aspirin", "lithium", "cisplatin", "heparin", "morphine", "digoxin", "valproate", "zidovudine")
DISEASES = ("ulcer", "tremor", "nephropathy", "bleeding", "delirium", "arrhythmia", "hepatitis", "anaemia")
FILLERS = ("Two patients", "A child", "Rats", "Old men", "Nine women", "A cohort")
FILES = {"train": "CDR_TrainingSet", "dev": "CDR_DevelopmentSet", "test": "CDR_TestSet"}
WORDS = sorted(
    {*CHEMICALS, *DISEASES, *" ".join(FILLERS).lower().split(), "given", "had", "after", "case", "with", "and", "the", "of", "in"}
)


def text_of(number: int) -> tuple[str, str]:
    """Title and abstract of document ``number``: each number another text, neighbours share a drug or a disease."""
    chemical, disease = CHEMICALS[number % 8], DISEASES[(number * 3 + number // 8) % 8]
    extra = " ".join([f"Case {n} had {DISEASES[(number + n) % 8]}." for n in range(number % 4)])
    return f"{disease.capitalize()} after {chemical}", f"{FILLERS[number % 6]} given {chemical} had {disease} {number}. {extra}".strip()


def block(id: str, title: str, abstract: str) -> str:
    """A PubTator document in which every known drug and disease is a mention, joined by one relation."""
    text = f"{title} {abstract}"
    lines = [f"{id}|t|{title}", f"{id}|a|{abstract}"]
    for kind, names in (("Chemical", CHEMICALS), ("Disease", DISEASES)):
        for number, name in enumerate(names):
            at = text.lower().find(name)
            while at >= 0:
                lines.append(f"{id}\t{at}\t{at + len(name)}\t{text[at : at + len(name)]}\t{kind}\t{kind[0]}{number}")
                at = text.lower().find(name, at + 1)
    found = {line.split("\t")[5] for line in lines[2:]}
    chemicals, diseases = (sorted(c for c in found if c[0] == letter) for letter in "CD")
    lines += [f"{id}\tCID\t{chemicals[0]}\t{diseases[0]}"] if chemicals and diseases else []
    return "\n".join([*lines, "", ""])


def write_corpus(folder: Path, **splits: Iterable[tuple[str, str, str]]) -> Path:
    """A BC5CDR release in PubTator; each split is documents of (id, title, abstract)."""
    folder.mkdir(parents=True, exist_ok=True)
    for split, documents in splits.items():
        (folder / f"{FILES[split]}.PubTator.txt").write_text("".join(block(*document) for document in documents), encoding="utf-8")
    return folder


def documents(numbers: Iterable[int], prefix: str = "d") -> list[tuple[str, str, str]]:
    return [(f"{prefix}{n:03d}", *text_of(n)) for n in numbers]


def make_recipe(folder: Path, *overrides: str, **data: Any) -> Recipe:
    """A recipe read from a file, with the store in ``folder`` and without Ray unless ``data`` say otherwise."""
    path = folder / "recipe.yaml"
    defaults = {"name": "r", "job": "select_examples", "store": str(folder / "store"), "cluster": {"executor": "inline"}}
    path.write_text(yaml.safe_dump({**defaults, **data}, sort_keys=False))
    return load_recipe(path, overrides)


def run(folder: Path, *overrides: str, **data: Any) -> Path:
    """Run a recipe in this process; returns the store."""
    recipe = make_recipe(folder, *overrides, **data)
    run_recipe(recipe)
    return Path(recipe.store)


def planned(recipe: Recipe) -> list[str]:
    """Keys of the outputs that the recipe needs."""
    return [step.output.key for step in Planner().plan(recipe)]


def record(output: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((output / "record.json").read_text())
    return found


def shards(output: Path) -> dict[str, bytes]:
    """The bytes that must be the same whenever the fingerprint is: shards, and the files beside them."""
    names = [*output.glob("*.parquet"), *output.glob("*examples.json"), *output.glob("short_queries.json"), *output.glob("model/**/*")]
    return {path.relative_to(output).as_posix(): path.read_bytes() for path in sorted(names) if path.is_file()}


def rows(output: Path, split: str = "") -> list[dict[str, Any]]:
    return [row for path in sorted(output.glob(f"{split}*.parquet")) for row in pq.read_table(path).to_pylist()]


def vectors(output: Path) -> dict[str, np.ndarray]:
    return {row["id"]: np.array(row["vector"], dtype=np.float32) for row in rows(output)}


def best(output: Path) -> dict[str, list[str]]:
    found: dict[str, list[str]] = json.loads((output / "best_examples.json").read_text())
    return found


def quarantine(output: Path) -> list[Mapping[str, Any]]:
    return [json.loads(line) for path in sorted(output.glob("_quarantine/*.jsonl")) for line in path.read_text().splitlines()]


def save_tokenizer(folder: Path, words: Sequence[str]) -> int:
    """A WordPiece tokenizer of whole words, and of letters and digits for all others; returns its size."""
    from transformers import BertTokenizer

    characters = "abcdefghijklmnopqrstuvwxyz0123456789"
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *".,;:()-%/", *characters, *(f"##{c}" for c in characters)]
    vocabulary += sorted(set(words) - set(vocabulary))
    (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n", encoding="utf-8")
    BertTokenizer(str(folder / "vocab.txt")).save_pretrained(folder)
    return len(vocabulary)
