"""What a token costs, by hand: MFU is no better than this number."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from stages import conversations, dpop_settings, pairs, sft_settings
from tiny_models import save_gemma3, save_llama, save_model
from transformers import AutoModelForCausalLM

from bioie_ray.training.flops import Texts, flops_per_token, texts_of
from bioie_ray.training.rows import pair_rows, sft_rows
from bioie_ray.training.tokens import load_chat_tokenizer

NOTHING = Texts(0.0, 0.0)
HEAD = 260 * 32
# Of a layer of the tiny Llama: q and o 32 x 32, k and v 32 x 16, three of 32 x 64, two norms; one more norm at the end.
BODY = 2 * (2 * 32 * 32 + 2 * 32 * 16 + 3 * 32 * 64 + 2 * 32) + 32


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_llama(tmp_path_factory.mktemp("flops") / "llama")


def test_a_trained_weight_costs_six_and_the_table_of_tokens_nothing(llama: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(llama)
    assert model.num_parameters() == BODY + 2 * HEAD  # untied
    assert flops_per_token(model, NOTHING) == 6 * BODY


def test_the_head_costs_its_share_of_answer_tokens(llama: Path, tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(llama)
    assert flops_per_token(model, Texts(0.0, 0.25)) == 6 * BODY + 6 * HEAD / 4
    tied = AutoModelForCausalLM.from_pretrained(save_gemma3(tmp_path / "gemma", window=6))
    assert tied.get_output_embeddings().weight is tied.get_input_embeddings().weight
    assert flops_per_token(tied, NOTHING) == 6 * (tied.num_parameters() - HEAD)
    assert flops_per_token(tied, Texts(0.0, 1.0)) == 6 * tied.num_parameters()


def test_a_frozen_weight_costs_four(llama: Path) -> None:
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(llama), LoraConfig(r=4, target_modules=["q_proj"]))
    adapter = 2 * (4 * 32 + 4 * 32)
    assert flops_per_token(model, Texts(0.0, 1.0)) == 4 * (BODY + HEAD) + 6 * adapter


def test_attention_grows_with_the_text_up_to_its_window(llama: Path, tmp_path: Path) -> None:
    """Twelve for each layer, width of its heads and token."""
    model = AutoModelForCausalLM.from_pretrained(llama)
    assert flops_per_token(model, Texts(100.0, 0.0)) - flops_per_token(model, NOTHING) == 12 * 2 * 32 * 100
    gemma = AutoModelForCausalLM.from_pretrained(
        save_gemma3(tmp_path / "gemma", window=6)
    )  # four heads of 8, one layer of two has the window
    assert flops_per_token(gemma, Texts(100.0, 0.0)) - flops_per_token(gemma, NOTHING) == 12 * 32 * (100 + 6)


def test_a_token_goes_to_some_of_the_experts(tmp_path: Path) -> None:
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4, "num_key_value_heads": 2}
    model = AutoModelForCausalLM.from_pretrained(save_model(tmp_path / "m", "mixtral", num_local_experts=4, num_experts_per_tok=2, **shape))
    experts = 4 * 3 * 32 * 64
    assert flops_per_token(model, NOTHING) == 6 * (model.num_parameters() - 2 * HEAD - experts / 2)


@pytest.mark.parametrize("packing", [True, False])
def test_a_conversation_is_a_text_however_it_is_packed(llama: Path, packing: bool) -> None:
    chat = load_chat_tokenizer(str(llama))
    table, _ = sft_rows(conversations(9), chat, sft_settings(packing=packing))
    encoded = [chat.encode(json.loads(record["messages"])) for record in conversations(9)]
    lengths = torch.tensor([len(one.input_ids) for one in encoded], dtype=torch.float64)
    labelled = sum(label != -100 for one in encoded for label in one.labels)
    found = texts_of(table)
    assert found.length == pytest.approx(float((lengths**2).sum() / lengths.sum()))
    assert found.answer_share == pytest.approx(labelled / float(lengths.sum()))


def test_each_answer_of_a_pair_is_a_text_with_its_prompt(llama: Path) -> None:
    table, _ = pair_rows(pairs(1), load_chat_tokenizer(str(llama)), dpop_settings())
    prompt, chosen, rejected = (len(table[name][0].as_py()) for name in ("prompt_ids", "chosen_ids", "rejected_ids"))
    a, b = prompt + chosen, prompt + rejected
    assert texts_of(table) == Texts((a * a + b * b) / (a + b), (chosen + rejected) / (a + b))
