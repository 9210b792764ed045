"""What a stage will need, before anything is paid for: parameters, memory of a device, steps, hours. Arithmetic, not a measurement."""

from __future__ import annotations

import re
import warnings
from dataclasses import dataclass, replace
from functools import lru_cache
from importlib import resources
from typing import Any

import torch
import yaml
from peft import get_peft_model

from bioie_ray.artifacts.reasons import first_line
from bioie_ray.config.training import DpopSettings, LoraSettings, SftSettings, StageName, StageSettings, TrainSettings
from bioie_ray.retrieval.models import resolve_model
from bioie_ray.retrieval.packaged import ModelError
from bioie_ray.training.loading import OTHER_SENSES, adapter_config, usual_attention
from bioie_ray.training.stage import num_steps

GIB = 2**30
# nf4 with doubly quantised constants: 4 bits and 0.127 for the constants (Dettmers et al. 2023, arXiv 2305.14314, section 3).
_NF4_BYTES = 4.127 / 8
# Bytes of a token's activations in a layer in 16 bits, per hidden unit, without attention's own matrix (Korthikanti et al. 2022, arXiv
# 2205.05198, equation 2).
_ACTIVATION = 34.0
# Bytes that a layer's eager attention keeps for each head and pair of tokens, measured by the tensors that autograd saves (transformers 5; the test
# measures them again): probabilities in float32, of which 16 bits keep a second, rounded matrix. Capped logits keep another of the model's
# width (Gemma 2: 8 bytes in either). A GPU's dropout (torch.native_dropout) keeps a byte of mask, and float32 a second matrix then.
_MATRIX = {"bfloat16": 6, "float32": 4}
_MATRIX_DROPOUT = {"bfloat16": 1, "float32": 5}
# The experts' projections before transformers 5 fused them, as PEFT knows them: the usual names, and Mixtral's.
_EXPERTS = (("gate_proj", "up_proj", "down_proj"), ("w1", "w2", "w3"))


@dataclass(frozen=True, slots=True)
class Shape:
    """A model's numbers.

    ``num_adapter`` parameters are those of the adapter that PEFT puts on; where it puts none on, ``refusal`` is its reason (empty: no such layer) and
    ``layer_names`` what could have been asked for. ``num_texts`` parameters work on texts: what sees or hears beside them is loaded, and never trained. ``num_quantisable`` are those that
    bitsandbytes turns into 4 bits: of linear layers, but for the head. ``attention`` is what ``train.attention=auto`` means; ``caps_logits`` and
    ``drops_attention`` are of the model's own attention.
    """

    num_parameters: int
    num_texts: int
    num_quantisable: int
    num_layers: int
    hidden: int
    num_heads: int
    attention: str
    num_adapter: int
    caps_logits: bool = False
    drops_attention: bool = False
    refusal: str | None = None
    layer_names: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Estimate:
    """GiB of each device, by what fills them; ``steps`` and ``hours`` are ``None`` where the data is not there to count."""

    num_parameters: int
    num_trained: int
    memory_gib: dict[str, float]
    steps: int | None
    hours: float | None

    @property
    def total_gib(self) -> float:
        """All of it."""
        return sum(self.memory_gib.values())


@lru_cache(maxsize=4)
def shape_of(model: str, lora: LoraSettings) -> Shape:
    """The shape of a model from its configuration alone, and of an adapter on it; no weight is loaded.

    Raises:
        ModelError: it can neither be reached nor is it known.
    """
    from transformers import AutoConfig, AutoModelForCausalLM
    from transformers.pytorch_utils import Conv1D

    try:
        config: Any = AutoConfig.from_pretrained(str(resolve_model(model)))
    except ModelError:
        config = _known(model)
        if config is None:
            raise
    with torch.device("meta"):
        network = AutoModelForCausalLM.from_config(config)  # type: ignore[no-untyped-call]
    text = config.get_text_config()
    head = network.get_output_embeddings()
    layers = {name: layer for name, layer in network.named_modules() if isinstance(layer, torch.nn.Linear | Conv1D) and layer is not head}
    names = {name.rpartition(".")[2] for name in layers if not re.fullmatch(OTHER_SENSES, name)}
    shape = Shape(
        num_parameters=sum(p.numel() for p in network.parameters()),
        num_texts=sum(p.numel() for name, p in network.named_parameters() if not re.fullmatch(OTHER_SENSES, name)),
        num_quantisable=sum(layer.weight.numel() for layer in layers.values()),
        num_layers=text.num_hidden_layers,
        hidden=text.hidden_size,
        num_heads=getattr(text, "num_attention_heads", 0),
        attention=usual_attention(config)[0],
        num_adapter=0,
        caps_logits=bool(getattr(text, "attn_logit_softcapping", None)),
        drops_attention=any((getattr(text, name, None) or 0) > 0 for name in ("attention_dropout", "attn_pdrop")),
    )
    try:
        return replace(shape, num_adapter=_num_adapter(network, lora))  # last: it changes the network
    except ValueError as error:
        refusal = "" if "not found in the base model" in str(error) else first_line(error)  # older PEFT has no error of its own for it
    return replace(shape, refusal=refusal, layer_names=tuple(sorted(names | _experts(network))))


def _num_adapter(network: Any, lora: LoraSettings) -> int:
    """Parameters of the adapter that PEFT puts on, which takes fused experts for the layers they once were.

    Raises:
        ValueError: PEFT puts none on.
    """
    with warnings.catch_warnings(action="ignore"):  # which training says again
        adapter = get_peft_model(network, adapter_config(StageSettings(lora=lora), network))
    return sum(p.numel() for p in adapter.parameters() if p.requires_grad)


def _experts(network: Any) -> set[str]:
    """What PEFT calls a network's fused experts, if it knows them: no layer has that name."""
    for names in _EXPERTS if any(p.ndim == 3 for p in network.parameters()) else ():
        try:
            _num_adapter(network, LoraSettings(modules=names))
        except ValueError:
            continue
        return set(names)
    return set()


def check_modules(stage: StageName, model: str, shape: Shape, settings: SftSettings | DpopSettings) -> None:
    """Names of layers that a model does not have would only come to light once it is loaded.

    Raises:
        ValueError: PEFT would put no adapter on; the message has the names there are.
    """
    if settings.method == "full" or shape.refusal is None:
        return
    names = ", ".join(shape.layer_names) or "no linear layer"
    if shape.refusal:
        raise ValueError(
            f"{stage}.lora, modules={list(settings.lora.modules)}, cannot go on {model}: {shape.refusal.rstrip('.')}; it has {names}"
        )
    raise ValueError(
        f"{stage}.lora.modules={list(settings.lora.modules)} is in no layer of {model}, so that nothing would be trained; it has {names}"
    )


def estimate(
    shape: Shape,
    settings: SftSettings | DpopSettings,
    train: TrainSettings,
    num_ranks: int,
    num_rows: int | None = None,
    num_tokens: int | None = None,
) -> Estimate:
    """The estimate of a stage.

    Args:
        shape: of the model.
        settings: of the stage.
        train: of all stages.
        num_ranks: devices.
        num_rows: sequences or pairs, where they are known.
        num_tokens: their tokens in all, where they are known.
    """
    trained = shape.num_texts if settings.method == "full" else shape.num_adapter
    pairs = 2 if isinstance(settings, DpopSettings) else 1
    tokens = settings.micro_batch_size * settings.max_length * pairs
    width = 2 if train.dtype == "bfloat16" else 4
    weights = {
        "full": 4.0 * shape.num_parameters,
        "lora": float(width) * shape.num_parameters,
        "qlora": _NF4_BYTES * shape.num_quantisable + width * (shape.num_parameters - shape.num_quantisable),
    }[settings.method] + (4.0 * trained if settings.method != "full" else 0.0)
    layer = _ACTIVATION * width / 2 * tokens * shape.hidden + _matrices(shape, settings, train, tokens)
    activations = shape.num_layers * tokens * shape.hidden * width + layer if train.gradient_checkpointing else shape.num_layers * layer
    shared = {stage: num_ranks if train.zero_stage >= stage else 1 for stage in (1, 2, 3)}
    memory = {
        "weights": 0.0 if train.offload == "all" else weights / shared[3],
        "gradients": 4.0 * trained / shared[2],
        "optimizer": 0.0 if train.offload != "none" else 8.0 * trained / shared[1],
        "activations": activations,
    }
    steps = num_steps(settings, num_rows) if num_rows else settings.max_steps
    passes = None if not (steps and num_rows and num_tokens) else num_tokens * steps * settings.batch_size / num_rows
    hours = passes / train.planned_tokens_per_s / 3600 if passes and train.planned_tokens_per_s else None
    return Estimate(shape.num_parameters, trained, {name: size / GIB for name, size in memory.items()}, steps, hours)


def _matrices(shape: Shape, settings: SftSettings | DpopSettings, train: TrainSettings, tokens: int) -> float:
    """Bytes of a layer's attention of every token to every other, which only ``eager`` keeps; a packed forward pass is one row."""
    if (shape.attention if train.attention == "auto" else train.attention) != "eager":
        return 0.0
    length = tokens if settings.packing else settings.max_length
    size = _MATRIX[train.dtype]
    if shape.caps_logits:
        size += 2 if train.dtype == "bfloat16" else 4
    if shape.drops_attention and not isinstance(settings, DpopSettings):  # which switches a base model's own dropout off
        size += _MATRIX_DROPOUT[train.dtype]
    return float(size * shape.num_heads * tokens * length)


def describe(
    stage: StageName, found: Estimate, settings: SftSettings | DpopSettings, num_ranks: int, at: float | None, at_most: int | None
) -> list[str]:
    """Lines for people; ``at_most`` rows are known where the sources say how many records are taken, or of how many documents pairs are made."""
    are_pairs = isinstance(settings, DpopSettings)
    parts = ", ".join(f"{name} {size:.1f}" for name, size in found.memory_gib.items())
    lines = [
        f"{stage}: {found.num_trained:,} of {found.num_parameters:,} parameters trained ({found.num_trained / found.num_parameters:.2%}), {settings.method}",
        f"  memory of each of {num_ranks} devices: about {found.total_gib:.1f} GiB ({parts})",
    ]
    if found.steps is None:
        told = (
            f"at most {num_steps(settings, at_most):,}, fewer {'where documents give no pair' if are_pairs else 'once packed'}"
            if at_most
            else f"1,000 sequences are {num_steps(settings, 1_000):,}"
        )
        lines.append(f"  steps: known when the data is tokenised; {told} (batch {settings.batch_size}, {settings.epochs:g} epochs)")
    else:
        lines.append(f"  steps: {found.steps:,} (batch {settings.batch_size}, {settings.epochs:g} epochs)")
    if settings.method != "full":
        lines.append(
            f"  merging: about {4 * found.num_parameters / GIB:.1f} GiB of the first rank's own memory (the sum is made in float32, on its CPU)"
        )
    if found.hours is not None:
        lines.append(f"  time: about {found.hours:.1f} h at {at:,.0f} tokens/s (train.planned_tokens_per_s)")
    elif at and at_most:
        tokens = num_steps(settings, at_most) * settings.batch_size * settings.max_length * (2 if are_pairs else 1)
        lines.append(
            f"  time: at most {tokens / at / 3600:,.0f} h at {at:,.0f} tokens/s (train.planned_tokens_per_s), were every {'answer' if are_pairs else 'sequence'} as long as may be"
        )
    return lines


def _known(model: str) -> Any:
    from transformers import AutoConfig

    text = resources.files("bioie_ray.training").joinpath("known_models.yaml").read_text(encoding="utf-8")
    facts = yaml.safe_load(text).get(model.partition("@")[0])
    if facts is None:
        return None
    return AutoConfig.for_model(facts["architecture"], **{name: value for name, value in facts.items() if name != "architecture"})
