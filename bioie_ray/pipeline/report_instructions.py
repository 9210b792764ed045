"""The report's instruction data, read from its record and its first shard."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from bioie_ray.artifacts.output import Output
from bioie_ray.evaluation.instruction_results import ConversationView, DataSetCounts, InstructionsSummary, SourceCounts
from bioie_ray.training.instructions.curation import NOT_KEPT
from bioie_ray.training.instructions.mixture import NOT_MIXED

_SAMPLES: Final = 6
_SHOWN_CHARS: Final = 4_000


def instructions_summary(source: str, output: Output, record: Mapping[str, Any]) -> InstructionsSummary:
    """What an output of ``prepare_instructions`` holds."""
    return InstructionsSummary(
        source=source,
        entries=tuple(
            SourceCounts(
                kind=str(entry["kind"]),
                what=str(entry["what"]),
                num_read=int(entry["read"]),
                left_out={reason: int(entry[reason]) for reason in (*NOT_KEPT, *NOT_MIXED)},
                num_copies=int(entry["copies"]),
                num_rows=int(entry["rows"]),
            )
            for entry in record["sources"]
        ),
        data_sets=tuple(DataSetCounts(name, int(n["rows"]), int(n["tokens"])) for name, n in record["data_sets"].items()),
        languages=dict(record["languages"]),
        overlap=dict(record["overlap"]),
        overlap_words=int(record["recipe"]["instructions"]["overlap_words"]),
        bin_width=int(record["token_lengths"]["bin_width"]),
        lengths=tuple(record["token_lengths"]["rows"]),
        samples=_samples(output),
    )


def _samples(output: Output) -> tuple[ConversationView, ...]:
    """The first conversation of each data set in the first shard; the order there is a shuffle, so it is a fair draw."""
    samples: dict[str, ConversationView] = {}
    for row in output.read_shard(output.shards()[0]).to_pylist():
        if row["source"] not in samples and len(samples) < _SAMPLES:
            turns = tuple((turn["role"], _shown(turn["content"])) for turn in json.loads(row["messages"]))
            samples[row["source"]] = ConversationView(row["id"], row["source"], row["language"], row["num_tokens"], turns)
    return tuple(view for _, view in sorted(samples.items()))


def _shown(text: str) -> str:
    return text if len(text) <= _SHOWN_CHARS else f"{text[:_SHOWN_CHARS]} … ({len(text) - _SHOWN_CHARS:,} more characters)"
