"""Prompts: what is in them, in which order, and what is left out when they are too long."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from bioie_ray.corpora.tasks import TASKS, get_task
from bioie_ray.prompting.instructions import load_instructions
from bioie_ray.prompting.prompt import Example, PromptBuilder, QueryTooLongError
from bioie_ray.prompting.tokenizer import ModelTokenizer

NEAREST = Example("e1", "Aspirin caused an ulcer.", ("ulcer",))
NEXT = Example("e2", "No harm was seen.", ())
FARTHEST = Example("e3", "Lithium gave tremor and nausea.", ("tremor", "nausea"))
EXAMPLES = (NEAREST, NEXT, FARTHEST)


def builder(tokenizer: ModelTokenizer | None, **changes: Any) -> PromptBuilder:
    settings: dict[str, Any] = {"form": "chat", "order": "best_last", "max_tokens": None, **changes}
    return PromptBuilder(get_task("bc5cdr_disease"), load_instructions("1"), tokenizer=tokenizer, **settings)


def test_a_conversation_is_examples_and_then_the_query(tiny_llm: str) -> None:
    prompt = builder(ModelTokenizer(tiny_llm)).build("Heparin led to bleeding.", EXAMPLES)
    assert [turn.role for turn in prompt.turns] == ["user", "assistant"] * 3 + ["user"]
    assert [turn.content for turn in prompt.turns[1::2]] == ['["tremor", "nausea"]', "[]", '["ulcer"]']
    assert prompt.turns[-1].content == "Text: Heparin led to bleeding."
    assert prompt.turns[0].content.startswith("List all diseases")
    assert prompt.example_ids == ("e3", "e2", "e1")
    assert prompt.text is not None
    assert prompt.text.endswith("<|user|>Text: Heparin led to bleeding.<|end|><|assistant|>")
    assert prompt.num_tokens == len(ModelTokenizer(tiny_llm).encode(prompt.text))


def test_a_base_model_continues_one_text(other_llm: str) -> None:
    prompt = builder(ModelTokenizer(other_llm), form="plain", order="best_first").build("Heparin led to bleeding.", EXAMPLES[:1])
    assert prompt.text is not None
    assert prompt.text.endswith('\n\nText: Aspirin caused an ulcer.\nAnswer: ["ulcer"]\n\nText: Heparin led to bleeding.\nAnswer:')


def test_pairs_are_lists_of_two() -> None:
    made = PromptBuilder(get_task("bc5cdr_cid"), load_instructions("1"), "chat", "best_last", None, None)
    prompt = made.build("q", [Example("e", "t", (("Aspirin", "ulcer"),))])
    assert prompt.turns[1].content == '[["Aspirin", "ulcer"]]'
    assert (prompt.text, prompt.num_tokens) == (None, None)


@pytest.mark.parametrize(("order", "left"), [("best_first", ("e1", "e2")), ("best_last", ("e2", "e1"))])
def test_what_does_not_fit_is_dropped_from_the_least_similar(tiny_llm: str, order: str, left: tuple[str, ...]) -> None:
    tokenizer = ModelTokenizer(tiny_llm)
    two = builder(tokenizer, order=order).build("q", EXAMPLES[:2])
    assert two.num_tokens is not None
    exactly = builder(tokenizer, order=order, max_tokens=two.num_tokens).build("q", EXAMPLES)
    assert (exactly.example_ids, exactly.num_dropped, exactly.text) == (left, 1, two.text)
    less = builder(tokenizer, order=order, max_tokens=two.num_tokens - 1).build("q", EXAMPLES)
    assert (less.example_ids, less.num_dropped) == (("e1",), 2)


def test_the_query_is_never_cut(tiny_llm: str) -> None:
    with pytest.raises(QueryTooLongError, match=r"tokens without any example, and 100 are allowed; set prompt.max_tokens"):
        builder(ModelTokenizer(tiny_llm), max_tokens=100).build("x" * 200, EXAMPLES)


def test_braces_of_a_text_are_not_holes() -> None:
    prompt = builder(None).build("A {text} with {answer}", [])
    assert prompt.turns[0].content.endswith("Text: A {text} with {answer}")


def test_every_task_has_an_instruction_and_form() -> None:
    instructions = load_instructions("1")
    asked = {task.key: instructions.ask(task) for task in TASKS.values()}
    assert len(set(asked.values())) == 8
    assert all(("pairs" in text) == (TASKS[key].kind == "re") for key, text in asked.items())


def test_instructions_of_ones_own(tmp_path: Path) -> None:
    data = dict(load_instructions("1").data)
    own = tmp_path / "own.yaml"
    own.write_text(yaml.safe_dump({**data, "input": "Document: {text}"}))
    assert load_instructions(str(own)).input("x") == "Document: x"
    assert load_instructions(str(own)).digest != load_instructions("1").digest
    own.write_text(yaml.safe_dump({**data, "tasks": {"biorelex": "x"}}))
    with pytest.raises(ValueError, match="`tasks` has no text for bc5cdr_chemical"):
        load_instructions(str(own))
    own.write_text(yaml.safe_dump({**data, "tasks": {**data["tasks"], "biorelex": 5}}))
    with pytest.raises(ValueError, match=r"`tasks` has no text for biorelex$"):
        load_instructions(str(own))
    own.write_text(yaml.safe_dump({**data, "input": "Document:"}))
    with pytest.raises(ValueError, match=r"`input` has no \{text\} in it"):
        load_instructions(str(own))
    with pytest.raises(ValueError, match="no such version"):
        load_instructions("17")
