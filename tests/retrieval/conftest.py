"""Tiny cross-encoders and an embedder with random, seeded weights, saved as their libraries save them."""

from __future__ import annotations

import string
from pathlib import Path

import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
from tokenizers import ByteLevelBPETokenizer
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BertModel,
    BertTokenizer,
    RobertaConfig,
    RobertaForSequenceClassification,
    RobertaTokenizer,
)

WORDS = [
    "aspirin",
    "ibuprofen",
    "causes",
    "caused",
    "by",
    "acute",
    "renal",
    "failure",
    "tinnitus",
    "in",
    "patients",
    "with",
    "the",
    "of",
    "and",
    "a",
    "liver",
    "heart",
    "rash",
    "after",
]
SHAPE = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "initializer_range": 0.5,  # large, so that scores of different pairs are far apart
}


def bert_tokenizer(folder: Path) -> BertTokenizer:
    pieces = [*string.ascii_lowercase, *string.digits, *string.punctuation]
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS, *pieces[1:], *[f"##{piece}" for piece in pieces]]
    path = folder / "vocab.txt"
    path.write_text("\n".join(vocabulary) + "\n", encoding="utf-8")
    return BertTokenizer(str(path), model_max_length=128)


@pytest.fixture(scope="session")
def bert_reranker(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bert-reranker")
    tokenizer = bert_tokenizer(folder)
    torch.manual_seed(1)
    config = BertConfig(vocab_size=len(tokenizer), max_position_embeddings=128, num_labels=1, **SHAPE)
    BertForSequenceClassification(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def roberta_reranker(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Other special tokens than BERT's, two of them between the texts, no type ids, and positions that begin at 2."""
    folder = tmp_path_factory.mktemp("roberta-reranker")
    pieces = ByteLevelBPETokenizer()
    pieces.train_from_iterator([" ".join(WORDS)] * 20, vocab_size=350, special_tokens=["<s>", "<pad>", "</s>", "<unk>", "<mask>"])
    pieces.save_model(str(folder))
    tokenizer = RobertaTokenizer.from_pretrained(folder, model_max_length=128)
    torch.manual_seed(2)
    config = RobertaConfig(vocab_size=len(tokenizer), max_position_embeddings=130, type_vocab_size=1, pad_token_id=1, num_labels=1, **SHAPE)
    RobertaForSequenceClassification(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_embedder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("embedder")
    tokenizer = bert_tokenizer(folder)
    torch.manual_seed(3)
    BertModel(BertConfig(vocab_size=len(tokenizer), max_position_embeddings=128, **SHAPE)).save_pretrained(folder / "bert")
    tokenizer.save_pretrained(folder / "bert")
    transformer = Transformer(str(folder / "bert"))
    model = SentenceTransformer(modules=[transformer, Pooling(SHAPE["hidden_size"])], device="cpu")
    model.save_pretrained(str(folder / "model"), create_model_card=False)
    return folder / "model"
