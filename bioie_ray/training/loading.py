"""A base model as a stage trains it: precision, attention, 4-bit weights, and the adapter that is put on."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Any

import torch

from bioie_ray.config.training import StageSettings, TrainSettings
from bioie_ray.training import packed_attention
from bioie_ray.training.stage import TrainingError

_LOG = logging.getLogger(__name__)
# Towers of models that see or hear too: texts give their weights no gradient, which torch's data parallelism takes for a lost rank.
OTHER_SENSES = r".*(vision|audio|multi_modal).*"


def load_base(folder: Path, settings: StageSettings, train: TrainSettings) -> Any:
    """The model that is trained, before any adapter.

    Where all weights are trained they stay float32, whatever the precision of the products: an update is smaller than bfloat16 can hold.
    (DeepSpeed with bfloat16 keeps float32 in its optimizer alone, and what it saves is rounded.)

    Raises:
        TrainingError: 4-bit weights are asked for and bitsandbytes cannot be had.
    """
    from transformers import AutoModelForCausalLM

    dtype = torch.float32 if settings.method == "full" or train.dtype == "float32" else torch.bfloat16
    chosen, reason = attention(folder, train.attention)
    if reason is not None:
        _LOG.warning("attention: %s (%s)", chosen, reason)
    options: dict[str, Any] = {"dtype": dtype, "attn_implementation": chosen}
    if settings.method == "qlora":
        options["quantization_config"] = four_bits(train)
    model = AutoModelForCausalLM.from_pretrained(str(folder), **options)
    if chosen == "sdpa" and settings.packing:
        model.set_attn_implementation(packed_attention.NAME)
    if settings.method == "full":
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(not re.fullmatch(OTHER_SENSES, name))
    for module in model.modules():
        # On some CPUs bitsandbytes rearranges 4-bit weights the first time they are used in `eval`: for good, with other numbers, and
        # without gradients from then on.
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False  # type: ignore[assignment] # a plain attribute of bitsandbytes
    return model


def without_dropout(model: Any) -> None:
    """Switch a base model's own dropout off, as its reference has none: noise in the chosen answer's log-ratio would count as a fall of it.

    The adapter's dropout, a setting of the recipe, is put on later.
    """
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        for name in ("dropout", "attention_dropout"):  # of models that call the function
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, 0.0)


def attention(folder: Path, wanted: str) -> tuple[str, str | None]:
    """The attention to use, and why where ``auto`` is not the usual ``sdpa``: that leaves Gemma 2's caps of logits out without a word, and some models lack it."""
    from transformers import AutoConfig

    return (wanted, None) if wanted != "auto" else usual_attention(AutoConfig.from_pretrained(str(folder)))


def usual_attention(config: Any) -> tuple[str, str | None]:
    """``attention`` with ``auto``, by a model's configuration."""
    from transformers import AutoModelForCausalLM

    if getattr(config.get_text_config(), "attn_logit_softcapping", None):
        return "eager", f"{config.model_type} caps its attention's logits, which sdpa does not"
    known = AutoModelForCausalLM._model_mapping  # noqa: SLF001 - what `from_pretrained` looks in, which would refuse with an error
    if type(config) in known and not getattr(known[type(config)], "_supports_sdpa", True):
        return "eager", f"transformers has no sdpa for {config.model_type}"
    return "sdpa", None


def four_bits(train: TrainSettings) -> Any:
    """nf4 with doubly quantised constants (Dettmers et al. 2023, arXiv 2305.14314).

    Raises:
        TrainingError: bitsandbytes is not installed.
    """
    from importlib.util import find_spec

    from transformers import BitsAndBytesConfig

    if find_spec("bitsandbytes") is None:
        raise TrainingError("method=qlora needs bitsandbytes; pip install 'bioie-ray[train]', or set method=lora")
    return BitsAndBytesConfig(  # type: ignore[no-untyped-call]
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16 if train.dtype == "bfloat16" else torch.float32,
    )


def adapter_config(settings: StageSettings, model: Any) -> Any:
    """The adapter of a stage for a model; ``None`` where all weights are trained."""
    from peft import LoraConfig

    if settings.method == "full":
        return None
    lora = settings.lora
    return LoraConfig(
        r=lora.r,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=list(lora.modules),
        # Only where there are any: PEFT warns of a pattern that nothing matches.
        exclude_modules=OTHER_SENSES if any(re.fullmatch(OTHER_SENSES, name) for name, _ in model.named_modules()) else None,
        bias="none",
        task_type="CAUSAL_LM",
    )
