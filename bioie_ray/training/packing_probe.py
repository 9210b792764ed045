"""Whether a model keeps packed conversations apart, tried on the model itself before its first step.

A model with a state (Mamba) or positions of its own (BLOOM, OPT) lets one conversation leak into the next, and nothing says so but the scores in the
end. So a conversation is read behind another, behind one of other words, and alone. What stands before it must change nothing, and where it stands nothing but rounding.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import TrainerCallback

from bioie_ray.artifacts.reasons import first_line
from bioie_ray.config.training import StageName
from bioie_ray.retrieval.batching import is_out_of_memory
from bioie_ray.training.batches import SftCollator
from bioie_ray.training.stage import TrainingError

_FIRST, _SECOND = 24, 16
# Of logits, relative to the largest one. With other words before it a row has the same shape, so that on one machine the sums are the same ones: a model that keeps
# them apart gives the same logits to the last bit, but for experts that other words fill otherwise. Behind another one and alone, shapes differ: rounding moves
# logits by less than 1e-5 in float32 and by up to 7e-3 in bfloat16, a leak of trained models by 0.14 and more (SmolLM2 135M and Gemma 3 270M, read as one text).
_WORDS_BEFORE = {"float32": 1e-4, "bfloat16": 1e-2}
_PLACE = {"float32": 5e-3, "bfloat16": 5e-2}


class PackingProbe(TrainerCallback):
    """Tries it when a training begins: the model is on its device and, with ZeRO 3, in its parts, so every rank does the same.

    In ``eval`` and without gradients: no random number is drawn, and what is trained afterwards is the same to the last bit.
    """

    def __init__(self, trainer: Any, stage: StageName, dtype: str) -> None:
        self._trainer = trainer
        self._stage = stage
        self._limits = {"what stands before it": _WORDS_BEFORE[dtype], "standing behind another one": _PLACE[dtype]}

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Refuse a model that does not keep them apart.

        Raises:
            TrainingError: that, with the setting to change.
        """
        trainer = self._trainer
        model = trainer.model_wrapped if trainer.is_deepspeed_enabled else trainer.model
        name = trainer.model.config.model_type
        try:
            moved = leaks(model, trainer.model.config.get_text_config().vocab_size, trainer.accelerator.device)
        except Exception as error:
            # Of ranks that read together it may be one that was lost, and is worth another try.
            if is_out_of_memory(error) or (trainer.is_deepspeed_enabled and isinstance(error, RuntimeError)):
                raise
            # It does not know what packed rows say of themselves, lacks kernels for them, or has shapes that they do not fit.
            raise TrainingError(f"{name} takes no packed conversations ({first_line(error)}); set {self._stage}.packing=false") from error
        for (why, limit), share in zip(self._limits.items(), moved, strict=True):
            if share > limit:  # no number is neither: the first loss says which batch it was about
                raise TrainingError(
                    f"{name} does not keep packed conversations apart: {why} moves a conversation's logits by {share:.2%} of the largest, and rounding explains "
                    f"{limit:.2%}; set {self._stage}.packing=false"
                )


def leaks(model: Any, vocabulary: int, device: torch.device) -> tuple[float, float]:
    """How far a conversation's logits move with what stands before it in its row, and with standing behind another one at all.

    Means over its tokens, relative to the largest logit.
    """
    ids = [(3 + 37 * place) % vocabulary for place in range(_FIRST + _SECOND)]
    others = [(11 + 53 * place) % vocabulary for place in range(_FIRST)]
    was_training = model.training
    model.eval()
    try:
        behind = _logits(model, ids, [_FIRST, _SECOND], device)[_FIRST:]
        behind_others = _logits(model, others + ids[_FIRST:], [_FIRST, _SECOND], device)[_FIRST:]
        alone = _logits(model, ids[_FIRST:], [_SECOND], device)
    finally:
        model.train(was_training)
    largest = alone.abs().max()
    by_words, by_place = (float((behind - other).abs().amax(dim=-1).mean() / largest) for other in (behind_others, alone))
    return by_words, by_place


@torch.no_grad()
def _logits(model: Any, ids: list[int], lengths: list[int], device: torch.device) -> torch.Tensor:
    """[L, vocabulary] in float32, of one packed row."""
    batch = SftCollator(0, packed=True)([{"row": 0, "input_ids": ids, "labels": ids, "seq_lengths": lengths}])
    inputs = {
        name: value.to(device) if isinstance(value, torch.Tensor) else value
        for name, value in batch.items()
        if name not in {"rows", "labels"}
    }
    logits: torch.Tensor = model(**inputs, use_cache=False).logits
    return logits[0].float()
