"""Base and adapter become one model that says the same, or nothing is written."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from stages import MODULES
from tiny_models import save_gemma3, save_llama
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from bioie_ray.training.merging import merge
from bioie_ray.training.stage import TrainingError
from bioie_ray.training.tokens import ChatTokenizer

PROBE = list(range(4, 44))


@pytest.fixture(scope="module", params=["llama", "gemma"])
def base(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    work = tmp_path_factory.mktemp("merging")
    return save_llama(work / "llama") if request.param == "llama" else save_gemma3(work / "gemma", window=8)


def save_adapter(base: Path, folder: Path, size: float = 0.1) -> Path:
    """With weights that change what the model says."""
    model = get_peft_model(
        AutoModelForCausalLM.from_pretrained(base), LoraConfig(r=4, lora_alpha=8, target_modules=list(MODULES), task_type="CAUSAL_LM")
    )
    generator = torch.Generator().manual_seed(5)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data = torch.randn(parameter.shape, generator=generator) * size
    model.save_pretrained(str(folder))
    return folder


def logits(model: object) -> torch.Tensor:
    with torch.inference_mode():
        return model.eval()(input_ids=torch.tensor([PROBE])).logits.float()  # type: ignore[attr-defined]


def test_the_merged_model_says_what_base_and_adapter_say(base: Path, tmp_path: Path) -> None:
    adapter = save_adapter(base, tmp_path / "adapter")
    merged = merge(base, adapter, tmp_path / "merged", torch.float32, ChatTokenizer(str(base), "auto"), PROBE)
    plain = AutoModelForCausalLM.from_pretrained(base)
    adapted = logits(PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), str(adapter)))
    written = logits(AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype=torch.float32))
    largest = adapted.abs().max()
    assert (logits(plain) - adapted).abs().max() / largest > 0.01  # the adapter does something
    assert (written - adapted).abs().max() / largest < merged.tolerance == 1e-4
    assert merged.largest_difference == pytest.approx(float((written - adapted).abs().max() / largest), abs=1e-5)


def test_the_merged_model_has_tokenizer_template_and_the_token_it_stops_at(base: Path, tmp_path: Path) -> None:
    chat = ChatTokenizer(str(base), "auto")
    merge(base, save_adapter(base, tmp_path / "adapter"), tmp_path / "merged", torch.float32, chat, PROBE)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "merged")
    assert tokenizer.chat_template == chat.template
    assert tokenizer("a b")["input_ids"] == chat.tokenizer("a b")["input_ids"]
    config = GenerationConfig.from_pretrained(tmp_path / "merged")
    assert chat.end_of_turn in (config.eos_token_id if isinstance(config.eos_token_id, list) else [config.eos_token_id])
    assert not config.do_sample


def test_a_merge_that_says_something_else_is_an_error_and_writes_nothing(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PEFT is made to merge half of what an adapter adds."""
    from peft.tuners.lora import Linear

    adapter = save_adapter(base, tmp_path / "adapter")
    whole = Linear.get_delta_weight
    monkeypatch.setattr(Linear, "get_delta_weight", lambda self, name: whole(self, name) / 2)
    with pytest.raises(
        TrainingError, match=r"merged logits differ from adapted ones by .*e-\d\d of the largest logit, and 1e-04 is allowed"
    ):
        merge(base, adapter, tmp_path / "merged", torch.float32, ChatTokenizer(str(base), "auto"), PROBE)
    assert not (tmp_path / "merged").exists()


def test_numbers_that_are_none_are_no_merge(base: Path, tmp_path: Path) -> None:
    """A difference that is not a number is not within a tolerance."""
    adapter = save_adapter(base, tmp_path / "adapter", size=float("nan"))
    with pytest.raises(TrainingError, match="differ from adapted ones by nan"):
        merge(base, adapter, tmp_path / "merged", torch.float32, ChatTokenizer(str(base), "auto"), PROBE)
    assert not (tmp_path / "merged").exists()


def test_what_bfloat16_costs_is_measured_and_refuses_nothing(base: Path, tmp_path: Path) -> None:
    adapter, chat = save_adapter(base, tmp_path / "adapter"), ChatTokenizer(str(base), "auto")
    whole = merge(base, adapter, tmp_path / "whole", torch.float32, chat, PROBE)
    half = merge(base, adapter, tmp_path / "half", torch.bfloat16, chat, PROBE)
    assert whole.rounding == 0.0
    assert half.rounding > 1e-3 > half.tolerance > half.largest_difference == whole.largest_difference
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "half", dtype="auto").dtype == torch.bfloat16
