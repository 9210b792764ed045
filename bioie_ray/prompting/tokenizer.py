"""A model's own tokenizer, for prompts: chat template, beginning of a text, exact counts."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from bioie_ray.artifacts.reasons import first_line
from bioie_ray.prompting.prompt import Message
from bioie_ray.retrieval.models import resolve_model
from bioie_ray.retrieval.packaged import ModelError

# What a tokenizer says that knows no limit.
_NO_LIMIT = 10**9


class ModelTokenizer:
    """The tokenizer of a model, loaded from its folder.

    Rendered texts hold their special tokens in words (``<bos>``), so they are encoded without adding any.
    """

    def __init__(self, model: str) -> None:
        from transformers import AutoConfig, AutoTokenizer

        path = str(resolve_model(model))
        try:
            self.tokenizer: Any = AutoTokenizer.from_pretrained(path)
            config = AutoConfig.from_pretrained(path)
        except (OSError, ValueError) as error:
            raise ModelError(f"{model} has no tokenizer that can be loaded: {first_line(error)}") from None
        self.has_template = bool(self.tokenizer.chat_template)
        positions = getattr(config.get_text_config(), "max_position_embeddings", None)
        limits = [n for n in (positions, self.tokenizer.model_max_length) if n and n < _NO_LIMIT]
        self.context: int | None = min(limits) if limits else None

    def render(self, turns: Sequence[Message]) -> str:
        """Turns through the chat template.

        Raises:
            ValueError: the model has none, or it refuses these turns.
        """
        if not self.has_template:
            raise ModelError("the model has no chat template; set prompt.form=plain (or auto)")
        messages = [{"role": turn.role, "content": turn.content} for turn in turns]
        return str(self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))

    def begin(self, text: str) -> str:
        """With the token that the tokenizer puts before every text, if it has one."""
        first = self.tokenizer("a")["input_ids"][:1]
        bos = self.tokenizer.bos_token_id
        return f"{self.tokenizer.bos_token}{text}" if bos is not None and first == [bos] else text

    def encode(self, text: str) -> list[int]:
        """Token ids of a rendered text."""
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def count(self, text: str) -> int:
        """Tokens of a rendered text."""
        return len(self.encode(text))


@lru_cache(maxsize=4)
def load_tokenizer(model: str) -> ModelTokenizer:
    """Loaded once per process."""
    return ModelTokenizer(model)
