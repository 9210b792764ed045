"""What the two evaluators are asked: to bring an answer into the list form, and nothing else.

They see the answer, not the document: who does not see the text cannot extract from it. There is no system turn, because several
chat templates (Gemma's) refuse one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from bioie_ray.dmcr.reading import read_answer
from bioie_ray.prompting.answers import Answers, Kind, format_list
from bioie_ray.prompting.prompt import Message


@dataclass(frozen=True, slots=True)
class ConversionPrompt:
    """The instruction of a kind, and answers with the lists they are worth."""

    instruction: str
    examples: tuple[tuple[str, Answers], ...]


# Raise it with every change below: it is part of the fingerprint of conversions.
CONVERSION_VERSION: Final = 1
_RULES: Final = (
    "Only convert: do not extract anything new, do not correct, translate, complete or leave out anything. Keep each item as it is "
    "written in the answer. If the answer names nothing, or only says that there is nothing, reply []. Reply with the list and nothing else."
)
CONVERSION_PROMPTS: Final[Mapping[Kind, ConversionPrompt]] = MappingProxyType(
    {
        "ner": ConversionPrompt(
            "Below is an answer that another program gave when it was asked for a list of names. Convert that answer into a JSON list of "
            f"strings. {_RULES}",
            (
                ("The text mentions:\n1. Pelvic pain\n2. low-grade fever (twice)", ("Pelvic pain", "low-grade fever")),
                ("I could not find any of them in this abstract.", ()),
            ),
        ),
        "re": ConversionPrompt(
            "Below is an answer that another program gave when it was asked for a list of pairs. Convert that answer into a JSON list in "
            f"which each item is a list of two strings, in the order in which the answer has them. {_RULES}",
            (
                ("- Quinine -> tinnitus\n- quinine and hearing loss", (("Quinine", "tinnitus"), ("quinine", "hearing loss"))),
                ("No such pairs are described.", ()),
            ),
        ),
    }
)


def conversion_messages(answer: str, kind: Kind) -> tuple[Message, ...]:
    """The conversation for a chat model: the instruction with the first worked example, the second, then the answer."""
    prompt = CONVERSION_PROMPTS[kind]
    messages: list[Message] = []
    lead = f"{prompt.instruction}\n\n"
    for example, answers in prompt.examples:
        messages += (Message("user", lead + _quoted(example)), Message("assistant", format_list(answers)))
        lead = ""
    return (*messages, Message("user", _quoted(answer)))


def conversion_text(answer: str, kind: Kind) -> str:
    """The same for a base model, to be continued with the list."""
    prompt = CONVERSION_PROMPTS[kind]
    shown = [f"{_quoted(example)}\nList: {format_list(answers)}" for example, answers in prompt.examples]
    return "\n\n".join((prompt.instruction, *shown, f"{_quoted(answer)}\nList:"))


def read_conversion(text: str, kind: Kind) -> Answers | None:
    """What an evaluator's reply is worth: the list that it is, or that a rule undresses."""
    return read_answer(text, kind).cleaned


def _quoted(answer: str) -> str:
    return f"<answer>\n{answer.strip()}\n</answer>"
