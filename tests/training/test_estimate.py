"""What a dry run says of a stage: arithmetic that can be done by hand."""

from __future__ import annotations

from pathlib import Path

import pytest
from stages import MODULES, dpop_settings, sft_settings
from tiny_models import save_llama
from transformers import AutoModelForCausalLM

from bioie_ray.config.training import TrainSettings
from bioie_ray.training.estimate import GIB, Shape, describe, estimate, shape_of

# One layer of a projection 64 x 64 and one 64 x 32, beside an embedding.
SHAPE = Shape(num_parameters=10_000, num_embedding=4_000, num_layers=1, hidden=64, linear=((64, 64), (64, 32)))
TRAIN = TrainSettings()


def test_parameters_and_layers_are_those_of_the_model(tmp_path: Path) -> None:
    folder = save_llama(tmp_path / "llama")
    model = AutoModelForCausalLM.from_pretrained(folder)
    shape = shape_of(str(folder), MODULES)
    assert shape.num_parameters == model.num_parameters()
    assert shape.num_embedding == model.get_input_embeddings().weight.numel()
    assert len(shape.linear) == len(MODULES) * model.config.num_hidden_layers


def test_what_is_trained_and_what_it_weighs() -> None:
    found = estimate(SHAPE, sft_settings(), TRAIN, 1)
    assert found.num_trained == 4 * (128 + 96)  # r 4: a row and a column of each layer
    assert found.memory_gib["weights"] * GIB == pytest.approx(4 * 10_000 + 4 * found.num_trained)
    assert found.memory_gib["optimizer"] * GIB == pytest.approx(8 * found.num_trained)
    assert estimate(SHAPE, sft_settings(method="full"), TRAIN, 1).num_trained == 10_000
    shared = estimate(SHAPE, sft_settings(method="full"), TrainSettings(zero_stage=3), 4).memory_gib
    alone = estimate(SHAPE, sft_settings(method="full"), TRAIN, 4).memory_gib
    assert [alone[name] / shared[name] for name in ("weights", "gradients", "optimizer")] == pytest.approx([4, 4, 4])
    assert alone["activations"] == shared["activations"]


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
    found = estimate(Shape(GIB, 1, 1, 64, ((64, 64),)), dpop_settings(), TRAIN, 1)
    assert "  merging: about 4.0 GiB of the first rank's own memory (the sum is made in float32, on its CPU)" in describe(
        "dpop", found, dpop_settings(), 1, None, None
    )
    full = dpop_settings(method="full")
    assert not any("merging" in line for line in describe("dpop", estimate(SHAPE, full, TRAIN, 1), full, 1, None, None))
