"""Train a cross-encoder from an embedder's weights on lists of graded pairs; killed at any step, it goes on to the same bytes.

Why a loop of our own and not ``CrossEncoderTrainer``: its checkpoints are folders written in place, so a kill while one is
written leaves a torn folder that looks complete; it skips to the old position by drawing all earlier batches again; and it
brings ``datasets`` and ``accelerate`` along. Here the order of batches is a pure function of (seed, epoch), so the step number
is the whole position, and a checkpoint is one file that appears by rename. Model and tokenisation are
sentence-transformers' own. No dropout (a few thousand pairs, seen once, are too little to be learnt by heart), so nothing is drawn.
"""

from __future__ import annotations

import hashlib
import logging
import math
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from sentence_transformers import CrossEncoder
from sentence_transformers.util import batch_to_device
from transformers.utils import logging as transformers_logging

from bioie_ray.config.steps import TrainRerankerSettings
from bioie_ray.execution.fixed_sums import fixed_sums
from bioie_ray.execution.linear_layers import by_onednn
from bioie_ray.retrieval.checkpoints import load_checkpoint, save_checkpoint
from bioie_ray.retrieval.comparing import comparing_encoder, list_loss, list_numbers
from bioie_ray.retrieval.models import resolve_model
from bioie_ray.retrieval.schedule import epoch_batches, learning_rate

MAX_GRAD_NORM = 1.0
MAX_TRACE_POINTS = 100


class TrainingError(ValueError):
    """A training that cannot go on; the message says at which step and what to change."""


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a training is: ``loss`` of the last step, ``pairs_per_s`` since this process began."""

    step: int
    num_steps: int
    loss: float
    pairs_per_s: float


@dataclass(frozen=True, slots=True)
class TrainResult:
    """What a training did. ``losses`` are (step, mean loss since the point before); ``seconds`` include killed attempts."""

    losses: tuple[tuple[int, float], ...]
    num_steps: int
    num_pairs: int
    num_truncated: int
    seconds: float


@dataclass(slots=True)
class _State:
    """What a checkpoint restores beside model and optimizer."""

    step: int = 0
    seconds: float = 0.0
    losses: list[float] = field(default_factory=list)


def train(
    settings: TrainRerankerSettings,
    texts: Mapping[str, str],
    pairs: Sequence[tuple[str, str]],
    labels: Sequence[float],
    out_dir: Path,
    seed: int,
    checkpoint_dir: Path,
    progress: Callable[[Progress], None] | None = None,
) -> TrainResult:
    """Train on lists of ``pairs`` (query id, candidate id) with ``labels`` in 0..1; save a CrossEncoder folder at ``out_dir``.

    A list is a run of pairs of one query; a pair alone teaches nothing. The saved bytes depend on settings, texts, pairs, labels,
    seed and thread count, and not on how often the process was killed. ``out_dir`` appears complete or not at all. Checkpoints
    of another training are ignored; the caller removes ``checkpoint_dir`` once ``out_dir`` is safe.

    Raises:
        TrainingError: no pairs, labels out of range, an id without text, or a loss that is not finite.
    """
    _check(texts, pairs, labels)
    with fixed_sums(settings.threads, warn_only=torch.cuda.is_available()):
        model = _load_model(settings)
        lists = list_numbers([query for query, _ in pairs])
        plan = [b for epoch in range(settings.epochs) for b in epoch_batches(lists, settings.batch_size, seed, epoch)]
        with torch.no_grad():  # the loss asks for no level, and far from 0 the sigmoid could not tell scores apart
            head: Any = model[-1]
            head.linear.bias -= _logits(model, settings, texts, pairs, plan[0]).mean()
        key = _key(model, settings, texts, pairs, labels, seed)
        state = _fit(model, settings, texts, pairs, labels, lists, plan, checkpoint_dir, key, progress)
        _save(model, out_dir)
    return TrainResult(
        tuple(_trace(state.losses)), len(plan), len(pairs), num_truncated(model, texts, pairs, settings.max_length), state.seconds
    )


def num_truncated(model: CrossEncoder, texts: Mapping[str, str], pairs: Sequence[tuple[str, str]], max_length: int) -> int:
    """How many pairs are longer than ``max_length`` tokens; each text is tokenised once."""
    used = sorted({id_ for pair in pairs for id_ in pair})
    encoded = model.tokenizer([texts[id_] for id_ in used], add_special_tokens=False, truncation=False, padding=False, verbose=False)
    num_tokens = {id_: len(tokens) for id_, tokens in zip(used, encoded["input_ids"], strict=True)}
    special = model.tokenizer.num_special_tokens_to_add(pair=True)
    return sum(num_tokens[a] + num_tokens[b] + special > max_length for a, b in pairs)


def _fit(
    model: CrossEncoder,
    settings: TrainRerankerSettings,
    texts: Mapping[str, str],
    pairs: Sequence[tuple[str, str]],
    labels: Sequence[float],
    lists: npt.NDArray[np.int64],
    plan: Sequence[npt.NDArray[np.int64]],
    checkpoint_dir: Path,
    key: str,
    progress: Callable[[Progress], None] | None,
) -> _State:
    optimizer = torch.optim.AdamW(_parameter_groups(model, settings.weight_decay), lr=settings.learning_rate)
    state = _restore(model, optimizer, checkpoint_dir, key)
    began, before, num_done = time.monotonic(), state.seconds, 0
    while state.step < len(plan):
        rows = plan[state.step]
        rate = learning_rate(state.step, len(plan), settings.learning_rate, settings.warmup_share)
        for group in optimizer.param_groups:
            group["lr"] = rate
        wanted = torch.tensor([labels[row] for row in rows], dtype=torch.float32, device=model.device)
        loss = list_loss(_logits(model, settings, texts, pairs, rows), wanted, torch.as_tensor(lists[rows], device=model.device))
        value = float(loss.detach())
        if not math.isfinite(value):
            raise TrainingError(
                f"loss is {value} at step {state.step + 1} of {len(plan)} (learning rate {rate:.2e}); "
                f"set train_reranker.learning_rate below {settings.learning_rate:g}"
            )
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(model.parameters(), MAX_GRAD_NORM)
        optimizer.step()
        state.step += 1
        state.losses.append(value)
        num_done += len(rows)
        state.seconds = before + time.monotonic() - began
        if state.step % settings.checkpoint_every_steps == 0 and state.step < len(plan):
            save_checkpoint(checkpoint_dir, state.step, _snapshot(model, optimizer, state, key))
        if progress:
            progress(Progress(state.step, len(plan), value, num_done / max(time.monotonic() - began, 1e-9)))
    return state


def _logits(
    model: CrossEncoder,
    settings: TrainRerankerSettings,
    texts: Mapping[str, str],
    pairs: Sequence[tuple[str, str]],
    rows: npt.NDArray[np.int64],
) -> torch.Tensor:
    inputs = model.preprocess([(texts[pairs[row][0]], texts[pairs[row][1]]) for row in rows])
    with torch.autocast(model.device.type, dtype=torch.bfloat16, enabled=settings.dtype == "bfloat16"):
        scores: torch.Tensor = model(batch_to_device(inputs, model.device))["scores"]
    return scores.reshape(-1).float()


def _snapshot(model: CrossEncoder, optimizer: torch.optim.Optimizer, state: _State, key: str) -> dict[str, Any]:
    return {
        "key": key,
        "step": state.step,
        "seconds": state.seconds,
        "losses": list(state.losses),
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
    }


def _restore(model: CrossEncoder, optimizer: torch.optim.Optimizer, checkpoint_dir: Path, key: str) -> _State:
    saved = load_checkpoint(checkpoint_dir, key)
    if saved is None:
        return _State()
    model.load_state_dict(saved["model"])
    optimizer.load_state_dict(saved["optimizer"])
    return _State(saved["step"], saved["seconds"], saved["losses"])


def _check(texts: Mapping[str, str], pairs: Sequence[tuple[str, str]], labels: Sequence[float]) -> None:
    if not pairs:
        raise TrainingError(
            "no training pairs: no candidate shares a gold answer with its query; raise train_reranker.candidates_per_query"
        )
    if len(pairs) != len(labels):
        raise TrainingError(f"{len(pairs)} pairs but {len(labels)} labels")
    for (query, candidate), label in zip(pairs, labels, strict=True):
        if not 0.0 <= label <= 1.0:
            raise TrainingError(f"pair {query}, {candidate}: label {label} is not in 0..1")
        for id_ in (query, candidate):
            if id_ not in texts:
                raise TrainingError(f"pair {query}, {candidate}: no text was given for {id_}")


def _load_model(settings: TrainRerankerSettings) -> CrossEncoder:
    path = resolve_model(settings.base_model)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    with _quiet_transformers():
        model = comparing_encoder(path, settings.max_length, device).eval()
    by_onednn(model)
    return model


def _parameter_groups(model: CrossEncoder, weight_decay: float) -> list[dict[str, Any]]:
    """Biases and norms are not decayed, as in BERT's own training."""
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    plain = [p for _, p in named if p.ndim < 2]
    decayed = [p for _, p in named if p.ndim >= 2]
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": plain, "weight_decay": 0.0}]


def _key(
    model: CrossEncoder,
    settings: TrainRerankerSettings,
    texts: Mapping[str, str],
    pairs: Sequence[tuple[str, str]],
    labels: Sequence[float],
    seed: int,
) -> str:
    """Names a training by everything that can change its steps, the starting weights included."""
    digest = hashlib.sha256()
    digest.update(settings.model_dump_json(exclude={"checkpoint_every_steps"}).encode())
    digest.update(f"\0{seed}\0{torch.__version__}\0{model.device.type}".encode())
    for (query, candidate), label in zip(pairs, labels, strict=True):
        digest.update(f"\0{query}\0{candidate}\0{label!r}".encode())
    for id_ in sorted({id_ for pair in pairs for id_ in pair}):
        digest.update(f"\0{id_}\0{texts[id_]}".encode())
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _trace(losses: Sequence[float]) -> Iterator[tuple[int, float]]:
    width = max(1, math.ceil(len(losses) / MAX_TRACE_POINTS))
    for start in range(0, len(losses), width):
        part = losses[start : start + width]
        yield start + len(part), float(np.mean(part))


def _save(model: CrossEncoder, out_dir: Path) -> None:
    """The folder appears by rename. No model card: it would hold the date and the machine, and bytes would differ."""
    out_dir.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=out_dir.parent, prefix=f".{out_dir.name}."))
    try:
        with _quiet_transformers():
            model.save_pretrained(str(temporary), create_model_card=False)
        temporary.chmod(0o755)
        for file in temporary.rglob("*"):
            file.chmod(0o755 if file.is_dir() else 0o644)
        if out_dir.exists():
            shutil.rmtree(out_dir)
        temporary.replace(out_dir)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


@contextmanager
def _quiet_transformers() -> Iterator[None]:
    """Without the report that a new classifier head is new, which is what was asked for."""
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity(logging.ERROR)
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
