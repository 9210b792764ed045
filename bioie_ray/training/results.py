"""What a stage leaves in its output: adapter, merged model, card, numbers of every step, and the shard that says it is done."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from bioie_ray.artifacts.files import fetch_folder, files_below, put_folder
from bioie_ray.artifacts.output import Output
from bioie_ray.retrieval.models import ModelSource
from bioie_ray.training.merging import merge, model_card, write_model
from bioie_ray.training.order import stream
from bioie_ray.training.stage import Stage
from bioie_ray.training.starts import Starts
from bioie_ray.training.tokens import load_chat_tokenizer

UNIT = "training"
SUMMARY = "training.json"
TENSORBOARD = "tensorboard/events.out.tfevents.0.training"
_BEST = "_best"
_TRACE = pa.schema([("step", pa.int32()), ("metric", pa.string()), ("value", pa.float64())])
_WEIGHTS = ("adapter_config.json", "adapter_model.safetensors")


class Best:
    """The weights that scored best so far, in the store: a killed training does not lose them. Files first, then the score."""

    def __init__(self, output: Output) -> None:
        self._output = output
        self._prefix = f"{output.key}/{_BEST}"

    def score(self) -> tuple[int, float] | None:
        """Step and F1 of them."""
        try:
            found = json.loads(self._output.store.read(f"{self._prefix}/score.json"))
        except FileNotFoundError:
            return None
        return int(found["step"]), float(found["f1"])

    def put(self, folder: Path, step: int, f1: float) -> None:
        """Keep the weights in a folder as the best; those before are deleted after."""
        before = self.score()
        for name, path in files_below(folder).items():
            self._output.store.write_file(f"{self._prefix}/{step:08d}/{name}", path)
        self._output.store.write(f"{self._prefix}/score.json", json.dumps({"step": step, "f1": f1}).encode())
        if before is not None and before[0] != step:
            self._drop(f"{self._prefix}/{before[0]:08d}")

    def get(self, folder: Path) -> tuple[int, float] | None:
        """Bring them into a folder, if there are any."""
        found = self.score()
        if found is None:
            return None
        fetch_folder(self._output, f"{_BEST}/{found[0]:08d}", folder)
        return found

    def drop(self) -> None:
        """Delete them: the stage has its result."""
        self._drop(self._prefix)

    def _drop(self, prefix: str) -> None:
        for key in self._output.store.keys(prefix):
            self._output.store.delete(key)
        if self._output.address.is_local:  # keys are all that other stores have
            shutil.rmtree(self._output.address.folder / prefix, ignore_errors=True)


@dataclass(frozen=True, slots=True)
class Done:
    """A training at its end: the numbers of every step, how many steps there were, and from which on how many ranks did them."""

    history: list[dict[str, Any]]
    steps: int
    starts: Starts


def finish(stage: Stage, table: pa.Table, last: Path, best: Best, done: Done) -> None:
    """Write everything, the shard last. It loads models of its own: by now there must be no other in memory."""
    output, train = stage.output, stage.train
    trained = last.parent / "chosen"
    chosen = best.get(trained)
    if chosen is None:
        trained = last
    base = stage.base.folder()
    tokenizer = load_chat_tokenizer(str(base), train.template)
    target = last.parent / "merged"
    seen = seen_rows(table, chosen[0] if chosen else done.steps, stage)
    summary: dict[str, Any] = {
        "steps": done.steps,
        "records": num_records(seen),
        "sequences": seen.num_rows,
        "of": {"records": num_records(table), "sequences": table.num_rows},
        "ranks": done.starts[-1]["ranks"],
        "starts": list(done.starts),
    }
    if chosen is not None:
        summary["best"] = {"step": chosen[0], "dev_f1": chosen[1]}
    files = []
    if stage.settings.method == "full":
        from transformers import AutoModelForCausalLM

        write_model(AutoModelForCausalLM.from_pretrained(str(trained)), target, tokenizer)
    else:
        dtype = torch.bfloat16 if train.dtype == "bfloat16" else torch.float32
        summary["merged"] = asdict(merge(base, trained, target, dtype, tokenizer, probe_of(table)))
        files += [output.put_file(f"adapter/{name}", _as_ever(trained / name, stage.base)) for name in _WEIGHTS]
    about = {
        "name": output.key,
        "stage": stage.name,
        "base_model": train.base_model,
        "settings": stage.settings.model_dump(mode="json"),
        "seed": stage.seed,
        "data": {"tokens": stage.tokens.key, "fingerprint": stage.tokens.fingerprint},
        **summary,
    }
    (target / "README.md").write_text(model_card(about), encoding="utf-8")
    files += put_folder(output, "model", target)
    rows = trace(done.history)
    output.store.write(f"{output.key}/{TENSORBOARD}", tensorboard_events(rows, last.parent / "tensorboard"))
    output.put_file(SUMMARY, json.dumps({**summary, "files": files}, indent=1).encode())
    counts = {name: summary[name] for name in ("steps", "records", "sequences")}
    output.commit(UNIT, pa.Table.from_pylist(rows, schema=_TRACE), counts)


def _as_ever(path: Path, base: ModelSource) -> bytes:
    """A file of an adapter, the same wherever it is made.

    PEFT writes the names of modules from a set, in another order in each process, and the folder of the base on this machine. Here they are sorted,
    and the base goes by its reference, or by its place in the store.
    """
    if path.suffix != ".json":
        return path.read_bytes()
    config = json.loads(path.read_bytes())
    if isinstance(config.get("target_modules"), list):
        config["target_modules"] = sorted(config["target_modules"])
    config["base_model_name_or_path"] = f"{base.made_by.key}/model" if base.made_by is not None else base.ref
    return json.dumps(config, indent=2, sort_keys=True).encode()


def tensorboard_events(rows: Sequence[Mapping[str, Any]], folder: Path) -> bytes:
    """The numbers of every step as TensorBoard reads them. No file of the record's: it holds the time at which it was written."""
    from tensorboardX import SummaryWriter

    with SummaryWriter(str(folder)) as writer:
        for row in rows:
            writer.add_scalar(row["metric"], row["value"], row["step"])
    return next(folder.glob("events.out.tfevents.*")).read_bytes()


def trace(history: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The numbers of every step as rows of step, metric, value."""
    return [
        {"step": int(entry["step"]), "metric": name, "value": float(value)}
        for entry in history
        for name, value in sorted(entry.items())
        if name not in {"step", "epoch"} and isinstance(value, int | float)
    ]


def seen_rows(table: pa.Table, steps: int, stage: Stage) -> pa.Table:
    """The ids of the rows that the weights of a step have seen: a stage may end before its first epoch does, and its best weights may be older still."""
    return table.select(["id"]).take(pa.array(np.unique(stream(table.num_rows, steps * stage.settings.batch_size, stage.seed))))


def num_records(table: pa.Table) -> int:
    """Conversations or pairs; a packed row holds several."""
    if pa.types.is_list(table.schema.field("id").type):
        return sum(map(len, table["id"].to_pylist()))
    return int(table.num_rows)


def probe_of(table: pa.Table) -> list[int]:
    """The ids of one training text, at most 256 of them."""
    row = table.slice(0, 1).to_pylist()[0]
    ids: list[int] = row["input_ids"] if "input_ids" in row else row["prompt_ids"] + row["chosen_ids"]
    return ids[:256]
