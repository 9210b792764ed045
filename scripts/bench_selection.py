#!/usr/bin/env python
"""Selection (embed, search, rerank) by the library against the plain loop over queries: speed and agreement.

    scripts/bench_selection.py --corpus bc5cdr --source CORPORA/bc5cdr --reranker-path RERANKER
    scripts/bench_selection.py --corpus biorelex --source CORPORA/biorelex --reranker bert-base --dtypes float32

The loop is what the method's authors run: embed one query, take the 30 nearest of a FAISS index, pad the 30 pairs together
through the cross-encoder, sort, keep 10. The library runs a slice of queries at once. Both use the same models and threads
in one process; on each slice of queries all variants run one after the other, each time beginning with another one.
Without --reranker-path the reranker's head (minilm) or all of it (bert-base) is random: fit for speed, not for agreement.
The pool is the train split; where the other splits give too few queries, documents of the pool fill up, each kept out of its
own candidates. Prints a Markdown table; --json keeps every slice's numbers.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import faiss
import numpy as np
import torch
from sentence_transformers import CrossEncoder, SentenceTransformer

from bioie_ray.config.steps import EmbedSettings, RerankSettings
from bioie_ray.corpora.catalog import find_reader, read_split, splits_of
from bioie_ray.corpora.document import Document
from bioie_ray.retrieval.encoder import Encoder
from bioie_ray.retrieval.models import resolve_model
from bioie_ray.retrieval.scorer import PairScorer
from bioie_ray.retrieval.search import search_shards

EMBEDDER = "offline:all-minilm-l6-v2"
SEED = 20_240
Select = Callable[[Sequence[Document]], list[list[str]]]


@dataclass
class Variant:
    """A way to select, its seconds of wall clock and of processor on each slice, and the lists it gave."""

    name: str
    dtype: str
    select: Select
    wall_s: list[float] = field(default_factory=list)
    cpu_s: list[float] = field(default_factory=list)
    lists: list[list[str]] = field(default_factory=list)

    def run(self, queries: Sequence[Document]) -> None:
        """Select for a slice of the queries, timed."""
        wall, cpu = time.perf_counter(), time.process_time()
        lists = self.select(queries)
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.wall_s.append(time.perf_counter() - wall)
        self.cpu_s.append(time.process_time() - cpu)
        self.lists += lists


class Loop:
    """The plain loop, one query at a time."""

    def __init__(self, arguments: argparse.Namespace, dtype: str, pool: Sequence[Document], vectors: np.ndarray) -> None:
        self._arguments, self._pool = arguments, pool
        kwargs = {"dtype": getattr(torch, dtype)}
        device = "cuda" if torch.cuda.is_available() else "cpu"
        self._embedder = SentenceTransformer(str(resolve_model(EMBEDDER)), device=device, model_kwargs=kwargs)
        self._reranker = CrossEncoder(
            str(arguments.reranker_path), device=device, max_length=512, activation_fn=torch.nn.Sigmoid(), model_kwargs=kwargs
        )
        self._index = faiss.IndexFlatIP(vectors.shape[1])
        self._index.add(vectors)

    def __call__(self, queries: Sequence[Document]) -> list[list[str]]:
        """Ids of the chosen examples of each query, best first."""
        torch.set_num_threads(self._arguments.threads)
        faiss.omp_set_num_threads(self._arguments.threads)
        return [self._one(query) for query in queries]

    def _one(self, query: Document) -> list[str]:
        vector = self._embedder.encode([query.text], normalize_embeddings=True, show_progress_bar=False)
        _, rows = self._index.search(vector, self._arguments.k + 1)
        near = [self._pool[row] for row in rows[0] if self._pool[row].id != query.id][: self._arguments.k]
        scores = self._reranker.predict([(query.text, document.text) for document in near], show_progress_bar=False)
        ranked = sorted(zip(near, scores.tolist(), strict=True), key=lambda item: (-item[1], item[0].id))
        return [document.id for document, _ in ranked[: self._arguments.keep]]


class Library:
    """What the jobs do with a shard of queries."""

    def __init__(self, arguments: argparse.Namespace, dtype: str, margin: float, pool: Sequence[Document], vectors: np.ndarray) -> None:
        self._arguments, self._pool, self._vectors = arguments, pool, vectors
        self._place = {document.id: row for row, document in enumerate(pool)}
        common = {"dtype": dtype, "threads": arguments.threads, "batch_tokens": arguments.batch_tokens}
        self._encoder = Encoder(EmbedSettings(model=EMBEDDER, **common))
        self._scorer = PairScorer(RerankSettings(rescore_margin=margin, **common), str(arguments.reranker_path))

    def __call__(self, queries: Sequence[Document]) -> list[list[str]]:
        """Ids of the chosen examples of each query, best first."""
        vectors = self._encoder.encode([query.text for query in queries]).vectors
        hits = search_shards(vectors, [([d.id for d in self._pool], self._vectors)], self._arguments.k + 1, threads=self._arguments.threads)
        near = [[hit.id for hit in found if hit.id != query.id][: self._arguments.k] for query, found in zip(queries, hits, strict=True)]
        texts = [query.text for query in queries] + [document.text for document in self._pool]
        pairs = np.array([(q, len(queries) + self._place[id_]) for q, ids in enumerate(near) for id_ in ids], dtype=np.int64)
        scores = iter(self._scorer.score_for_top(texts, pairs, self._arguments.keep).scores.tolist())
        ranked = [sorted((-next(scores), id_) for id_ in ids) for ids in near]
        return [[id_ for _, id_ in best[: self._arguments.keep]] for best in ranked]


def main() -> None:
    arguments = parse_arguments()
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    with tempfile.TemporaryDirectory() as folder:
        if arguments.reranker_path is None:
            arguments.reranker_path = random_reranker(arguments.reranker, Path(folder))
        pool, queries = documents(arguments)
        encoder = Encoder(EmbedSettings(model=EMBEDDER, threads=arguments.threads))
        vectors = encoder.encode([document.text for document in pool]).vectors
        variants = make_variants(arguments, pool, vectors)
        for variant in variants:  # the first call of each pays for allocations and lazy loading
            variant.select(queries[:1])
        slices = [queries[start : start + arguments.slice] for start in range(0, len(queries), arguments.slice)]
        for turn, part in enumerate(slices):
            for variant in np.roll(np.array(variants, dtype=object), -turn):
                variant.run(part)
            print(f"slice {turn + 1} of {len(slices)}", file=sys.stderr)
    if arguments.json:
        arguments.json.write_text(json.dumps([{"name": v.name, "wall_s": v.wall_s, "cpu_s": v.cpu_s} for v in variants], indent=1))
    print(as_markdown(arguments, len(pool), len(queries), variants))


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", default="bc5cdr", help="bc5cdr has long texts, biorelex sentences")
    parser.add_argument("--source", type=Path, required=True, help="folder of the corpus")
    parser.add_argument("--reranker", choices=("minilm", "bert-base"), default="minilm", help="size of an untrained reranker")
    parser.add_argument("--reranker-path", type=Path, help="folder of a trained cross-encoder")
    parser.add_argument("--dtypes", default="float32", help="float32 is always measured; add bfloat16 or float16")
    parser.add_argument("--rescore-margin", type=float, default=0.02, help="of the variant with a second look in float32")
    parser.add_argument("--queries", type=int, default=100)
    parser.add_argument("--slice", type=int, default=10, help="queries between two changes of variant")
    parser.add_argument("--batch-tokens", type=int, default=RerankSettings().batch_tokens)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--k", type=int, default=30)
    parser.add_argument("--keep", type=int, default=10)
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


def random_reranker(size: str, folder: Path) -> Path:
    """A cross-encoder of the wanted size with a seeded random head, or wholly random in the size of BERT base."""
    torch.manual_seed(SEED)
    path = folder / size
    model = CrossEncoder(str(resolve_model(EMBEDDER)), num_labels=1)
    if size == "minilm":
        model.save_pretrained(str(path), create_model_card=False)
        return path
    from transformers import BertConfig, BertForSequenceClassification

    BertForSequenceClassification(BertConfig(num_labels=1)).save_pretrained(path)
    model.tokenizer.save_pretrained(path)
    return path


def documents(arguments: argparse.Namespace) -> tuple[list[Document], list[Document]]:
    """The pool (train) and the queries: a seeded draw from the other splits, filled up from the pool."""
    reader, files = find_reader(arguments.corpus, arguments.source)
    found = {split: [d for d in read_split(reader, files, split) if isinstance(d, Document)] for split in splits_of(files)}
    pool = sorted({d.id: d for d in found["train"]}.values(), key=lambda d: d.id)
    others = [d for split in ("test", "dev") for d in found.get(split, [])]
    rng = np.random.default_rng(SEED)
    drawn = [source[i] for source in (others, pool) for i in rng.permutation(len(source))]
    return pool, drawn[: arguments.queries]


def make_variants(arguments: argparse.Namespace, pool: Sequence[Document], vectors: np.ndarray) -> list[Variant]:
    variants = []
    for dtype in dict.fromkeys(["float32", *arguments.dtypes.split(",")]):
        variants.append(Variant(f"loop, {dtype}", dtype, Loop(arguments, dtype, pool, vectors)))
        variants.append(Variant(f"library, {dtype}", dtype, Library(arguments, dtype, 0.0, pool, vectors)))
        if dtype != "float32" and arguments.rescore_margin:
            select = Library(arguments, dtype, arguments.rescore_margin, pool, vectors)
            variants.append(Variant(f"library, {dtype}, close calls in float32", dtype, select))
    return variants


def as_markdown(arguments: argparse.Namespace, num_pool: int, num_queries: int, variants: Sequence[Variant]) -> str:
    reference = variants[0]
    loops = {variant.dtype: variant for variant in variants if variant.name.startswith("loop")}
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"{arguments.threads} CPU threads"
    what = (
        f"{arguments.corpus}, {num_queries} queries, pool of {num_pool}, k {arguments.k}, keep {arguments.keep}, reranker "
        f"{arguments.reranker_path.name}, batches of {arguments.batch_tokens} tokens, {device}, torch {torch.__version__}"
    )
    columns = [
        "variant",
        "ms a query",
        "against the fp32 loop",
        "against the loop in its dtype",
        "same, in processor time",
        "identical top sets",
        "overlap",
        "identical lists",
    ]
    lines = [what, "", f"| {' | '.join(columns)} |", f"|---{'|--:' * (len(columns) - 1)}|"]
    for variant in variants:
        own = loops[variant.dtype]
        same_sets = np.mean([set(a) == set(b) for a, b in zip(reference.lists, variant.lists, strict=True)])
        overlap = np.mean([len(set(a) & set(b)) / max(1, len(a)) for a, b in zip(reference.lists, variant.lists, strict=True)])
        same_lists = np.mean([a == b for a, b in zip(reference.lists, variant.lists, strict=True)])
        lines.append(
            f"| {variant.name} | {1e3 * sum(variant.wall_s) / num_queries:.0f} | {ratio(reference.wall_s, variant.wall_s)} "
            f"| {ratio(own.wall_s, variant.wall_s)} | {ratio(own.cpu_s, variant.cpu_s)} "
            f"| {same_sets:.1%} | {overlap:.2%} | {same_lists:.1%} |"
        )
    return "\n".join(lines)


def ratio(slow: Sequence[float], fast: Sequence[float]) -> str:
    """How many times faster, with a 95 % bootstrap interval over the slices."""
    if slow is fast:
        return "1"
    a, b = np.array(slow), np.array(fast)
    draws = np.random.default_rng(SEED).integers(len(a), size=(10_000, len(a)))
    low, high = np.percentile(a[draws].sum(axis=1) / b[draws].sum(axis=1), [2.5, 97.5])
    return f"{a.sum() / b.sum():.2f} [{low:.2f}, {high:.2f}]"


if __name__ == "__main__":
    main()
