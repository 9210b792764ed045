"""What each rank of a training does, alone in a process or as one of several under Ray Train."""

from __future__ import annotations

import gc
import json
import secrets
import tempfile
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
import torch.distributed as dist
from transformers import PrinterCallback
from transformers.integrations.deepspeed import unset_hf_deepspeed_config
from transformers.utils import logging as transformers_logging

from bioie_ray.artifacts.store import StoreError
from bioie_ray.execution.fixed_sums import fixed_sums
from bioie_ray.execution.linear_layers import by_onednn
from bioie_ray.training.answer_head import answers_only
from bioie_ray.training.batches import PairCollator, SftCollator
from bioie_ray.training.checkpoints import CheckpointStore, Uploader
from bioie_ray.training.failures import failure, telling_of_a_full_disk, telling_what_merging_needs, telling_what_to_lower, write_failure
from bioie_ray.training.flops import flops_per_token, texts_of
from bioie_ray.training.loading import adapter_config, load_base, without_dropout
from bioie_ray.training.order import stream
from bioie_ray.training.packing_probe import PackingProbe
from bioie_ray.training.place import Place, agreed, agreement
from bioie_ray.training.progress import METRICS, CheckpointCallback, MetricsCallback, ScoreCallback, TokensCallback, had_ended, to_jsonl
from bioie_ray.training.results import Best, Done, finish
from bioie_ray.training.resuming import restore
from bioie_ray.training.scoring import score
from bioie_ray.training.stage import Stage, ids_of, token_rows
from bioie_ray.training.tokens import load_chat_tokenizer
from bioie_ray.training.trainers import AnswerTrainer, PairTrainer, arguments


def train(stage: Stage) -> None:
    """Train a stage, or go on from its newest whole checkpoint; rank 0 commits model, numbers and at last the shard.

    Raises:
        TrainingError: it cannot go on, and trying again would not help; the message says what to change.
        StoreError: the store cannot be written.
    """
    place = Place.here()
    on_gpu = torch.cuda.is_available()
    with _the_same_each_time(stage.train.threads), tempfile.TemporaryDirectory(prefix="bioie-training-") as scratch, answers_only():
        folder, best = Path(scratch), Best(stage.output)
        with telling_of_a_full_disk(folder):
            table = token_rows(stage.tokens, folder, stage.reference)
            done = _trained(stage, table, folder, place, best, on_gpu=on_gpu)
            gc.collect()  # a trainer and its callbacks hold each other, and with them model and optimizer
            if place.rank == 0:
                stage.output.store.write(f"{stage.output.key}/{METRICS}", to_jsonl(done.history))
                unset_hf_deepspeed_config()  # type: ignore[no-untyped-call] # or rank 0 would load the merged model in parts, with ranks that do not come
                with telling_what_merging_needs(stage):
                    finish(stage, table, folder / "last", best, done)


def _trained(stage: Stage, table: pa.Table, folder: Path, place: Place, best: Best, *, on_gpu: bool) -> Done:
    """Train to the end, with the weights as ``last`` in ``folder``; what is returned holds no model."""
    checkpoints = CheckpointStore(stage.output)
    launch = agreed(secrets.token_hex(4), place)
    resume, begun = restore(checkpoints, folder / "resume", place, stage)
    with telling_what_to_lower(stage):
        trainer = build_trainer(stage, table, folder, place, resume, on_gpu=on_gpu)
    uploader = Uploader(checkpoints, place.rank, place.num_ranks, launch, stage.train.keep_checkpoints)
    trainer.add_callback(CheckpointCallback(uploader, folder, begun))
    _observe(trainer, stage, table, place, best, folder)
    try:
        with telling_what_to_lower(stage), telling_of_a_full_disk(folder):  # before the uploader, closing, makes room
            trainer.train(resume_from_checkpoint=str(resume) if resume else None)
    except BaseException:
        with suppress(Exception):  # why the training ended says more
            uploader.close()
        raise
    uploader.close()
    trainer.save_model(str(folder / "last"))  # with ZeRO 3 every rank has a part of it
    history = [entry for entry in trainer.state.log_history if "train_runtime" not in entry]
    trainer.accelerator.free_memory()
    return Done(history, trainer.state.global_step, begun)


@contextmanager
def _the_same_each_time(threads: int) -> Iterator[None]:
    """Sums in a fixed order and without banners; what this process does afterwards is as before."""
    verbosity = transformers_logging.get_verbosity()
    filled = torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined] # every new tensor would be written twice
    transformers_logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        with fixed_sums(threads, warn_only=True), warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=FutureWarning)
            yield
    finally:
        torch.utils.deterministic.fill_uninitialized_memory = filled  # type: ignore[attr-defined]
        transformers_logging.set_verbosity(verbosity)


def build_trainer(stage: Stage, table: pa.Table, folder: Path, place: Place, resume: Path | None = None, *, on_gpu: bool) -> Any:
    """TRL's trainer for a stage, ready to train; what it writes goes to ``folder``."""
    from datasets import Dataset

    # Before the model, which DeepSpeed's ZeRO 3 loads in parts: as many as it knows ranks of, and on CPUs nobody has told it of them by then.
    args = arguments(stage, folder, table.num_rows, place.num_ranks, on_gpu=on_gpu)
    if stage.train.zero_stage and dist.is_initialized():
        import deepspeed  # type: ignore[import-untyped]

        deepspeed.init_distributed(auto_mpi_discovery=False)
    args.max_steps = _last_step(resume, stage, args.max_steps)
    base = stage.base.folder()
    chat = load_chat_tokenizer(str(base), stage.train.template)
    tokenizer = chat.tokenizer
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    model = load_base(base, stage.settings, stage.train)
    if stage.name == "dpop":
        without_dropout(model)
    # With a fingerprint of ours, or `datasets` would read the whole table into memory to make one.
    rows = Dataset(table, fingerprint=stage.tokens.fingerprint[:16])
    common: dict[str, Any] = {
        "model": model,
        "args": args,
        "train_dataset": rows.select(stream(table.num_rows, args.max_steps * stage.settings.batch_size, stage.seed)),
        "processing_class": tokenizer,
        "peft_config": adapter_config(stage.settings, model),
    }
    if stage.name == "dpop":
        assert hasattr(stage.settings, "penalty"), "the stage's own settings"
        trainer: Any = PairTrainer(**common, data_collator=PairCollator(tokenizer.pad_token_id), penalty=stage.settings.penalty)
    else:
        trainer = AnswerTrainer(**common, data_collator=SftCollator(tokenizer.pad_token_id, packed=stage.settings.packing))
    if stage.settings.method == "qlora":  # TRL makes them bfloat16, which cannot hold a small step: 1e-2 and 2e-7 more are the same there
        for parameter in trainer.model.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.float()
    if stage.train.zero_stage < 3:  # there a layer's weights are elsewhere most of the time
        by_onednn(trainer.model)
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(TokensCallback(trainer))
    if stage.settings.packing:
        trainer.add_callback(PackingProbe(trainer, stage.name, stage.train.dtype))
    trainer.name_rows = lambda rows: ids_of(table, rows)
    trainer.stage = stage.name
    return trainer


def _last_step(resume: Path | None, stage: Stage, planned: int) -> int:
    """Of a training that scores had ended when it was killed: the step it was at, so that nothing is left to do."""
    if resume is None or stage.train.score_every_steps is None:
        return planned
    state = json.loads((resume / "trainer_state.json").read_bytes())
    step = int(state["global_step"])
    return step if had_ended(state["log_history"], step, stage.train.score_every_steps, stage.train.patience) else planned


def _observe(trainer: Any, stage: Stage, table: pa.Table, place: Place, best: Best, folder: Path) -> None:
    if place.rank == 0:
        trainer.add_callback(MetricsCallback(stage.output, flops_per_token(trainer.model, texts_of(table)), place.num_ranks))
    if stage.train.score_every_steps is None or stage.scoring is None:
        return
    plan, chat = stage.scoring, load_chat_tokenizer(str(stage.base.folder()), stage.train.template)

    def ask() -> tuple[float, int]:
        result = score(trainer.accelerator.unwrap_model(trainer.model), chat, plan)
        return result.f1, result.num_malformed

    def keep_best(step: int, f1: float) -> None:
        trainer.save_model(str(folder / "best"))
        best.put(folder / "best", step, f1)

    trainer.add_callback(ScoreCallback(stage.train.score_every_steps, stage.train.patience, ask, keep_best, agreement(place), best.score()))


def train_under_ray(config: dict[Any, Any]) -> str | None:
    """The same as Ray Train's function: what would fail again comes back as text, everything else is raised and tried again.

    A rank that fails alone writes the text down and raises, so that the others, which wait for it, are ended; all return it the next time.
    """
    stage: Stage = config["stage"]
    told = failure(stage.output)
    if told is not None:
        return told
    try:
        train(stage)
    except StoreError:  # away, or full: the same again may go well
        raise
    except ValueError as error:  # of the family for people: a loss that is no number, no memory, a bad template
        told = str(error) or type(error).__name__
        traceback.print_exc()  # for the log of this rank, where it is none of that family
        if Place.here().num_ranks == 1:
            return told
        write_failure(stage.output, told)
        raise
    return None
