"""A stage that is scored while it trains keeps its best weights, ends when it no longer gets better, and survives being killed."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest
from stages import TRAIN, bytes_of, exit_code_when_killed, metrics, sft_settings, sft_stage, summary
from tiny_models import save_llama
from transformers import AutoModelForCausalLM

from bioie_ray.artifacts.output import Output
from bioie_ray.artifacts.store import StoreAddress
from bioie_ray.config.training import LoraSettings
from bioie_ray.training.checkpoints import CheckpointStore
from bioie_ray.training.rank import train
from bioie_ray.training.results import Best
from bioie_ray.training.scoring import Question, ScoringPlan, score
from bioie_ray.training.stage import Stage
from bioie_ray.training.tokens import load_chat_tokenizer

MODULES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
SETTINGS: dict[str, Any] = {
    "lora": LoraSettings(r=16, alpha=32, dropout=0.05, modules=MODULES),
    "schedule": "constant",
    "learning_rate": 5e-3,
    "packing": False,
    "batch_size": 2,
    "micro_batch_size": 2,
}
# What stages.conversations(2) teach; half of the gold of the second is not in it, so that F1 has a largest value below 1.
PLAN = ScoringPlan(
    (
        Question("d0", "List 0: ", "ner", frozenset({("a0",)})),
        Question("d1", "List 1: ab", "ner", frozenset({("a1",), ("never",)})),
    ),
    max_new_tokens=12,
)
BEST_F1 = pytest.approx(0.8)  # two of three, and nothing wrong
SCORED = TRAIN.model_copy(update={"checkpoint_every_steps": 4, "score_every_steps": 5, "patience": 3, "keep_checkpoints": 100})


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_llama(tmp_path_factory.mktemp("scoring") / "llama")


def make(store: Path, llama: Path, train_settings: Any = SCORED, **changes: Any) -> Stage:
    settings = sft_settings(**{**SETTINGS, "epochs": 200, **changes})
    plan = PLAN if train_settings.score_every_steps else None
    return sft_stage(store, llama, settings, train_settings, num=2, scoring=plan)


@pytest.fixture(scope="module")
def scored(llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Stage:
    stage = make(tmp_path_factory.mktemp("scored"), llama)
    train(stage)
    return stage


def test_patience_ends_a_stage_that_no_longer_gets_better(scored: Stage) -> None:
    told = summary(scored.output)
    scores = {entry["step"]: entry["dev_f1"] for entry in metrics(scored.output) if "dev_f1" in entry}
    assert scores[5] < 0.8  # it knew little at first
    assert told["best"]["dev_f1"] == max(scores.values()) == BEST_F1
    assert told["best"]["step"] == min(step for step, f1 in scores.items() if f1 == max(scores.values()))
    assert told["steps"] == told["best"]["step"] + 15 == max(scores)
    assert told["steps"] < 200
    card = (scored.output.address.folder / scored.output.key / "model/README.md").read_text()
    assert f"{told['best']['step']} steps over 2 records.\n" in card  # those of the weights that are kept
    assert list(scores) == list(range(5, told["steps"] + 1, 5))


def test_the_result_is_the_best_weights_and_scoring_draws_no_random_number(scored: Stage, llama: Path, tmp_path: Path) -> None:
    """A stage that was never scored and ends at that step has the same adapter."""
    step = summary(scored.output)["best"]["step"]
    unscored = make(tmp_path, llama, TRAIN, max_steps=step)
    train(unscored)
    assert summary(unscored.output)["steps"] == step
    for name in ("adapter/adapter_model.safetensors", "model/model.safetensors"):
        assert bytes_of(unscored.output)[name] == bytes_of(scored.output)[name]
    last = (CheckpointStore(scored.output), tmp_path / "last")
    last[0].get(last[0].whole()[-1], last[1], 0)
    assert (last[1] / "adapter_model.safetensors").read_bytes() != bytes_of(scored.output)["adapter/adapter_model.safetensors"]


def test_the_score_is_that_of_the_model_that_is_left(scored: Stage) -> None:
    folder = scored.output.address.folder / scored.output.key / "model"
    chat = load_chat_tokenizer(str(folder))
    model = AutoModelForCausalLM.from_pretrained(folder)
    model.train()
    assert score(model, chat, PLAN).f1 == summary(scored.output)["best"]["dev_f1"]
    assert model.training  # left in the mode it was in
    untrained = AutoModelForCausalLM.from_pretrained(scored.base.folder())
    result = score(untrained, chat, PLAN)
    assert (result.f1, result.num_malformed) == (0.0, 2)


@pytest.mark.slow  # the first to be killed waits for imports
@pytest.mark.parametrize("when", ["before the best", "after the best", "after its end"])
def test_a_scored_training_that_is_killed_goes_on_to_the_same_bytes(scored: Stage, llama: Path, tmp_path: Path, when: str) -> None:
    told = summary(scored.output)
    # Every fourth step, and the one at which it was ended.
    last = {"before the best": 4, "after the best": told["best"]["step"] // 4 * 4 + 4, "after its end": told["steps"]}[when]
    num_whole = -(-last // 4)
    stage = make(tmp_path, llama)
    assert exit_code_when_killed(stage, num_whole) == -signal.SIGKILL
    assert CheckpointStore(stage.output).whole()[-1].step == last
    if when != "before the best":
        assert Best(stage.output).score() == (told["best"]["step"], told["best"]["dev_f1"])
    train(stage)
    assert bytes_of(stage.output) == bytes_of(scored.output)


def test_weights_that_are_no_longer_the_best_leave_no_folders_behind(tmp_path: Path) -> None:
    output = Output(StoreAddress(str(tmp_path / "store")), "models-preft/m@1", {})
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights/adapter_model.safetensors").write_bytes(b"weights")
    best = Best(output)
    for step, f1 in ((5, 0.1), (10, 0.2)):
        best.put(tmp_path / "weights", step, f1)
    folder = output.address.folder / output.key
    assert sorted(path.name for path in folder.rglob("*")) == ["00000010", "_best", "adapter_model.safetensors", "score.json"]
    best.drop()
    assert not list(folder.rglob("*"))
