"""Several wordings of a task's instruction, so that a model is not tuned on one sentence. They are data: ``phrasings.yaml``."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib import resources

import yaml

from bioie_ray.corpora.tasks import Task
from bioie_ray.prompting.instructions import Instructions

VERSION = "1"


@dataclass(frozen=True)
class Phrasings:
    """The further wordings of every task."""

    wordings: Mapping[str, Sequence[str]]

    @cached_property
    def digest(self) -> str:
        """Of the text, for fingerprints."""
        data = {task: list(sentences) for task, sentences in self.wordings.items()}
        return hashlib.sha256(yaml.safe_dump(data, sort_keys=True, allow_unicode=True).encode()).hexdigest()

    def count(self, task: Task) -> int:
        """How many wordings of a task there are, that of generation included."""
        return 1 + len(self.wordings[task.key])

    def instructions(self, base: Instructions, task: Task, number: int) -> Instructions:
        """The instructions with the wording of that number (from 1, which is the one of ``base``).

        Raises:
            ValueError: there are not so many; the message says how many.
        """
        if not 1 <= number <= self.count(task):
            raise ValueError(
                f"{task.key} has {self.count(task)} phrasings, not {number}; set phrasings of the source to {self.count(task)} or less"
            )
        if number == 1:
            return base
        tasks = {**base.data["tasks"], task.key: self.wordings[task.key][number - 2]}
        return Instructions(base.version, {**base.data, "tasks": tasks})


def load_phrasings() -> Phrasings:
    """The wordings that ship."""
    text = resources.files("bioie_ray.prompting").joinpath("phrasings.yaml").read_text(encoding="utf-8")
    return Phrasings(yaml.safe_load(text)[VERSION])
