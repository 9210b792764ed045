"""Task F1 of a model in training: it is asked about a few dev documents, as it will be asked in the end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

import torch

from bioie_ray.dmcr.reading import read_answer
from bioie_ray.evaluation.gold_view import Key, distinct
from bioie_ray.evaluation.scoring import Counts, compare
from bioie_ray.prompting.answers import Kind
from bioie_ray.training.tokens import ChatTokenizer

_BATCH = 8


@dataclass(frozen=True, slots=True)
class Question:
    """A dev document as it is asked about, and its gold answers as they are compared."""

    id: str
    prompt: str
    kind: Kind
    gold: frozenset[Key]


@dataclass(frozen=True, slots=True)
class ScoringPlan:
    """What is asked at every scoring. Answers are greedy and read after cleaning; one that cannot be read is empty.

    A question that leaves the model no room for an answer is not asked: as in generation, it counts as unanswered.
    """

    questions: tuple[Question, ...]
    max_new_tokens: int

    @property
    def num_batches(self) -> int:
        """How often the model is asked, about several at once."""
        return len(_batches(self.questions))


@dataclass(frozen=True, slots=True)
class Score:
    """Micro F1 over all questions, and how many answers were no list."""

    f1: float
    num_malformed: int


def score(model: Any, tokenizer: ChatTokenizer, plan: ScoringPlan) -> Score:
    """Ask a model in memory; it is left in the mode it was in, and no random number is drawn."""
    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            fitting = [question for question in plan.questions if _fits(question, tokenizer, plan.max_new_tokens)]
            answers = {
                question.id: answer
                for batch in _batches(fitting)
                for question, answer in zip(batch, _ask(model, tokenizer, batch, plan.max_new_tokens), strict=True)
            }
    finally:
        model.train(was_training)
    readings = [read_answer(answers.get(question.id, ""), question.kind) for question in plan.questions]
    counts = [compare(question.gold, distinct(reading.cleaned)) for question, reading in zip(plan.questions, readings, strict=True)]
    return Score(reduce(Counts.__add__, counts, Counts()).f1, sum(reading.cleaned is None for reading in readings))


def _fits(question: Question, tokenizer: ChatTokenizer, max_new_tokens: int) -> bool:
    if tokenizer.context is None:
        return True
    return len(_prompt(question, tokenizer)) + max_new_tokens <= tokenizer.context


def _prompt(question: Question, tokenizer: ChatTokenizer) -> list[int]:
    return tokenizer.encode_prompt([{"role": "user", "content": question.prompt}])


def _batches(questions: Sequence[Question]) -> list[Sequence[Question]]:
    return [questions[start : start + _BATCH] for start in range(0, len(questions), _BATCH)]


def _ask(model: Any, tokenizer: ChatTokenizer, questions: Sequence[Question], max_new_tokens: int) -> list[str]:
    prompts = [_prompt(question, tokenizer) for question in questions]
    width = max(map(len, prompts))
    end = tokenizer.end_of_turn
    ids = torch.tensor([[end] * (width - len(prompt)) + prompt for prompt in prompts], device=model.device)
    mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts], device=model.device)
    answers = model.generate(
        input_ids=ids, attention_mask=mask, do_sample=False, max_new_tokens=max_new_tokens, eos_token_id=end, pad_token_id=end
    )
    return [str(tokenizer.tokenizer.decode(answer, skip_special_tokens=True)) for answer in answers[:, width:]]
