"""TRL's trainers as this project uses them, and the arguments that a recipe's stage means to them."""

from __future__ import annotations

import math
import sys
from collections import deque
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from trl import DPOConfig, SFTConfig, SFTTrainer

from bioie_ray.config.training import DpopSettings
from bioie_ray.training.dpop import DpopTrainer
from bioie_ray.training.stage import Stage, TrainingError, accumulation, num_steps


class _Guarded:
    """Ends a training whose loss or gradient is no number before anything of it is kept, and names the batch."""

    name_rows: Callable[[Sequence[int]], Sequence[str]]
    stage: str

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._rows = deque[list[int]](maxlen=self.args.gradient_accumulation_steps)  # type: ignore[attr-defined]

    def training_step(self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> torch.Tensor:
        self._rows.append(inputs.pop("rows").tolist())
        loss: torch.Tensor = super().training_step(model, inputs, *args, **kwargs)  # type: ignore[misc]
        if not bool(torch.isfinite(loss)):
            raise self._no_number("loss", float(loss), self._rows[-1])
        return loss

    def _get_grad_norm(self, model: Any, grad_norm: Any = None) -> Any:
        """Of all micro-batches of a step, before it is taken: a loss that is a number can have a gradient that is none."""
        norm = super()._get_grad_norm(model, grad_norm=grad_norm)  # type: ignore[misc]
        if norm is not None and not math.isfinite(float(norm)):
            raise self._no_number("gradient's norm", float(norm), [row for rows in self._rows for row in rows])
        return norm

    def _no_number(self, what: str, value: float, rows: Sequence[int]) -> TrainingError:
        state: Any = self.state  # type: ignore[attr-defined]
        about = ", ".join(self.name_rows(rows)[:10])
        return TrainingError(
            f"the {what} is {value} at step {state.global_step + 1} of {state.max_steps}, in the batch of {about}; the last checkpoint is whole. "
            f"Look at these records; set {self.stage}.learning_rate lower or train.dtype=float32, and give that another version (--set version=...)"
        )


class AnswerTrainer(_Guarded, SFTTrainer):  # type: ignore[misc] # TRL is not typed
    """Supervised fine-tuning over labels that are there already."""


class PairTrainer(_Guarded, DpopTrainer):
    """DPO-Positive."""


def arguments(stage: Stage, folder: Path, num_rows: int, num_ranks: int, *, on_gpu: bool) -> SFTConfig | DPOConfig:
    """TRL's arguments for a stage; its output folder is scratch, of one rank alone.

    Raises:
        TrainingError: the batch does not come out even over the ranks, or Liger's kernels are asked for and not there.
    """
    settings, train = stage.settings, stage.train
    if train.liger and find_spec("liger_kernel") is None:
        raise TrainingError("train.liger=true needs Liger's kernels, for GPUs: pip install liger-kernel, or set train.liger=false")
    steps = num_steps(settings, num_rows)
    common: dict[str, Any] = {
        "output_dir": str(folder),
        "per_device_train_batch_size": settings.micro_batch_size,
        "gradient_accumulation_steps": accumulation(settings, stage.name, num_ranks),
        "learning_rate": settings.learning_rate,
        "lr_scheduler_type": settings.schedule,
        "warmup_steps": math.ceil(steps * settings.warmup_share) if settings.schedule != "constant" else 0,
        "max_steps": steps,
        "max_grad_norm": settings.max_grad_norm,
        "weight_decay": settings.weight_decay,
        "optim": settings.optimizer,
        "bf16": train.dtype == "bfloat16",
        "gradient_checkpointing": train.gradient_checkpointing,  # TRL looks at the old name
        "seed": stage.seed,
        "train_sampling_strategy": "sequential",  # the rows come in their order already
        "logging_steps": 1,
        "save_strategy": "steps",
        "save_steps": train.checkpoint_every_steps,
        "save_total_limit": None,
        "report_to": list(train.report_to),
        "run_name": stage.output.key,
        "disable_tqdm": True,
        "remove_unused_columns": False,
        "dataloader_num_workers": 0,
        "dataloader_pin_memory": on_gpu,
        "use_cpu": not on_gpu,
        "ddp_backend": "gloo" if num_ranks > 1 and not on_gpu else None,
        "ddp_find_unused_parameters": False,
        "deepspeed": deepspeed_config(stage),
        "use_liger_kernel": train.liger,
        "max_length": None,
        "log_level": "error",
    }
    if isinstance(settings, DpopSettings):
        found: SFTConfig | DPOConfig = DPOConfig(
            **common,
            beta=settings.beta,
            label_smoothing=settings.label_smoothing,
            disable_dropout=False,  # the adapter's own setting holds, as for the other stages
            # The numbers come with the data, so that none are computed (`DpopTrainer`); without this, TRL loads a second model where there is
            # no adapter. Where there is one it would only cost a digest of all weights.
            precompute_ref_log_probs=settings.method == "full",
        )
    else:
        found = SFTConfig(**common, packing=False, dataset_kwargs={"skip_prepare_dataset": True})
    if found.n_gpu > 1:  # one process, several GPUs in sight: transformers would share the batch among them, and see rows twice
        found._n_gpu = 1  # noqa: SLF001
    return found


def deepspeed_config(stage: Stage) -> dict[str, Any] | None:
    """DeepSpeed's settings, or ``None`` where one rank (or ZeRO 0) needs none: torch's own data parallelism does it.

    The optimizer is transformers' own, so that a recipe's ``optimizer`` means the same with and without DeepSpeed.
    """
    train = stage.train
    if train.zero_stage == 0:
        return None
    zero: dict[str, Any] = {"stage": train.zero_stage, "stage3_gather_16bit_weights_on_model_save": True}
    if train.offload != "none":
        zero["offload_optimizer"] = {"device": "cpu"}
    if train.offload == "all":
        zero["offload_param"] = {"device": "cpu"}
    return {
        "train_micro_batch_size_per_gpu": "auto",
        "gradient_accumulation_steps": "auto",
        "train_batch_size": "auto",
        "gradient_clipping": "auto",
        "zero_optimization": zero,
        "bf16": {"enabled": "auto"},
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": sys.maxsize,
    }
