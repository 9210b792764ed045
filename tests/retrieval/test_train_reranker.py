from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from sentence_transformers import CrossEncoder
from transformers import BertConfig, BertModel, BertTokenizer

from bioie_ray.config.steps import TrainRerankerSettings
from bioie_ray.retrieval.train_reranker import Progress, TrainingError, train

WORDS = ["aspirin", "ulcer", "fever", "rash", "kidney", "liver", "heart", "pain", "after", "with", "the", "of"]
TEXTS = {f"d{i}": " ".join(WORDS[(i * j + i) % 10] for j in range(1, 3 + i % 7)) for i in range(24)}
PAIRS = [(f"d{i // 4}", f"d{(i * 5 + 6) % 24}") for i in range(24)]  # six queries with four candidates each
LABELS = [(i % 4) / 3 for i in range(24)]


class StoppedError(Exception):
    """Raised by a test to end a training at a step."""


@pytest.fixture(scope="module")
def embedder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT with two layers and random weights, saved as transformers saves it."""
    folder = tmp_path_factory.mktemp("embedder")
    vocabulary = folder / "vocab.txt"
    vocabulary.write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]) + "\n", encoding="utf-8")
    torch.manual_seed(7)
    config = BertConfig(
        vocab_size=5 + len(WORDS),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=64,
    )
    BertModel(config).save_pretrained(folder)
    BertTokenizer(str(vocabulary)).save_pretrained(folder)
    return folder


@pytest.fixture
def settings(embedder: Path) -> TrainRerankerSettings:
    return TrainRerankerSettings(
        base_model=str(embedder), max_length=32, batch_size=4, epochs=3, learning_rate=1e-3, checkpoint_every_steps=4, threads=1
    )


def files(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_training_stopped_twice_ends_in_the_same_bytes(settings: TrainRerankerSettings, tmp_path: Path, dtype: str) -> None:
    settings = settings.model_copy(update={"dtype": dtype})
    whole = train(settings, TEXTS, PAIRS, LABELS, tmp_path / "whole", 1, tmp_path / "ck-whole")
    assert whole.num_steps == 18
    seen: list[int] = []

    for stop_at in (7, 13):

        def stop(progress: Progress, stop_at: int = stop_at) -> None:
            seen.append(progress.step)
            if progress.step == stop_at:
                raise StoppedError

        with pytest.raises(StoppedError):
            train(settings, TEXTS, PAIRS, LABELS, tmp_path / "resumed", 1, tmp_path / "ck", stop)
        assert not (tmp_path / "resumed").exists()
    resumed = train(settings, TEXTS, PAIRS, LABELS, tmp_path / "resumed", 1, tmp_path / "ck", lambda p: seen.append(p.step))
    assert seen == [*range(1, 8), *range(5, 14), *range(13, 19)]  # each goes on after the last multiple of 4
    assert files(tmp_path / "resumed") == files(tmp_path / "whole")
    assert resumed.losses == whole.losses


def test_another_seed_gives_another_model_and_the_same_seed_the_same(settings: TrainRerankerSettings, tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        train(settings, TEXTS, PAIRS, LABELS, tmp_path / name, seed, tmp_path / f"ck-{name}")
    a, b, c = (files(tmp_path / name)["model.safetensors"] for name in "abc")
    assert a == b
    assert a != c


def test_bfloat16_products_change_the_weights_and_leave_them_float32(settings: TrainRerankerSettings, tmp_path: Path) -> None:
    for dtype in ("float32", "bfloat16"):
        train(settings.model_copy(update={"dtype": dtype}), TEXTS, PAIRS, LABELS, tmp_path / dtype, 1, tmp_path / f"ck-{dtype}")
    for file in ("model.safetensors", "2_Dense/model.safetensors"):
        full, low = (load_file(tmp_path / dtype / file) for dtype in ("float32", "bfloat16"))
        assert {tensor.dtype for tensor in low.values() if tensor.is_floating_point()} == {torch.float32}
        assert 1e-6 < max(float((full[name] - low[name]).abs().max()) for name in full) < 0.1


def test_checkpoints_of_another_training_are_not_continued(settings: TrainRerankerSettings, tmp_path: Path) -> None:
    train(settings, TEXTS, PAIRS, LABELS, tmp_path / "first", 1, tmp_path / "ck")
    steps: list[int] = []
    train(
        settings, TEXTS, PAIRS, [1.0 - label for label in LABELS], tmp_path / "second", 1, tmp_path / "ck", lambda p: steps.append(p.step)
    )
    assert steps[0] == 1


def test_the_saved_folder_is_a_cross_encoder_that_has_learnt_its_labels(settings: TrainRerankerSettings, tmp_path: Path) -> None:
    about = {f"x{i}": f"aspirin {WORDS[i % 4]} of the {WORDS[4 + i % 4]}" for i in range(8)} | {
        f"y{i}": f"fever {WORDS[i % 4]} pain" for i in range(8)
    }
    pairs = [(f"x{i}", f"{kind}{j}") for i in range(8) for j in range(8) for kind in "xy"]
    labels = [float(candidate[0] == "x") for _, candidate in pairs]
    result = train(
        settings.model_copy(update={"batch_size": 8, "epochs": 8, "learning_rate": 3e-3}),
        about,
        pairs,
        labels,
        tmp_path / "model",
        0,
        tmp_path / "ck",
    )
    assert result.losses[-1][0] == result.num_steps == 64
    assert result.losses[-1][1] < result.losses[0][1]
    model = CrossEncoder(str(tmp_path / "model"))
    assert model.max_seq_length == 32
    scores = model.predict([(about["x0"], about["x5"]), (about["x0"], about["y5"])])
    assert 0.0 < scores[1] < scores[0] - 0.2 < 1.0


def test_truncated_pairs_are_counted(settings: TrainRerankerSettings, tmp_path: Path) -> None:
    texts = {"long": "aspirin " * 40, "short": "ulcer"}
    short = settings.model_copy(update={"epochs": 1})
    result = train(short, texts, [("long", "short"), ("short", "short")], [1.0, 0.0], tmp_path / "model", 0, tmp_path / "ck")
    assert result.num_truncated == 1


def test_a_loss_that_is_not_finite_stops_with_what_to_change(settings: TrainRerankerSettings, tmp_path: Path) -> None:
    wild = settings.model_copy(update={"learning_rate": 1e30, "warmup_share": 0.0})
    with pytest.raises(TrainingError, match=r"loss is nan at step \d+ of 18 .*set train_reranker.learning_rate below 1e\+30"):
        train(wild, TEXTS, PAIRS, LABELS, tmp_path / "model", 0, tmp_path / "ck")
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize(
    ("pairs", "labels", "message"),
    [
        ([], [], "no training pairs"),
        ([("d0", "d1")], [0.5, 0.5], "1 pairs but 2 labels"),
        ([("d0", "d1")], [1.5], "d0, d1: label 1.5 is not in 0..1"),
        ([("d0", "d1")], [float("nan")], "label nan"),
        ([("d0", "nowhere")], [0.5], "no text was given for nowhere"),
    ],
)
def test_bad_pairs_are_refused(
    settings: TrainRerankerSettings, tmp_path: Path, pairs: list[tuple[str, str]], labels: list[float], message: str
) -> None:
    with pytest.raises(TrainingError, match=message):
        train(settings, TEXTS, pairs, labels, tmp_path / "model", 0, tmp_path / "ck")


_CHILD = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from test_train_reranker import LABELS, PAIRS, TEXTS
from bioie_ray.config.steps import TrainRerankerSettings
from bioie_ray.retrieval.train_reranker import train
settings = TrainRerankerSettings.model_validate_json(sys.argv[2])
train(settings, TEXTS, PAIRS, LABELS, Path(sys.argv[3]), 1, Path(sys.argv[4]), lambda p: print(p.step, flush=True))
"""


@pytest.mark.slow
def test_kill_9_in_the_middle_ends_in_the_same_bytes(settings: TrainRerankerSettings, tmp_path: Path) -> None:
    settings = settings.model_copy(update={"checkpoint_every_steps": 1})
    train(settings, TEXTS, PAIRS, LABELS, tmp_path / "whole", 1, tmp_path / "ck-whole")
    command = [
        sys.executable,
        "-c",
        _CHILD,
        str(Path(__file__).parent),
        settings.model_dump_json(),
        str(tmp_path / "out"),
        str(tmp_path / "ck"),
    ]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    assert child.stdout is not None
    for line in child.stdout:
        if int(line) >= 5:
            time.sleep(0.02)  # somewhere in a step, or in the writing of a checkpoint
            child.send_signal(signal.SIGKILL)
            break
    assert child.wait(timeout=60) == -signal.SIGKILL
    assert not (tmp_path / "out").exists()
    steps: list[int] = []
    train(settings, TEXTS, PAIRS, LABELS, tmp_path / "out", 1, tmp_path / "ck", lambda p: steps.append(p.step))
    assert steps[0] >= 5
    assert files(tmp_path / "out") == files(tmp_path / "whole")
