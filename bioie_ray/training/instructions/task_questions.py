"""Our own tasks as conversations: the very question of zero-shot generation, and the gold answer in the form that is asked for."""

from __future__ import annotations

from collections.abc import Iterator

from bioie_ray.corpora.document import Document
from bioie_ray.corpora.tasks import Task, gold
from bioie_ray.prompting.answers import format_list
from bioie_ray.prompting.instructions import Instructions
from bioie_ray.prompting.phrasings import Phrasings
from bioie_ray.prompting.prompt import PromptBuilder
from bioie_ray.training.instructions.conversation import Conversation

_LANGUAGE = "en"  # of all six corpora


class TaskQuestions:
    """One task in several wordings; the first is that of generation."""

    def __init__(self, task: Task, instructions: Instructions, phrasings: Phrasings, num_phrasings: int) -> None:
        """Raises ValueError where the task has fewer wordings."""
        self._task = task
        self._builders = [
            PromptBuilder(task, phrasings.instructions(instructions, task, number), "chat", "best_last", None, None)
            for number in range(1, num_phrasings + 1)
        ]

    @property
    def num_phrasings(self) -> int:
        """Conversations that a document gives."""
        return len(self._builders)

    def conversations(self, document: Document) -> Iterator[Conversation]:
        """A document, asked about in each wording."""
        answer = {"role": "assistant", "content": format_list(gold(self._task, document).answers)}
        for number, builder in enumerate(self._builders, start=1):
            turns = tuple({"role": turn.role, "content": turn.content} for turn in builder.build(document.text, ()).turns)
            source = f"tasks:{self._task.key}"
            yield Conversation(f"{source}/{document.id}/{number}", source, _LANGUAGE, (*turns, answer))
