"""What a model has no positions for is neither trained on nor asked: a table of positions would end in an index error."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from stages import dpop_settings, sft_settings
from tiny_models import save_llama, save_model
from transformers import AutoConfig, AutoModelForCausalLM

from bioie_ray.prompting.tokenizer import context_of
from bioie_ray.retrieval.packaged import ModelError
from bioie_ray.training.rows import pair_rows, sft_rows
from bioie_ray.training.scoring import Question, ScoringPlan, score
from bioie_ray.training.tokens import load_chat_tokenizer

POSITIONS = 64


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A learned position for each of 64 tokens, under a name of its own."""
    folder = tmp_path_factory.mktemp("context") / "gpt2"
    return save_model(folder, "gpt2", n_positions=POSITIONS, n_embd=32, n_layer=1, n_head=2)


@pytest.mark.parametrize("packing", [True, False])
def test_conversations_beyond_the_models_positions_are_left_out_and_counted(gpt2: Path, packing: bool) -> None:
    def record(num_chars: int) -> dict[str, str]:
        turns = [{"role": "user", "content": "a" * num_chars}, {"role": "assistant", "content": "[]"}]
        return {"id": str(num_chars), "messages": json.dumps(turns)}

    chat = load_chat_tokenizer(str(gpt2))
    longest = POSITIONS - len(chat.encode(json.loads(record(0)["messages"])).input_ids)
    records = [record(n) for n in (5, longest, longest + 1, 500)]
    table, counts = sft_rows(records, chat, sft_settings(packing=packing, max_length=400))
    assert sorted(id_ for ids in table["id"].to_pylist() for id_ in ids) == sorted(["5", str(longest)])
    assert max(map(len, table["input_ids"].to_pylist())) <= POSITIONS  # nor is a row: some models have a mask of that size
    assert {name: counts[name] for name in ("records", "too_long", "beyond_context")} == {"records": 2, "too_long": 1, "beyond_context": 1}


def test_pairs_beyond_the_models_positions_are_left_out_and_counted(gpt2: Path) -> None:
    prompt = json.dumps([{"role": "user", "content": "a"}])
    answers = {"short": ("b", "c"), "chosen": ("b" * 100, "c"), "rejected": ("b", "c" * 100), "both": ("b" * 500, "c")}
    pairs = [{"id": id_, "messages": prompt, "chosen": chosen, "rejected": rejected} for id_, (chosen, rejected) in answers.items()]
    table, counts = pair_rows(pairs, load_chat_tokenizer(str(gpt2)), dpop_settings(max_length=400))
    assert table["id"].to_pylist() == ["short"]
    assert (counts["too_long"], counts["beyond_context"]) == (1, 2)


def test_a_dev_question_without_room_for_an_answer_counts_as_unanswered(gpt2: Path) -> None:
    model, chat = AutoModelForCausalLM.from_pretrained(gpt2), load_chat_tokenizer(str(gpt2))
    long = Question("long", "a" * 60, "ner", frozenset({("a",)}))
    short = Question("short", "a", "ner", frozenset({("a",)}))
    both, alone = (score(model, chat, ScoringPlan(questions, max_new_tokens=8)) for questions in ((long, short), (short,)))
    assert both.num_malformed == alone.num_malformed + 1


def test_the_context_is_that_of_transformers_whatever_a_model_calls_it(gpt2: Path, tmp_path: Path) -> None:
    """BLOOM's ``seq_length`` is the length it was trained with, and it has no table of positions; what a file leaves out has a default."""
    rwkv = {"model_type": "rwkv", "context_length": 96}
    bloom = {"model_type": "bloom", "seq_length": 96}
    seeing = {"model_type": "gemma3", "n_positions": 5, "text_config": {"model_type": "gemma3_text", "max_position_embeddings": 96}}
    default = {"model_type": "gemma3", "max_position_embeddings": 5, "text_config": {"model_type": "gemma3_text"}}
    for number, (config, expected) in enumerate(((rwkv, 96), (bloom, None), (seeing, 96), (default, 131_072))):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps(config))
        assert context_of(str(folder)) == expected, config
        assert getattr(AutoConfig.from_pretrained(folder).get_text_config(), "max_position_embeddings", None) == expected
    (tmp_path / "0" / "config.json").write_text("[]")
    context_of.cache_clear()
    with pytest.raises(ModelError, match=r"no configuration that can be read: .*config\.json holds no configuration"):
        context_of(str(tmp_path / "0"))


def test_the_context_is_known_without_loading_the_tokenizer(gpt2: Path, tmp_path: Path) -> None:
    llama = save_llama(tmp_path / "llama", positions=96)
    for folder, expected in ((gpt2, POSITIONS), (llama, 96)):
        assert context_of(str(folder)) == load_chat_tokenizer(str(folder)).context == expected
    settings = llama / "tokenizer_config.json"
    settings.write_text(json.dumps({**json.loads(settings.read_text()), "model_max_length": 80}))
    context_of.cache_clear()
    load_chat_tokenizer.cache_clear()
    assert context_of(str(llama)) == load_chat_tokenizer(str(llama)).context == 80
