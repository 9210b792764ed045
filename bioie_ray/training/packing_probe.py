"""Whether a model keeps packed conversations apart, tried on the model itself before its first step.

A model with a state (Mamba) or positions of its own (BLOOM, OPT) lets one conversation leak into the next, and nothing says so but the scores in the
end. So a conversation is read behind another and alone: the logits must be the same but for rounding.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import TrainerCallback

from bioie_ray.config.training import StageName
from bioie_ray.training.batches import SftCollator
from bioie_ray.training.stage import TrainingError

_FIRST, _SECOND = 24, 16
# Of logits, relative to the largest one. Rounding moves them by less than 1e-5 in float32 and by up to 7e-3 in bfloat16, a leak by 0.14 and more (SmolLM2 135M and
# Gemma 3 270M, read as one text).
_TOLERANCE = {"float32": 5e-3, "bfloat16": 5e-2}


class PackingProbe(TrainerCallback):
    """Tries it when a training begins: the model is on its device and, with ZeRO 3, in its parts, so every rank does the same.

    In ``eval`` and without gradients: no random number is drawn, and what is trained afterwards is the same to the last bit.
    """

    def __init__(self, trainer: Any, stage: StageName, dtype: str) -> None:
        self._trainer = trainer
        self._stage = stage
        self._tolerance = _TOLERANCE[dtype]

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Refuse a model that does not keep them apart.

        Raises:
            TrainingError: that, with the setting to change.
        """
        trainer = self._trainer
        model = trainer.model_wrapped if trainer.is_deepspeed_enabled else trainer.model
        name = trainer.model.config.model_type
        try:
            moved = leak(model, trainer.model.config.get_text_config().vocab_size, trainer.accelerator.device)
        except (TypeError, ValueError) as error:  # one that does not know what packed rows say of themselves, or lacks kernels for them
            raise TrainingError(f"{name} takes no packed conversations ({error}); set {self._stage}.packing=false") from None
        if moved > self._tolerance:  # no number is neither: the first loss says which batch it was about
            raise TrainingError(
                f"{name} does not keep packed conversations apart: behind another one, a conversation's logits differ by {moved:.1%} of the largest from "
                f"what they are alone, and rounding explains {self._tolerance:.1%}; set {self._stage}.packing=false"
            )


def leak(model: Any, vocabulary: int, device: torch.device) -> float:
    """How far a conversation's logits move when another stands before it in its row: the mean over its tokens, relative to the largest logit."""
    ids = [(3 + 37 * place) % vocabulary for place in range(_FIRST + _SECOND)]
    was_training = model.training
    model.eval()
    try:
        behind = _logits(model, ids, [_FIRST, _SECOND], device)[_FIRST:]
        alone = _logits(model, ids[_FIRST:], [_SECOND], device)
    finally:
        model.train(was_training)
    return float((behind - alone).abs().amax(dim=-1).mean() / alone.abs().max())


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
