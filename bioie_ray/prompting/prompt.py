"""A query and its examples as a prompt: turns of a conversation, or one text for base models.

An example that does not fit the token budget is dropped, the least similar first, and counted. The query is never cut: one that does
not fit by itself is an error, which costs that query only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from bioie_ray.corpora.tasks import Answer, Task
from bioie_ray.prompting.answers import format_list
from bioie_ray.prompting.instructions import Instructions

Role = Literal["user", "assistant"]
Form = Literal["chat", "plain"]


class QueryTooLongError(ValueError):
    """A query that does not fit into the budget even without examples."""


@dataclass(frozen=True, slots=True)
class Example:
    """A document with its gold answers."""

    id: str
    text: str
    answers: tuple[Answer, ...]


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation."""

    role: Role
    content: str


@dataclass(frozen=True, slots=True)
class Prompt:
    """``turns`` for a chat server; ``text`` as a local model sees it (``None`` without a tokenizer), of ``num_tokens`` tokens.

    ``example_ids`` are those that are in it, in their order there; ``num_dropped`` did not fit.
    """

    turns: tuple[Message, ...]
    text: str | None
    num_tokens: int | None
    example_ids: tuple[str, ...]
    num_dropped: int


class PromptTokenizer(Protocol):
    """What a model's tokenizer does for prompts."""

    def render(self, turns: Sequence[Message]) -> str:
        """Turns through the chat template, up to where the model is to go on."""
        ...

    def begin(self, text: str) -> str:
        """A plain text as the model expects it to begin."""
        ...

    def count(self, text: str) -> int:
        """Tokens of a rendered text."""
        ...


@dataclass(frozen=True)
class PromptBuilder:
    """Builds the prompts of one task for one model. ``tokenizer`` is ``None`` for a server whose tokenizer is not known.

    ``max_tokens`` is the budget of a prompt; ``None`` where nothing is counted.
    """

    task: Task
    instructions: Instructions
    form: Form
    order: Literal["best_first", "best_last"]
    tokenizer: PromptTokenizer | None
    max_tokens: int | None

    def build(self, query: str, examples: Sequence[Example]) -> Prompt:
        """The prompt for a query with as many of the examples (best first) as fit.

        Raises:
            QueryTooLongError: the query alone is too long; the message has both numbers.
        """
        for num_kept in range(len(examples), -1, -1):
            kept = examples[:num_kept] if self.order == "best_first" else examples[:num_kept][::-1]
            turns = self._turns(query, kept)
            text = self._text(query, kept, turns)
            num_tokens = self.tokenizer.count(text) if self.tokenizer is not None and text is not None else None
            if num_tokens is None or self.max_tokens is None or num_tokens <= self.max_tokens:
                return Prompt(turns, text, num_tokens, tuple(example.id for example in kept), len(examples) - num_kept)
        raise QueryTooLongError(
            f"its prompt has {num_tokens} tokens without any example, and {self.max_tokens} are allowed; set prompt.max_tokens higher, "
            "generate.max_new_tokens lower, or take a model with a longer context"
        )

    def _turns(self, query: str, examples: Sequence[Example]) -> tuple[Message, ...]:
        """The instruction stands in the first turn of the user: some templates refuse a system role (Gemma 2's does)."""
        texts = [*(example.text for example in examples), query]
        asked = [self.instructions.question(self.task, texts[0]), *map(self.instructions.input, texts[1:])]
        turns: list[Message] = []
        for question, example in zip(asked, examples, strict=False):
            turns += [Message("user", question), Message("assistant", format_list(example.answers))]
        return (*turns, Message("user", asked[-1]))

    def _text(self, query: str, examples: Sequence[Example], turns: Sequence[Message]) -> str | None:
        if self.form == "chat":
            return self.tokenizer.render(turns) if self.tokenizer is not None else None
        pairs = [(example.text, format_list(example.answers)) for example in examples] + [(query, "")]
        blocks = [f"{self.instructions.input(text)}\n{self.instructions.answer(answer)}" for text, answer in pairs]
        text = "\n\n".join([self.instructions.ask(self.task), *blocks])
        return self.tokenizer.begin(text) if self.tokenizer is not None else text
