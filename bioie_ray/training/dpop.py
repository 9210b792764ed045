"""DPO-Positive (Pal et al. 2024, arXiv 2402.13228): DPO with a penalty where the chosen answer becomes less likely than it was."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - the field's own name for it
from trl import DPOTrainer

# How _compute_loss below relies on TRL; tests/training/test_dpop.py fails when one of these changes its meaning.
METRICS = ("rewards/chosen", "rewards/rejected", "rewards/margins", "rewards/accuracies", "logps/chosen", "logps/rejected")


def dpop_loss(
    chosen_logratios: torch.Tensor, rejected_logratios: torch.Tensor, *, beta: float, penalty: float, label_smoothing: float = 0.0
) -> torch.Tensor:
    """The loss of each pair.

    With ``z = beta * (c - r - penalty * max(0, -c))`` it is ``-(1 - s) log sigmoid(z) - s log sigmoid(-z)`` (equation 3 of the paper, with
    DPO's label smoothing ``s``); with ``penalty`` 0 it is DPO's.

    Args:
        chosen_logratios: ``c`` [B]: log-probability of the chosen answer less the reference model's.
        rejected_logratios: ``r`` [B]: the same of the rejected answer.
        beta: how far the model may move from the reference.
        penalty: the paper's lambda.
        label_smoothing: how often the two answers of a pair are taken to be the wrong way round, 0 to 0.5.

    Returns:
        Losses [B].
    """
    z = beta * (chosen_logratios - rejected_logratios - penalty * F.relu(-chosen_logratios))
    return -(1.0 - label_smoothing) * F.logsigmoid(z) - label_smoothing * F.logsigmoid(-z)


class DpopTrainer(DPOTrainer):  # type: ignore[misc] # TRL is not typed
    """TRL's trainer with the loss above. The reference's log-probabilities come with the data: no second model, no second pass.

    TRL 1.16 has no hook for one loss per pair, so ``_compute_loss`` is replaced. It takes over how TRL gets log-probabilities (the fused head
    over ``completion_mask``, chosen before rejected) and the names of what it logs.
    """

    def __init__(self, *args: Any, penalty: float, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._penalty = penalty

    def _set_signature_columns_if_needed(self) -> None:
        super()._set_signature_columns_if_needed()
        if "row" not in self._signature_columns:
            self._signature_columns += ["row"]

    def _prepare_dataset(self, dataset: Any, *args: Any, **kwargs: Any) -> Any:
        """The data is tokenised already, and its lengths are seen to: TRL would drop pairs without a word."""
        return dataset

    def _precompute_ref_logps(self, dataset: Any, *args: Any, **kwargs: Any) -> Any:
        """The numbers are in the data."""
        return dataset

    def _compute_loss(self, model: Any, inputs: dict[str, Any], return_outputs: bool) -> Any:  # noqa: FBT001 - TRL's signature
        mask = inputs["completion_mask"]
        labels = inputs["input_ids"].masked_fill(mask == 0, -100)
        outputs = model(
            input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"], labels=labels, use_cache=False, fused_lm_head=True
        )
        chosen_logps, rejected_logps = outputs.log_probs.sum(dim=1).chunk(2)
        chosen = chosen_logps - inputs["ref_chosen_logps"]
        rejected = rejected_logps - inputs["ref_rejected_logps"]
        losses = dpop_loss(chosen, rejected, beta=self.beta, penalty=self._penalty, label_smoothing=self.label_smoothing)
        self._note(inputs, chosen.detach(), rejected.detach(), chosen_logps.detach(), rejected_logps.detach())
        return (losses.mean(), outputs) if return_outputs else losses.mean()

    def _note(
        self, inputs: dict[str, Any], chosen: torch.Tensor, rejected: torch.Tensor, chosen_logps: torch.Tensor, rejected_logps: torch.Tensor
    ) -> None:
        """What TRL logs of a step under the same names, the chosen log-ratio that the penalty protects, and the penalty."""
        mode = "train" if self.model.training else "eval"
        values = {
            "rewards/chosen": self.beta * chosen,
            "rewards/rejected": self.beta * rejected,
            "rewards/margins": self.beta * (chosen - rejected),
            "rewards/accuracies": (chosen > rejected).float(),
            "logps/chosen": chosen_logps,
            "logps/rejected": rejected_logps,
            "logratios/chosen": chosen,
            "penalty": self._penalty * F.relu(-chosen),
        }
        # One gather for all: each is a message between ranks.
        gathered = self.accelerator.gather(torch.stack([value.float() for value in values.values()], dim=1))
        for name, mean in zip(values, gathered.mean(dim=0).tolist(), strict=True):
            self._metrics[mode][name].append(mean)
        if mode == "train":
            self._total_train_tokens += int(self.accelerator.gather(inputs["attention_mask"].sum()).sum().item())
        self._metrics[mode]["num_tokens"] = [self._total_train_tokens]
