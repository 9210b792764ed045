"""Our batches against transformers' own generate, one prompt at a time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import save_gemma3
from transformers import AutoModelForCausalLM, AutoTokenizer

from bioie_ray.config.generation import ModelSettings
from bioie_ray.generation.base import Completion, EngineError, Request, Sampling
from bioie_ray.generation.transformers_engine import TransformersEngine
from bioie_ray.retrieval.packaged import ModelError

SHARED = "Name all diseases in the text, as a list of strings and nothing else. "
ENDS = ["a", "of rats with tremor", "in two patients, of whom one had an ulcer", "after lithium", "b", "of one child", "c d e", "[1]"]


def requests(shared: str = SHARED) -> list[Request]:
    return [Request(f"d{i}", f"<bos>{shared}{end}", (), seed=i) for i, end in enumerate(ENDS)]


def answers(engine: TransformersEngine, chunks: list[list[Request]] | None = None, shared: str = SHARED) -> dict[str, Completion]:
    done: dict[str, Completion] = {}
    engine.generate(
        list(enumerate(chunks or engine.plan(requests(shared)))), lambda _, found: done.update({each.id: each for each in found})
    )
    return done


def alone(path: str, request: Request, num: int) -> list[int]:
    tokenizer, model = AutoTokenizer.from_pretrained(path), AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    ids = tokenizer(request.text, add_special_tokens=False, return_tensors="pt").input_ids
    made: Any = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=num, do_sample=False, pad_token_id=1)
    return [int(token) for token in made[0, ids.shape[1] :] if token != 1]


@pytest.fixture(scope="session", params=["llama", "gemma3", "gemma3 with a window shorter than the prompts"])
def model(request: pytest.FixtureRequest, tiny_llm: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    if request.param == "llama":
        return tiny_llm
    return str(save_gemma3(tmp_path_factory.mktemp("models") / "gemma3", window=4_096 if request.param == "gemma3" else 16))


def test_greedy_answers_are_those_of_transformers(model: str) -> None:
    """Padded, with a shared beginning and finished rows taken out: token by token what generate gives for each prompt alone."""
    engine = TransformersEngine(ModelSettings(model=model, batch_size=8), Sampling(0.0, 1.0, 24))
    tokenizer = AutoTokenizer.from_pretrained(model)
    done = answers(engine)
    for request in requests():
        expected = alone(model, request, 24)
        assert done[request.id].text == tokenizer.decode(expected, skip_special_tokens=True)
        assert done[request.id].num_answer_tokens == len(expected)
        assert done[request.id].num_prompt_tokens == len(f"{SHARED}{ENDS[int(request.id[1:])]}") + 1


# Longer than what is read at once, so that a batch is put together of several groups.
LENGTHS = (300, 290, 280, 150, 140, 60, 40, 3)
LONG = [Request(f"l{i}", f"<bos>{SHARED}{(ENDS[i] * 300)[:length]}", (), seed=i) for i, length in enumerate(LENGTHS)]


def test_a_batch_that_is_read_in_groups_says_what_each_prompt_alone_does(model: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(model)
    engine = TransformersEngine(ModelSettings(model=model, batch_size=len(LONG)), Sampling(0.0, 1.0, 8))
    (batch,) = engine.plan(LONG)
    done = answers(engine, [batch])
    for request in LONG:
        assert done[request.id].text == tokenizer.decode(alone(model, request, 8), skip_special_tokens=True)


def test_little_that_is_read_is_padding(tiny_llm: str) -> None:
    engine = TransformersEngine(ModelSettings(model=tiny_llm, batch_size=len(LONG)), Sampling(0.0, 1.0, 1))
    if engine._device != "cpu":
        pytest.skip("a GPU reads a batch at once")
    read: list[int] = []
    hook = engine._model.register_forward_pre_hook(lambda _, __, given: read.append(given["input_ids"].numel()), with_kwargs=True)
    try:
        answers(engine, engine.plan(LONG))
    finally:
        hook.remove()
    num_shared = len(SHARED) + 1
    assert sum(LENGTHS) + num_shared <= sum(read) < 1.2 * sum(LENGTHS) + num_shared  # 1.9 times as much in one group
    assert max(read) <= 512


def test_a_sample_draws_the_same_whatever_it_is_batched_with(tiny_llm: str) -> None:
    engine = TransformersEngine(ModelSettings(model=tiny_llm), Sampling(0.7, 0.9, 24))
    together = answers(engine)
    single = answers(engine, [[request] for request in reversed(requests())])
    assert {id_: each.text for id_, each in together.items()} == {id_: each.text for id_, each in single.items()}
    assert len({each.text for each in together.values()}) == len(ENDS)


def test_another_seed_is_another_answer(tiny_llm: str) -> None:
    engine = TransformersEngine(ModelSettings(model=tiny_llm), Sampling(1.0, 1.0, 24))
    one = Request("x", "<bos>The same", (), seed=1)
    other = Request("y", "<bos>The same", (), seed=2)
    again = Request("z", "<bos>The same", (), seed=1)
    done = answers(engine, [[one, other, again]])
    assert done["x"].text == done["z"].text != done["y"].text


def test_batches_keep_to_their_bounds_and_hold_every_request_once(tiny_llm: str) -> None:
    engine = TransformersEngine(ModelSettings(model=tiny_llm, batch_size=3, batch_tokens=256), Sampling(0.0, 1.0, 4))
    chunks = engine.plan(requests())
    assert sorted(request.id for chunk in chunks for request in chunk) == [f"d{i}" for i in range(len(ENDS))]
    assert all(len(chunk) <= 3 for chunk in chunks)
    assert all(len(chunk) * max(len(str(request.text)) for request in chunk) <= 256 + 100 for chunk in chunks)
    assert engine.plan(requests()[::-1]) == chunks


def test_what_is_longer_than_a_batch_is_a_batch_of_its_own(tiny_llm: str) -> None:
    engine = TransformersEngine(ModelSettings(model=tiny_llm, batch_tokens=256), Sampling(0.0, 1.0, 4))
    long = [Request(str(i), "<bos>" + "x" * 400, (), 0) for i in range(3)]
    assert [len(chunk) for chunk in engine.plan(long)] == [1, 1, 1]


def test_the_length_limit_is_said(tiny_llm: str) -> None:
    done = answers(TransformersEngine(ModelSettings(model=tiny_llm), Sampling(0.0, 1.0, 2)))
    assert {(each.finish, each.num_answer_tokens) for each in done.values()} == {("length", 2)}


def test_structured_answers_are_lists(tiny_llm: str) -> None:
    from bioie_ray.prompting.answers import parse_list

    engine = TransformersEngine(ModelSettings(model=tiny_llm), Sampling(1.0, 1.0, 400, structured="ner"))
    finished = [each for each in answers(engine).values() if each.finish != "length"]
    assert finished
    assert all(parse_list(each.text, "ner") is not None for each in finished)


def test_an_answer_ends_at_the_bracket_that_closes_its_list(tiny_llm: str) -> None:
    """What is sampled freely has no list in it, so the samples are given their tokens one by one, as the model's choice would."""
    engine = TransformersEngine(ModelSettings(model=tiny_llm), Sampling(0.0, 1.0, 99, stop_at="ner"))
    from bioie_ray.generation.transformers_engine import _Sample

    said = 'Sure [1]: ["a]", "b"] and more'
    sample = _Sample(requests()[0], [5])
    for token in engine._tokenizer.encode(said):
        completion = engine._take(sample, token)
        if completion is not None:
            break
    assert completion is not None
    assert (completion.text, completion.finish, completion.num_answer_tokens) == (said[:21], "list", 21)


def test_the_number_of_threads_is_the_settings_whatever_ran_between(tiny_llm: str) -> None:
    engine = TransformersEngine(ModelSettings(model=tiny_llm, threads=2), Sampling(0.0, 1.0, 1))
    torch.set_num_threads(1)
    answers(engine)
    assert torch.get_num_threads() == 2


def test_one_model_is_held_at_a_time(tiny_llm: str, other_llm: str) -> None:
    """Two of a matrix' models need not fit: the one before is gone when the next one is loaded."""
    import gc
    import weakref

    from bioie_ray.generation.engines import load_engine

    first = load_engine(ModelSettings(model=tiny_llm), Sampling(0.0, 1.0, 2))
    assert load_engine(ModelSettings(model=tiny_llm), Sampling(0.0, 1.0, 2)) is first
    assert isinstance(first, TransformersEngine)
    model = weakref.ref(first._model)
    del first
    again = load_engine(ModelSettings(model=tiny_llm), Sampling(0.5, 1.0, 2))  # other sampling: another engine, the same model
    assert isinstance(again, TransformersEngine)
    assert again._model is model()
    del again
    load_engine(ModelSettings(model=other_llm), Sampling(0.0, 1.0, 2))
    gc.collect()
    assert model() is None


def test_an_adapter_changes_answers_and_needs_no_model_in_its_folder(tiny_llm: str, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    folder, loaded = tmp_path / "adapter", AutoModelForCausalLM.from_pretrained(tiny_llm)
    peft.get_peft_model(loaded, peft.LoraConfig(init_lora_weights=False, target_modules=["q_proj", "v_proj"])).save_pretrained(folder)
    with_it = answers(TransformersEngine(ModelSettings(model=tiny_llm, adapter=str(folder)), Sampling(0.0, 1.0, 24)))
    without = answers(TransformersEngine(ModelSettings(model=tiny_llm), Sampling(0.0, 1.0, 24)))
    assert {id_: each.text for id_, each in with_it.items()} != {id_: each.text for id_, each in without.items()}


def test_a_model_that_is_not_there_or_no_language_model(tmp_path: Path, tiny_llm: str) -> None:
    with pytest.raises(ModelError, match="no model at"):
        TransformersEngine(ModelSettings(model=str(tmp_path / "nothing")), Sampling(0.0, 1.0, 2))
    with pytest.raises(EngineError, match="has no prompt text"):
        TransformersEngine(ModelSettings(model=tiny_llm), Sampling(0.0, 1.0, 2)).plan([Request("d1", None, (), 0)])
