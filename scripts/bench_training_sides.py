"""The sides of bench_training.py, one to a process: trains a few steps and prints what it did as JSON."""

from __future__ import annotations

import json
import os
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ |= {
    "HF_HUB_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "TRANSFORMERS_VERBOSITY": "error",
    "DS_ACCELERATOR": "cpu",
    "CI": "1",
}

import torch
from transformers import TrainerCallback

from bioie_ray.artifacts.output import Output
from bioie_ray.artifacts.store import StoreAddress
from bioie_ray.config.training import DpopSettings, LoraSettings, SftSettings, TrainSettings
from bioie_ray.retrieval.models import ModelSource
from bioie_ray.training.loading import adapter_config, load_base
from bioie_ray.training.reference import load_reference, score_pairs
from bioie_ray.training.rows import pair_rows, sft_rows
from bioie_ray.training.stage import Stage, token_rows
from bioie_ray.training.tokens import load_chat_tokenizer


class Timer(TrainerCallback):
    """Times and tokens from the end of the first step on: loading, compiling and the first allocations are in no side."""

    def __init__(self, trainer: Any) -> None:
        self._trainer = trainer
        self.marks: list[tuple[float, float, int]] = []

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """A mark."""
        num_tokens = self._trainer._total_train_tokens  # noqa: SLF001 - TRL has it nowhere else
        self.marks.append((time.perf_counter(), time.process_time(), num_tokens))


def stage_of(plan: dict[str, Any], folder: Path) -> Stage:
    """The recipe's stage over the plan's data, as the job would have it."""
    address = StoreAddress(str(folder / "store"))
    settings: Any = (DpopSettings if plan["stage"] == "dpop" else SftSettings)(**plan["settings"], lora=LoraSettings(**plan["lora"]))
    train = TrainSettings(base_model=plan["model"], threads=plan["threads"], checkpoint_every_steps=10_000)
    source = ModelSource(plan["model"])
    chat = load_chat_tokenizer(str(source.folder()), train.template)
    table, _ = (pair_rows if plan["stage"] == "dpop" else sft_rows)(plan["records"], chat, settings)
    reference = None
    if plan["stage"] == "dpop":
        numbers = score_pairs(load_reference(source.folder(), settings, train), table, chat.end_of_turn, train)
        reference = finished(address, "reference/bench@1", numbers)
    output = Output(address, f"models-{plan['stage']}/bench@1", {"kind": "bench"})
    output.claim()
    return Stage(
        plan["stage"], settings, train, source, finished(address, f"tokens-{plan['stage']}/bench@1", table), reference, None, 0, output
    )


def finished(address: StoreAddress, key: str, table: Any) -> Output:
    output = Output(address, key, {"kind": key})
    output.claim()
    output.commit("train-00000", table, {})
    output.finish({"shards": [{"shard": "train-00000"}]})
    return output


def ours(plan: dict[str, Any], folder: Path) -> dict[str, Any]:
    from bioie_ray.training.answer_head import answers_only
    from bioie_ray.training.place import Place
    from bioie_ray.training.rank import build_trainer

    stage = stage_of(plan, folder)
    with answers_only():
        trainer = build_trainer(
            stage, token_rows(stage.tokens, folder, stage.reference), folder, Place(0, 1), on_gpu=torch.cuda.is_available()
        )
        return timed(trainer, trainer.train)


def job(plan: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The whole job, in one process or under Ray: its own note says how fast it was."""
    from bioie_ray.config.cluster import ClusterSettings
    from bioie_ray.pipeline.job import set_environment
    from bioie_ray.training.launch import launch

    set_environment()
    stage = stage_of(plan, folder)
    launch(stage, ClusterSettings(**plan["cluster"]), lambda _: None)
    note = stage.output.read_note()
    rate = float(note.partition(" tokens/s")[0].rpartition(", ")[2].replace(",", "")) if " tokens/s" in note else float("nan")
    return {"tokens_per_s": rate, "losses": losses(stage)}


def losses(stage: Stage) -> list[float]:
    lines = stage.output.store.read(f"{stage.output.key}/metrics.jsonl").splitlines()
    return [entry["loss"] for entry in map(json.loads, lines) if "loss" in entry]


def trl(plan: dict[str, Any], folder: Path) -> dict[str, Any]:
    """TRL's own trainer as ``trl sft`` and ``trl dpo`` set it up: the same model, adapter, rate and batch, its own data preparation."""
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

    settings: Any = (DpopSettings if plan["stage"] == "dpop" else SftSettings)(**plan["settings"], lora=LoraSettings(**plan["lora"]))
    source = ModelSource(plan["model"])
    chat = load_chat_tokenizer(str(source.folder()), "auto")
    tokenizer = chat.tokenizer
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    common: dict[str, Any] = {
        "output_dir": str(folder / "trl"),
        "per_device_train_batch_size": plan["trl_micro"],
        "gradient_accumulation_steps": settings.batch_size // plan["trl_micro"],
        "learning_rate": settings.learning_rate,
        "lr_scheduler_type": "constant",
        "max_steps": plan["trl_steps"],
        "max_grad_norm": settings.max_grad_norm,
        "gradient_checkpointing": plan["trl_checkpointing"],
        "bf16": False,
        "use_cpu": not torch.cuda.is_available(),
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "max_length": settings.max_length,
    }
    train = TrainSettings(threads=plan["threads"], attention=plan["attention"])
    base = load_base(source.folder(), settings, train)
    if plan["stage"] == "dpop":
        rows = [
            {"prompt": json.loads(r["messages"]), **{s: [{"role": "assistant", "content": r[s]}] for s in ("chosen", "rejected")}}
            for r in plan["records"]
        ]
        args: Any = DPOConfig(**common, beta=settings.beta, disable_dropout=False)
        kind: Any = DPOTrainer
    else:
        messages = [json.loads(record["messages"]) for record in plan["records"]]
        rows = [{"prompt": turns[:-1], "completion": turns[-1:]} for turns in messages]
        args = SFTConfig(**common, packing=False)
        kind = SFTTrainer
    trainer = kind(
        model=base, args=args, train_dataset=Dataset.from_list(rows), processing_class=tokenizer, peft_config=adapter_config(settings, base)
    )
    return timed(trainer, trainer.train)


def timed(trainer: Any, run: Any) -> dict[str, Any]:
    timer = Timer(trainer)
    trainer.add_callback(timer)
    run()
    (wall, cpu, tokens), (last_wall, last_cpu, last_tokens) = timer.marks[0], timer.marks[-1]
    return {
        "steps": len(timer.marks) - 1,
        "tokens": last_tokens - tokens,
        "wall_s": last_wall - wall,
        "cpu_s": last_cpu - cpu,
        "losses": [entry["loss"] for entry in trainer.state.log_history if "loss" in entry],
    }


def main() -> None:
    side, plan = sys.argv[1], json.loads(Path(sys.argv[2]).read_text())
    torch.set_num_threads(plan["threads"])
    with tempfile.TemporaryDirectory() as folder:
        result = {"ours": ours, "trl": trl, "job": job}[side](plan, Path(folder))
    result["peak_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print("RESULT " + json.dumps(result))


if __name__ == "__main__":
    main()
