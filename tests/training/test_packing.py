"""Packing fills sequences well, and conversations that share one do not see each other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from stages import conversations, sft_settings
from tiny_models import save_gemma3, save_llama
from transformers import AutoModelForCausalLM

from bioie_ray.config.training import TrainSettings
from bioie_ray.training import packed_attention
from bioie_ray.training.batches import SftCollator
from bioie_ray.training.loading import load_base
from bioie_ray.training.packing import pack
from bioie_ray.training.rows import sft_rows
from bioie_ray.training.tokens import IGNORED, load_chat_tokenizer


@st.composite
def items(draw: st.DrawFn) -> tuple[list[int], int]:
    capacity = draw(st.integers(1, 120))
    return draw(st.lists(st.integers(1, capacity), max_size=60)), capacity


def first_fit(lengths: list[int], capacity: int) -> int:
    """Sequences that first fit in the given order needs."""
    loads: list[int] = []
    for length in lengths:
        place = next((i for i, load in enumerate(loads) if load + length <= capacity), None)
        if place is None:
            loads.append(length)
        else:
            loads[place] += length
    return len(loads)


def fewest(lengths: list[int], capacity: int) -> int:
    """By trying everything."""
    best = len(lengths)

    def place(number: int, loads: tuple[int, ...]) -> None:
        nonlocal best
        if len(loads) >= best:
            return
        if number == len(lengths):
            best = len(loads)
            return
        for i in {load: i for i, load in enumerate(loads) if load + lengths[number] <= capacity}.values():
            place(number + 1, (*loads[:i], loads[i] + lengths[number], *loads[i + 1 :]))
        place(number + 1, (*loads, lengths[number]))

    place(0, ())
    return best


@given(items())
def test_every_item_is_in_one_sequence_and_none_overflows(given_items: tuple[list[int], int]) -> None:
    lengths, capacity = given_items
    sequences = pack(lengths, capacity)
    assert sorted(item for sequence in sequences for item in sequence) == list(range(len(lengths)))
    assert all(0 < sum(lengths[item] for item in sequence) <= capacity for sequence in sequences)
    assert all(sequence == sorted(sequence) for sequence in sequences)
    assert sequences == pack(tuple(lengths), capacity)


@given(items())
def test_no_two_sequences_would_fit_in_one(given_items: tuple[list[int], int]) -> None:
    lengths, capacity = given_items
    loads = sorted(sum(lengths[item] for item in sequence) for sequence in pack(lengths, capacity))
    assert len(loads) < 2 or loads[0] + loads[1] > capacity


@given(st.integers(1, 30).flatmap(lambda capacity: st.tuples(st.lists(st.integers(1, capacity), max_size=8), st.just(capacity))))
def test_it_takes_at_most_eleven_ninths_of_the_fewest_sequences(given_items: tuple[list[int], int]) -> None:
    lengths, capacity = given_items
    assert len(pack(lengths, capacity)) <= (11 * fewest(lengths, capacity) + 6) / 9


def test_it_takes_fewer_sequences_than_first_fit_in_the_order_of_the_data() -> None:
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        lengths = torch.randint(1, 800, (400,), generator=generator).tolist()
        num = len(pack(lengths, 1_000))
        assert num <= first_fit(lengths, 1_000)
        assert num <= first_fit(sorted(lengths, reverse=True), 1_000) + 1
    assert len(pack([6, 4, 6, 4, 5, 5], 10)) == 3
    assert first_fit([4, 4, 6, 6], 10) == 3 > len(pack([4, 4, 6, 6], 10))


@pytest.mark.parametrize(("lengths", "wrong"), [([3, 11], 11), ([3, 0], 0)])
def test_an_item_that_fits_nowhere_is_an_error(lengths: list[int], wrong: int) -> None:
    with pytest.raises(ValueError, match=f"an item has {wrong} tokens, but a sequence holds 1 to 10"):
        pack(lengths, 10)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Gemma's window is shorter than every conversation, so that both of its attentions count."""
    work = tmp_path_factory.mktemp("packing")
    return {"llama": save_llama(work / "llama"), "gemma": save_gemma3(work / "gemma", window=6)}


def rows_of(model: Path, **settings: Any) -> list[dict[str, Any]]:
    table, _ = sft_rows(conversations(7), load_chat_tokenizer(str(model)), sft_settings(**settings))
    return [{**row, "row": number} for number, row in enumerate(table.to_pylist())]


def answer_logps(model: Any, batch: dict[str, torch.Tensor]) -> list[list[float]]:
    """Log-probabilities of the labelled tokens of each row of a batch."""
    inputs = {name: value for name, value in batch.items() if name not in {"rows", "labels"}}
    with torch.inference_mode():
        logps = model(**inputs, use_cache=False).logits[:, :-1].log_softmax(-1)
    labels = batch["labels"][:, 1:]
    return [row.gather(-1, label.clamp(min=0)[:, None])[label != IGNORED, 0].tolist() for row, label in zip(logps, labels, strict=True)]


def alone_and_packed(models: dict[str, Path], name: str, attention: str) -> tuple[Any, dict[str, torch.Tensor], dict[str, list[float]]]:
    """Model, packed batch, and what each conversation says when it is alone."""
    folder = models[name]
    model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation=attention).eval()
    alone = {
        row["id"][0]: answer_logps(model, SftCollator(0, packed=False)([row]))[0] for row in rows_of(folder, packing=False, max_length=512)
    }
    packed = rows_of(folder, packing=True, max_length=160 if name == "gemma" else 64)  # Gemma has the longer template
    assert len(packed) > 1 < max(len(row["id"]) for row in packed)  # several rows, of several conversations
    batch = SftCollator(0, packed=True)(packed)
    assert batch["input_ids"].shape[0] == 1
    expected = {id_: alone[id_] for row in packed for id_ in row["id"]}
    assert len(expected) == 7
    return model, batch, expected


@pytest.mark.parametrize("attention", ["sdpa", "eager", packed_attention.NAME])
@pytest.mark.parametrize("name", ["llama", "gemma"])
def test_packed_conversations_say_what_they_say_alone(models: dict[str, Path], name: str, attention: str) -> None:
    model, batch, alone = alone_and_packed(models, name, attention)
    expected = [number for numbers in alone.values() for number in numbers]
    assert answer_logps(model, batch)[0] == pytest.approx(expected, abs=2e-4)
    # and so would any loss over them; to be sure that the comparison can fail:
    one_text = answer_logps(model, {name: batch[name] for name in ("input_ids", "labels")})[0]
    assert max(abs(a - b) for a, b in zip(one_text, expected, strict=True)) > 0.1


@pytest.mark.parametrize("name", ["llama", "gemma"])
@pytest.mark.parametrize("attention", ["sdpa", packed_attention.NAME])
def test_packed_and_padded_batches_have_the_same_loss_and_gradients(models: dict[str, Path], name: str, attention: str) -> None:
    folder = models[name]
    rows = rows_of(folder, packing=False, max_length=512)
    losses, gradients = [], []
    for packed in (False, True):
        model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation=attention)
        batch = SftCollator(0, packed=packed)(rows)
        del batch["rows"]
        loss = model(**batch, use_cache=False).loss
        loss.backward()
        losses.append(loss.item())
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert torch.allclose(gradients[0], gradients[1], atol=1e-4 * gradients[0].abs().max().item())


@pytest.mark.parametrize("packing", [True, False])
def test_each_packed_conversation_is_multiplied_with_itself_alone(
    models: dict[str, Path], monkeypatch: pytest.MonkeyPatch, packing: bool
) -> None:
    model = load_base(models["gemma"], sft_settings(packing=packing), TrainSettings())
    batch, *_ = (SftCollator(0, packed=packing)([row]) for row in rows_of(models["gemma"], packing=packing, max_length=512))
    asked: list[tuple[int, ...]] = []

    def spy(query: torch.Tensor, key: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        asked.append((query.shape[2], key.shape[2]))
        return attend(query, key, *args, **kwargs)

    attend = torch.nn.functional.scaled_dot_product_attention
    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", spy)
    answer_logps(model, batch)
    lengths = batch["cu_seq_lens_q"].diff().tolist() if packing else [batch["input_ids"].shape[1]]
    assert len(lengths) == (7 if packing else 1)
    assert asked == [(n, n) for n in lengths] * model.config.num_hidden_layers


@pytest.mark.parametrize("name", ["llama", "gemma"])
def test_no_layer_reads_a_tensors_numbers(models: dict[str, Path], name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a GPU each such reading waits until all that was asked of it before is done."""
    model = load_base(models[name], sft_settings(), TrainSettings())
    batch = SftCollator(0, packed=True)(rows_of(models[name], max_length=512))

    def waits(self: torch.Tensor, *args: Any) -> Any:
        raise AssertionError("a tensor's numbers were read")

    inputs = {name: value for name, value in batch.items() if name not in {"rows", "labels"}}
    with monkeypatch.context() as patch, torch.inference_mode():
        patch.setattr(torch.Tensor, "tolist", waits)
        patch.setattr(torch.Tensor, "item", waits)
        model(**inputs, use_cache=False)


def test_the_first_token_of_a_packed_conversation_is_not_foretold_by_the_one_before() -> None:
    rows = [{"row": 4, "input_ids": [5, 6, 7, 8, 9], "labels": [5, 6, 7, 8, 9], "seq_lengths": [3, 2]}]
    batch = SftCollator(0, packed=True)([*rows, {"row": 7, "input_ids": [3, 4], "labels": [3, 4], "seq_lengths": [2]}])
    assert batch["labels"].tolist() == [[IGNORED, 6, 7, IGNORED, 9, IGNORED, 4]]
    assert batch["position_ids"].tolist() == [[0, 1, 2, 0, 1, 0, 1]]
    assert batch["seq_idx"].tolist() == [[0, 0, 0, 1, 1, 2, 2]]
    assert batch["cu_seq_lens_q"].tolist() == batch["cu_seq_lens_k"].tolist() == [0, 3, 5, 7]
    assert batch["max_length_q"] == batch["max_length_k"] == 3
    assert batch["conversation_lengths"] == (3, 2, 2)
    assert batch["rows"].tolist() == [4, 7]
    assert "attention_mask" not in batch


def test_padded_conversations_are_masked_where_nothing_is() -> None:
    rows = [
        {"row": 0, "input_ids": [5, 6, 7], "labels": [IGNORED, 6, 7], "seq_lengths": [3]},
        {"row": 1, "input_ids": [8], "labels": [8], "seq_lengths": [1]},
    ]
    batch = SftCollator(9, packed=False)(rows)
    assert batch["input_ids"].tolist() == [[5, 6, 7], [8, 9, 9]]
    assert batch["labels"].tolist() == [[IGNORED, 6, 7], [8, IGNORED, IGNORED]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]
