from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from sentence_transformers import CrossEncoder
from transformers import BertConfig, BertModel, BertTokenizer

from bioie_ray.config.steps import RerankSettings
from bioie_ray.retrieval.comparing import comparing_encoder, list_loss, list_numbers
from bioie_ray.retrieval.scorer import PairScorer

WORDS = ["aspirin", "ulcer", "fever", "rash", "kidney", "liver", "heart", "pain"]
SIZE = 32


@pytest.fixture(scope="module")
def embedder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT with one layer and random weights."""
    folder = tmp_path_factory.mktemp("embedder")
    vocabulary = folder / "vocab.txt"
    vocabulary.write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]) + "\n", encoding="utf-8")
    torch.manual_seed(3)
    config = BertConfig(
        vocab_size=5 + len(WORDS),
        hidden_size=SIZE,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=64,
    )
    BertModel(config).save_pretrained(folder)
    BertTokenizer(str(vocabulary)).save_pretrained(folder)
    return folder


def test_the_head_begins_as_the_product_of_the_two_halves(embedder: Path) -> None:
    model = comparing_encoder(embedder, 32, "cpu")
    rng = np.random.default_rng(0)
    num = 40  # tokens of each half: many, so that what a half does not average out is small
    first, second = (torch.tensor(0.2 * rng.standard_normal((60, SIZE)), dtype=torch.float32) for _ in range(2))
    tokens = torch.cat((first[:, None].expand(-1, num, -1), second[:, None].expand(-1, num, -1)), 1)
    features = {"token_embeddings": tokens, "attention_mask": torch.ones(60, 2 * num, dtype=torch.int64)}
    with torch.no_grad():
        for module in list(model)[1:]:
            features = module(features)
    product = (first * second).sum(1)
    assert torch.corrcoef(torch.stack((features["scores"][:, 0], product)))[0, 1] > 0.98


def test_it_is_saved_as_a_cross_encoder_that_scores_the_same(embedder: Path, tmp_path: Path) -> None:
    model = comparing_encoder(embedder, 32, "cpu")
    pairs = [("aspirin ulcer", "ulcer pain"), ("fever", "heart kidney liver pain rash")]
    model.save_pretrained(str(tmp_path / "model"), create_model_card=False)
    loaded = CrossEncoder(str(tmp_path / "model"), device="cpu")
    assert loaded.num_labels == 1
    assert loaded.max_seq_length == 32
    scores = loaded.predict(pairs)
    assert scores == pytest.approx(model.predict(pairs), abs=1e-6)
    texts = [text for pair in pairs for text in pair]
    scored = PairScorer(RerankSettings(max_length=32), str(tmp_path / "model")).score(texts, np.array([[0, 1], [2, 3]]))
    assert scored.scores == pytest.approx(scores, abs=1e-5)


def test_list_loss_is_nought_where_the_order_is_right_and_knows_no_level() -> None:
    labels, lists = torch.tensor([1.0, 0.5, 0.0, 0.2, 0.9]), torch.tensor([3, 3, 3, 8, 8])
    right = 4 * labels + torch.tensor([7.0, 7.0, 7.0, -2.0, -2.0])  # each list at a level of its own
    assert float(list_loss(right, labels, lists)) == pytest.approx(0.0, abs=1e-6)
    wrong = right.clone()
    wrong[3], wrong[4] = right[4], right[3]
    chance = torch.softmax(4 * labels[3:], 0)
    expected = float((chance * torch.log(chance / chance.flip(0))).sum()) / 2  # the mean over two lists
    assert float(list_loss(wrong, labels, lists)) == pytest.approx(expected, rel=1e-4)


def test_a_query_that_two_tasks_share_makes_two_lists() -> None:
    assert list_numbers(["a", "a", "b", "c", "c", "a"]).tolist() == [0, 0, 1, 2, 2, 3]
