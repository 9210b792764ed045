"""Language models with random weights, small enough to be made in a test."""

from __future__ import annotations

from pathlib import Path
from typing import Any

TEMPLATE = (
    "{% for message in messages %}<|{{ message.role }}|>{{ message.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
SMALL: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "initializer_range": 0.5,  # larger than the usual 0.02, or all tokens would be nearly as likely
    "bos_token_id": 0,
    "eos_token_id": 1,
}


def save_tokenizer(folder: Path, *, chat: bool) -> int:
    """A token a byte; returns the size of its vocabulary."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    specials = ["<bos>", "<|end|>", "<|user|>", "<|assistant|>"]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate([*specials, *alphabet])}
    raw = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    raw.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw, bos_token="<bos>", eos_token="<|end|>", additional_special_tokens=specials[2:]
    )
    if chat:
        tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder)
    return len(vocabulary)


def save_llama(folder: Path, *, seed: int = 0, chat: bool = True, positions: int = 8_192) -> Path:
    """Two layers of Llama: full attention."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    folder.mkdir(parents=True)
    torch.manual_seed(seed)
    config: Any = LlamaConfig(
        vocab_size=save_tokenizer(folder, chat=chat),
        num_key_value_heads=2,
        max_position_embeddings=positions,
        **SMALL,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def save_gemma3(folder: Path, *, window: int, seed: int = 0) -> Path:
    """Two layers of Gemma 3: one looks back ``window`` tokens, one at everything; a base model without a chat template."""
    import torch
    from transformers import Gemma3ForCausalLM, Gemma3TextConfig

    folder.mkdir(parents=True)
    torch.manual_seed(seed)
    config: Any = Gemma3TextConfig(
        vocab_size=save_tokenizer(folder, chat=False),
        num_key_value_heads=1,
        head_dim=8,
        max_position_embeddings=8_192,
        sliding_window=window,
        layer_types=["sliding_attention", "full_attention"],
        **SMALL,
    )
    Gemma3ForCausalLM(config).save_pretrained(folder)
    return folder


def save_model(folder: Path, architecture: str, *, chat: bool = True, seed: int = 0, **settings: Any) -> Path:
    """A model of any architecture that transformers knows, in its own names of settings."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    folder.mkdir(parents=True)
    size = save_tokenizer(folder, chat=chat)
    torch.manual_seed(seed)
    config = AutoConfig.for_model(
        architecture, **{"vocab_size": size, "bos_token_id": 0, "eos_token_id": 1, "initializer_range": 0.5, **settings}
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return folder
