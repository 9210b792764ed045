"""What a stage will need, before anything is paid for: parameters, memory of a device, steps, hours. Arithmetic, not a measurement."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from typing import Any

import torch
import yaml

from bioie_ray.config.training import DpopSettings, SftSettings, StageName, TrainSettings
from bioie_ray.retrieval.models import resolve_model
from bioie_ray.retrieval.packaged import ModelError
from bioie_ray.training.loading import OTHER_SENSES
from bioie_ray.training.stage import num_steps

GIB = 2**30
# nf4 with doubly quantised constants: 4 bits and 0.127 for the constants (Dettmers et al. 2023, arXiv 2305.14314, section 3).
_NF4_BYTES = 4.127 / 8
# Bytes of a token's activations in a layer in 16 bits, per hidden unit, without attention's own matrix (Korthikanti et al. 2022, arXiv
# 2205.05198, equation 2).
_ACTIVATION = 34.0


@dataclass(frozen=True, slots=True)
class Shape:
    """A model's numbers. ``linear`` are the sizes (in, out) of the layers that adapters go on."""

    num_parameters: int
    num_embedding: int
    num_layers: int
    hidden: int
    linear: tuple[tuple[int, int], ...]


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
def shape_of(model: str, modules: tuple[str, ...]) -> Shape:
    """The shape of a model from its configuration alone; no weight is loaded.

    Raises:
        ModelError: it can neither be reached nor is it known.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    try:
        config: Any = AutoConfig.from_pretrained(str(resolve_model(model)))
    except ModelError:
        config = _known(model)
        if config is None:
            raise
    with torch.device("meta"):
        network = AutoModelForCausalLM.from_config(config)  # type: ignore[no-untyped-call]
    text = config.get_text_config()
    linear = [
        (layer.in_features, layer.out_features)
        for name, layer in network.named_modules()
        if isinstance(layer, torch.nn.Linear) and name.rpartition(".")[2] in modules and not re.fullmatch(OTHER_SENSES, name)
    ]
    embedding = network.get_input_embeddings().weight.numel()
    return Shape(sum(p.numel() for p in network.parameters()), embedding, text.num_hidden_layers, text.hidden_size, tuple(linear))


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
    trained = shape.num_parameters if settings.method == "full" else settings.lora.r * sum(a + b for a, b in shape.linear)
    pairs = 2 if isinstance(settings, DpopSettings) else 1
    tokens = settings.micro_batch_size * settings.max_length * pairs
    width = 2 if train.dtype == "bfloat16" else 4
    quantised = shape.num_parameters - shape.num_embedding
    weights = {
        "full": 4.0 * shape.num_parameters,
        "lora": float(width) * shape.num_parameters,
        "qlora": _NF4_BYTES * quantised + width * shape.num_embedding,
    }[settings.method] + (4.0 * trained if settings.method != "full" else 0.0)
    layer = _ACTIVATION * width / 2 * tokens * shape.hidden
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


def describe(
    stage: StageName, found: Estimate, settings: SftSettings | DpopSettings, num_ranks: int, at: float | None, at_most: int | None
) -> list[str]:
    """Lines for people; ``at_most`` rows are known where the sources say how many records are taken."""
    parts = ", ".join(f"{name} {size:.1f}" for name, size in found.memory_gib.items())
    lines = [
        f"{stage}: {found.num_trained:,} of {found.num_parameters:,} parameters trained ({found.num_trained / found.num_parameters:.2%}), {settings.method}",
        f"  memory of each of {num_ranks} devices: about {found.total_gib:.1f} GiB ({parts})",
    ]
    if found.steps is None:
        told = (
            f"at most {num_steps(settings, at_most):,}, fewer once packed"
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
        tokens = num_steps(settings, at_most) * settings.batch_size * settings.max_length
        lines.append(
            f"  time: at most {tokens / at / 3600:,.0f} h at {at:,.0f} tokens/s (train.planned_tokens_per_s), were every sequence full"
        )
    return lines


def _known(model: str) -> Any:
    from transformers import AutoConfig

    text = resources.files("bioie_ray.training").joinpath("known_models.yaml").read_text(encoding="utf-8")
    facts = yaml.safe_load(text).get(model.partition("@")[0])
    if facts is None:
        return None
    return AutoConfig.for_model(facts["architecture"], **{name: value for name, value in facts.items() if name != "architecture"})
