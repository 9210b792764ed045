"""What an engine is: requests in chunks, completions out, and a stated guarantee of how reproducible they are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Literal, Protocol, runtime_checkable

from bioie_ray.prompting.answers import Kind
from bioie_ray.prompting.prompt import Message

Finish = Literal["list", "stop", "length", "too_long", "refused"]
UNANSWERED: Final = frozenset[Finish]({"too_long", "refused"})


class EngineError(ValueError):
    """A model or server that cannot be used; the message says which and what to do."""


class EngineLostError(EngineError):
    """Whoever asks the same engine next would meet the same: a server without an answer, or one that does not take the key."""

    ends_affinity = True


@dataclass(frozen=True, slots=True)
class Request:
    """One answer that is wanted. ``text`` is the prompt as a local model sees it, ``messages`` what a chat server gets.

    ``id`` names it among the requests of its unit. ``seed`` is its own: nothing random depends on what it is batched with.
    ``may_go_unanswered``: where a server says that it is too long, or that its content policy forbids it, it is done, without an
    answer; else that ends the run.
    """

    id: str
    text: str | None
    messages: tuple[Message, ...]
    seed: int
    may_go_unanswered: bool = False

    def local_text(self) -> str:
        """``text``, for a local model.

        Raises:
            EngineError: there is none.
        """
        if self.text is None:
            raise EngineError(f"{self.id} has no prompt text; a local model needs one (prompt.form)")
        return self.text


@dataclass(frozen=True, slots=True)
class Sampling:
    """How tokens are chosen. ``temperature`` 0 is greedy. ``stop_at`` ends an answer at the bracket that closes a complete list of that kind."""

    temperature: float
    top_p: float
    max_new_tokens: int
    stop_at: Kind | None = None
    structured: Kind | None = None


@dataclass(frozen=True, slots=True)
class Completion:
    """An answer. ``finish``: ``list`` (stopped at a complete list), ``stop`` (the model ended it) or ``length`` (cut off).

    ``too_long``: the request left the server no room for an answer, so there is none, and nothing was paid. ``refused``: the server's
    content policy forbids one.
    """

    id: str
    text: str
    finish: Finish
    num_prompt_tokens: int
    num_answer_tokens: int


Tokens = tuple[int, int]
"""Of prompts and of answers."""
OnChunk = Callable[[int, Sequence[Completion]], None]


class Engine(Protocol):
    """Loaded once per process, then called for many units."""

    def plan(self, requests: Sequence[Request]) -> list[list[Request]]:
        """The chunks that the requests of a unit are done in: a function of the requests alone, each request in one of them."""
        ...

    def generate(self, chunks: Sequence[tuple[int, Sequence[Request]]], on_chunk: OnChunk) -> None:
        """Answer numbered chunks; ``on_chunk`` gets each as soon as it is done, in whatever order.

        Raises:
            EngineError: it cannot go on; what ``on_chunk`` got before is whole.
        """
        ...


@runtime_checkable
class PaidEngine(Protocol):
    """An engine that may have a budget, which is one of an output, whoever made its answers and when."""

    def start_from(self, asked: Callable[[], Tokens]) -> None:
        """Called before a unit; ``asked`` is what the output's answers took so far, and is dear to find out."""
        ...
