"""A model's own tokenizer, for prompts: chat template, beginning of a text, exact counts."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from bioie_ray.artifacts.reasons import first_line
from bioie_ray.prompting.prompt import Message
from bioie_ray.retrieval.models import resolve_model
from bioie_ray.retrieval.packaged import ModelError

# What a tokenizer says that knows no limit.
_NO_LIMIT = 10**9
# Settings that transformers takes for `max_position_embeddings`, the usual one first. Not `seq_length` and `max_seq_len`: BLOOM and MPT, which have no
# table of positions, write the length there that they were trained with.
_POSITIONS = ("max_position_embeddings", "n_positions", "n_ctx", "max_sequence_length", "context_length")
# Parts of a configuration that transformers may take for that of the text.
_PARTS = ("text_config", "text_encoder", "decoder", "generator")


class ModelTokenizer:
    """The tokenizer of a model, loaded from its folder.

    Rendered texts hold their special tokens in words (``<bos>``), so they are encoded without adding any.
    """

    def __init__(self, model: str) -> None:
        from transformers import AutoTokenizer

        path = str(resolve_model(model))
        try:
            self.tokenizer: Any = AutoTokenizer.from_pretrained(path)
            positions = _positions(path)
        except (OSError, ValueError) as error:
            raise ModelError(f"{model} has no tokenizer that can be loaded: {first_line(error)}") from None
        self.has_template = bool(self.tokenizer.chat_template)
        self.context = _smaller(positions, self.tokenizer.model_max_length)

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


@lru_cache(maxsize=16)
def context_of(model: str) -> int | None:
    """``ModelTokenizer.context`` without loading the tokenizer: the most tokens that a model takes; ``None`` where nothing says.

    Raises:
        ModelError: there is no such model, or it has no configuration that can be read.
    """
    path = resolve_model(model)
    try:
        positions = _positions(str(path))
        settings = path / "tokenizer_config.json"
        limit = json.loads(settings.read_bytes()).get("model_max_length") if settings.is_file() else None
    except (OSError, ValueError) as error:
        raise ModelError(f"{model} has no configuration that can be read: {first_line(error)}") from None
    return _smaller(positions, limit)


def _positions(path: str) -> int | None:
    """From the file, where it has them: transformers brings torch along, 12 s that a plan does without."""
    file = Path(path, "config.json")
    config = json.loads(file.read_bytes()) if file.is_file() else {}
    if not isinstance(config, dict):
        raise ValueError(f"{file} holds no configuration")  # noqa: TRY004 - of a file, which people can mend
    part = next((name for name in _PARTS if isinstance(config.get(name), dict)), None)
    text = config if part is None else config[part] if part == "text_config" else {}
    found = next((text[name] for name in _POSITIONS if isinstance(text.get(name), int)), None)
    if found is not None:
        return int(found)
    from transformers import AutoConfig

    positions: int | None = getattr(AutoConfig.from_pretrained(path).get_text_config(), "max_position_embeddings", None)
    return positions


def _smaller(*limits: int | None) -> int | None:
    return min((limit for limit in limits if limit and limit < _NO_LIMIT), default=None)


@lru_cache(maxsize=4)
def load_tokenizer(model: str) -> ModelTokenizer:
    """Loaded once per process."""
    return ModelTokenizer(model)
