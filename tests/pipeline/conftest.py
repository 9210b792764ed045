"""Tiny models with random weights, and a corpus that is small enough to look at."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pipeline_builders import WORDS, documents, save_tokenizer, write_corpus


def save_bert(folder: Path, *, seed: int, head: bool) -> Path:
    import torch
    from transformers import BertConfig, BertForSequenceClassification, BertModel

    folder.mkdir()
    size = save_tokenizer(folder, WORDS)
    torch.manual_seed(seed)
    # a larger initializer_range than BERT's 0.02, or all texts would come out alike
    config: Any = BertConfig(
        vocab_size=size,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        num_labels=1,
        initializer_range=0.2,
    )
    (BertForSequenceClassification if head else BertModel)(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def embedder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A BERT with two layers, as an embedder: texts with common words come out near."""
    return str(save_bert(tmp_path_factory.mktemp("models") / "embedder", seed=7, head=False))


@pytest.fixture(scope="session")
def cross_encoder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The same with a head for one score."""
    return str(save_bert(tmp_path_factory.mktemp("models") / "cross", seed=8, head=True))


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> str:
    """24 documents of train, 4 of dev and 6 of test, in BC5CDR's format."""
    folder = tmp_path_factory.mktemp("corpus") / "bc5cdr"
    return str(write_corpus(folder, train=documents(range(24)), dev=documents(range(30, 34)), test=documents(range(40, 46), "t")))


@pytest.fixture
def settings(tiny_llm: str, corpus: str) -> dict[str, Any]:
    """A recipe that prepares instructions, in parts."""
    return {
        "job": "prepare_instructions",
        "source": corpus,
        "task": "bc5cdr_disease",
        "prepare": {"documents_per_shard": 8},
        "train": {"base_model": tiny_llm},
    }


@pytest.fixture
def making_pairs(settings: dict[str, Any]) -> dict[str, Any]:
    """One that makes preference pairs."""
    return {**settings, "job": "make_preferences", "instructions": {"sources": [{"kind": "tasks"}]}}
