"""Whatever is drawn under the constraint is a list of ours, or was cut off on its way to one."""

import json
from dataclasses import dataclass

import jsonschema
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from bioie_ray.generation.base import EngineError
from bioie_ray.generation.structure import MAX_CHARACTERS, MAX_ITEMS, make_constraint, schema
from bioie_ray.prompting.answers import find_list, format_list, parse_list
from bioie_ray.retrieval.packaged import packaged_model

KINDS = ["ner", "re"]
# What a real vocabulary has too: brackets, quotes and commas in one token, escapes that a list of ours may not hold, half letters.
MERGES = [
    '["a", "b"]',
    '[["a", "b"], ["c", "d"]]',
    r"\n\nu \u0000 \ud800 \b \" \\",
    '"], ["',
    "'a', 'b'",
    "αβγ δ µg/ml",
    '"]\n\n```',
    "[]",
    "</s>",
]
NUM_TOKENS = 40
NUM_PADDED = 37  # logits that no token has


@pytest.fixture(scope="module")
def tokenizer():
    """Byte-level like SmolLM2's, of a few hundred tokens."""
    built = Tokenizer(models.BPE())
    built.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    built.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=420, special_tokens=["<|end|>", "<|start|>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    built.train_from_iterator(MERGES * 20, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=built, eos_token="<|end|>", bos_token="<|start|>", clean_up_tokenization_spaces=False)


@dataclass
class Drawn:
    text: str
    complete: bool
    num_tokens: int


def draw(constraint, tokenizer, vocab_size, seed, max_new_tokens):
    """As a decode loop does, on random logits. Every fourth sample likes what ends an item, or it would hardly ever."""
    generator = torch.Generator().manual_seed(seed)
    vocabulary = tokenizer.get_vocab()
    ends = torch.tensor([token for text, token in vocabulary.items() if '"' in text])
    closes = torch.tensor([token for text, token in vocabulary.items() if "]" in text])
    state, tokens = constraint.start(), []
    while len(tokens) < max_new_tokens:
        logits = torch.randn(vocab_size, generator=generator) * 2
        logits[ends] += 3 * (seed % 4)
        logits[closes] += seed % 3
        state.mask(logits)
        tokens.append(int(torch.multinomial(torch.softmax(logits, dim=0), 1, generator=generator)))
        if state.accept(tokens[-1]):
            return Drawn(tokenizer.decode(tokens, skip_special_tokens=True), True, len(tokens))
    return Drawn(tokenizer.decode(tokens, skip_special_tokens=True), False, len(tokens))


@pytest.mark.parametrize("kind", KINDS)
def test_random_logits_give_lists_or_are_cut_by_length(tokenizer, kind):
    vocab_size = len(tokenizer) + NUM_PADDED
    constraint = make_constraint(tokenizer, vocab_size, kind)
    drawn = [draw(constraint, tokenizer, vocab_size, seed, max_new_tokens=NUM_TOKENS) for seed in range(200)]
    complete = [sample for sample in drawn if sample.complete]
    cut = [sample for sample in drawn if not sample.complete]
    assert len(complete) > 100
    assert len(cut) > 10
    for sample in complete:
        answers = parse_list(sample.text, kind)
        assert answers is not None, sample.text
        jsonschema.validate(json.loads(sample.text), schema(kind))
    assert any(parse_list(sample.text, kind) for sample in complete)
    assert any("\\" in sample.text for sample in complete)  # the two escapes do occur
    for sample in cut:
        assert sample.num_tokens == NUM_TOKENS
        assert parse_list(sample.text, kind) is None
        assert find_list(sample.text, kind) is None, "it was complete and went on"


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_logits_without_the_constraint_give_no_list(tokenizer, kind):
    generator = torch.Generator().manual_seed(0)
    texts = [tokenizer.decode(torch.randint(len(tokenizer), (30,), generator=generator).tolist()) for _ in range(50)]
    assert all(parse_list(text, kind) is None for text in texts)


ITEM = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Zl", "Zp"], exclude_characters="\ufffd"), min_size=1, max_size=40)


@pytest.mark.parametrize("kind", KINDS)
@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_every_answer_as_examples_show_it_can_be_given(tokenizer, kind, data):
    answers = data.draw(st.lists(ITEM if kind == "ner" else st.tuples(ITEM, ITEM), max_size=6))
    text = data.draw(st.sampled_from(["", " "])) + format_list(answers)
    state = make_constraint(tokenizer, len(tokenizer), kind).start()
    tokens = tokenizer(text, add_special_tokens=False)["input_ids"]
    for place, token in enumerate(tokens):
        logits = torch.zeros(len(tokenizer))
        state.mask(logits)
        assert logits[token] == 0, f"{tokenizer.decode(tokens[: place + 1])!r} is refused"
        assert state.accept(token) == (place == len(tokens) - 1)


def test_nothing_beyond_the_tokenizer_and_no_end_of_text_is_allowed_inside(tokenizer):
    vocab_size = len(tokenizer) + NUM_PADDED
    state = make_constraint(tokenizer, vocab_size, "ner").start()
    for text in ["[", '"', "a", "α"]:
        for token in tokenizer(text, add_special_tokens=False)["input_ids"]:
            logits = torch.ones(vocab_size)
            state.mask(logits)
            assert torch.isneginf(logits[len(tokenizer) :]).all()
            assert torch.isneginf(logits[[tokenizer.eos_token_id, tokenizer.bos_token_id]]).all()
            assert logits[token] == 1
            state.accept(token)


def test_logits_may_be_fewer_than_the_tokens(tokenizer):
    logits = torch.zeros(len(tokenizer) - 5)
    make_constraint(tokenizer, len(logits), "ner").start().mask(logits)
    assert logits[tokenizer.convert_tokens_to_ids("[")] == 0


def test_answers_under_way_do_not_disturb_each_other(tokenizer):
    constraint = make_constraint(tokenizer, len(tokenizer), "ner")
    alone = draw(constraint, tokenizer, len(tokenizer), 3, 100)
    other = constraint.start()
    other.accept(tokenizer.convert_tokens_to_ids("["))
    assert draw(constraint, tokenizer, len(tokenizer), 3, 100) == alone


def complete(tokenizer, constraint, text):
    """Whether the text's last token completes the list; refused tokens end in an AssertionError."""
    state, done = constraint.start(), False
    for token in tokenizer(text, add_special_tokens=False)["input_ids"]:
        assert not done
        done = state.accept(token)
    return done


@pytest.mark.parametrize("kind", KINDS)
def test_bounds_of_a_list_are_those_of_the_schema(tokenizer, kind):
    constraint = make_constraint(tokenizer, len(tokenizer), kind)
    longest = "x" * MAX_CHARACTERS

    def listed(item, number):
        return format_list([item if kind == "ner" else (item, item)] * number)

    assert complete(tokenizer, constraint, listed("a", MAX_ITEMS))
    assert complete(tokenizer, constraint, listed(longest, 2))
    for text in [listed("a", MAX_ITEMS + 1), listed(longest + "x", 1), listed("", 1)]:
        with pytest.raises(AssertionError, match="was not allowed"):
            complete(tokenizer, constraint, text)
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(json.loads(text), schema(kind))


@pytest.mark.parametrize(("kind", "text"), [("ner", '[["a", "b"]]'), ("re", '["a", "b"]'), ("re", '[["a"]]'), ("re", '[["a", "b", "c"]]')])
def test_a_list_of_another_kind_is_neither_allowed_nor_in_the_schema(tokenizer, kind, text):
    with pytest.raises(AssertionError, match="was not allowed"):
        complete(tokenizer, make_constraint(tokenizer, len(tokenizer), kind), text)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(json.loads(text), schema(kind))


def test_a_tokenizer_that_cannot_be_read_is_one_sentence():
    class Slow:
        def __len__(self):
            return 10

    with pytest.raises(EngineError, match=r"cannot read this tokenizer.*set structured=false"):
        make_constraint(Slow(), 10, "ner")


@pytest.mark.slow
@pytest.mark.parametrize("model", ["smollm2-135m-instruct", "gemma3-270m"])
def test_the_packaged_models_tokenizers(model):
    packaged = AutoTokenizer.from_pretrained(packaged_model(model))
    vocab_size = len(packaged) + 64
    constraint = make_constraint(packaged, vocab_size, "re")
    assert complete(packaged, constraint, ' [["5\'-AMP", "α-synuclein \\"x\\""], ["μ-opioid", "日本"]]')
    drawn = [draw(constraint, packaged, vocab_size, seed, max_new_tokens=60) for seed in range(3, 60, 4)]
    finished = [sample.text for sample in drawn if sample.complete]
    assert finished
    assert all(parse_list(text, "re") is not None for text in finished)
