"""Ranks under Ray Train: the same training as in one process, whatever happens to them."""

from __future__ import annotations

import shutil
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
from stages import MODULES, TRAIN, bytes_of, dpop_settings, dpop_stage, losses, metrics, sft_settings, sft_stage, summary
from tiny_models import save_llama

from bioie_ray.artifacts.output import Output
from bioie_ray.config.cluster import ClusterSettings
from bioie_ray.config.training import LoraSettings
from bioie_ray.training.checkpoints import Checkpoint, CheckpointStore
from bioie_ray.training.launch import LostRanksError, launch, patience_s, while_it_gets_on
from bioie_ray.training.rank import train
from bioie_ray.training.scoring import Question, ScoringPlan
from bioie_ray.training.stage import Stage, TrainingError

STILL = LoraSettings(r=4, alpha=8, modules=MODULES)  # ranks draw random numbers of their own, so no dropout where they are compared
# Long enough to be killed in: 300 steps, a checkpoint at every 20th.
LONG: dict[str, Any] = {"packing": False, "epochs": 100, "learning_rate": 1e-3}
OFTEN = TRAIN.model_copy(update={"checkpoint_every_steps": 20, "keep_checkpoints": 100})


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_llama(tmp_path_factory.mktemp("launch") / "llama")


@pytest.fixture(scope="module")
def own_ray() -> Iterator[None]:
    """A local Ray that the first launch starts."""
    import ray

    ray.shutdown()
    yield
    ray.shutdown()


def launched(stage: Stage, **cluster: Any) -> Output:
    said: list[str] = []
    launch(stage, ClusterSettings(**cluster), said.append)
    if cluster.get("executor") != "inline":
        assert said == ["starting 1 rank" if cluster.get("ranks", 1) == 1 else f"starting {cluster['ranks']} ranks"]
    return stage.output


def nearly(values: list[float]) -> Any:
    return pytest.approx(values, rel=2e-3)


class Killer(threading.Thread):
    """Kills the rank of a training, once, when so many checkpoints are whole."""

    def __init__(self, checkpoints: CheckpointStore, num_whole: int) -> None:
        super().__init__(daemon=True)
        self._checkpoints = checkpoints
        self._num_whole = num_whole
        self.killed: list[int] = []
        self.steps: list[int] = []
        self.written_at: dict[str, int] = {}
        self.start()

    def run(self) -> None:
        while len(self._checkpoints.whole()) < self._num_whole:
            time.sleep(0.01)
        for process in psutil.Process().children(recursive=True):
            if "RayTrainWorker" in process.name() + " ".join(process.cmdline()):
                process.send_signal(signal.SIGKILL)
                self.killed.append(process.pid)
        self.steps = [each.step for each in self._checkpoints.whole()]
        self.written_at = list_times(self._checkpoints.output)


def list_times(output: Output) -> dict[str, int]:
    """When each whole checkpoint was put away."""
    folder = output.address.folder / output.key / "_checkpoints"
    return {path.parent.name: path.stat().st_mtime_ns for path in folder.glob("*/_rank-*.json")}


def test_one_process_has_one_rank(llama: Path, tmp_path: Path) -> None:
    stage = sft_stage(tmp_path, llama)
    with pytest.raises(
        TrainingError, match=r"executor=inline is one process, and cluster\.ranks is 2; set cluster\.ranks=1, or executor=ray"
    ):
        launched(stage, executor="inline", ranks=2)
    assert launched(stage, executor="inline").markers()


def test_zero_is_for_ranks(llama: Path, tmp_path: Path) -> None:
    """DeepSpeed would look for MPI, and say that it misses mpi4py."""
    stage = sft_stage(tmp_path, llama, train=TRAIN.model_copy(update={"zero_stage": 2}))
    with pytest.raises(TrainingError, match=r"train\.zero_stage=2 is for ranks.*cluster\.executor=ray"):
        launched(stage, executor="inline")


def test_ranks_wait_for_the_one_that_asks_about_dev_documents(llama: Path, tmp_path: Path) -> None:
    """20 documents are three batches of up to 512 tokens: at two seconds each 51 minutes, longer than torch's half an hour."""
    questions = tuple(Question(f"d{n}", "List", "ner", frozenset()) for n in range(20))
    stage = sft_stage(tmp_path, llama)
    assert patience_s(stage) == 1_800
    assert patience_s(replace(stage, scoring=ScoringPlan(questions, max_new_tokens=512))) == 1_800 + 3 * 512 * 2


@pytest.mark.ray
@pytest.mark.slow
def test_one_rank_under_ray_makes_the_same_bytes_as_one_process(own_ray: None, llama: Path, tmp_path: Path) -> None:
    plain = sft_stage(tmp_path / "plain", llama)
    train(plain)
    assert bytes_of(launched(sft_stage(tmp_path / "ray", llama))) == bytes_of(plain.output)


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sft", "dpop"])
def test_two_ranks_train_as_one_does(own_ray: None, llama: Path, tmp_path: Path, kind: str) -> None:
    def make(store: Path) -> Stage:
        if kind == "sft":
            return sft_stage(store, llama, sft_settings(packing=False, lora=STILL))
        return dpop_stage(store, llama, dpop_settings(lora=STILL))

    alone, together = make(tmp_path / "alone"), make(tmp_path / "together")
    train(alone)
    launched(together, ranks=2)
    assert losses(together.output) == nearly(losses(alone.output))
    for name in ("num_tokens", *(("rewards/margins", "logps/chosen") if kind == "dpop" else ())):
        assert [entry[name] for entry in metrics(together.output)] == pytest.approx(
            [entry[name] for entry in metrics(alone.output)], rel=5e-3, abs=1e-3
        )
    assert {checkpoint.num_ranks for checkpoint in CheckpointStore(together.output).whole()} == {2}


@pytest.mark.ray
@pytest.mark.slow
def test_a_rank_that_is_killed_comes_back_and_ends_in_the_same_bytes(own_ray: None, llama: Path, tmp_path: Path) -> None:
    plain, killed = (sft_stage(tmp_path / name, llama, sft_settings(**LONG), OFTEN, num=12) for name in ("plain", "killed"))
    train(plain)
    killer = Killer(CheckpointStore(killed.output), num_whole=3)
    launched(killed)
    assert len(killer.killed) == 1
    assert 60 <= killer.steps[-1] < 300
    now = list_times(killed.output)
    assert {step: now[step] for step in killer.written_at} == killer.written_at  # it did not begin anew
    assert bytes_of(killed.output) == bytes_of(plain.output)


@pytest.mark.ray
@pytest.mark.slow
def test_a_rank_that_is_killed_too_often_is_reported_and_the_same_command_goes_on(own_ray: None, llama: Path, tmp_path: Path) -> None:
    once = OFTEN.model_copy(update={"max_retries": 0})
    plain, killed = (sft_stage(tmp_path / name, llama, sft_settings(**LONG), once, num=12) for name in ("plain", "killed"))
    train(plain)
    killer = Killer(CheckpointStore(killed.output), num_whole=2)
    with pytest.raises(TrainingError, match=r"preft failed 1 times, the last time: .*kept in checkpoints.*run the same command again"):
        launched(killed)
    assert killer.killed
    assert not killed.output.markers()
    launched(killed, executor="inline")
    now = list_times(killed.output)
    assert {step: now[step] for step in killer.written_at} == killer.written_at
    assert bytes_of(killed.output) == bytes_of(plain.output)


@pytest.mark.ray
@pytest.mark.slow
def test_a_training_of_two_ranks_goes_on_with_the_one_that_there_is_room_for(own_ray: None, llama: Path, tmp_path: Path) -> None:
    import ray

    once = OFTEN.model_copy(update={"max_retries": 0})
    stage = sft_stage(tmp_path, llama, sft_settings(**{**LONG, "lora": STILL}), once, num=12)
    killer = Killer(CheckpointStore(stage.output), num_whole=2)
    with pytest.raises(TrainingError, match="A rank that dies without an error of its own was killed or lost"):
        launched(stage, ranks=2)
    assert len(killer.killed) == 2
    last = CheckpointStore(stage.output).whole()[-1]
    assert last.num_ranks == 2
    ray.shutdown()
    ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    try:
        launched(stage, ranks=2, min_ranks=1)
    finally:
        ray.shutdown()
    told = summary(stage.output)
    assert told["starts"] == [{"step": 0, "ranks": 2}, {"step": last.step, "ranks": 1}]
    assert [entry["step"] for entry in metrics(stage.output) if "loss" in entry] == list(range(1, 301))


@pytest.mark.ray
@pytest.mark.slow
def test_what_would_fail_again_is_not_tried_again_and_its_text_arrives(own_ray: None, llama: Path, tmp_path: Path) -> None:
    stage = sft_stage(tmp_path, llama, sft_settings(batch_size=6))
    with pytest.raises(
        TrainingError, match=r"^preft\.batch_size is 6, which 2 ranks with preft\.micro_batch_size=2 .*set preft\.batch_size=8"
    ):
        launched(stage, ranks=2)
    assert not stage.output.markers()


@pytest.mark.ray
@pytest.mark.slow
def test_two_ranks_share_an_optimizer_by_zero_2(own_ray: None, llama: Path, tmp_path: Path) -> None:
    settings = sft_settings(packing=False, lora=STILL)
    alone = sft_stage(tmp_path / "alone", llama, settings)
    train(alone)
    shared = sft_stage(tmp_path / "shared", llama, settings, TRAIN.model_copy(update={"zero_stage": 2, "keep_checkpoints": 100}))
    launched(shared, ranks=2)
    assert losses(shared.output) == nearly(losses(alone.output))
    checkpoints = shared.output.address.folder / shared.output.key / "_checkpoints"
    shards = [path.name for path in (checkpoints / "step-00000002").rglob("*zero_pp_rank_*optim_states.pt")]
    assert len({name.partition("zero_pp_rank_")[2][0] for name in shards}) == 2  # each rank its own

    # Killed after step 2, it goes on from there to the same bytes.
    killed = sft_stage(tmp_path / "killed", llama, settings, shared.train)
    target = killed.output.address.folder / killed.output.key / "_checkpoints"
    for path in checkpoints.iterdir():
        if int(path.name.removeprefix("step-")) <= 2:
            shutil.copytree(path, target / path.name)
    was = list_times(killed.output)
    assert list(was) == ["step-00000002"]
    launched(killed, ranks=2)
    assert list_times(killed.output)["step-00000002"] == was["step-00000002"]
    assert bytes_of(killed.output) == bytes_of(shared.output)


@pytest.mark.ray
@pytest.mark.slow
def test_two_ranks_share_a_model_by_zero_3(own_ray: None, llama: Path, tmp_path: Path) -> None:
    """Packed, so that the model in its parts is asked before the first step whether it keeps conversations apart."""
    settings = sft_settings(packing=True, micro_batch_size=1, max_steps=3, lora=STILL)
    alone = sft_stage(tmp_path / "alone", llama, settings)
    train(alone)
    shared = sft_stage(tmp_path / "shared", llama, settings, TRAIN.model_copy(update={"zero_stage": 3}))
    launched(shared, ranks=2)
    assert losses(shared.output) == nearly(losses(alone.output))
    assert bytes_of(shared.output).keys() == bytes_of(alone.output).keys()


def lost_at(steps: list[int], max_retries: int) -> tuple[list[str], bool]:
    """What is said of a training that is at each of these steps when its ranks are lost too often, and whether it came to its end."""
    to_come, said, whole = iter(steps), list[str](), list[Checkpoint]()

    def fit() -> bool:
        step = next(to_come, None)
        if step is None:
            return True
        if step:
            whole[:] = [Checkpoint(step, 1, "00000000" if step in {one.step for one in whole} else f"{len(said):08}")]
        raise LostRanksError(f"lost at {step}")

    try:
        return said, while_it_gets_on(fit, lambda: whole, max_retries, said.append)
    except LostRanksError:
        return said, False


def test_losses_are_counted_anew_when_a_checkpoint_came_meanwhile() -> None:
    """A training of weeks on spot nodes loses more of them than `max_retries`."""
    said, is_done = lost_at([20, 40, 400], max_retries=3)
    assert is_done
    assert said[1] == "ranks were lost too often in a row, but step 40 was reached meanwhile: starting again"
    assert lost_at([400, 60], max_retries=3)[1], "step 400 was given up for an earlier one"
    assert lost_at([20, 20, 400], max_retries=3) == (said[:1], False)
    assert lost_at([0], max_retries=3) == ([], False)
    assert lost_at([20, 40], max_retries=0) == ([], False)


def test_a_tracker_that_is_not_installed_is_said_before_a_model_is_loaded(
    llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bioie_ray.training.launch.find_spec", lambda name: None if name == "mlflow" else object())
    stage = sft_stage(tmp_path, llama, train=TRAIN.model_copy(update={"report_to": ("wandb", "mlflow")}))
    with pytest.raises(TrainingError, match=r"report_to has mlflow, and there is no package mlflow here: pip install 'bioie-ray\[track\]'"):
        launched(stage, executor="inline")


def test_ranks_that_could_not_share_a_batch_are_refused_before_any_is_lost(llama: Path, tmp_path: Path) -> None:
    stage = sft_stage(tmp_path, llama, sft_settings(batch_size=4, micro_batch_size=1))
    with pytest.raises(TrainingError, match=r"preft.batch_size is 4, which 3 ranks .* cannot share"):
        launch(stage, ClusterSettings(ranks=4, min_ranks=2), lambda _: None)
    sharded = sft_stage(tmp_path / "zero", llama, train=TRAIN.model_copy(update={"zero_stage": 2}))
    with pytest.raises(TrainingError, match=r"cluster\.min_ranks=1 .* fit no other number"):
        launch(sharded, ClusterSettings(ranks=2, min_ranks=1), lambda _: None)


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.usefixtures("own_ray")
def test_a_rank_that_fails_alone_ends_the_others_and_is_heard(llama: Path, tmp_path: Path) -> None:
    """A record that breaks the loss is in the batch of one rank: the other would wait for it until a time-out of half an hour."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model, tokenizer = AutoModelForCausalLM.from_pretrained(llama), AutoTokenizer.from_pretrained(llama)
    (seven,) = tokenizer("7", add_special_tokens=False)["input_ids"]
    with torch.no_grad():
        model.get_input_embeddings().weight[seven] = float("nan")
    model.save_pretrained(tmp_path / "broken")
    tokenizer.save_pretrained(tmp_path / "broken")
    stage = sft_stage(tmp_path, tmp_path / "broken", sft_settings(packing=False, micro_batch_size=1))
    began = time.monotonic()
    with pytest.raises(TrainingError, match=r"the loss is nan at step \d+ of \d+, in the batch of d1?7;"):
        launched(stage, ranks=2)
    assert time.monotonic() - began < 600
