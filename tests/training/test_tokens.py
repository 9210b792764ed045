"""A conversation's loss is on the answers alone, and what stands before an answer is, id by id, what the model sees when it is asked."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_models import TEMPLATE, save_llama
from transformers import AutoTokenizer

from bioie_ray.training.tokens import IGNORED, ChatTokenizer, ConversationError, Encoded, load_chat_tokenizer

PLAIN_END = "<|end|>"
# As Gemma 2's template: no system turn, `model` for the assistant, and a line break after each turn.
GEMMA = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for message in messages %}{% if message['role'] == 'assistant' %}{% set role = 'model' %}{% else %}{% set role = message['role'] %}{% endif %}"
    "{{ '<|user|>' + role + '\n' + message['content'] | trim + '<|end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|user|>model\n' }}{% endif %}"
)
# Drops a system turn without a word.
DEAF = "{% for message in messages if message.role != 'system' %}" + TEMPLATE.partition("%}")[2]
# Writes only the last answer's thoughts, as templates of reasoning models do.
FORGETFUL = (
    "{% for message in messages %}<|{{ message.role }}|>{{ message.content if loop.last or message.role == 'user' else '' }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
ENDLESS = "{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}"
# Only an answer's role is written after it, so an answer does not go on from the prompt.
BACKWARDS = "{% for message in messages %}{{ message.content }}<|{{ message.role }}|>{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"

# No marks of templates in the texts; whatever else people write.
texts = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="<"), max_size=12)
rounds = st.lists(st.tuples(texts, texts), min_size=1, max_size=4)
systems = st.one_of(st.none(), texts)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_llama(tmp_path_factory.mktemp("tokens") / "chat")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Without a template."""
    return save_llama(tmp_path_factory.mktemp("tokens") / "base", chat=False)


@pytest.fixture(scope="module")
def chats(tiny: Path, base: Path) -> dict[str, ChatTokenizer]:
    return {"own": ChatTokenizer(str(tiny), "auto"), "plain": ChatTokenizer(str(tiny), "plain"), "base": ChatTokenizer(str(base), "auto")}


@pytest.fixture
def with_template(tiny: Path, tmp_path: Path) -> Any:
    def make(template: str) -> ChatTokenizer:
        path = tmp_path / "template.jinja"
        path.write_text(template, encoding="utf-8")
        return ChatTokenizer(str(tiny), str(path))

    return make


def turn(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def conversation(asked: list[tuple[str, str]], system: str | None = None) -> list[dict[str, str]]:
    turns = [turn("system", system)] if system is not None else []
    for question, answer in asked:
        turns += [turn("user", question), turn("assistant", answer)]
    return turns


def scored_pieces(encoded: Encoded) -> list[list[int]]:
    """Runs of tokens with a loss."""
    pieces: list[list[int]] = []
    before = IGNORED
    for id_, label in zip(encoded.input_ids, encoded.labels, strict=True):
        if label != IGNORED:
            assert label == id_
            if before == IGNORED:
                pieces.append([])
            pieces[-1].append(label)
        before = label
    return pieces


@pytest.mark.parametrize("name", ["own", "plain", "base"])
@given(asked=rounds, system=systems)
def test_the_loss_is_on_each_answer_and_the_token_that_ends_it(
    chats: dict[str, ChatTokenizer], name: str, asked: list[tuple[str, str]], system: str | None
) -> None:
    chat = chats[name]
    encoded = chat.encode(conversation(asked, system))
    decode = partial(chat.tokenizer.decode, clean_up_tokenization_spaces=False)
    assert [decode(piece) for piece in scored_pieces(encoded)] == [answer + PLAIN_END for _, answer in asked]
    assert encoded.input_ids[-1] == encoded.labels[-1] == chat.end_of_turn  # nothing after the last answer


@pytest.mark.parametrize("name", ["own", "plain", "base"])
@given(asked=rounds, system=systems)
def test_what_stands_before_an_answer_is_the_prompt_that_generation_gives(
    chats: dict[str, ChatTokenizer], name: str, asked: list[tuple[str, str]], system: str | None
) -> None:
    chat = chats[name]
    turns = conversation(asked, system)
    encoded = chat.encode(turns)
    starts = [place for place, label in enumerate(encoded.labels) if label != IGNORED and encoded.labels[place - 1] == IGNORED]
    answers = [place for place, each in enumerate(turns) if each["role"] == "assistant"]
    assert len(starts) == len(answers)
    for start, answer in zip(starts, answers, strict=True):
        prompt = chat.encode_prompt(turns[:answer])
        assert encoded.input_ids[:start] == prompt
        scored = chat.encode_answer(turns[:answer], turns[answer]["content"])
        assert encoded.labels[start : start + len(scored)] == scored


@pytest.mark.parametrize("name", ["own", "plain", "base"])
@given(asked=rounds, system=systems)
def test_the_pieces_say_what_the_template_says(
    chats: dict[str, ChatTokenizer], name: str, asked: list[tuple[str, str]], system: str | None
) -> None:
    chat, turns = chats[name], conversation(asked, system)
    written = chat.tokenizer.apply_chat_template(turns, tokenize=False).rstrip("\n")
    assert chat.tokenizer.decode(chat.encode(turns).input_ids, clean_up_tokenization_spaces=False) == written


def test_a_prompt_and_its_answer_word_for_word(chats: dict[str, ChatTokenizer]) -> None:
    turns = conversation([("which?", '["a"]')], "be brief")
    own = chats["own"]
    assert own.tokenizer.decode(own.encode_prompt(turns[:-1])) == "<|system|>be brief<|end|><|user|>which?<|end|><|assistant|>"
    plain = chats["base"]
    assert plain.tokenizer.decode(plain.encode(turns).input_ids) == ('be brief\n\n### Instruction:\nwhich?\n\n### Response:\n["a"]<|end|>')


def test_a_system_turn_goes_into_the_first_question_where_the_template_refuses_it(with_template: Any) -> None:
    chat = with_template(GEMMA)
    encoded = chat.encode(conversation([("which?", "[]"), ("more?", "[1]")], "be brief"))
    assert chat.tokenizer.decode(encoded.input_ids) == (
        "<bos><|user|>user\nbe brief\n\nwhich?<|end|>\n<|user|>model\n[]<|end|>\n<|user|>user\nmore?<|end|>\n<|user|>model\n[1]<|end|>"
    )
    assert [chat.tokenizer.decode(piece) for piece in scored_pieces(encoded)] == ["[]<|end|>", "[1]<|end|>"]  # no line break among them
    assert encoded.input_ids.count(chat.tokenizer.bos_token_id) == 1


def test_a_system_turn_goes_into_the_first_question_where_the_template_drops_it(with_template: Any) -> None:
    chat = with_template(DEAF)
    assert chat.tokenizer.decode(chat.encode_prompt([turn("system", "be brief"), turn("user", "which?")])) == (
        "<|user|>be brief\n\nwhich?<|end|><|assistant|>"
    )


def test_a_system_turn_that_cannot_be_folded_is_an_error(with_template: Any) -> None:
    with pytest.raises(ConversationError, match="a system turn is not followed by one of the user"):
        with_template(GEMMA).encode([turn("system", "s"), turn("assistant", "[]")])


def test_a_base_model_gets_the_plain_template_and_one_that_has_its_own_keeps_it(chats: dict[str, ChatTokenizer]) -> None:
    assert chats["own"].template == TEMPLATE
    assert "### Instruction:" in chats["base"].template
    assert chats["base"].template == chats["plain"].template
    assert chats["base"].tokenizer.chat_template == chats["base"].template  # so it is saved beside the model


def test_the_plain_template_begins_with_bos_once_where_the_tokenizer_puts_one(base: Path, tmp_path: Path) -> None:
    from tokenizers.processors import TemplateProcessing

    tokenizer = AutoTokenizer.from_pretrained(base)
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 0)])
    folder = tmp_path / "adds-bos"
    save_llama(folder, chat=False)
    tokenizer.save_pretrained(folder)
    assert AutoTokenizer.from_pretrained(folder)("a")["input_ids"][0] == 0  # or the rest says nothing
    for chat, num_bos in ((ChatTokenizer(str(folder), "auto"), 1), (ChatTokenizer(str(base), "auto"), 0)):
        turns = conversation([("which?", "[]"), ("more?", "[]")])
        for ids in (chat.encode(turns).input_ids, chat.encode_prompt(turns[:-1])):
            assert ids.count(0) == num_bos
            assert ids.index(0) == 0 if num_bos else 0 not in ids


@pytest.mark.parametrize("turns", [[], [turn("user", "which?")], [*conversation([("which?", "[]")]), turn("user", "more?")]])
def test_a_conversation_that_does_not_end_with_an_answer_is_an_error(chats: dict[str, ChatTokenizer], turns: list[dict[str, str]]) -> None:
    with pytest.raises(ConversationError, match="does not end with an answer of the assistant"):
        chats["own"].encode(turns)


def test_a_template_that_writes_earlier_turns_otherwise_is_an_error(with_template: Any) -> None:
    chat = with_template(FORGETFUL)
    assert chat.encode(conversation([("which?", "[]")]))  # one turn it can
    with pytest.raises(ConversationError, match=r"earlier turns otherwise.*train\.template=plain"):
        chat.encode(conversation([("which?", "[]"), ("more?", "[]")]))


def test_an_answer_that_does_not_go_on_from_its_prompt_is_an_error(with_template: Any) -> None:
    chat = with_template(BACKWARDS)
    with pytest.raises(ConversationError, match="earlier turns otherwise"):
        chat.encode(conversation([("which?", "[]")]))
    with pytest.raises(ConversationError, match="earlier turns otherwise"):
        chat.encode_answer([turn("user", "which?")], "[]")


def test_a_template_that_ends_answers_by_no_token_is_an_error(with_template: Any) -> None:
    with pytest.raises(ConversationError, match=r"no special token.*train\.template=plain"):
        _ = with_template(ENDLESS).end_of_turn


def test_a_template_that_refuses_says_why(with_template: Any) -> None:
    chat = with_template("{{ raise_exception('roles must alternate') if messages | length > 2 }}" + TEMPLATE)
    with pytest.raises(ConversationError, match="the chat template refuses it: roles must alternate"):
        chat.encode(conversation([("which?", "[]"), ("more?", "[]")]))


def test_a_template_that_is_no_file_is_an_error(tiny: Path) -> None:
    with pytest.raises(ValueError, match=r"train\.template is 'plane', which is neither auto nor plain nor a file"):
        ChatTokenizer(str(tiny), "plane")


TWO_TURNS = conversation(
    [("Lithium caused a goiter in rats.", '["lithium", "goiter"]'), ("Again, shorter.", '["goiter"]')], "List, as JSON."
)


@pytest.mark.slow
def test_smollm2_is_trained_on_its_own_template() -> None:
    chat = load_chat_tokenizer("offline:smollm2-135m-instruct")
    encoded = chat.encode(TWO_TURNS)
    assert [chat.tokenizer.decode(piece) for piece in scored_pieces(encoded)] == [
        '["lithium", "goiter"]<|im_end|>',
        '["goiter"]<|im_end|>',
    ]
    assert chat.tokenizer.decode(encoded.input_ids).startswith("<|im_start|>system\nList, as JSON.<|im_end|>\n<|im_start|>user\nLithium")
    assert chat.tokenizer.decode([chat.end_of_turn]) == "<|im_end|>"
    start = len(chat.encode_prompt(TWO_TURNS[:-1]))
    assert encoded.input_ids[:start] == chat.encode_prompt(TWO_TURNS[:-1])
    whole = chat.tokenizer.apply_chat_template(TWO_TURNS, tokenize=True, return_dict=False)
    assert (
        encoded.input_ids == whole[: len(encoded.input_ids)]
    )  # this template's boundaries are special tokens, so the pieces are the whole


@pytest.mark.slow
def test_gemma_as_a_base_model_is_trained_on_the_plain_template() -> None:
    chat = load_chat_tokenizer("offline:gemma3-270m")
    encoded = chat.encode(TWO_TURNS)
    pieces = [chat.tokenizer.decode(piece) for piece in scored_pieces(encoded)]
    assert pieces == ['["lithium", "goiter"]' + chat.tokenizer.eos_token, '["goiter"]' + chat.tokenizer.eos_token]
    assert encoded.input_ids[0] == chat.tokenizer.bos_token_id
    assert encoded.input_ids.count(chat.tokenizer.bos_token_id) == 1
    assert encoded.input_ids[: len(chat.encode_prompt(TWO_TURNS[:-1]))] == chat.encode_prompt(TWO_TURNS[:-1])
    assert chat.tokenizer.decode(encoded.input_ids[1:]).startswith("List, as JSON.\n\n### Instruction:\nLithium")
