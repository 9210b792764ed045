"""The report's corpora, vectors and rerankers, and the provenance of every output, read from records."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from bioie_ray.artifacts.output import Output
from bioie_ray.artifacts.record import input_key
from bioie_ray.config.training import STAGES
from bioie_ray.evaluation.coverage import Interval
from bioie_ray.evaluation.report import CorpusSummary, Provenance, RankingRow, RerankerSummary, SplitCounts, VectorsSummary

_TRAINED: Final = tuple(f"models-{stage}" for stage in STAGES)
# Their model is one that is asked, and no draw of examples has a seed of its own.
_ASKED: Final = ("prompts", "generations", "conversions", "dmcr", "scores", "candidates", "reference", *_TRAINED)


def corpus_summary(source: str, record: Mapping[str, Any]) -> CorpusSummary:
    """Counts of a prepared corpus by split."""
    columns = ("documents", "mentions", "relations", "quarantined", "repaired")
    splits = tuple(SplitCounts(split, *(int(counts[c]) for c in columns)) for split, counts in record["splits"].items())
    return CorpusSummary(str(record["corpus"]), source, splits)


def vectors_summary(source: str, output: Output, record: Mapping[str, Any]) -> VectorsSummary:
    """What an output of ``embed`` holds."""
    counts = record["counts"]
    first = output.shards()[0]
    return VectorsSummary(
        source=source,
        model=str(record["model"]),
        dtype=str(record["payload"]["settings"]["dtype"]),
        dimensions=output.read_shard(first, ["vector"]).schema.field("vector").type.list_size,
        num_texts=int(counts["rows"]),
        num_reused=int(counts["reused"]),
        num_truncated=int(counts["truncated"]),
    )


def reranker_summary(source: str, output: Output, record: Mapping[str, Any]) -> RerankerSummary:
    """How a reranker was trained, and how it ranks."""
    training = record["training"]
    trace = output.read_shard("training").to_pylist()
    return RerankerSummary(
        source=source,
        base_model=str(record["base_model"]),
        tasks=tuple(record["tasks"]),
        num_queries=int(training["queries_with_pairs"]),
        num_pairs=int(training["pairs"]),
        num_steps=int(training["steps"]),
        seconds=float(training["train_s"]),
        losses=tuple((int(row["step"]), float(row["loss"])) for row in trace),
        rankings=tuple(
            RankingRow(f"{row['task']}: {row['method']}", int(row["k"]), Interval(**row["ndcg"]), Interval(**row["coverage"]))
            for row in record["held_out"]
        ),
    )


def provenance(source: str, output: Output, record: Mapping[str, Any]) -> Provenance:
    """What made an output: recipe, code, image, seeds, models and inputs."""
    code = record["code"]
    revision = f" at {code['revision'][:12]}{' with changes' if code['dirty'] else ''}" if code["revision"] else ""
    recipe = record["recipe"]
    models = {}
    if "model" in record:
        models["model" if record["kind"] in _ASKED else "embedder"] = str(record["model"])
    if record["kind"] in _TRAINED:
        models["base model"] = str(record["base_model"])
    if "tokenizer" in record:
        models["tokenizer"] = str(record["tokenizer"])
    models |= {f"evaluator {letter}": str(name) for letter, name in zip("ab", record.get("evaluators", ()), strict=False)}
    if record.get("reranked"):
        models["reranker"] = str(recipe["rerank"]["model"] or input_key(record, "rerankers"))
    return Provenance(
        source=source,
        path=output.key,
        fingerprint=str(record["fingerprint"]),
        recipe=str(recipe["name"]),
        code_version=f"bioie-ray {code['version']}{revision}",
        created=str(record["timings"]["finished"]),
        seeds=tuple(dict.fromkeys(int(seed) for seed in record["seeds"].values()))
        if record["kind"] in _ASKED
        else (int(recipe["seed"]) + int(recipe["select"]["repeat"]),),
        models=models,
        inputs=tuple(str(i["output"]) for i in record["inputs"]),
        image=record["image"],
        seconds=float(record["timings"]["wall_s"]),
    )
