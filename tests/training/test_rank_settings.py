"""What settings of a stage do to its numbers, and what they leave alone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from stages import MODULES, TRAIN, dpop_settings, dpop_stage, losses, metrics, sft_settings, sft_stage, summary
from tiny_models import SMALL, save_gemma3, save_llama, save_tokenizer
from torch.nn.modules.module import register_module_forward_hook
from transformers import LlamaConfig, LlamaForCausalLM

from bioie_ray.artifacts.output import Output
from bioie_ray.config.training import LoraSettings, TrainSettings
from bioie_ray.training.loading import load_base
from bioie_ray.training.rank import train

STILL = LoraSettings(r=4, alpha=8, modules=MODULES)  # no dropout


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_llama(tmp_path_factory.mktemp("settings") / "llama")


@pytest.fixture(scope="module")
def gemma(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_gemma3(tmp_path_factory.mktemp("settings") / "gemma", window=8)


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Wide enough for blocks of 4-bit weights."""
    folder = tmp_path_factory.mktemp("settings") / "wide"
    folder.mkdir()
    torch.manual_seed(0)
    shape: dict[str, Any] = {**SMALL, "hidden_size": 64, "intermediate_size": 128, "num_key_value_heads": 2}
    LlamaForCausalLM(LlamaConfig(vocab_size=save_tokenizer(folder, chat=True), max_position_embeddings=512, **shape)).save_pretrained(
        folder
    )
    return folder


def trained(store: Path, model: Path, *, train_settings: TrainSettings = TRAIN, num: int = 24, **settings: Any) -> Output:
    stage = sft_stage(store, model, sft_settings(**settings), train_settings, num)
    train(stage)
    return stage.output


def weights(output: Output) -> dict[str, torch.Tensor]:
    return load_file(output.address.folder / output.key / "model/model.safetensors")


@pytest.fixture
def modules_run() -> Iterator[list[str]]:
    """Names of the classes of the modules that ran, in their order."""
    seen: list[str] = []
    hook = register_module_forward_hook(lambda module, inputs, output: seen.append(type(module).__name__))
    yield seen
    hook.remove()


@pytest.mark.parametrize("name", ["llama", "gemma"])
def test_packed_and_padded_batches_of_the_same_rows_have_the_same_loss(name: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """Six conversations in one packed row, or as three padded forward passes of two: the loss of a step is over its tokens."""
    model: Path = request.getfixturevalue(name)
    packed = trained(
        tmp_path / "packed", model, num=6, packing=True, batch_size=1, micro_batch_size=1, max_length=512, epochs=1, lora=STILL
    )
    padded = trained(
        tmp_path / "padded", model, num=6, packing=False, batch_size=6, micro_batch_size=2, max_length=512, epochs=1, lora=STILL
    )
    assert (summary(packed)["sequences"], summary(padded)["sequences"]) == (1, 6)
    first, second = metrics(packed)[0], metrics(padded)[0]
    assert first["loss"] == pytest.approx(second["loss"], rel=1e-5)
    assert first["grad_norm"] == pytest.approx(second["grad_norm"], rel=1e-3)
    assert first["num_tokens"] == second["num_tokens"]


def test_accumulation_changes_nothing_but_rounding(llama: Path, tmp_path: Path) -> None:
    at_once, one_by_one = (trained(tmp_path / str(n), llama, num=12, packing=False, micro_batch_size=n, lora=STILL) for n in (4, 1))
    assert losses(at_once) == pytest.approx(losses(one_by_one), rel=1e-3)
    dpop = []
    for n in (4, 1):
        stage = dpop_stage(tmp_path / f"dpop-{n}", llama, dpop_settings(micro_batch_size=n, lora=STILL))
        train(stage)
        dpop.append(losses(stage.output))
    assert dpop[0] == pytest.approx(dpop[1], rel=1e-3)


def test_an_adapter_changes_its_modules_and_full_training_changes_all(llama: Path, tmp_path: Path) -> None:
    base = load_file(llama / "model.safetensors")
    adapted = weights(trained(tmp_path / "lora", llama))
    changed = {name for name in base if not torch.equal(base[name], adapted[name])}
    assert changed == {f"model.layers.{layer}.self_attn.{module}.weight" for layer in (0, 1) for module in MODULES}
    full = trained(tmp_path / "full", llama, method="full", learning_rate=1e-3)
    assert all(not torch.equal(base[name], new) for name, new in weights(full).items())
    assert weights(full).keys() == base.keys()
    assert not full.store.keys(f"{full.key}/adapter")
    assert losses(full)[-1] < losses(full)[0]


def test_checkpointed_activations_are_computed_again_and_change_no_loss(llama: Path, tmp_path: Path, modules_run: list[str]) -> None:
    kept = trained(tmp_path / "kept", llama)
    num_without = modules_run.count("LlamaAttention")
    modules_run.clear()
    again = trained(tmp_path / "again", llama, train_settings=TRAIN.model_copy(update={"gradient_checkpointing": True}))
    assert modules_run.count("LlamaAttention") == num_without + 3 * 2 * 2  # steps, forward passes, layers
    assert losses(again) == losses(kept)  # dropout and all
    for name, value in weights(kept).items():
        assert torch.allclose(weights(again)[name], value, atol=1e-6), name


def test_checkpointed_activations_change_no_loss_of_dpop(llama: Path, tmp_path: Path) -> None:
    values = []
    for name in (False, True):
        stage = dpop_stage(tmp_path / str(name), llama, train=TRAIN.model_copy(update={"gradient_checkpointing": name}))
        train(stage)
        values.append(losses(stage.output))
    assert values[0] == pytest.approx(values[1], rel=1e-6)


@pytest.mark.parametrize("method", ["lora", "full"])
def test_bfloat16_is_nearly_float32(gemma: Path, tmp_path: Path, method: str) -> None:
    half = TRAIN.model_copy(update={"dtype": "bfloat16"})
    settings: dict[str, Any] = {"method": method, "learning_rate": 1e-3, "max_length": 512, "lora": STILL}
    exact, rounded = (trained(tmp_path / t.dtype, gemma, train_settings=t, **settings) for t in (TRAIN, half))
    assert losses(rounded) == pytest.approx(losses(exact), rel=2e-2)
    assert losses(rounded) != losses(exact)
    dtypes = {value.dtype for value in weights(rounded).values()}
    assert dtypes == {torch.bfloat16 if method == "lora" else torch.float32}
    if method == "lora":
        adapter = load_file(rounded.address.folder / rounded.key / "adapter/adapter_model.safetensors")
        assert {value.dtype for value in adapter.values()} == {torch.float32}


@pytest.mark.parametrize("optimizer", ["adamw_torch", "adamw_torch_fused", "adafactor", "paged_adamw_32bit"])
def test_every_optimizer_trains(llama: Path, tmp_path: Path, optimizer: str) -> None:
    output = trained(tmp_path, llama, optimizer=optimizer, epochs=6, learning_rate=3e-2, num=12)
    assert losses(output)[-1] < losses(output)[0] - 0.3


def test_four_bits_train_an_adapter_over_a_frozen_base(wide: Path, tmp_path: Path, modules_run: list[str]) -> None:
    output = trained(tmp_path / "qlora", wide, method="qlora", epochs=10, num=12)
    assert "Linear4bit" in modules_run
    exact = trained(tmp_path / "lora", wide, epochs=10, num=12)
    assert losses(output)[0] == pytest.approx(losses(exact)[0], rel=0.2)
    assert losses(output)[0] != losses(exact)[0]
    assert losses(output)[-1] < losses(output)[0] - 1
    base, merged = load_file(wide / "model.safetensors"), weights(output)  # merged over the base in full precision
    assert torch.equal(merged["model.layers.0.mlp.up_proj.weight"], base["model.layers.0.mlp.up_proj.weight"])
    assert not torch.equal(merged["model.layers.0.self_attn.q_proj.weight"], base["model.layers.0.self_attn.q_proj.weight"])


def test_four_bits_say_the_same_in_training_and_when_they_are_asked(wide: Path) -> None:
    """bitsandbytes has a form of its own for asking on CPUs that know bfloat16."""
    model = load_base(wide, sft_settings(method="qlora"), TRAIN)
    said = []
    for mode in (True, False, True):
        model.train(mode)
        with torch.no_grad():
            said.append(model(input_ids=torch.tensor([[5, 6, 7, 8]])).logits)
    assert torch.equal(said[0], said[1])
    assert torch.equal(said[0], said[2])


def test_four_bits_train_preferences_from_a_reference_of_four_bits(wide: Path, tmp_path: Path) -> None:
    stage = dpop_stage(tmp_path, wide, dpop_settings(method="qlora", lora=STILL, epochs=8, learning_rate=1e-2))
    train(stage)
    values = metrics(stage.output)
    assert values[0]["logratios/chosen"] == pytest.approx(0.0, abs=1e-2)
    assert values[0]["loss"] == pytest.approx(0.6931, abs=1e-2)
    assert values[-1]["rewards/accuracies"] == 1.0


def test_the_learning_rate_follows_its_schedule(llama: Path, tmp_path: Path) -> None:
    def rates(**settings: Any) -> list[float]:
        output = trained(tmp_path / str(len(list(tmp_path.iterdir()))), llama, packing=False, num=20, learning_rate=1.0e-3, **settings)
        return [entry["learning_rate"] for entry in metrics(output)]

    assert rates(schedule="constant", epochs=1) == [1e-3] * 5
    assert rates(schedule="constant_with_warmup", warmup_share=0.4, epochs=2) == pytest.approx([0, 2.5e-4, 5e-4, 7.5e-4, *[1e-3] * 6])
    assert rates(schedule="linear", warmup_share=0.0, epochs=1) == pytest.approx([1e-3, 8e-4, 6e-4, 4e-4, 2e-4])
    assert len(rates(schedule="constant", epochs=5, max_steps=3)) == 3
    assert len(rates(schedule="constant", epochs=0.5)) == 3  # ten rows and two of the next half, to fill the batch
