r"""Structured decoding: only tokens that keep an answer on its way to a list of ours can be drawn.

The grammar is narrower than JSON, so that whatever comes out is read by ``prompting.answers.parse_list``: of the escapes only ``\"``
and ``\\``, no control characters, no character that stands for a broken one. Its white space is what examples are written with.

llguidance was chosen among three that have wheels for CPU. It needs nothing else and is one wheel for all Pythons, works on bytes
(a token may be part of a letter), takes bounded lists without unfolding them, and a grammar is compiled in a millisecond. xgrammar
does as much, but has a wheel per Python and brings apache-tvm-ffi. outlines-core unfolds a regular expression over the whole
vocabulary before the first token, which lists with bounds make large.

A mask takes 0.13 ms for 49,000 tokens and 0.6 ms for 262,000 (one core); without the slices 0.5 and 3 ms.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from bioie_ray.generation.base import EngineError, Finish
from bioie_ray.prompting.answers import Kind, find_list

if TYPE_CHECKING:
    import torch

# The longest gold answer of the six corpora has 50 items, the longest item 120 characters. With both bounds every answer ends, but 512
# tokens may end before it: only a list that closes is promised to be valid.
MAX_ITEMS: Final = 128
MAX_CHARACTERS: Final = 256

_CHARACTER: Final = r'[^"\\\x00-\x1f\x7f-\x9f\u2028\u2029\ufffd]'
_GRAMMAR: Final = rf"""
start: " "? "[" (item ("," " "? item){{0,{MAX_ITEMS - 1}}})? "]"
STRING: /"({_CHARACTER}|\\["\\]){{1,{MAX_CHARACTERS}}}"/
"""
_ITEM: Final[dict[Kind, str]] = {"ner": "item: STRING", "re": 'item: "[" STRING "," " "? STRING "]"'}
# Tokens that are all letters of a string are let through together, as long as so many of them still fit.
_SLICES: Final = [f"{_CHARACTER}{{1,10}}", f"{_CHARACTER}{{1,30}}"]


def schema(kind: Kind) -> dict[str, Any]:
    r"""JSON schema of an answer, for servers and vLLM, with the bounds of this module.

    A schema cannot forbid an escape: what a server writes as ``\b`` or half a surrogate pair is JSON, and still no list of ours.
    """
    string = {"type": "string", "minLength": 1, "maxLength": MAX_CHARACTERS}
    pair = {"type": "array", "items": string, "minItems": 2, "maxItems": 2}
    return {"type": "array", "items": string if kind == "ner" else pair, "maxItems": MAX_ITEMS}


def cut_at_list(text: str, finish: Finish, kind: Kind) -> tuple[str, Finish]:
    """What an engine that cannot stop at a list says in the place of one that can: the text up to its first complete list, and how it ended."""
    found = find_list(text, kind)
    return (text, finish) if found is None else (text[: found[1]], "list")


class State:
    """One answer under way. Not to be used any more once ``accept`` said that the list is complete."""

    def __init__(self, matcher: Any) -> None:
        self._matcher = matcher

    def mask(self, logits_row: torch.Tensor) -> None:
        """Set the logits [vocabulary] of all tokens to -inf that may not come next, in place; some token is always left."""
        import torch

        allowed = torch.frombuffer(bytearray(self._matcher.compute_logit_bias()), dtype=torch.uint8)[: logits_row.shape[0]]
        logits_row.masked_fill_((allowed == 0).to(logits_row.device), float("-inf"))

    def accept(self, token_id: int) -> bool:
        """Go on with the token that was drawn; true when it completes the list."""
        taken = self._matcher.consume_token(token_id)
        assert taken, f"token {token_id} was not allowed: {self._matcher.get_error()}"
        return bool(self._matcher.is_stopped())


class Constraint:
    """A grammar that was compiled for a tokenizer."""

    def __init__(self, matcher: Any) -> None:
        self._matcher = matcher

    def start(self) -> State:
        """For one more answer: takes microseconds."""
        return State(self._matcher.deep_copy())


def make_constraint(tokenizer: Any, vocab_size: int, kind: Kind) -> Constraint:
    """Compile the grammar; takes seconds for a large vocabulary, once.

    Args:
        tokenizer: a fast tokenizer of transformers.
        vocab_size: of the model's logits. What they have beyond the tokenizer's tokens is never allowed.
        kind: strings or pairs.

    Raises:
        EngineError: llguidance is not installed, or the tokenizer is not one it can read.
    """
    try:
        import llguidance
        from llguidance.hf import from_tokenizer
    except ImportError:
        raise EngineError("structured decoding needs llguidance; install it by: pip install llguidance, or set structured=false") from None
    try:
        tokens = from_tokenizer(tokenizer, n_vocab=max(vocab_size, len(tokenizer)), slices=_SLICES)
    except ValueError as error:
        raise EngineError(f"structured decoding cannot read this tokenizer: {error}; set structured=false, or take another model") from None
    matcher = llguidance.LLMatcher(tokens, llguidance.LLMatcher.grammar_from_lark(_GRAMMAR + _ITEM[kind]), log_level=0)
    assert not matcher.is_error(), matcher.get_error()
    return Constraint(matcher)
