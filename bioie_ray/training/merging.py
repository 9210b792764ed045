"""A trained adapter and its base become one model, which is shown to say the same."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from bioie_ray.training.stage import TrainingError
from bioie_ray.training.tokens import ChatTokenizer

# Of logits in float32, relative to the largest one: merging adds two matrices once where the adapter added two products each time, which moves
# the last bits (1e-6 measured on Gemma 3 270M).
TOLERANCE = 1e-4
_SHARD_SIZE = "500MB"  # a shard goes to the store by one put, through memory


@dataclass(frozen=True, slots=True)
class Merged:
    """How far merged logits are from adapted ones, relative to the largest logit, and what was allowed; both in float32.

    ``rounding`` is how far the written weights are from that: 0 in float32, and what bfloat16 costs any model.
    """

    largest_difference: float
    tolerance: float
    rounding: float


def merge(base: Path, adapter: Path, target: Path, dtype: torch.dtype, tokenizer: ChatTokenizer, probe: list[int]) -> Merged:
    """Write base and adapter as one model, with tokenizer, template and the token it stops at.

    Args:
        base: folder of the base model.
        adapter: folder of the adapter.
        target: folder that the merged model is written to.
        dtype: of the weights that are written; the sum is made in float32.
        tokenizer: with the template the model was trained with.
        probe: token ids of a training conversation, over which the two are compared.

    Raises:
        TrainingError: the two differ by more than ``TOLERANCE``; nothing is written.
    """
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(str(base), dtype=torch.float32), str(adapter)).eval()
    ids = torch.tensor([probe])
    with torch.inference_mode():
        adapted = model(input_ids=ids).logits
    merged: Any = model.merge_and_unload()
    with torch.inference_mode():
        exact = merged(input_ids=ids).logits
        rounded = merged.to(dtype)(input_ids=ids).logits.float()
    largest = float(adapted.abs().max())
    result = Merged(float((exact - adapted).abs().max()) / largest, TOLERANCE, float((rounded - exact).abs().max()) / largest)
    if not result.largest_difference <= result.tolerance:
        raise TrainingError(
            f"merged logits differ from adapted ones by {result.largest_difference:.2e} of the largest logit, and {result.tolerance:.0e} is "
            "allowed; the adapter was made for other weights, or its files are damaged"
        )
    write_model(merged, target, tokenizer)
    return result


def write_model(model: Any, target: Path, tokenizer: ChatTokenizer) -> None:
    """A model as safetensors with tokenizer, template and generation settings, for whoever loads it next."""
    config = model.generation_config
    ends = config.eos_token_id if isinstance(config.eos_token_id, list) else [config.eos_token_id]
    config.eos_token_id = sorted({end for end in ends if end is not None} | {tokenizer.end_of_turn})
    config.do_sample = False  # how answers are sampled is the caller's to say, and half a setting is refused when saved
    config.temperature = config.top_p = config.top_k = None
    model.save_pretrained(str(target), max_shard_size=_SHARD_SIZE)
    tokenizer.tokenizer.save_pretrained(str(target))


def model_card(about: dict[str, Any]) -> str:
    """The card that lies beside a model: what it was made from, and by which settings. No date and no machine: the record has them."""
    steps = about["best"]["step"] if "best" in about else about["steps"]
    there = about["of"]["records"]
    return (
        f"---\nlibrary_name: transformers\npipeline_tag: text-generation\ntags: [biomedical, information-extraction, {about['stage']}]\n---\n\n"
        f"# {about['name']}\n\nMade by bioie_ray, stage `{about['stage']}`, from `{about['base_model']}`. "
        f"{steps} steps over {about['records']} records{f' of {there}' if there != about['records'] else ''}.\n\n"
        "The whole recipe, with the data it names, its versions and times, is in `record.json` above this folder; scores of this model are outputs of their own "
        "(`bioie report STORE`).\n\n"
        f"```json\n{json.dumps(about, indent=1, sort_keys=True)}\n```\n"
    )
