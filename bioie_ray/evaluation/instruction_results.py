"""What the page shows of instruction data: whence the conversations are, what was left out and why, how long they are, some of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class SourceCounts:
    """One source of the recipe: records read, why others are not there (reason -> number), rows that come again, rows in all."""

    kind: str
    what: str
    num_read: int
    left_out: Mapping[str, int]
    num_copies: int
    num_rows: int


@dataclass(frozen=True, slots=True)
class DataSetCounts:
    """One data set within the sources."""

    name: str
    num_rows: int
    num_tokens: int


@dataclass(frozen=True, slots=True)
class ConversationView:
    """A conversation as the samples show it; turns are (role, text)."""

    id: str
    data_set: str
    language: str
    num_tokens: int
    turns: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class InstructionsSummary:
    """An output of ``prepare_instructions``. ``lengths`` are rows by bins of ``bin_width`` tokens; ``overlap`` is by corpus."""

    source: str
    entries: tuple[SourceCounts, ...]
    data_sets: tuple[DataSetCounts, ...]
    languages: Mapping[str, int]
    overlap: Mapping[str, int]
    overlap_words: int
    bin_width: int
    lengths: tuple[int, ...]
    samples: tuple[ConversationView, ...]

    @property
    def num_rows(self) -> int:
        """Conversations in all."""
        return sum(entry.num_rows for entry in self.entries)

    @property
    def num_tokens(self) -> int:
        """Their tokens, by the tokenizer and template of the base model."""
        return sum(data_set.num_tokens for data_set in self.data_sets)
