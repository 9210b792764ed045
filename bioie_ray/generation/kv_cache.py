"""A key-value cache that grows in place.

transformers' dynamic cache concatenates: each new token copies all keys and values of all samples once, which for 16 samples of 1,500 tokens
took longer than the model itself. Here room is made in blocks, and what the attention gets is a view.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer

_BLOCK = 128


class _GrowingLayer(DynamicLayer):  # type: ignore[no-untyped-call]
    """``keys`` and ``values`` [samples, heads, tokens, size] are views of larger buffers."""

    _buffers: tuple[torch.Tensor, torch.Tensor] | None = None

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """Append, making room for a block of tokens where there is none."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        before = self.get_seq_length()
        after = before + key_states.shape[-2]
        if self._buffers is None or self._buffers[0].shape[-2] < after:
            room = (after // _BLOCK + 1) * _BLOCK
            grown = []
            kept: Any
            for kept, new in ((self.keys, key_states), (self.values, value_states)):
                buffer = new.new_empty((*new.shape[:-2], room, new.shape[-1]))
                if before:
                    buffer[..., :before, :] = kept
                grown.append(buffer)
            self._buffers = (grown[0], grown[1])
        keys, values = self._buffers
        keys[..., before:after, :] = key_states
        values[..., before:after, :] = value_states
        self.keys, self.values = keys[..., :after, :], values[..., :after, :]
        return self.keys, self.values

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        """Only some samples stay."""
        super().batch_select_indices(indices)
        self._buffers = None


def new_cache(config: Any) -> Cache:
    """A cache for a model: growing in place where all of its layers keep keys and values, else transformers' own."""
    if can_share_prefix(config):
        return Cache(layer_class_to_replicate=_GrowingLayer)
    return DynamicCache(config=config)


def repeated(cache: Cache, times: int, config: Any) -> Cache:
    """A new cache with ``times`` samples, each with what the one sample of ``cache`` holds."""
    new = new_cache(config)
    layer: Any
    for number, layer in enumerate(cache.layers):
        new.update(layer.keys.expand(times, -1, -1, -1), layer.values.expand(times, -1, -1, -1), number)
    return new


def joined(caches: Sequence[Cache], config: Any) -> Cache:
    """The samples of all caches in one, aligned at their ends; what is before a shorter one has to be masked. ``caches`` are used up."""
    new = new_cache(config)
    for number in range(len(caches[0].layers)):
        layers = [cache.layers.pop(0) for cache in caches]  # so that no more than one layer is held twice
        keys, values = (_at_the_end([getattr(layer, name) for layer in layers]) for name in ("keys", "values"))
        new.update(keys, values, number)
    return new


def joined_masks(masks: Sequence[torch.Tensor]) -> torch.Tensor:
    """Attention masks [samples, tokens] of caches that are joined."""
    return _at_the_end([mask[:, None, :, None] for mask in masks])[:, 0, :, 0]


def _at_the_end(parts: Sequence[torch.Tensor]) -> torch.Tensor:
    """Parts [samples, heads, tokens, size] one after the other, each with zeros before it where another is longer."""
    longest = max(part.shape[-2] for part in parts)
    # Zeros and not whatever is there: attention weighs masked values by 0, which does not help against what is no number.
    whole = parts[0].new_zeros((sum(len(part) for part in parts), parts[0].shape[1], longest, parts[0].shape[-1]))
    row = 0
    for part in parts:
        whole[row : row + len(part), :, longest - part.shape[-2] :] = part
        row += len(part)
    return whole


def can_share_prefix(config: Any) -> bool:
    """Whether all layers are attention over keys and values (no state-space or linear layers), so that samples can be put together."""
    kinds = set(getattr(config.get_text_config(), "layer_types", None) or ["full_attention"])
    return kinds <= {"full_attention", "sliding_attention"}


def shortest_window(config: Any) -> int | None:
    """Tokens that the narrowest sliding attention looks back on; ``None`` where every layer sees everything."""
    text = config.get_text_config()
    kinds = getattr(text, "layer_types", None)
    window = getattr(text, "sliding_window", None)
    if window is None or (kinds is not None and "sliding_attention" not in kinds):
        return None
    return int(window)
