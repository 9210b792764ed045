"""Small trainings to their end: what they learn, what they leave, and what they say when it cannot be done."""

from __future__ import annotations

import gc
import hashlib
import json
import math
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
import transformers
from peft import PeftModel
from safetensors.torch import load_file
from stages import TRAIN, conversations, dpop_settings, dpop_stage, finished, losses, metrics, pairs, sft_settings, sft_stage, summary
from tiny_models import save_gemma3, save_llama
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from bioie_ray.artifacts.output import Output
from bioie_ray.config.training import LoraSettings
from bioie_ray.training import rank
from bioie_ray.training.checkpoints import CheckpointStore
from bioie_ray.training.order import stream
from bioie_ray.training.place import Place
from bioie_ray.training.rank import build_trainer, train
from bioie_ray.training.results import finish
from bioie_ray.training.stage import TrainingError, token_rows
from bioie_ray.training.tokens import load_chat_tokenizer

LARGE = LoraSettings(r=16, alpha=32, modules=("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"))
RARELY = TRAIN.model_copy(update={"checkpoint_every_steps": 1_000})


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_llama(tmp_path_factory.mktemp("rank") / "llama")


@pytest.fixture(scope="module")
def gemma(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_gemma3(tmp_path_factory.mktemp("rank") / "gemma", window=8)


@pytest.fixture(scope="module")
def learnt(llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Output:
    """Four conversations, learnt by heart."""
    settings = sft_settings(lora=LARGE, learning_rate=1e-2, schedule="cosine", epochs=150, packing=False)
    stage = sft_stage(tmp_path_factory.mktemp("learnt"), llama, settings, RARELY, num=4)
    train(stage)
    return stage.output


@pytest.fixture(scope="module")
def preferred(llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Output:
    stage = dpop_stage(tmp_path_factory.mktemp("preferred"), llama, dpop_settings(epochs=15, learning_rate=1e-2), RARELY, num=8)
    train(stage)
    return stage.output


def model_of(output: Output) -> Path:
    return output.address.folder / output.key / "model"


def logp(model: Any, prompt: list[int], answer: list[int]) -> float:
    with torch.inference_mode():
        logps = model(input_ids=torch.tensor([prompt + answer])).logits[0, len(prompt) - 1 : -1].log_softmax(-1)
    return float(logps.gather(-1, torch.tensor(answer)[:, None]).sum())


def test_sft_learns_its_answers(learnt: Output) -> None:
    values = losses(learnt)
    assert len(values) == 150
    assert values[0] > 5
    assert max(values[-5:]) < 0.1


def test_the_merged_model_gives_the_answers_it_was_taught_and_stops(learnt: Output) -> None:
    """Loaded as anybody loads a model, with nothing of this project."""
    model = AutoModelForCausalLM.from_pretrained(model_of(learnt))
    tokenizer = AutoTokenizer.from_pretrained(model_of(learnt))
    for record in conversations(4):
        question, answer = json.loads(record["messages"])[:2]
        prompt = tokenizer.apply_chat_template([question], add_generation_prompt=True, return_tensors="pt", return_dict=True)
        given = model.generate(**prompt, max_new_tokens=40)[0, prompt["input_ids"].shape[1] :]
        assert tokenizer.decode(given) == answer["content"] + "<|end|>"


def test_dpop_learns_to_prefer_and_keeps_the_chosen_answers_likely(preferred: Output, llama: Path) -> None:
    entries = metrics(preferred)
    assert entries[0]["loss"] == pytest.approx(0.6931, abs=1e-3)
    assert entries[-1]["loss"] < 0.05
    assert entries[-1]["rewards/accuracies"] == 1.0
    chat = load_chat_tokenizer(str(llama))
    before, after = (AutoModelForCausalLM.from_pretrained(folder).eval() for folder in (llama, model_of(preferred)))
    for pair in pairs(8):
        prompt = json.loads(pair["messages"])
        asked = chat.encode_prompt(prompt)
        chosen, rejected = (chat.encode_answer(prompt, pair[side]) for side in ("chosen", "rejected"))
        c, r = (logp(after, asked, ids) - logp(before, asked, ids) for ids in (chosen, rejected))
        assert c - r > 3  # beta 0.4: a loss of at most 0.3
        assert c > 0


@pytest.mark.parametrize("name", ["learnt", "preferred"])
def test_a_stage_leaves_adapter_model_numbers_and_card(name: str, request: pytest.FixtureRequest, llama: Path) -> None:
    output: Output = request.getfixturevalue(name)
    folder = output.address.folder / output.key
    told = summary(output)
    names = {entry["file"] for entry in told["files"]}
    assert names >= {
        "adapter/adapter_config.json",
        "adapter/adapter_model.safetensors",
        "model/README.md",
        "model/chat_template.jinja",
        "model/config.json",
        "model/generation_config.json",
        "model/model.safetensors",
        "model/tokenizer.json",
    }
    for entry in told["files"]:
        data = (folder / entry["file"]).read_bytes()
        assert (len(data), hashlib.sha256(data).hexdigest()) == (entry["bytes"], entry["sha256"])
    steps, num = {"learnt": (150, 4), "preferred": (30, 8)}[name]
    assert (told["steps"], told["records"], told["sequences"]) == (steps, num, num)
    assert told["merged"]["largest_difference"] <= told["merged"]["tolerance"] == 1e-4
    marker = output.markers()["training"]
    assert marker.counts == {"steps": steps, "records": num, "sequences": num, "quarantined": 0}
    trace = pq.read_table(folder / "training.parquet").to_pylist()
    assert [row["value"] for row in trace if row["metric"] == "loss"] == losses(output)
    assert [row["step"] for row in trace if row["metric"] == "loss"] == list(range(1, steps + 1))
    card = (folder / "model/README.md").read_text()
    assert f"stage `{'preft' if name == 'learnt' else 'dpop'}`" in card
    assert f"{steps} steps over {num} records" in card
    assert f"step {steps}/{steps}, loss" in output.read_note()


def test_the_adapters_settings_have_the_same_bytes_in_every_process(learnt: Output) -> None:
    """PEFT keeps names of modules in a set, whose order is another one in each process."""
    config = json.loads((learnt.address.folder / learnt.key / "adapter/adapter_config.json").read_text())
    assert config["target_modules"] == sorted(LARGE.modules)
    assert list(config) == sorted(config)


def test_generation_stops_at_the_end_of_a_turn_too_and_is_greedy(gemma: Path, tmp_path: Path) -> None:
    """The template ends an answer by another token (id 2) than the one that the model was said to end with (id 1)."""
    template = tmp_path / "template.jinja"
    template.write_text(
        "{% for m in messages %}<|assistant|>{{ m.content }}<|user|>{% endfor %}{{ '<|assistant|>' if add_generation_prompt }}"
    )
    train_settings = TRAIN.model_copy(update={"template": str(template)})
    stage = sft_stage(tmp_path, gemma, sft_settings(max_steps=1, max_length=256), train_settings)
    train(stage)
    config = GenerationConfig.from_pretrained(model_of(stage.output))
    assert config.eos_token_id == [1, 2]
    assert not config.do_sample
    assert AutoTokenizer.from_pretrained(model_of(stage.output)).chat_template == template.read_text()


def test_tokens_are_counted_over_the_whole_stage(llama: Path, tmp_path: Path) -> None:
    stage = sft_stage(tmp_path, llama, sft_settings(packing=False, epochs=2), num=8)
    train(stage)
    lengths = [len(row) for row in stage.tokens.read_shard("train-00000")["input_ids"].to_pylist()]
    assert metrics(stage.output)[-1]["num_tokens"] == 2 * sum(lengths)


@pytest.mark.parametrize("packing", [False, True])
def test_the_card_counts_the_records_that_the_weights_have_seen(llama: Path, tmp_path: Path, packing: bool) -> None:
    """Two steps of two rows each, of a stage with many more."""
    stage = sft_stage(tmp_path, llama, sft_settings(packing=packing, max_steps=2, batch_size=2), num=24)
    table = token_rows(stage.tokens, tmp_path)
    rows = {int(row) for row in stream(table.num_rows, 4, stage.seed)}
    train(stage)
    told, num = summary(stage.output), sum(len(table["id"][row].as_py()) for row in rows)
    assert (told["records"], told["sequences"], told["of"]["records"]) == (num, 4, 24)
    assert f"2 steps over {num} records of 24." in (model_of(stage.output) / "README.md").read_text()
    assert stage.output.markers()["training"].counts["records"] == num


def test_model_and_optimizer_are_gone_when_the_result_is_made(llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Merging loads a model of its own: beside a trained one and its optimizer it would need twice the memory, and more."""
    alive: list[int] = []

    def look(*args: Any) -> None:
        alive.append(sum(isinstance(found, PeftModel | torch.optim.Optimizer) for found in gc.get_objects()))
        finish(*args)

    gc.collect()
    before = sum(isinstance(found, PeftModel | torch.optim.Optimizer) for found in gc.get_objects())
    monkeypatch.setattr(rank, "finish", look)
    train(sft_stage(tmp_path, llama, sft_settings(max_steps=2)))
    assert alive == [before]


def test_another_seed_gives_another_model(llama: Path, tmp_path: Path) -> None:
    outputs = []
    for seed in (0, 1):
        stage = sft_stage(tmp_path / str(seed), llama, sft_settings(max_steps=2), seed=seed)
        train(stage)
        outputs.append(load_file(model_of(stage.output) / "model.safetensors"))
    assert any(not torch.equal(outputs[0][name], outputs[1][name]) for name in outputs[0])


def test_a_batch_that_ranks_cannot_share_is_an_error_with_numbers(llama: Path, tmp_path: Path) -> None:
    stage = sft_stage(tmp_path, llama, sft_settings(batch_size=5))
    with pytest.raises(
        TrainingError, match=r"preft\.batch_size is 5, which 1 ranks with preft\.micro_batch_size=2 .*set preft\.batch_size=6"
    ):
        train(stage)


def test_a_stage_without_data_is_an_error(llama: Path, tmp_path: Path) -> None:
    stage = sft_stage(tmp_path, llama, num=0)
    with pytest.raises(TrainingError, match="holds nothing to train on; see its record"):
        train(stage)


def test_a_loss_that_is_no_number_ends_the_training_and_names_the_batch(llama: Path, tmp_path: Path) -> None:
    stage = sft_stage(
        tmp_path,
        llama,
        sft_settings(packing=False, learning_rate=1e30, schedule="constant"),
        TRAIN.model_copy(update={"checkpoint_every_steps": 1}),
        num=12,
    )
    with pytest.raises(
        TrainingError, match=r"the (loss|gradient's norm) is nan at step \d of 6, in the batch of d\d+, d\d+.*; .*preft\.learning_rate"
    ) as caught:
        train(stage)
    step = int(str(caught.value).partition("at step ")[2][0])
    assert [checkpoint.step for checkpoint in CheckpointStore(stage.output).whole()][-1] == step - 1
    assert not stage.output.markers()
    with pytest.raises(TrainingError, match=f" is nan at step {step} of 6"):  # and the same when it goes on from there
        train(stage)


def test_a_gradient_that_is_no_number_ends_the_training_before_its_step(
    llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A loss can be a number where its gradient overflows; a checkpoint of the weights after such a step would never train again."""
    clip = transformers.Trainer._clip_grad_norm

    def spoilt(self: Any, model: Any) -> Any:
        if self.state.global_step == 2:
            next(p for p in model.parameters() if p.requires_grad).grad.view(-1)[0] = float("inf")
        return clip(self, model)

    monkeypatch.setattr(transformers.Trainer, "_clip_grad_norm", spoilt)
    stage = sft_stage(tmp_path, llama, sft_settings(packing=False), TRAIN.model_copy(update={"checkpoint_every_steps": 1}), num=12)
    with pytest.raises(TrainingError, match=r"the gradient's norm is (inf|nan) at step 3 of 6, in the batch of d\d+, d\d+, d\d+, d\d+; "):
        train(stage)
    assert [checkpoint.step for checkpoint in CheckpointStore(stage.output).whole()][-1] == 2


def test_dpop_of_all_weights_holds_one_model(llama: Path, tmp_path: Path) -> None:
    stage = dpop_stage(tmp_path, llama, dpop_settings(method="full"), RARELY)
    trainer = build_trainer(stage, token_rows(stage.tokens, tmp_path, stage.reference), tmp_path, Place(0, 1), on_gpu=False)
    assert trainer.ref_model is None
    train(stage)
    assert metrics(stage.output)[0]["loss"] == pytest.approx(math.log(2), abs=1e-3)  # the reference's numbers are those of the data


@pytest.mark.parametrize("kind", ["sft", "dpop"])
def test_a_model_with_a_broken_weight_is_an_error_at_the_first_step(tmp_path: Path, kind: str) -> None:
    broken = save_llama(tmp_path / "broken")
    model = AutoModelForCausalLM.from_pretrained(broken)
    model.model.norm.weight.data[3] = float("nan")
    model.save_pretrained(broken)
    stage = sft_stage(tmp_path / "store", broken) if kind == "sft" else dpop_stage(tmp_path / "store", broken)
    with pytest.raises(TrainingError, match=r"the loss is nan at step 1 of \d+, in the batch of (d|p)\d+"):
        train(stage)
    assert CheckpointStore(stage.output).whole() == []


def test_reference_numbers_of_other_pairs_are_not_taken(llama: Path, tmp_path: Path) -> None:
    stage = dpop_stage(tmp_path, llama, num=4)
    assert stage.reference is not None
    table = stage.reference.read_shard("train-00000").slice(1)
    wrong = finished(tmp_path / "other", "reference/m@1", table)
    with pytest.raises(TrainingError, match="holds the numbers of other pairs"):
        train(type(stage)(**{**vars(stage), "reference": wrong}))
