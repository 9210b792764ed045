"""Records as rows of token ids: conversations that are packed, pairs that are not. What is too long is left out and counted, never cut.

Too long is what a stage's ``max_length`` says, and what the model has no positions for: a table of learned ones ends in an index error in the middle of a
training, and others were never trained that far.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from bioie_ray.config.training import DpopSettings, SftSettings
from bioie_ray.training.packing import pack
from bioie_ray.training.tokens import ChatTokenizer, ConversationError, Encoded

_IDS = pa.list_(pa.int32())
SFT_SCHEMA = pa.schema([("id", pa.list_(pa.string())), ("input_ids", _IDS), ("labels", _IDS), ("seq_lengths", _IDS)])
PAIR_SCHEMA = pa.schema([("id", pa.string()), ("prompt_ids", _IDS), ("chosen_ids", _IDS), ("rejected_ids", _IDS)])


def sft_rows(records: Sequence[Mapping[str, Any]], chat: ChatTokenizer, settings: SftSettings) -> tuple[pa.Table, dict[str, int]]:
    """Conversations (``id``, ``messages`` as JSON) as rows of at most ``max_length`` tokens, one or several to a row.

    Returns:
        A table of ``SFT_SCHEMA``, and how many records, tokens, answer tokens, and records left out there are.

    Raises:
        ConversationError: the template ends answers by no token, so that a model could not learn to stop.
    """
    _ = chat.end_of_turn  # a template without one is an error now, not after the training
    kept: list[tuple[str, Encoded]] = []
    too_long = beyond_context = refused = 0
    for record in records:
        try:
            encoded = chat.encode(json.loads(record["messages"]))
        except ConversationError:
            refused += 1
            continue
        if len(encoded.input_ids) > settings.max_length:
            too_long += 1
        elif not _has_positions(chat, len(encoded.input_ids)):
            beyond_context += 1
        else:
            kept.append((record["id"], encoded))
    lengths = [len(encoded.input_ids) for _, encoded in kept]
    # Some models have masks or tables of the size of their context, so that no row may be longer, whatever its conversations are.
    longest = min(settings.max_length, chat.context or settings.max_length)
    groups = pack(lengths, longest) if settings.packing else [[number] for number in range(len(kept))]
    rows: list[dict[str, Any]] = [
        {
            "id": [kept[number][0] for number in group],
            "input_ids": [id_ for number in group for id_ in kept[number][1].input_ids],
            "labels": [label for number in group for label in kept[number][1].labels],
            "seq_lengths": [lengths[number] for number in group],
        }
        for group in groups
    ]
    counts = {
        "records": len(kept),
        "sequences": len(rows),
        "tokens": sum(lengths),
        "answer_tokens": sum(label >= 0 for row in rows for label in row["labels"]),
        "too_long": too_long,
        "beyond_context": beyond_context,
        "refused_by_template": refused,
    }
    return pa.Table.from_pylist(rows, schema=SFT_SCHEMA), counts


def pair_rows(pairs: Sequence[Mapping[str, Any]], chat: ChatTokenizer, settings: DpopSettings) -> tuple[pa.Table, dict[str, int]]:
    """Pairs (``id``, ``messages`` of the prompt as JSON, ``chosen``, ``rejected``) as rows.

    Returns:
        A table of ``PAIR_SCHEMA``, and how many pairs, tokens, and pairs left out there are.
    """
    _ = chat.end_of_turn
    rows: list[dict[str, Any]] = []
    counts = dict.fromkeys(("pairs", "tokens", "prompt_too_long", "too_long", "beyond_context", "same_tokens", "refused_by_template"), 0)
    for pair in pairs:
        try:
            prompt = json.loads(pair["messages"])
            prompt_ids = chat.encode_prompt(prompt)
            chosen, rejected = (chat.encode_answer(prompt, pair[side]) for side in ("chosen", "rejected"))
        except ConversationError:
            counts["refused_by_template"] += 1
            continue
        if chosen == rejected:
            counts["same_tokens"] += 1
            continue
        longest = len(prompt_ids) + max(len(chosen), len(rejected))
        if len(prompt_ids) > settings.max_prompt_tokens:
            counts["prompt_too_long"] += 1
        elif longest > settings.max_length:
            counts["too_long"] += 1
        elif not _has_positions(chat, longest):
            counts["beyond_context"] += 1
        else:
            rows.append({"id": pair["id"], "prompt_ids": prompt_ids, "chosen_ids": chosen, "rejected_ids": rejected})
            counts["pairs"] += 1
            counts["tokens"] += 2 * len(prompt_ids) + len(chosen) + len(rejected)
    return pa.Table.from_pylist(rows, schema=PAIR_SCHEMA), counts


def _has_positions(chat: ChatTokenizer, num_tokens: int) -> bool:
    return chat.context is None or num_tokens <= chat.context
