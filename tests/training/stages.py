"""Small stages for tests: a tiny model, conversations whose answers it can learn by heart, and outputs that hold them."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
from pathlib import Path
from typing import Any

from bioie_ray.artifacts.output import Output
from bioie_ray.artifacts.store import StoreAddress
from bioie_ray.config.training import DpopSettings, LoraSettings, SftSettings, TrainSettings
from bioie_ray.retrieval.models import ModelSource
from bioie_ray.training.rows import pair_rows, sft_rows
from bioie_ray.training.stage import Stage
from bioie_ray.training.tokens import load_chat_tokenizer

MODULES = ("q_proj", "v_proj")
TRAIN = TrainSettings(threads=1, checkpoint_every_steps=2, template="auto")


def conversations(num: int) -> list[dict[str, Any]]:
    """Every third has two turns."""
    records = []
    for number in range(num):
        turns = [
            {"role": "user", "content": f"List {number}: {'ab' * (number % 5)}"},
            {"role": "assistant", "content": json.dumps([f"a{number}"])},
        ]
        if number % 3 == 0:
            turns += [{"role": "user", "content": "again"}, {"role": "assistant", "content": "[]"}]
        records.append({"id": f"d{number}", "messages": json.dumps(turns)})
    return records


def pairs(num: int) -> list[dict[str, Any]]:
    return [
        {
            "id": f"p{number}",
            "messages": json.dumps([{"role": "user", "content": f"List {number}"}]),
            "chosen": json.dumps([f"a{number}", "b"]),
            "rejected": json.dumps([f"a{number}"]),
        }
        for number in range(num)
    ]


def finished(store: Path, key: str, table: Any, **payload: Any) -> Output:
    """A finished output with one shard."""
    output = Output(StoreAddress(str(store)), key, {"kind": key, **payload})
    output.claim()
    output.commit("train-00000", table, {})
    output.finish({"shards": [{"shard": "train-00000"}]})
    return output


def sft_settings(**changes: Any) -> SftSettings:
    return SftSettings(
        **{
            "lora": LoraSettings(r=4, alpha=8, dropout=0.1, modules=MODULES),
            "learning_rate": 1e-2,
            "batch_size": 4,
            "micro_batch_size": 2,
            "max_length": 128,
            "epochs": 2,
            **changes,
        }
    )


def dpop_settings(**changes: Any) -> DpopSettings:
    return DpopSettings(
        **{
            "lora": LoraSettings(r=4, alpha=8, dropout=0.1, modules=MODULES),
            "learning_rate": 1e-3,
            "batch_size": 4,
            "micro_batch_size": 2,
            "max_length": 128,
            "epochs": 2,
            **changes,
        }
    )


def sft_stage(
    store: Path, model: Path, settings: SftSettings | None = None, train: TrainSettings = TRAIN, num: int = 24, **changes: Any
) -> Stage:
    settings = settings or sft_settings()
    table, _ = sft_rows(conversations(num), load_chat_tokenizer(str(model), train.template), settings)
    output = Output(StoreAddress(str(store)), "models-preft/m@1", {"kind": "models-preft"})
    output.claim()
    stage: dict[str, Any] = {
        "name": "preft",
        "settings": settings,
        "train": train,
        "base": ModelSource(str(model)),
        "tokens": finished(store, "tokens-preft/m@1", table),
        "reference": None,
        "scoring": None,
        "seed": 0,
        "output": output,
    }
    return Stage(**{**stage, **changes})


def dpop_stage(store: Path, model: Path, settings: DpopSettings | None = None, train: TrainSettings = TRAIN, num: int = 16) -> Stage:
    """With the reference's log-probabilities computed by the project's own step code."""
    from bioie_ray.training.reference import load_reference, score_pairs

    settings = settings or dpop_settings()
    chat = load_chat_tokenizer(str(model), train.template)
    table, _ = pair_rows(pairs(num), chat, settings)
    numbers = score_pairs(load_reference(model, settings, train), table, chat.tokenizer.eos_token_id, train)
    output = Output(StoreAddress(str(store)), "models-dpop/m@1", {"kind": "models-dpop"})
    output.claim()
    return Stage(
        name="dpop",
        settings=settings,
        train=train,
        base=ModelSource(str(model)),
        tokens=finished(store, "tokens-dpop/m@1", table),
        reference=finished(store, "reference/m@1", numbers),
        scoring=None,
        seed=0,
        output=output,
    )


def bytes_of(output: Output) -> dict[str, bytes]:
    """What a training promises to make the same: adapter, model, numbers, shard."""
    names = [key.removeprefix(f"{output.key}/") for key in output.store.keys(output.key)]
    kept = [
        name for name in names if name.startswith(("adapter/", "model/")) or name in {"metrics.jsonl", "training.json", "training.parquet"}
    ]
    return {name: output.store.read(f"{output.key}/{name}") for name in kept}


def metrics(output: Output) -> list[dict[str, Any]]:
    """The numbers of every step."""
    return [json.loads(line) for line in output.store.read(f"{output.key}/metrics.jsonl").splitlines()]


def losses(output: Output) -> list[float]:
    return [entry["loss"] for entry in metrics(output) if "loss" in entry]


def summary(output: Output) -> dict[str, Any]:
    return json.loads(output.store.read(f"{output.key}/training.json"))


def exit_code_when_killed(stage: Stage, num_whole: int) -> int | None:
    """Train in a process that is killed as soon as so many checkpoints are whole, wherever the training is by then.

    The processes are forked from one that has imported everything: imports take longer than these trainings.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["bioie_ray.training.rank", "peft"])
    process = context.Process(target=_train_and_die, args=(stage, num_whole))
    process.start()
    process.join(300)
    return process.exitcode


def _train_and_die(stage: Stage, num_whole: int) -> None:
    from bioie_ray.training.checkpoints import Checkpoint, CheckpointStore
    from bioie_ray.training.rank import train

    put = CheckpointStore.put

    def put_and_die(self: CheckpointStore, folder: Path, checkpoint: Checkpoint, rank: int) -> None:
        put(self, folder, checkpoint, rank)
        if len(self.whole()) >= num_whole:
            os.kill(os.getpid(), signal.SIGKILL)

    CheckpointStore.put = put_and_die  # type: ignore[method-assign]
    train(stage)
