"""What a dry run says of a stage: arithmetic that can be done by hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import get_peft_model
from stages import MODULES, dpop_settings, sft_settings
from tiny_models import save_gemma3, save_llama, save_model
from transformers import AutoModelForCausalLM

from bioie_ray.config.training import LoraSettings, TrainSettings
from bioie_ray.training.estimate import GIB, Shape, check_modules, describe, estimate, shape_of
from bioie_ray.training.loading import adapter_config, load_base

LORA = LoraSettings(r=4, modules=MODULES)
# An adapter of 896 parameters, beside an embedding and a tower that sees.
SHAPE = Shape(
    num_parameters=10_000,
    num_texts=9_000,
    num_quantisable=6_000,
    num_layers=2,
    hidden=64,
    num_heads=4,
    attention="sdpa",
    num_adapter=896,
)
TRAIN = TrainSettings()
HEADS = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
}


def test_parameters_and_layers_are_those_of_the_model(tmp_path: Path) -> None:
    folder = save_llama(tmp_path / "llama")
    model = AutoModelForCausalLM.from_pretrained(folder)
    shape = shape_of(str(folder), LORA)
    assert shape.num_parameters == model.num_parameters()
    assert shape.num_texts == shape.num_parameters
    norms = sum(p.numel() for p in model.parameters() if p.ndim == 1)
    head_and_table = 2 * model.get_input_embeddings().weight.numel()
    assert shape.num_quantisable == shape.num_parameters - norms - head_and_table
    assert shape.num_adapter == 2 * 4 * ((32 + 32) + (32 + 16))  # two layers, r 4: a row and a column of each projection


def test_what_is_trained_and_what_it_weighs() -> None:
    found = estimate(SHAPE, sft_settings(), TRAIN, 1)
    assert found.num_trained == 896
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
        found = estimate(shape_of(str(folder), LORA), settings, TRAIN, 1)
        packed = [p for p in model.parameters() if p.dtype == torch.uint8]
        others = sum(4 * p.numel() for p in model.parameters() if p.dtype != torch.uint8)
        expected = sum(2 * p.numel() * 4.127 / 8 for p in packed) + others + 4 * found.num_trained
        assert found.memory_gib["weights"] * GIB == pytest.approx(expected, rel=1e-6), name


@pytest.mark.parametrize(("packing", "row"), [(True, 256), (False, 128)])
def test_eager_attention_keeps_a_matrix_of_every_token_with_every_other(packing: bool, row: int) -> None:
    """Two sequences of 128 tokens in a forward pass, and four heads: 6 bytes a pair of tokens in 16 bits."""
    half = TrainSettings(dtype="bfloat16")
    eager: Any = half.model_copy(update={"attention": "eager"})

    def activations(shape: Shape, train: TrainSettings) -> float:
        return estimate(shape, sft_settings(packing=packing), train, 1).memory_gib["activations"] * GIB

    more = activations(SHAPE, eager) - activations(SHAPE, half)
    assert more == pytest.approx(2 * 6 * 4 * 256 * row)
    assert activations(replace(SHAPE, attention="eager"), half) == activations(SHAPE, eager)
    kept: Any = {"gradient_checkpointing": True}  # then only the layer at hand has them
    more = activations(SHAPE, eager.model_copy(update=kept)) - activations(SHAPE, half.model_copy(update=kept))
    assert more == pytest.approx(6 * 4 * 256 * row)


def _kept_matrices(model: Any, length: int) -> int:
    """Bytes of what autograd keeps of every token to every other, each storage once."""
    kept: dict[int, torch.Tensor] = {}  # holds them, so that no two have one address

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.ndim >= 3 and tensor.shape[-2:] == (length, length) and tensor.is_floating_point() and not tensor.is_leaf:
            kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model(input_ids=torch.arange(length)[None])
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize("architecture", ["llama", "gemma2"])
def test_the_matrices_that_are_estimated_are_those_that_autograd_keeps(tmp_path: Path, architecture: str, dtype: str) -> None:
    length = 50
    folder = save_model(tmp_path / "m", architecture, **HEADS)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype), attn_implementation="eager").train()
    shape, settings = shape_of(str(folder), LORA), sft_settings(micro_batch_size=1, max_length=length)
    eager, without = (
        estimate(shape, settings, TrainSettings(dtype=dtype, attention=name), 1).memory_gib["activations"] * GIB
        for name in ("eager", "sdpa")
    )
    assert _kept_matrices(model, length) == pytest.approx(eager - without)


@pytest.mark.parametrize(("dtype", "size"), [("bfloat16", 7), ("float32", 9)])
def test_dropout_of_the_attention_keeps_more_where_there_is_any(tmp_path: Path, dtype: Any, size: int) -> None:
    folder = save_model(tmp_path / "m", "llama", **HEADS, attention_dropout=0.1)
    shape, train = shape_of(str(folder), LORA), TrainSettings(dtype=dtype, attention="eager")
    dpop = dpop_settings(micro_batch_size=1)  # a pair, and its base model's own dropout is switched off
    for settings, expected in ((sft_settings(packing=False), size), (dpop, {"bfloat16": 6, "float32": 4}[dtype])):
        eager, without = (
            estimate(shape, settings, changed, 1).memory_gib["activations"] * GIB
            for changed in (train, train.model_copy(update={"attention": "sdpa"}))
        )
        assert eager - without == pytest.approx(2 * expected * 4 * 256 * 128)


def test_a_models_own_attention_is_the_one_that_is_estimated(tmp_path: Path) -> None:
    assert shape_of(str(save_llama(tmp_path / "llama")), LORA).attention == "sdpa"
    bloom = save_model(tmp_path / "bloom", "bloom", hidden_size=32, n_layer=2, n_head=4)
    assert shape_of(str(bloom), LoraSettings(modules=("query_key_value",))).attention == "eager"


def test_towers_that_see_are_loaded_and_not_trained(tmp_path: Path) -> None:
    sight = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "image_size": 28,
        "patch_size": 14,
    }
    folder = save_model(tmp_path / "m", "gemma3", text_config={**HEADS, "vocab_size": 260}, vision_config=sight)
    shape = shape_of(str(folder), LORA)
    model = load_base(folder, sft_settings(method="full"), TRAIN)
    assert shape.num_parameters == model.num_parameters()
    assert shape.num_texts == sum(p.numel() for p in model.parameters() if p.requires_grad) < shape.num_parameters
    assert shape.num_adapter == _trained_by_peft(folder, LORA)


def _trained_by_peft(folder: Path, lora: LoraSettings) -> int:
    settings = sft_settings(lora=lora)
    model = load_base(folder, settings, TRAIN)
    return sum(p.numel() for p in get_peft_model(model, adapter_config(settings, model)).parameters() if p.requires_grad)


EXPERTS = {"qwen3_moe": ("gate_proj", "up_proj", "down_proj"), "mixtral": ("w1", "w2", "w3")}


def _with_experts(folder: Path, architecture: str) -> Path:
    sizes = (
        {"intermediate_size": 64, "moe_intermediate_size": 16, "num_experts": 8}
        if architecture == "qwen3_moe"
        else {"num_local_experts": 4}
    )
    return save_model(folder, architecture, **{**HEADS, **sizes})


@pytest.mark.parametrize("architecture", EXPERTS)
def test_adapters_of_fused_experts_are_counted_as_peft_puts_them_on(tmp_path: Path, architecture: str) -> None:
    """They were taken for nothing: transformers keeps all experts of a layer in one parameter, which is no linear layer."""
    folder = _with_experts(tmp_path / "m", architecture)
    for modules in (EXPERTS[architecture], (*MODULES, *EXPERTS[architecture])):
        lora = LoraSettings(r=4, modules=modules)
        shape = shape_of(str(folder), lora)
        check_modules("sft", str(folder), shape, sft_settings(lora=lora))
        found = estimate(shape, sft_settings(lora=lora), TRAIN, 1)
        assert found.num_trained == _trained_by_peft(folder, lora) > 10 * shape_of(str(folder), LORA).num_adapter


@pytest.mark.parametrize(
    ("lora", "told"),
    [
        ({"modules": ("experts.gate_up_proj",)}, r"^sft\.lora\.modules=\['experts.gate_up_proj'\] is in no layer of .*"),
        (
            {"modules": ("gate_proj",)},
            r"^sft\.lora, modules=\['gate_proj'\], cannot go on .*: Cannot convert .* without also targeting up_proj .*",
        ),
        ({"modules": ("q_proj", *EXPERTS["qwen3_moe"]), "dropout": 0.1}, r"^sft\.lora, .* cannot go on .*dropout.*"),
    ],
)
def test_what_peft_refuses_is_refused_before_with_its_reason(tmp_path: Path, lora: dict[str, Any], told: str) -> None:
    folder = str(_with_experts(tmp_path / "m", "qwen3_moe"))
    chosen = LoraSettings(**lora)
    with pytest.raises(ValueError, match=told + "; it has down_proj, gate_proj, k_proj, o_proj, q_proj, up_proj, v_proj$"):
        check_modules("sft", folder, shape_of(folder, chosen), sft_settings(lora=chosen))


def test_an_adapter_that_goes_on_nothing_is_refused_with_the_names_there_are(tmp_path: Path) -> None:
    gpt2 = str(save_model(tmp_path / "gpt2", "gpt2", n_positions=64, n_embd=32, n_layer=2, n_head=2))
    shape = shape_of(gpt2, LORA)
    with pytest.raises(
        ValueError, match=r"preft\.lora\.modules=\['q_proj', 'v_proj'\] is in no layer of .*gpt2.*; it has c_attn, c_fc, c_proj$"
    ):
        check_modules("preft", gpt2, shape, sft_settings())
    check_modules("preft", gpt2, shape, sft_settings(method="full"))
    fitting = shape_of(gpt2, LoraSettings(r=4, modules=("c_attn", "mlp.c_proj")))
    check_modules("preft", gpt2, fitting, sft_settings())
    assert fitting.num_adapter == 2 * 4 * ((32 + 96) + (32 + 128))


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
    assert lines[-1] == "  time: at most 7 h at 10 tokens/s (train.planned_tokens_per_s), were every sequence as long as may be"
    assert not any("time:" in line for line in describe("preft", found, sft_settings(), 1, None, 1_000))


def test_merging_needs_the_model_in_float32_beside_the_device() -> None:
    found = estimate(replace(SHAPE, num_parameters=GIB), dpop_settings(), TRAIN, 1)
    assert "  merging: about 4.0 GiB of the first rank's own memory (the sum is made in float32, on its CPU)" in describe(
        "dpop", found, dpop_settings(), 1, None, None
    )
    full = dpop_settings(method="full")
    assert not any("merging" in line for line in describe("dpop", estimate(SHAPE, full, TRAIN, 1), full, 1, None, None))


def test_pairs_are_bounded_by_the_documents_that_are_asked_about() -> None:
    """1,000 pairs twice are 500 steps of four pairs, of two times 128 tokens each at most."""
    settings = dpop_settings(batch_size=4, max_length=128, epochs=2)
    lines = describe("dpop", estimate(SHAPE, settings, TRAIN, 1), settings, 1, 10, 1_000)
    assert "at most 500, fewer where documents give no pair" in lines[2]
    assert lines[-1] == "  time: at most 14 h at 10 tokens/s (train.planned_tokens_per_s), were every answer as long as may be"
