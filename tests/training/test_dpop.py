"""DPO-Positive: the formula, and that what TRL hands to it means what it is taken for."""

from __future__ import annotations

import math
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch
from datasets import Dataset
from hypothesis import given
from hypothesis import strategies as st
from peft import LoraConfig
from stages import MODULES, dpop_settings, pairs
from tiny_models import save_gemma3, save_llama
from transformers import AutoModelForCausalLM
from trl import DPOConfig, DPOTrainer

from bioie_ray.config.training import TrainSettings
from bioie_ray.training.answer_head import answers_only
from bioie_ray.training.batches import PairCollator
from bioie_ray.training.dpop import METRICS, DpopTrainer, dpop_loss
from bioie_ray.training.loading import without_dropout
from bioie_ray.training.reference import load_reference, score_pairs
from bioie_ray.training.rows import pair_rows
from bioie_ray.training.tokens import load_chat_tokenizer

BETA, PENALTY = 0.4, 2.0
TRAIN = TrainSettings(threads=1)
ratios = st.floats(-20, 20)


def loss_of(c: float, r: float, **options: float) -> float:
    settings: Any = {"beta": BETA, "penalty": PENALTY, **options}
    return dpop_loss(torch.tensor([c], dtype=torch.float64), torch.tensor([r], dtype=torch.float64), **settings).item()


@pytest.mark.parametrize(
    ("c", "r", "smoothing", "by_hand"),
    [
        (0.0, 0.0, 0.0, 0.6931471805599453),  # z = 0: log 2
        (1.0, -0.5, 0.0, 0.4374879504858856),  # chosen rose, no penalty: z = 0.4 (1 + 0.5) = 0.6; log(1 + e^-0.6) = log 1.5488116
        (-1.0, -3.0, 0.0, 0.6931471805599453),  # chosen fell by 1: z = 0.4 (-1 + 3 - 2 * 1) = 0, while DPO's is 0.8
        (-2.0, -1.0, 0.0, 2.1269280110429727),  # z = 0.4 (-2 + 1 - 2 * 2) = -2; log(1 + e^2) = log 8.3890561
        (1.0, -0.5, 0.1, 0.4974879504858856),  # s = 0.1: 0.9 * 0.4374880 + 0.1 * (0.4374880 + 0.6)
        (-2.0, -1.0, 0.25, 1.6269280110429727),  # s = 0.25: 0.75 * 2.1269280 + 0.25 * (2.1269280 - 2)
    ],
)
def test_the_loss_is_what_the_paper_says(c: float, r: float, smoothing: float, by_hand: float) -> None:
    assert loss_of(c, r, label_smoothing=smoothing) == pytest.approx(by_hand, abs=1e-12)


@given(c=ratios, r=ratios, smoothing=st.floats(0, 0.49), penalty=st.floats(0, 10), beta=st.floats(0.01, 2))
def test_the_loss_is_the_formula(c: float, r: float, smoothing: float, penalty: float, beta: float) -> None:
    z = beta * (c - r - penalty * max(0.0, -c))

    def softplus(x: float) -> float:  # -log sigmoid(-x), without overflow
        return max(x, 0.0) + math.log1p(math.exp(-abs(x)))

    expected = (1 - smoothing) * softplus(-z) + smoothing * softplus(z)
    assert loss_of(c, r, label_smoothing=smoothing, penalty=penalty, beta=beta) == pytest.approx(expected, rel=1e-9, abs=1e-12)


@given(c=ratios, r=ratios, penalty=st.floats(0.01, 10))
def test_the_penalty_is_for_a_chosen_answer_that_fell_and_for_no_other(c: float, r: float, penalty: float) -> None:
    with_penalty, without = loss_of(c, r, penalty=penalty), loss_of(c, r, penalty=0.0)
    if c >= 0:
        assert with_penalty == without
    elif c < -1e-3 and without > 1e-6:
        assert with_penalty > without


@given(c=st.floats(-5, 5), r=st.floats(-5, 5), step=st.floats(0.01, 5))
def test_the_loss_falls_when_chosen_rises_and_rises_when_rejected_does(c: float, r: float, step: float) -> None:
    assert loss_of(c + step, r) < loss_of(c, r)
    assert loss_of(c, r + step) > loss_of(c, r)


def test_a_chosen_answer_that_falls_with_a_rejected_one_is_a_loss_for_dpop_and_none_for_dpo() -> None:
    """Nearly the same text, both fall, rejected more: DPO is content, and this is why the paper adds its penalty."""
    assert loss_of(-2.0, -3.0, penalty=0.0) < math.log(2) < loss_of(-2.0, -3.0, penalty=2.0)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_gradients_are_those_of_finite_differences(smoothing: float) -> None:
    chosen = torch.tensor([1.5, 0.3, -0.4, -2.0], dtype=torch.float64, requires_grad=True)  # both sides of the kink, not on it
    rejected = torch.tensor([-0.5, 2.0, -3.0, 0.7], dtype=torch.float64, requires_grad=True)

    def loss(c: torch.Tensor, r: torch.Tensor) -> torch.Tensor:
        return dpop_loss(c, r, beta=BETA, penalty=PENALTY, label_smoothing=smoothing)

    assert torch.autograd.gradcheck(loss, (chosen, rejected))
    # Where chosen fell, its pull is 1 + penalty times that of rejected, and the other way round.
    loss(chosen, rejected).sum().backward()
    assert chosen.grad is not None
    assert rejected.grad is not None
    assert (chosen.grad / rejected.grad).tolist() == pytest.approx([-1, -1, -1 - PENALTY, -1 - PENALTY])


def test_trl_is_the_one_whose_inputs_were_read() -> None:
    assert version("trl").startswith("1.16."), "read DPOTrainer._compute_loss again, and the tests below, then name the new version here"


@pytest.fixture(scope="module", params=["llama", "gemma"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dpop")
    return save_llama(folder / "llama") if request.param == "llama" else save_gemma3(folder / "gemma", window=6)


@pytest.fixture
def table(model: Path) -> pa.Table:
    """Five pairs: answers and prompts of several lengths, so that both are padded."""
    records = pairs(5)
    records[1]["chosen"] = '["a much longer answer", "b"]'
    records[3]["messages"] = '[{"role": "user", "content": "A longer question than the others"}]'
    table, counts = pair_rows(records, load_chat_tokenizer(str(model)), dpop_settings())
    assert counts["pairs"] == 5
    return table


def naive_logps(model: Any, table: pa.Table, side: str) -> list[float]:
    """Of whole answers, by full logits over prompt and answer, one text at a time."""
    sums = []
    for pair in table.to_pylist():
        ids = torch.tensor([pair["prompt_ids"] + pair[f"{side}_ids"]])
        with torch.no_grad():
            logps = model(input_ids=ids).logits[0].log_softmax(-1)
        first = len(pair["prompt_ids"])
        sums.append(sum(float(logps[place - 1, ids[0, place]]) for place in range(first, ids.shape[1])))
    return sums


def rows_with(table: pa.Table, chosen: list[float], rejected: list[float]) -> list[dict[str, Any]]:
    return [
        {**pair, "row": number, "ref_chosen_logps": chosen[number], "ref_rejected_logps": rejected[number]}
        for number, pair in enumerate(table.to_pylist())
    ]


def make(cls: type[DPOTrainer], model: Path, folder: Path, *, smoothing: float = 0.0, **options: Any) -> Any:
    """TRL's trainer or ours over the same model, with the same new adapter."""
    torch.manual_seed(0)
    tokenizer = load_chat_tokenizer(str(model)).tokenizer
    tokenizer.pad_token = tokenizer.eos_token
    return cls(
        model=AutoModelForCausalLM.from_pretrained(model),
        args=DPOConfig(
            output_dir=str(folder),
            beta=BETA,
            label_smoothing=smoothing,
            use_cpu=True,
            bf16=False,
            report_to=[],
            disable_dropout=False,
            gradient_checkpointing=False,
        ),
        train_dataset=options.pop("train_dataset", Dataset.from_list([{"prompt": "a", "chosen": "b", "rejected": "c"}])),
        processing_class=tokenizer,
        peft_config=LoraConfig(r=4, lora_alpha=8, target_modules=list(MODULES), task_type="CAUSAL_LM"),
        **options,
    )


def ours(model: Path, folder: Path, table: pa.Table, *, penalty: float = PENALTY, smoothing: float = 0.0) -> Any:
    return make(
        DpopTrainer, model, folder, smoothing=smoothing, penalty=penalty, train_dataset=Dataset(table), data_collator=PairCollator(1)
    )


def shake(trainer: Any) -> None:
    """An adapter that does something, as after some steps; the same for each trainer."""
    generator = torch.Generator().manual_seed(3)
    for name, parameter in sorted(trainer.model.named_parameters()):
        if parameter.requires_grad:
            parameter.data = torch.randn(parameter.shape, generator=generator) * (0.1 if "lora_B" in name else 0.3)


def batch_of(rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    batch = PairCollator(1)(rows)
    del batch["rows"]
    return batch


def test_chosen_answers_come_before_rejected_ones_in_a_batch(table: pa.Table) -> None:
    batch = batch_of(rows_with(table, [0.0] * 5, [1.0] * 5))
    for number, pair in enumerate(table.to_pylist()):
        for place, side in ((number, "chosen_ids"), (number + 5, "rejected_ids")):
            kept = batch["attention_mask"][place].bool()
            assert batch["input_ids"][place][kept].tolist() == pair["prompt_ids"] + pair[side]
            assert batch["input_ids"][place][batch["completion_mask"][place].bool()].tolist() == pair[side]
    assert batch["ref_chosen_logps"].tolist() == [0.0] * 5
    assert batch["ref_rejected_logps"].tolist() == [1.0] * 5


def test_the_references_numbers_are_those_of_full_logits_and_of_trl(model: Path, table: pa.Table, tmp_path: Path) -> None:
    numbers = score_pairs(load_reference(model, dpop_settings(), TRAIN), table, 1, TRAIN)
    assert numbers["id"].to_pylist() == table["id"].to_pylist()
    chosen, rejected = (numbers[f"ref_{side}_logps"].to_pylist() for side in ("chosen", "rejected"))
    plain = AutoModelForCausalLM.from_pretrained(model).eval()
    assert chosen == pytest.approx(naive_logps(plain, table, "chosen"), abs=1e-3)
    assert rejected == pytest.approx(naive_logps(plain, table, "rejected"), abs=1e-3)
    assert min(abs(a - b) for a, b in zip(chosen, rejected, strict=True)) > 1.0  # or a mix-up would go unseen
    trainer = make(DPOTrainer, model, tmp_path)
    shake(trainer)  # the reference is the model with its adapter off
    by_trl = trainer.compute_ref_log_probs(trainer.model, batch_of(rows_with(table, chosen, rejected)))
    assert by_trl[0].tolist() == pytest.approx(chosen, abs=1e-3)
    assert by_trl[1].tolist() == pytest.approx(rejected, abs=1e-3)


@pytest.mark.parametrize("compact", [True, False])
def test_what_is_logged_are_the_log_probabilities_of_full_logits(model: Path, table: pa.Table, tmp_path: Path, compact: bool) -> None:
    trainer = ours(model, tmp_path, table)
    shake(trainer)
    trainer.model.train()
    chosen, rejected = naive_logps(trainer.model, table, "chosen"), naive_logps(trainer.model, table, "rejected")
    reference = AutoModelForCausalLM.from_pretrained(model).eval()
    ref_chosen, ref_rejected = naive_logps(reference, table, "chosen"), naive_logps(reference, table, "rejected")
    batch = batch_of(rows_with(table, ref_chosen, ref_rejected))
    if compact:
        with answers_only():
            loss = trainer._compute_loss(trainer.model, batch, False)
    else:
        loss = trainer._compute_loss(trainer.model, batch, False)
    c = [a - b for a, b in zip(chosen, ref_chosen, strict=True)]
    r = [a - b for a, b in zip(rejected, ref_rejected, strict=True)]
    assert min(c) < -0.1  # a chosen answer fell, so the penalty counts
    assert loss.item() == pytest.approx(sum(loss_of(*each) for each in zip(c, r, strict=True)) / 5, rel=1e-4)
    logged = {name: values[-1] for name, values in trainer._metrics["train"].items()}
    expected = {
        "logps/chosen": sum(chosen) / 5,
        "logps/rejected": sum(rejected) / 5,
        "rewards/chosen": BETA * sum(c) / 5,
        "rewards/rejected": BETA * sum(r) / 5,
        "rewards/margins": BETA * (sum(c) - sum(r)) / 5,
        "rewards/accuracies": sum(a > b for a, b in zip(c, r, strict=True)) / 5,
        "logratios/chosen": sum(c) / 5,
        "penalty": PENALTY * sum(max(0.0, -a) for a in c) / 5,
    }
    assert {name: logged[name] for name in expected} == pytest.approx(expected, abs=2e-3)
    assert logged["num_tokens"] == sum(2 * len(p["prompt_ids"]) + len(p["chosen_ids"]) + len(p["rejected_ids"]) for p in table.to_pylist())


def test_without_penalty_loss_gradients_and_metrics_are_trls(model: Path, table: pa.Table, tmp_path: Path) -> None:
    numbers = score_pairs(load_reference(model, dpop_settings(), TRAIN), table, 1, TRAIN)
    batch = batch_of(rows_with(table, numbers["ref_chosen_logps"].to_pylist(), numbers["ref_rejected_logps"].to_pylist()))
    losses, gradients, logged = [], [], []
    for trainer in (ours(model, tmp_path / "ours", table, penalty=0.0), make(DPOTrainer, model, tmp_path / "trl")):
        shake(trainer)
        trainer.model.train()
        loss = trainer._compute_loss(trainer.model, dict(batch), False)
        loss.backward()
        losses.append(loss.item())
        gradients.append(torch.cat([p.grad.flatten() for _, p in sorted(trainer.model.named_parameters()) if p.requires_grad]))
        logged.append({name: trainer._metrics["train"][name][-1] for name in METRICS})
    assert abs(losses[0] - math.log(2)) > 0.01
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert torch.allclose(gradients[0], gradients[1], rtol=1e-3, atol=1e-5 * gradients[1].abs().max().item())
    assert logged[0] == pytest.approx(logged[1], rel=1e-4, abs=1e-4)


def test_label_smoothing_mixes_trls_loss_with_that_of_turned_pairs(model: Path, table: pa.Table, tmp_path: Path) -> None:
    """Conservative DPO: with probability s the pair is the wrong way round."""
    numbers = score_pairs(load_reference(model, dpop_settings(), TRAIN), table, 1, TRAIN)
    rows = rows_with(table, numbers["ref_chosen_logps"].to_pylist(), numbers["ref_rejected_logps"].to_pylist())
    turned = [
        {
            **row,
            **{a: row[b] for a, b in (("chosen_ids", "rejected_ids"), ("rejected_ids", "chosen_ids"))},
            "ref_chosen_logps": row["ref_rejected_logps"],
            "ref_rejected_logps": row["ref_chosen_logps"],
        }
        for row in rows
    ]
    theirs, smooth = make(DPOTrainer, model, tmp_path / "trl"), ours(model, tmp_path / "ours", table, penalty=0.0, smoothing=0.2)
    for trainer in (theirs, smooth):
        shake(trainer)
    right, wrong = (theirs._compute_loss(theirs.model, batch_of(each), False).item() for each in (rows, turned))
    assert abs(right - wrong) > 0.01
    assert smooth._compute_loss(smooth.model, batch_of(rows), False).item() == pytest.approx(0.8 * right + 0.2 * wrong, rel=1e-4)


def test_at_the_first_step_nothing_has_moved(model: Path, table: pa.Table, tmp_path: Path) -> None:
    numbers = score_pairs(load_reference(model, dpop_settings(), TRAIN), table, 1, TRAIN)
    trainer = ours(model, tmp_path, table)
    trainer.model.train()
    batch = batch_of(rows_with(table, numbers["ref_chosen_logps"].to_pylist(), numbers["ref_rejected_logps"].to_pylist()))
    loss = trainer._compute_loss(trainer.model, batch, False)
    assert loss.item() == pytest.approx(math.log(2), abs=1e-4)
    for name in ("rewards/chosen", "rewards/rejected", "logratios/chosen", "penalty"):
        assert trainer._metrics["train"][name][-1] == pytest.approx(0.0, abs=1e-3)


@pytest.mark.parametrize("kind", ["dropout", "attention_dropout"])
def test_a_base_models_own_dropout_is_off_as_the_references_is(kind: str) -> None:
    class Base(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = torch.nn.Dropout(0.3)
            setattr(self, kind, 0.2)

    model = Base()
    without_dropout(model)
    assert model.inner.p == getattr(model, kind) == 0.0


def test_the_trainer_drops_no_pair_and_no_column(model: Path, table: pa.Table, tmp_path: Path) -> None:
    trainer = ours(model, tmp_path, table)
    assert trainer.train_dataset.num_rows == 5
    assert set(trainer.train_dataset.column_names) == set(table.column_names)
