"""The head runs over answers only, and nothing else changes by that."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import trl.trainer.utils as trl_utils
from tiny_models import save_gemma3, save_llama
from transformers import AutoModelForCausalLM
from trl.trainer.utils import add_fused_lm_head

from bioie_ray.training.answer_head import answers_only

# Two texts; the labels of 3 + 2 places count: of the first text its first place is foretold by nothing.
IDS = torch.tensor([[5, 6, 7, 8, 9, 10, 11, 12], [15, 16, 17, 18, 19, 20, 1, 1]])
LABELS = torch.tensor([[5, -100, -100, -100, 9, 10, 11, -100], [-100, -100, -100, 18, 19, -100, -100, -100]])
MASK = torch.tensor([[1] * 8, [1] * 6 + [0] * 2])
NUM_LABELS, NUM_PLACES = 5, 14


@pytest.fixture(scope="module", params=["llama", "gemma"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    work = tmp_path_factory.mktemp("head")
    return save_llama(work / "llama") if request.param == "llama" else save_gemma3(work / "gemma", window=4)


@pytest.fixture
def num_scored(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many rows the head was given, call by call: TRL's kernel is asked, and does its work."""
    seen: list[int] = []
    kernel = trl_utils._ChunkedLogProbFunction

    class Counting:
        @staticmethod
        def apply(hidden: torch.Tensor, *args: Any) -> Any:
            seen.append(hidden.shape[0])
            return kernel.apply(hidden, *args)

    monkeypatch.setattr(trl_utils, "_ChunkedLogProbFunction", Counting)
    return seen


def run(folder: Path) -> tuple[torch.Tensor, float, dict[str, torch.Tensor]]:
    model = AutoModelForCausalLM.from_pretrained(folder)
    add_fused_lm_head(model)
    outputs = model(input_ids=IDS, attention_mask=MASK, labels=LABELS, fused_lm_head=True)
    outputs.loss.backward()
    return outputs.log_probs.detach(), outputs.loss.item(), {name: p.grad for name, p in model.named_parameters()}


def test_the_head_scores_only_tokens_with_a_label(folder: Path, num_scored: list[int]) -> None:
    everywhere = run(folder)
    assert num_scored == [NUM_PLACES]
    with answers_only():
        answers = run(folder)
    assert num_scored == [NUM_PLACES, NUM_LABELS]
    run(folder)
    assert num_scored == [NUM_PLACES, NUM_LABELS, NUM_PLACES]  # it ends with the block
    assert answers[0].shape == everywhere[0].shape == (2, 7)
    assert torch.allclose(answers[0], everywhere[0], atol=1e-5)
    assert answers[1] == pytest.approx(everywhere[1], rel=1e-6)
    assert answers[2].keys() == everywhere[2].keys()
    for name, gradient in answers[2].items():
        assert torch.allclose(gradient, everywhere[2][name], atol=1e-5 * max(1.0, gradient.abs().max().item())), name


def test_its_loss_is_that_of_the_models_own_head(folder: Path) -> None:
    with answers_only():
        log_probs, loss, gradients = run(folder)
    own = AutoModelForCausalLM.from_pretrained(folder)
    outputs = own(input_ids=IDS, attention_mask=MASK, labels=LABELS)
    outputs.loss.backward()
    assert loss == pytest.approx(outputs.loss.item(), rel=1e-5)
    wanted = outputs.logits.detach()[:, :-1].log_softmax(-1).gather(-1, LABELS[:, 1:].clamp(min=0)[..., None])[..., 0]
    assert torch.allclose(log_probs, wanted.masked_fill(LABELS[:, 1:] == -100, 0.0), atol=1e-4)
    for name, p in own.named_parameters():
        assert torch.allclose(gradients[name], p.grad, atol=1e-4 * max(1.0, p.grad.abs().max().item())), name


def test_a_batch_without_any_label_has_a_loss_of_nothing(folder: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(folder)
    add_fused_lm_head(model)
    with answers_only():
        loss = model(input_ids=IDS, attention_mask=MASK, labels=torch.full_like(LABELS, -100), fused_lm_head=True).loss
    loss.backward()
    assert loss.item() == 0.0


def test_an_error_inside_ends_it_too(folder: Path, num_scored: list[int]) -> None:
    with pytest.raises(RuntimeError, match="on purpose"), answers_only():
        raise RuntimeError("on purpose")
    run(folder)
    assert num_scored == [NUM_PLACES]
