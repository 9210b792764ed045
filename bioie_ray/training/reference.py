"""Log-probabilities of DPOP's reference model: computed once for each pair, before any training, and kept as an output.

The reference is the model that DPOP begins with, its new adapter off: so it is the base model itself, and no second copy is ever loaded.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import torch

from bioie_ray.config.training import StageSettings, TrainSettings
from bioie_ray.execution.linear_layers import by_onednn
from bioie_ray.training.answer_head import answers_only
from bioie_ray.training.batches import PairCollator
from bioie_ray.training.loading import load_base

SCHEMA = pa.schema([("id", pa.string()), ("ref_chosen_logps", pa.float32()), ("ref_rejected_logps", pa.float32())])


def load_reference(folder: Path, settings: StageSettings, train: TrainSettings) -> Any:
    """The model as the stage will train it, with the head that scores answers only."""
    from trl.trainer.utils import add_fused_lm_head

    model = load_base(folder, settings, train).eval()
    if torch.cuda.is_available() and settings.method != "qlora":
        model = model.to("cuda")
    add_fused_lm_head(model)
    by_onednn(model)
    return model


def score_pairs(model: Any, table: pa.Table, pad_id: int, train: TrainSettings) -> pa.Table:
    """Log-probabilities of both answers of each pair, summed over their tokens; one pair at a time, so that no number depends on its neighbours.

    Args:
        model: from ``load_reference``.
        table: of ``PAIR_SCHEMA``.
        pad_id: what fills the shorter answer of a pair.
        train: precision and threads.

    Returns:
        A table of ``SCHEMA``, row by row as ``table``.
    """
    torch.set_num_threads(train.threads)
    collate = PairCollator(pad_id)
    rows = []
    with torch.inference_mode(), answers_only():
        for pair in table.to_pylist():
            batch = {name: value.to(model.device) for name, value in collate([{**pair, "row": 0}]).items()}
            labels = batch["input_ids"].masked_fill(batch["completion_mask"] == 0, -100)
            with torch.autocast(model.device.type, dtype=torch.bfloat16, enabled=train.dtype == "bfloat16"):
                outputs = model(
                    input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], labels=labels, use_cache=False, fused_lm_head=True
                )
            chosen, rejected = outputs.log_probs.float().sum(dim=1).tolist()
            rows.append({"id": pair["id"], "ref_chosen_logps": chosen, "ref_rejected_logps": rejected})
    return pa.Table.from_pylist(rows, schema=SCHEMA)
