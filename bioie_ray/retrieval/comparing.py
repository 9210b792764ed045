"""A cross-encoder that starts from an embedder's weights and from what they were trained for: comparing two texts.

A classification head reads the first token, which an embedder that averages its tokens never trained, and some thousand
pairs do not teach it: Zhang et al. 2020, "A Little Bit Is Worse Than None: Ranking with Limited Training Data",
https://aclanthology.org/2020.sustainlp-1.14. The head here begins as the product of the two texts' mean vectors instead.
It is made of modules of sentence-transformers alone, so a saved model loads as any other CrossEncoder.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from sentence_transformers import CrossEncoder
from sentence_transformers.base.modules import Dense, Transformer
from sentence_transformers.sentence_transformer.modules import Pooling
from torch import nn

# Logits of one query's candidates begin about one apart; the product of two mean vectors of MiniLM is some tens.
_SCALE = 0.5
# x * erf(x / sqrt(2)), which GELU(x) + GELU(-x) is, begins as this times x * x.
_SQUARE = (2 / np.pi) ** 0.5
# How sharply a list's labels in 0..1 become probabilities: the best is e^4 times as likely as a useless one.
_TEMPERATURE = 0.25


def comparing_encoder(path: Path, max_length: int, device: str) -> CrossEncoder:
    """A cross-encoder over the embedder at ``path``: one logit a pair, no random weight.

    Mean ``m`` and position-weighted mean ``w`` over the tokens of a pair of equally long texts a, b give the means of both:
    ``3m - 2w`` leans on a, ``2w - m`` on b. Their product is ``((a + b)^2 - (a - b)^2) / 4``, which two dense layers compute.
    """
    transformer = Transformer(str(path), max_seq_length=max_length)
    size = transformer.get_embedding_dimension()
    one = torch.eye(size)
    first, second = torch.cat((3 * one, -2 * one), 1), torch.cat((-one, 2 * one), 1)
    inner = torch.cat((first + second, -first - second, first - second, second - first))
    outer = torch.cat((torch.ones(1, 2 * size), -torch.ones(1, 2 * size)), 1) * _SCALE / (4 * _SQUARE)
    modules = [
        transformer,
        Pooling(size, ("mean", "weightedmean")),
        Dense(2 * size, 4 * size, activation_function=nn.GELU(), init_weight=inner, init_bias=torch.zeros(4 * size)),
        Dense(4 * size, 1, activation_function=nn.Identity(), init_weight=outer, init_bias=torch.zeros(1), module_output_name="scores"),
    ]
    # Differences of large sums: in bfloat16 little would be left of them.
    model: CrossEncoder = CrossEncoder(modules=modules, device=device, keep_in_fp32_modules=["2.linear", "3.linear"])
    return model


def list_loss(logits: torch.Tensor, labels: torch.Tensor, lists: torch.Tensor) -> torch.Tensor:
    """Mean divergence of the model's softmax over each list from that of its labels; 0 where both agree.

    ListNet's top-one loss (Cao et al. 2007, "Learning to Rank: From Pairwise Approach to Listwise Approach") less the entropy of
    the labels. It asks for an order within a list and for no level, as a ranking does.

    Args:
        logits: [n]
        labels: [n], in 0..1.
        lists: [n], which list each pair belongs to.
    """
    others = torch.where(lists[:, None] == lists, 0.0, -torch.inf)
    wanted, got = (values - torch.logsumexp(values + others, 1) for values in (labels / _TEMPERATURE, logits))
    return (wanted.exp() * (wanted - got)).sum() / len(set(lists.tolist()))


def list_numbers(queries: list[str]) -> npt.NDArray[np.int64]:
    """Numbers [n] of the lists that pairs belong to: a list is a run of pairs with the same query (tasks share queries)."""
    return np.cumsum([i > 0 and query != queries[i - 1] for i, query in enumerate(queries)], dtype=np.int64)
