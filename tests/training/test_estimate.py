"""What a dry run says of a stage: arithmetic that can be done by hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from stages import MODULES, dpop_settings, sft_settings
from tiny_models import save_gemma3, save_llama, save_model
from transformers import AutoModelForCausalLM

from bioie_ray.config.training import TrainSettings
from bioie_ray.training.estimate import GIB, Shape, check_modules, describe, estimate, shape_of
from bioie_ray.training.loading import load_base

# A projection 64 x 64 and one 64 x 32, beside an embedding and a tower that sees.
SHAPE = Shape(
    num_parameters=10_000,
    num_texts=9_000,
    num_quantisable=6_000,
    num_layers=2,
    hidden=64,
    num_heads=4,
    attention="sdpa",
    linear=((64, 64), (64, 32)),
)
TRAIN = TrainSettings()


def test_parameters_and_layers_are_those_of_the_model(tmp_path: Path) -> None:
    folder = save_llama(tmp_path / "llama")
    model = AutoModelForCausalLM.from_pretrained(folder)
    shape = shape_of(str(folder), MODULES)
    assert shape.num_parameters == model.num_parameters()
    assert shape.num_texts == shape.num_parameters
    norms = sum(p.numel() for p in model.parameters() if p.ndim == 1)
    head_and_table = 2 * model.get_input_embeddings().weight.numel()
    assert shape.num_quantisable == shape.num_parameters - norms - head_and_table
    assert len(shape.linear) == len(MODULES) * model.config.num_hidden_layers


def test_what_is_trained_and_what_it_weighs() -> None:
    found = estimate(SHAPE, sft_settings(), TRAIN, 1)
    assert found.num_trained == 4 * (128 + 96)  # r 4: a row and a column of each layer
    assert found.memory_gib["weights"] * GIB == pytest.approx(4 * 10_000 + 4 * found.num_trained)
    assert found.memory_gib["optimizer"] * GIB == pytest.approx(8 * found.num_trained)
    full = estimate(SHAPE, sft_settings(method="full"), TRAIN, 1)
    assert full.num_trained == 9_000  # texts train no tower that sees
    assert full.memory_gib["weights"] * GIB == pytest.approx(4 * 10_000)
    shared = estimate(SHAPE, sft_settings(method="full"), TrainSettings(zero_stage=3), 4).memory_gib
    alone = estimate(SHAPE, sft_settings(method="full"), TRAIN, 4).memory_gib
    assert [alone[name] / shared[name] for name in ("weights", "gradients", "optimizer")] == pytest.approx([4, 4, 4])
    assert alone["activations"] == shared["activations"]


def test_four_bits_are_what_bitsandbytes_makes_four_bits_of(tmp_path: Path) -> None:
    """No table, and no head, tied or not: an untied one of 128,256 words over a width of 4,096 is 1 GiB in 16 bits and was counted as a quarter."""
    settings = sft_settings(method="qlora")
    for name, folder in (("untied", save_llama(tmp_path / "llama")), ("tied", save_gemma3(tmp_path / "gemma", window=6))):
        model = load_base(folder, settings, TRAIN)
        found = estimate(shape_of(str(folder), MODULES), settings, TRAIN, 1)
        packed = [p for p in model.parameters() if p.dtype == torch.uint8]
        others = sum(4 * p.numel() for p in model.parameters() if p.dtype != torch.uint8)
        expected = sum(2 * p.numel() * 4.127 / 8 for p in packed) + others + 4 * found.num_trained
        assert found.memory_gib["weights"] * GIB == pytest.approx(expected, rel=1e-6), name


@pytest.mark.parametrize(("packing", "row"), [(True, 256), (False, 128)])
def test_eager_attention_keeps_a_matrix_of_every_token_with_every_other(packing: bool, row: int) -> None:
    """Two sequences of 128 tokens in a forward pass, and four heads: 5 bytes a pair of tokens in 16 bits."""
    half = TrainSettings(dtype="bfloat16")
    eager: Any = half.model_copy(update={"attention": "eager"})

    def activations(shape: Shape, train: TrainSettings) -> float:
        return estimate(shape, sft_settings(packing=packing), train, 1).memory_gib["activations"] * GIB

    more = activations(SHAPE, eager) - activations(SHAPE, half)
    assert more == pytest.approx(2 * 5 * 4 * 256 * row)
    assert activations(replace(SHAPE, attention="eager"), half) == activations(SHAPE, eager)
    kept: Any = {"gradient_checkpointing": True}  # then only the layer at hand has them
    more = activations(SHAPE, eager.model_copy(update=kept)) - activations(SHAPE, half.model_copy(update=kept))
    assert more == pytest.approx(5 * 4 * 256 * row)


def test_a_models_own_attention_is_the_one_that_is_estimated(tmp_path: Path) -> None:
    assert shape_of(str(save_llama(tmp_path / "llama")), MODULES).attention == "sdpa"
    bloom = save_model(tmp_path / "bloom", "bloom", hidden_size=32, n_layer=2, n_head=4)
    assert shape_of(str(bloom), ("query_key_value",)).attention == "eager"


def test_towers_that_see_are_loaded_and_not_trained(tmp_path: Path) -> None:
    text = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 1,
        "head_dim": 8,
    }
    sight = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "image_size": 28,
        "patch_size": 14,
    }
    folder = save_model(tmp_path / "m", "gemma3", text_config={**text, "vocab_size": 260}, vision_config=sight)
    shape = shape_of(str(folder), MODULES)
    model = load_base(folder, sft_settings(method="full"), TRAIN)
    assert shape.num_parameters == model.num_parameters()
    assert shape.num_texts == sum(p.numel() for p in model.parameters() if p.requires_grad) < shape.num_parameters
    assert len(shape.linear) == len(MODULES) * 2


def test_an_adapter_that_goes_on_nothing_is_refused_with_the_names_there_are(tmp_path: Path) -> None:
    gpt2 = str(save_model(tmp_path / "gpt2", "gpt2", n_positions=64, n_embd=32, n_layer=2, n_head=2))
    shape = shape_of(gpt2, MODULES)
    with pytest.raises(
        ValueError, match=r"preft\.lora\.modules=\['q_proj', 'v_proj'\] is in no layer of .*gpt2.*; it has c_attn, c_fc, c_proj$"
    ):
        check_modules("preft", gpt2, shape, sft_settings())
    check_modules("preft", gpt2, shape, sft_settings(method="full"))
    fitting = shape_of(gpt2, ("c_attn", "mlp.c_proj"))
    check_modules("preft", gpt2, fitting, sft_settings())
    assert sorted(map(sorted, fitting.linear)) == [[32, 96], [32, 96], [32, 128], [32, 128]]


def test_steps_and_hours_where_the_data_is_there_to_count() -> None:
    """100 rows of 64 tokens twice, in steps of four rows, at 32 tokens a second."""
    train = TrainSettings(planned_tokens_per_s=32)
    found = estimate(SHAPE, sft_settings(), train, 1, num_rows=100, num_tokens=6_400)
    assert found.steps == 50
    assert found.hours == pytest.approx(2 * 6_400 / 32 / 3_600)
    lines = describe("preft", found, sft_settings(), 1, 32, None)
    assert lines[0] == "preft: 896 of 10,000 parameters trained (8.96%), lora"
    assert lines[2] == "  steps: 50 (batch 4, 2 epochs)"
    assert lines[-1] == "  time: about 0.1 h at 32 tokens/s (train.planned_tokens_per_s)"


def test_bounds_where_the_sources_say_how_many_records_there_are_at_most() -> None:
    """1,000 records twice are 500 steps of four, of 128 tokens each at most."""
    found = estimate(SHAPE, sft_settings(), TRAIN, 1)
    assert (found.steps, found.hours) == (None, None)
    lines = describe("preft", found, sft_settings(), 1, 10, 1_000)
    assert "at most 500, fewer once packed" in lines[2]
    assert lines[-1] == "  time: at most 7 h at 10 tokens/s (train.planned_tokens_per_s), were every sequence full"
    assert not any("time:" in line for line in describe("preft", found, sft_settings(), 1, None, 1_000))


def test_merging_needs_the_model_in_float32_beside_the_device() -> None:
    found = estimate(replace(SHAPE, num_parameters=GIB), dpop_settings(), TRAIN, 1)
    assert "  merging: about 4.0 GiB of the first rank's own memory (the sum is made in float32, on its CPU)" in describe(
        "dpop", found, dpop_settings(), 1, None, None
    )
    full = dpop_settings(method="full")
    assert not any("merging" in line for line in describe("dpop", estimate(SHAPE, full, TRAIN, 1), full, 1, None, None))
