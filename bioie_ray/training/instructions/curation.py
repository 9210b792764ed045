"""What one conversation is worth by itself: its language, its length, and whether a test document is in it.

What needs all the others (duplicates, draws) is not here.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Final, Literal

import pyarrow as pa

from bioie_ray.config.training import InstructionSettings
from bioie_ray.training.instructions.conversation import BadRecordError, Conversation
from bioie_ray.training.instructions.duplicates import NUM_PERMUTATIONS, Signer, answer_words
from bioie_ray.training.instructions.language import is_wanted, language_of
from bioie_ray.training.instructions.overlap import OverlapIndex
from bioie_ray.training.instructions.words import word_hashes
from bioie_ray.training.tokens import ChatTokenizer, ConversationError

Reason = Literal["other_language", "test_overlap", "too_long"]
# Why a record that was read is not among those that are kept; with these, all that were read are accounted for.
NOT_KEPT: Final = ("quarantined", "no_answer", "other_language", "test_overlap", "too_long", "dev_documents", "same_text_as_held_out")
RECORD_SCHEMA: Final = pa.schema(
    [
        ("id", pa.string()),
        ("source", pa.string()),
        ("language", pa.string()),
        ("messages", pa.string()),
        ("num_tokens", pa.int32()),
        ("digest", pa.string()),
        ("group", pa.string()),
        ("signature", pa.list_(pa.uint32(), NUM_PERMUTATIONS)),
        ("answer_words", pa.list_(pa.uint32())),
    ]
)


@dataclass(frozen=True, slots=True)
class LeftOut:
    """Why a good conversation is not taken; ``corpora``: those of the test documents in it."""

    reason: Reason
    corpora: tuple[str, ...] = ()


class Curator:
    """Looks at conversations one at a time."""

    def __init__(self, settings: InstructionSettings, overlap: OverlapIndex, tokenizer: ChatTokenizer) -> None:
        self._settings = settings
        self._overlap = overlap
        self._tokenizer = tokenizer
        self._signer = Signer()

    def look(self, conversation: Conversation, group: str) -> dict[str, Any] | LeftOut:
        """A row of ``RECORD_SCHEMA``, or why there is none. Cheap questions first.

        Raises:
            BadRecordError: the chat template cannot write it.
        """
        language = language_of(conversation)
        if not is_wanted(language, self._settings.languages):
            return LeftOut("other_language")
        hashes = word_hashes(conversation.text)
        corpora = self._overlap.corpora_in(hashes)
        if corpora:
            return LeftOut("test_overlap", tuple(corpora))
        try:
            num_tokens = len(self._tokenizer.encode(conversation.messages).input_ids)
        except ConversationError as error:
            raise BadRecordError(str(error)) from None
        if num_tokens > self._settings.max_tokens:
            return LeftOut("too_long")
        return {
            "id": conversation.id,
            "source": conversation.source,
            "language": language,
            "messages": json.dumps(conversation.messages, ensure_ascii=False),
            "num_tokens": num_tokens,
            "digest": conversation.digest,
            "group": group,
            "signature": self._signer.sign(hashes).tolist(),
            "answer_words": answer_words(conversation.answers),
        }
