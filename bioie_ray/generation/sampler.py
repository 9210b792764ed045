"""One token a sample, from its own random number: what is drawn depends on (seed, step) and the sample's logits, on nothing else.

Temperature, then the nucleus (Holtzman et al. 2020, arXiv 1904.09751): the fewest likeliest tokens whose probabilities reach ``top_p``;
then the inverse of their cumulative distribution at a uniform number of a counter-based generator (Philox; Salmon et al. 2011). The nucleus is found
among the likeliest 64 tokens or, where these do not reach ``top_p``, among more: sorting 262,144 of them took longer than the model.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

_FIRST_TRY = 64


def uniform(seed: int, step: int) -> float:
    """A number of [0, 1) for a sample's ``step``; any order of calls gives the same."""
    return float(np.random.Generator(np.random.Philox(key=seed, counter=step)).random())


def choose(logits: torch.Tensor, temperature: float, top_p: float, uniforms: Sequence[float]) -> list[int]:
    """The next token of each row of ``logits`` [rows, vocabulary]; ties go to the lower token id. Temperature 0 takes the likeliest."""
    if temperature == 0.0:
        return [int(token) for token in logits.argmax(dim=-1)]
    scaled = logits.float() / temperature
    total = torch.logsumexp(scaled, dim=-1, keepdim=True)
    size = min(_FIRST_TRY, scaled.shape[-1])
    while True:
        values, tokens = scaled.topk(size, dim=-1)
        # Which of several equal ones are the last, topk leaves open: the nucleus has to be found among those above them.
        above = (values - total).exp().double().masked_fill(values == values[:, -1:], 0.0)
        if size == scaled.shape[-1] or bool((above.sum(dim=-1) >= top_p).all()):
            break
        size = min(size * 8, scaled.shape[-1])
    values, tokens = _in_order(values, tokens)
    chances = (values - total).exp().double()
    cumulated = chances.cumsum(dim=-1)
    # A token is in while those before it have not reached top_p; the first always is.
    inside = (cumulated - chances) < top_p
    inside[:, 0] = True
    mass = (chances * inside).sum(dim=-1)
    wanted = torch.tensor(list(uniforms), dtype=torch.float64, device=logits.device) * mass
    places = (cumulated <= wanted.unsqueeze(-1)).logical_and(inside).sum(dim=-1)
    places = torch.minimum(places, inside.sum(dim=-1) - 1)
    return [int(token) for token in tokens.gather(1, places.unsqueeze(-1)).squeeze(-1)]


def _in_order(values: torch.Tensor, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The highest first, equal ones by token id: topk has them in any order, which on a GPU changes with the number of rows."""
    by_id = tokens.argsort(dim=-1)
    values, tokens = values.gather(1, by_id), tokens.gather(1, by_id)
    order = values.argsort(dim=-1, descending=True, stable=True)
    return values.gather(1, order), tokens.gather(1, order)
