"""Conversations as token ids, with the loss on the assistant's tokens alone.

A conversation is encoded piece by piece: what stands before an answer exactly as a prompt of generation is, then the answer. So the
model is trained on the very token boundaries that it meets when it is asked. An answer's loss ends with the token that ends the turn.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Any

from bioie_ray.prompting.tokenizer import ModelTokenizer

IGNORED = -100
Turn = Mapping[str, str]


class ConversationError(ValueError):
    """A conversation that the template cannot write; the message is the reason."""


@dataclass(frozen=True, slots=True)
class Encoded:
    """Token ids of a conversation, and the same with ``IGNORED`` where no loss is taken."""

    input_ids: list[int]
    labels: list[int]


class ChatTokenizer:
    """A model's tokenizer with the chat template that it is trained with (and keeps from then on)."""

    def __init__(self, model: str, template: str) -> None:
        """Raises ModelError where the tokenizer cannot be loaded, and ValueError where the template is none."""
        loaded = ModelTokenizer(model)
        self.tokenizer: Any = loaded.tokenizer
        self.context = loaded.context  # the most tokens that the model takes, or None
        if template != "auto" or not loaded.has_template:
            self.tokenizer.chat_template = _template(template, adds_bos=loaded.begin("a") != "a")
        self.template: str = self.tokenizer.chat_template
        # Once: the tokenizer makes that table anew each time it is asked, and Gemma 3's has 6,384 tokens.
        self._special_ids = frozenset(id_ for id_, token in self.tokenizer.added_tokens_decoder.items() if token.special)
        self._folds_system = self._refuses_system()

    @property
    def end_of_turn(self) -> int:
        """The token that ends an answer: what a model must stop at.

        Raises:
            ConversationError: the template ends answers by none.
        """
        prompt = [{"role": "user", "content": "a"}]
        ids = self._answer_ids(prompt, {"role": "assistant", "content": "b"})
        if not self._is_special(ids[-1]):
            raise ConversationError(
                "the chat template ends an answer with no special token, so a model could not learn to stop; set train.template=plain"
            )
        return ids[-1]

    def encode(self, messages: Sequence[Turn]) -> Encoded:
        """A conversation that ends with an answer of the assistant.

        Raises:
            ConversationError: the template cannot write it, or would write an earlier turn otherwise once a later one is there.
        """
        turns = self._folded(messages)
        ids: list[int] = []
        labels: list[int] = []
        written = ""
        for number, turn in enumerate(turns):
            if turn["role"] != "assistant":
                continue
            prompt, whole = self._render(turns[:number], prompt=True), self._render(turns[: number + 1], prompt=False)
            if not prompt.startswith(written) or not whole.startswith(prompt):
                raise ConversationError(
                    "the chat template writes earlier turns otherwise once later ones are there; set train.template=plain"
                )
            asked, answered = self._ids(prompt[len(written) :]), self._ids(whole[len(prompt) :])
            num_scored = self._num_scored(answered)
            ids += asked + answered
            labels += [IGNORED] * len(asked) + answered[:num_scored] + [IGNORED] * (len(answered) - num_scored)
            written = whole
        if not labels or turns[-1]["role"] != "assistant":
            raise ConversationError("it does not end with an answer of the assistant")
        while labels[-1] == IGNORED:  # a line break after the last turn teaches nothing
            ids.pop()
            labels.pop()
        return Encoded(ids, labels)

    def encode_prompt(self, messages: Sequence[Turn]) -> list[int]:
        """The ids of a prompt, up to where the model is to go on."""
        return self._ids(self._render(self._folded(messages), prompt=True))

    def encode_answer(self, messages: Sequence[Turn], answer: str) -> list[int]:
        """The ids of an answer to a prompt, with the token that ends it.

        Raises:
            ConversationError: the template cannot write it.
        """
        return self._answer_ids(self._folded(messages), {"role": "assistant", "content": answer})

    def _answer_ids(self, turns: Sequence[Turn], answer: Turn) -> list[int]:
        prompt, whole = self._render(turns, prompt=True), self._render([*turns, answer], prompt=False)
        if not whole.startswith(prompt):
            raise ConversationError("the chat template writes earlier turns otherwise once later ones are there; set train.template=plain")
        ids = self._ids(whole[len(prompt) :])
        return ids[: self._num_scored(ids)]

    def _num_scored(self, answered: Sequence[int]) -> int:
        """Up to the token that ends the turn; what a template writes after it (a line break) is nobody's answer."""
        ends = [place for place, id_ in enumerate(answered) if self._is_special(id_)]
        return ends[-1] + 1 if ends else len(answered)

    def _is_special(self, id_: int) -> bool:
        return id_ in self._special_ids

    def _ids(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def _render(self, turns: Sequence[Turn], *, prompt: bool) -> str:
        from jinja2.exceptions import TemplateError

        try:
            return str(self.tokenizer.apply_chat_template([dict(turn) for turn in turns], tokenize=False, add_generation_prompt=prompt))
        except (TemplateError, ValueError) as error:
            raise ConversationError(f"the chat template refuses it: {error}") from None

    def _refuses_system(self) -> bool:
        """Gemma's templates raise at a system turn, others drop it in silence."""
        probe = "qzx-system-probe"
        try:
            return probe not in self._render([{"role": "system", "content": probe}, {"role": "user", "content": "a"}], prompt=True)
        except ConversationError:
            return True

    def _folded(self, messages: Sequence[Turn]) -> list[Turn]:
        """A system turn becomes the beginning of the first turn of the user where the template has no place for it."""
        if not self._folds_system or not messages or messages[0]["role"] != "system":
            return list(messages)
        if len(messages) < 2 or messages[1]["role"] != "user":
            raise ConversationError("a system turn is not followed by one of the user")
        first = {"role": "user", "content": f"{messages[0]['content']}\n\n{messages[1]['content']}"}
        return [first, *messages[2:]]


@lru_cache(maxsize=4)
def load_chat_tokenizer(model: str, template: str = "auto") -> ChatTokenizer:
    """The tokenizer of a model with a template: ``auto`` (the model's own, else ``plain``), ``plain``, or a Jinja file.

    Raises:
        ModelError: the model has no tokenizer.
        ValueError: the template is no file.
    """
    return ChatTokenizer(model, template)


def _template(name: str, *, adds_bos: bool) -> str:
    if name in {"auto", "plain"}:
        text = resources.files("bioie_ray.training").joinpath("templates/plain.jinja").read_text(encoding="utf-8")
        return text.replace("adds_bos is defined and adds_bos", "true" if adds_bos else "false")
    try:
        return Path(name).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"train.template is {name!r}, which is neither auto nor plain nor a file that can be read: {error}") from None
