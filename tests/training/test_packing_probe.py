"""A model that lets packed conversations leak into each other is refused before its first step; the others train as if nothing had been asked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from stages import TRAIN, sft_settings, sft_stage
from tiny_models import save_gemma3, save_llama, save_model
from transformers import AutoModelForCausalLM

from bioie_ray.config.training import LoraSettings
from bioie_ray.training.loading import attention, load_base
from bioie_ray.training.packing_probe import _PLACE, _WORDS_BEFORE, leaks
from bioie_ray.training.rank import train
from bioie_ray.training.stage import Stage, TrainingError

WIDTH: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
OPT: dict[str, Any] = {**WIDTH, "ffn_dim": 64, "word_embed_proj_dim": 32, "max_position_embeddings": 256}
XGLM: dict[str, Any] = {"d_model": 32, "num_layers": 2, "attention_heads": 4, "ffn_dim": 64, "max_position_embeddings": 256}
BLOOM: dict[str, Any] = {"hidden_size": 32, "n_layer": 2, "n_head": 4}
MAMBA: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 2, "state_size": 8}
GPT2: dict[str, Any] = {"n_positions": 256, "n_embd": 32, "n_layer": 2, "n_head": 4}
HYBRID: dict[str, Any] = {**WIDTH, "intermediate_size": 64, "num_key_value_heads": 2, "num_experts": 2, "attn_layer_period": 2}
# With which its linear layers are found by the adapter.
MODULES = {
    "xglm": ("q_proj",),
    "opt": ("q_proj",),
    "bloom": ("query_key_value",),
    "mamba": ("x_proj",),
    "gpt2": ("c_attn",),
    "jamba": ("q_proj",),
}


def stage_of(folder: Path, store: Path, train_settings: Any = TRAIN, modules: tuple[str, ...] = ("q_proj",), **settings: Any) -> Stage:
    settings = {"lora": LoraSettings(r=4, modules=modules), "max_steps": 1, **settings}
    return sft_stage(store, folder, sft_settings(**settings), train_settings, num=6)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    ("name", "shape", "wanted"),
    [
        ("xglm", XGLM, "auto"),
        ("bloom", BLOOM, "auto"),
        ("mamba", MAMBA, "auto"),
        ("opt", OPT, "eager"),
        ("jamba", {**HYBRID, "attn_layer_offset": 1}, "auto"),
    ],
)
def test_a_model_that_lets_one_conversation_leak_into_the_next_is_refused(
    name: str, shape: dict[str, Any], wanted: str, dtype: str, tmp_path: Path
) -> None:
    folder = save_model(tmp_path / name, name, **shape)
    train_settings = TRAIN.model_copy(update={"attention": wanted, "dtype": dtype})
    stage = stage_of(folder, tmp_path / "store", train_settings, MODULES[name])
    with pytest.raises(TrainingError, match=rf"^{name} does not keep packed conversations apart: .*%.*; set preft\.packing=false$"):
        train(stage)
    if name != "jamba" and dtype == "float32":
        train(stage_of(folder, tmp_path / "apart", train_settings, MODULES[name], packing=False))


def test_a_model_that_takes_no_packed_rows_is_refused_with_its_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As one whose kernels for them are not installed: what transformers says of it is an error of the first step."""

    def lacking(self: Any, *args: Any, seq_idx: Any = None, **kwargs: Any) -> Any:
        if seq_idx is not None:
            raise ValueError("can't keep packed sequences apart without `causal_conv1d`")
        return forward(self, *args, **kwargs)

    folder = save_llama(tmp_path / "llama")
    model_class = type(AutoModelForCausalLM.from_pretrained(folder))
    forward = model_class.forward
    monkeypatch.setattr(model_class, "forward", lacking)
    with pytest.raises(TrainingError, match=r"llama takes no packed conversations \(can't keep .*\); set preft\.packing=false"):
        train(stage_of(folder, tmp_path / "store"))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", ["llama", "gemma3", "gpt2", "opt"])
def test_a_model_that_keeps_them_apart_is_taken_and_left_as_it_was(name: str, dtype: Any, tmp_path: Path) -> None:
    """OPT's attention is that of one conversation at a time with ``auto``, so that it cannot leak."""
    make = {
        "llama": lambda: save_llama(tmp_path / "m"),
        "gemma3": lambda: save_gemma3(tmp_path / "m", window=6),
        "gpt2": lambda: save_model(tmp_path / "m", "gpt2", **GPT2),
        "opt": lambda: save_model(tmp_path / "m", "opt", **OPT),
    }
    model = load_base(make[name](), sft_settings(), TRAIN.model_copy(update={"dtype": dtype})).train()
    before, random = {n: p.clone() for n, p in model.named_parameters()}, torch.get_rng_state()
    by_words, by_place = leaks(model, 260, torch.device("cpu"))
    assert by_words < _WORDS_BEFORE[dtype] / 10
    assert by_place < _PLACE[dtype] / 10
    assert model.training
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(before[n], p) for n, p in model.named_parameters())
    assert all(p.grad is None for p in model.parameters())
    if dtype == "float32":  # and it is no test that nothing fails: the same model with its parts of a row forgotten
        model.set_attn_implementation("eager")
        text = torch.tensor([[(3 + 37 * place) % 260 for place in range(40)]])
        with torch.no_grad():
            one_text, alone = model.eval()(input_ids=text).logits[0, 24:], model(input_ids=text[:, 24:]).logits[0]
        assert (one_text - alone).abs().amax(dim=-1).mean() / alone.abs().max() > 0.1


def test_attention_is_what_the_model_has(tmp_path: Path) -> None:
    """BLOOM has no sdpa: asked for it, transformers refuses to load the model."""
    bloom, llama = save_model(tmp_path / "bloom", "bloom", **BLOOM), save_llama(tmp_path / "llama")
    assert attention(bloom, "auto") == ("eager", "transformers has no sdpa for bloom")
    assert attention(llama, "auto") == ("sdpa", None)
    assert attention(llama, "eager") == ("eager", None)


def test_attention_without_sdpa_is_logged_with_its_reason(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = save_model(tmp_path / "bloom", "bloom", **BLOOM)
    model = load_base(folder, sft_settings(packing=False), TRAIN)
    assert model.config._attn_implementation == "eager"
    assert "attention: eager (transformers has no sdpa for bloom)" in caplog.text
