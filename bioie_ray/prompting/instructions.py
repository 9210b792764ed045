"""Task instructions: versions that ship in ``instructions.yaml``, or a file of the user's own."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from bioie_ray.corpora.tasks import TASKS, Task

_KEYS = ("input", "answer", "form", "tasks")


@dataclass(frozen=True)
class Instructions:
    """How documents are asked about. ``version`` is a shipped one's name, or the file of another."""

    version: str
    data: dict[str, Any]

    @cached_property
    def digest(self) -> str:
        """Of the text, for fingerprints: a file that was edited is another one."""
        return hashlib.sha256(yaml.safe_dump(self.data, sort_keys=True, allow_unicode=True).encode()).hexdigest()

    def ask(self, task: Task) -> str:
        """The instruction that a prompt begins with."""
        return f"{self.data['tasks'][task.key].strip()} {self.data['form'][task.kind].strip()}"

    def input(self, text: str) -> str:
        """A document as it is asked about."""
        return str(self.data["input"]).replace("{text}", text)

    def question(self, task: Task, text: str) -> str:
        """The first turn of a conversation: the instruction, and the first document that is asked about."""
        return f"{self.ask(task)}\n\n{self.input(text)}"

    def answer(self, answer: str) -> str:
        """An example's answer in plain form; empty ``answer``: what the model is to continue, without a space at its end."""
        return str(self.data["answer"]).replace("{answer}", answer).rstrip(" ")


def load_instructions(version: str) -> Instructions:
    """A version that ships, or a YAML file in the form of one.

    Raises:
        ValueError: no such version or file, or it lacks a key or a task; the message says which.
    """
    shipped = yaml.safe_load(resources.files("bioie_ray.prompting").joinpath("instructions.yaml").read_text(encoding="utf-8"))
    if version in shipped:
        return Instructions(version, shipped[version])
    path = Path(version)
    if not path.is_file():
        raise ValueError(f"prompt.instructions is {version!r}: no such version (there are {', '.join(shipped)}), and no such file")
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not YAML: {error}") from None
    _check(path, data)
    return Instructions(version, data)


def _check(path: Path, data: Any) -> None:
    missing = [key for key in _KEYS if not isinstance(data, dict) or key not in data]
    if missing:
        raise ValueError(f"{path} lacks {', '.join(missing)}; write it like bioie_ray/prompting/instructions.yaml, without the version")
    for key, hole in (("input", "{text}"), ("answer", "{answer}")):
        if hole not in str(data[key]):
            raise ValueError(f"{path}: `{key}` has no {hole} in it, so nothing could be put there")
    for key, names in (("form", {"ner", "re"}), ("tasks", set(TASKS))):
        texts = data[key] if isinstance(data[key], dict) else {}
        lacking = sorted(name for name in names if not isinstance(texts.get(name), str) or not texts[name].strip())
        if lacking:
            raise ValueError(f"{path}: `{key}` has no text for {', '.join(lacking)}")
