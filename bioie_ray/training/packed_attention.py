"""Attention of packed rows, one conversation at a time.

For a row of several conversations transformers' ``sdpa`` multiplies every token with every other and masks what belongs to another
conversation: work that grows with the square of the row, most of it thrown away. Here each conversation is multiplied with itself alone,
under its own square of the same mask, so that windows and whatever else a model's mask says hold as before. Where they begin comes with the batch as
plain numbers: read from a tensor, they would have every layer wait for the GPU.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Any

import torch
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask
from transformers.modeling_utils import AttentionInterface

NAME = "sdpa_by_conversation"


def sdpa_by_conversation(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    conversation_lengths: Sequence[int] | None = None,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """``sdpa``, conversation by conversation where the batch says where they begin and end.

    Args:
        module: The layer's attention, as transformers hands it over.
        query: [B, heads, L, width]; ``key`` and ``value`` may have fewer heads. Packed: B = 1.
        key: See ``query``.
        value: See ``query``.
        attention_mask: [1, 1, L, L], true where a token sees another; ``None`` where nothing but order counts.
        conversation_lengths: Tokens of each conversation, L in all; from the collator.
        **options: Handed on.

    Returns:
        [B, L, heads, width], and no weights.
    """
    if conversation_lengths is None or options.get("position_bias") is not None:
        output: torch.Tensor = sdpa_attention_forward(module, query, key, value, attention_mask, **options)[0]
        return output, None
    parts = [
        sdpa_attention_forward(
            module,
            query[:, :, a:b],
            key[:, :, a:b],
            value[:, :, a:b],
            None if attention_mask is None else attention_mask[:, :, a:b, a:b],
            **options,
        )[0]
        for a, b in pairwise(accumulate(conversation_lengths, initial=0))
    ]
    return torch.cat(parts, dim=1), None


AttentionInterface.register(NAME, sdpa_by_conversation)
AttentionMaskInterface.register(NAME, sdpa_mask)
