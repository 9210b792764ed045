from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoModelForSequenceClassification, AutoTokenizer, BertConfig, BertForTokenClassification

from bioie_ray.retrieval.first_token import FirstTokenLayer, shorten_last_layer

PAIRS = (["aspirin causes tinnitus", "rash"], ["acute renal failure in patients with liver failure", "heart"])


def load(folder: Path, attention: str = "sdpa") -> tuple[Any, dict[str, torch.Tensor]]:
    model = AutoModelForSequenceClassification.from_pretrained(folder, attn_implementation=attention).eval()
    return model, dict(AutoTokenizer.from_pretrained(folder)(*PAIRS, padding=True, return_tensors="pt"))


@pytest.mark.parametrize("name", ["bert_reranker", "roberta_reranker"])
def test_the_shortened_model_gives_the_same_logits_with_less_work(name: str, request: pytest.FixtureRequest) -> None:
    model, inputs = load(request.getfixturevalue(name))
    with torch.inference_mode():
        whole = model(**inputs).logits
        assert shorten_last_layer(model, inputs)
        last = next(module for module in model.modules() if isinstance(module, FirstTokenLayer))
        rows: list[int] = []
        last.layer.intermediate.register_forward_hook(lambda _module, _inputs, output: rows.append(output.shape[1]))
        short = model(**inputs).logits
    torch.testing.assert_close(short, whole, rtol=1e-5, atol=1e-5)
    assert rows == [1], "the feed-forward part sees the first token alone"
    assert len({round(float(logit), 3) for logit in whole.flatten()}) == 2, "the comparison means something"


def test_a_head_that_looks_at_other_tokens_keeps_its_model(bert_reranker: Path) -> None:
    _, inputs = load(bert_reranker)
    torch.manual_seed(0)
    config = BertConfig.from_pretrained(bert_reranker, num_labels=1)
    model = BertForTokenClassification(config).eval()
    last = model.bert.encoder.layer[-1]
    assert not shorten_last_layer(model, inputs)
    assert model.bert.encoder.layer[-1] is last


def test_a_mean_over_tokens_is_noticed(bert_reranker: Path) -> None:
    class MeanPooler(nn.Module):
        def forward(self, hidden: torch.Tensor) -> torch.Tensor:
            return hidden.mean(dim=1)

    model, inputs = load(bert_reranker)
    model.bert.pooler = MeanPooler()
    last = model.bert.encoder.layer[-1]
    assert not shorten_last_layer(model, inputs)
    assert model.bert.encoder.layer[-1] is last


def test_other_attention_and_other_architectures_stay_as_they_are(bert_reranker: Path) -> None:
    model, inputs = load(bert_reranker, attention="eager")
    assert not shorten_last_layer(model, inputs)

    class Other(nn.Module):
        base_model_prefix = "model"

    assert not shorten_last_layer(Other(), inputs)
