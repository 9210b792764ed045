"""``bioie show DIR --prompt ID``: a prompt as the model saw it, and its answer where there is one."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from bioie_ray.artifacts.output import Output
from bioie_ray.artifacts.record import input_key
from bioie_ray.pipeline.locate import locate
from bioie_ray.pipeline.prompts import split_unit


def show_prompt(place: str, document_id: str, repeat: int = 1, *, endpoint: str | None = None) -> None:
    """Print the prompt of a document, and what the model answered if ``place`` is a generation.

    Raises:
        ValueError: no prompts there, or none of this document or repeat.
    """
    output = locate(place, endpoint)
    record = output.record()
    if record["kind"] not in {"prompts", "generations"}:
        raise ValueError(f"{output.location} holds {record['kind']}; give an output of prompts/ or generations/")
    answer = None
    prompts = output
    if record["kind"] == "generations":
        answer = _row(output, document_id, repeat)
        prompts = Output(output.address, input_key(record, "prompts"))
    draw = min(repeat, int(prompts.record()["num_draws"]))
    row = _row(prompts, document_id, draw)
    print(_text(row, sends_messages=record["recipe"]["generate"]["engine"] == "openai"))
    if answer is not None:
        print(
            f"\n--- answer {repeat} ({answer['finish']}, {answer['num_answer_tokens']} tokens, seed {answer['seed']}) ---\n{answer['answer']}"
        )


def _row(output: Output, document_id: str, draw: int) -> Mapping[str, Any]:
    draws = set()
    for shard in output.shards():
        own = split_unit(shard)[1]
        draws.add(own)
        if own == draw:
            for row in output.read_shard(shard).to_pylist():
                if row["document_id"] == document_id:
                    found: Mapping[str, Any] = row
                    return found
    if draw not in draws:
        raise ValueError(f"{output.location} has no repeat {draw}; it has {', '.join(map(str, sorted(draws)))}")
    raise ValueError(f"{output.location} has no document {document_id!r}")


def _text(row: Mapping[str, Any], *, sends_messages: bool) -> str:
    """The text; for a server the turns, which are what it is sent, whatever text they were counted as; or why there is no prompt."""
    if row["problem"]:
        return f"not asked: {row['problem']}"
    if row["text"] is not None and not sends_messages:
        return str(row["text"])
    return "\n\n".join(f"[{turn['role']}]\n{turn['content']}" for turn in json.loads(row["messages"]))
