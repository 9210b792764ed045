"""Floating-point operations: what a trained token costs, and what known hardware could do."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from bioie_ray.training.loading import OTHER_SENSES
from bioie_ray.training.tokens import IGNORED

# Dense bf16 operations a second of one device, from the vendors' data sheets (without sparsity).
_PEAK = {
    "H200": 989e12,
    "H100 PCIe": 756e12,
    "H100": 989e12,
    "A100": 312e12,
    "L40S": 362e12,
    "L4": 121e12,
    "A10G": 70e12,
    "V100": 125e12,
    "T4": 65e12,
}


def peak_flops() -> float | None:
    """Of this process's device; ``None`` where it is not known (every CPU)."""
    if not torch.cuda.is_available():
        return None
    name = torch.cuda.get_device_name()
    return next((flops for known, flops in _PEAK.items() if known in name), None)


@dataclass(frozen=True, slots=True)
class Texts:
    """What decides a token's cost beside the model: tokens in its text, itself included, and the share of tokens whose loss is taken."""

    length: float
    answer_share: float


def texts_of(table: pa.Table) -> Texts:
    """Of token rows (`rows`): the mean over their tokens."""
    if "seq_lengths" in table.column_names:
        lengths = pc.list_flatten(table["seq_lengths"]).to_numpy().astype(np.int64)
        num_answer = pc.sum(pc.not_equal(pc.list_flatten(table["labels"]), IGNORED)).as_py()
    else:
        prompts, *answers = (
            pc.list_value_length(table[name]).to_numpy().astype(np.int64) for name in ("prompt_ids", "chosen_ids", "rejected_ids")
        )
        lengths = np.concatenate([prompts + answer for answer in answers])
        num_answer = sum(int(answer.sum()) for answer in answers)
    num_tokens = int(lengths.sum())
    return Texts(float((lengths**2).sum() / num_tokens), num_answer / num_tokens)


def flops_per_token(model: torch.nn.Module, texts: Texts) -> float:
    """Of a forward and a backward pass over a token, as model FLOPs utilisation counts them (Chowdhery et al. 2022, arXiv 2204.02311, appendix B).

    A weight that a token is multiplied with costs 2 forward, 2 back to what is before it, and 2 for itself where it is trained: the paper's 6, and 4 where it is
    frozen under an adapter. The table that tokens are looked up in is multiplied with nothing; the head is, but only for tokens whose loss is taken
    (`answer_head`). Attention's own products are 12 for each layer, width of its heads, and token of the text (in a window: of the window). Of a mixture's
    experts those count that a token goes to. What gradient checkpointing computes again is not counted.
    """
    config: Any = model.config.get_text_config()  # type: ignore[union-attr,operator]
    tables = {id(module.weight) for module in model.modules() if isinstance(module, torch.nn.Embedding)}
    head = model.get_output_embeddings()  # type: ignore[operator]
    num_experts = next((n for name in ("num_local_experts", "num_experts", "n_routed_experts") if (n := getattr(config, name, None))), 1)
    asked = getattr(config, "num_experts_per_tok", None) or num_experts
    total = 0.0
    for name, parameter in model.named_parameters():
        cost = (6.0 if parameter.requires_grad else 4.0) * num_elements(parameter)
        if head is not None and parameter is head.weight:
            total += cost * texts.answer_share
        elif id(parameter) not in tables and not re.fullmatch(OTHER_SENSES, name):
            total += cost * (asked / num_experts if ".experts." in name else 1.0)
    return total + _attention(config, texts.length)


def _attention(config: Any, length: float) -> float:
    heads: int = getattr(config, "num_attention_heads", 0)  # none in models that only have a state
    width = heads * (getattr(config, "head_dim", None) or (getattr(config, "hidden_size", 0) // heads if heads else 0))
    kinds: Sequence[str] = getattr(config, "layer_types", None) or ["full_attention"] * getattr(config, "num_hidden_layers", 0)
    window = getattr(config, "sliding_window", None) or length
    lengths = {"full_attention": length, "sliding_attention": min(length, window)}
    return 12.0 * width * sum(lengths.get(kind, 0.0) for kind in kinds)


def num_elements(parameter: Any) -> int:
    """Of the whole one: 4-bit weights lie two to a number, and with ZeRO 3 they lie elsewhere."""
    num: int = getattr(parameter, "ds_numel", None) or math.prod(getattr(parameter, "quant_state", parameter).shape)
    return num
