"""The two sides of `bench_generation.py`: the loop and the library over the same prompts, and models with random weights."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig, StoppingCriteria, StoppingCriteriaList

from bioie_ray.config.generation import ModelSettings, PromptSettings
from bioie_ray.corpora.catalog import find_reader, read_split, splits_of
from bioie_ray.corpora.document import Document
from bioie_ray.corpora.tasks import Task, gold
from bioie_ray.generation.base import Completion, Finish, Request, Sampling
from bioie_ray.generation.structure import cut_at_list
from bioie_ray.generation.transformers_engine import TransformersEngine
from bioie_ray.pipeline.prepare import embedded
from bioie_ray.pipeline.prompts import prompt_form
from bioie_ray.prompting.answers import Kind, find_list
from bioie_ray.prompting.instructions import load_instructions
from bioie_ray.prompting.prompt import Example, PromptBuilder
from bioie_ray.prompting.tokenizer import load_tokenizer
from bioie_ray.retrieval.models import resolve_model

SEED = 20_240
_MOST_EXAMPLES = 10
# Public sizes, for --random-weights where no configuration file is at hand.
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "llama-3.2-1b": {
        "model_type": "llama", "hidden_size": 2_048, "intermediate_size": 8_192, "num_hidden_layers": 16, "num_attention_heads": 32,
        "num_key_value_heads": 8, "head_dim": 64, "max_position_embeddings": 131_072, "tie_word_embeddings": True, "vocab_size": 128_256,
    },
    "llama-3.1-8b": {
        "model_type": "llama", "hidden_size": 4_096, "intermediate_size": 14_336, "num_hidden_layers": 32, "num_attention_heads": 32,
        "num_key_value_heads": 8, "head_dim": 128, "max_position_embeddings": 131_072, "vocab_size": 128_256,
    },
}  # fmt: skip
Ask = Callable[[Sequence[Request]], dict[str, Completion]]


@dataclass
class Side:
    """One of the two ways to answer, and its seconds and answers group by group."""

    ask: Ask
    wall_s: list[float] = field(default_factory=list)
    cpu_s: list[float] = field(default_factory=list)
    num_tokens: list[int] = field(default_factory=list)

    def run(self, requests: Sequence[Request]) -> dict[str, Completion]:
        """Answer a group, timed."""
        wall, cpu = time.perf_counter(), time.process_time()
        done = self.ask(requests)
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.wall_s.append(time.perf_counter() - wall)
        self.cpu_s.append(time.process_time() - cpu)
        self.num_tokens.append(sum(completion.num_answer_tokens for completion in done.values()))
        return done


class StopAtList(StoppingCriteria):
    """The engine's rule for the loop: the bracket that closes a complete list is the last token."""

    def __init__(self, tokenizer: Any, num_prompt_tokens: int, kind: Kind) -> None:
        self._decode = functools.partial(tokenizer.decode, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        self._num_prompt_tokens = num_prompt_tokens
        self._kind = kind

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        """Whether the list is complete."""
        done = "]" in self._decode(input_ids[0, -1:]) and find_list(self._decode(input_ids[0, self._num_prompt_tokens :]), self._kind)
        return torch.tensor([bool(done)], device=input_ids.device)


class Loop:
    """``generate``, one prompt at a time."""

    def __init__(self, settings: ModelSettings, sampling: Sampling, kind: Kind) -> None:
        path = resolve_model(settings.model)
        self._tokenizer = AutoTokenizer.from_pretrained(path)
        model: Any = AutoModelForCausalLM.from_pretrained(path, dtype=getattr(torch, settings.dtype))
        self.model = model.to("cuda" if torch.cuda.is_available() else "cpu").eval()
        self._kind = kind
        ends: list[int] = []
        for found in (model.generation_config.eos_token_id, model.config.eos_token_id, self._tokenizer.eos_token_id):
            ends += [found] if isinstance(found, int) else list(found or ())
        self._ends = set(ends)
        self._config = GenerationConfig(
            do_sample=False, max_new_tokens=sampling.max_new_tokens, eos_token_id=sorted(self._ends), pad_token_id=ends[0]
        )

    def __call__(self, requests: Sequence[Request]) -> dict[str, Completion]:
        """The answers by id."""
        return {request.id: self._one(request) for request in requests}

    def _one(self, request: Request) -> Completion:
        inputs = self._tokenizer(request.text, add_special_tokens=False, return_tensors="pt").to(self.model.device)
        num = inputs["input_ids"].shape[1]
        stop = StoppingCriteriaList([StopAtList(self._tokenizer, num, self._kind)])
        made = self.model.generate(**inputs, generation_config=self._config, stopping_criteria=stop)[0, num:].tolist()
        tokens = made[:-1] if made[-1] in self._ends else made
        finish: Finish = "stop" if len(tokens) < len(made) else "length"
        text = self._tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return Completion(request.id, *cut_at_list(text, finish, self._kind), num, len(tokens))


class Library:
    """The engine, over the batches that it plans itself."""

    def __init__(self, settings: ModelSettings, sampling: Sampling) -> None:
        self.engine = TransformersEngine(settings, sampling)

    def __call__(self, requests: Sequence[Request]) -> dict[str, Completion]:
        """The answers by id."""
        done: dict[str, Completion] = {}
        chunks = list(enumerate(self.engine.plan(requests)))
        self.engine.generate(chunks, lambda _, found: done.update({completion.id: completion for completion in found}))
        return done


class Prompts:
    """Requests for groups of documents of an embedded corpus, by the real builder."""

    def __init__(self, task: Task, settings: ModelSettings) -> None:
        reader, files = find_reader(task.corpus, embedded(task.corpus))
        found = {d.id: d for split in splits_of(files) for d in read_split(reader, files, split) if isinstance(d, Document)}
        self._documents = sorted(found.values(), key=lambda document: document.id)
        self._task = task
        tokenizer = load_tokenizer(settings.model)
        order = PromptSettings().order
        self._builder = PromptBuilder(task, load_instructions("1"), prompt_form("auto", tokenizer), order, tokenizer, None)

    def groups(self, method: str, num_examples: int, size: int, num_groups: int) -> list[list[Request]]:
        """Seeded groups of distinct documents, none of which is an example of `fers`; the same groups for every method."""
        rng = np.random.default_rng(SEED)
        fixed, queries = np.split(rng.permutation(len(self._documents)), [_MOST_EXAMPLES])
        rounds = -(-size * num_groups // len(queries))
        drawn = [int(i) for _ in range(rounds) for i in rng.permutation(queries)]
        return [
            [self._request(query, method, num_examples, fixed.tolist()) for query in dict.fromkeys(drawn[start : start + size])]
            for start in range(0, size * num_groups, size)
        ]

    def _request(self, query: int, method: str, num_examples: int, fixed: Sequence[int]) -> Request:
        own = np.random.default_rng([SEED, query]).permutation(len(self._documents)).tolist()
        others = [i for i in (fixed if method == "fers" else own) if i != query][:num_examples]
        examples = [Example(d.id, d.text, gold(self._task, d).answers) for d in (self._documents[i] for i in others)]
        prompt = self._builder.build(self._documents[query].text, examples)
        return Request(self._documents[query].id, prompt.text, (), seed=0)


def save_random(architecture: str, tokenizer_of: str, folder: Path, dtype: str) -> Path:
    """A model of an architecture with seeded random weights and somebody else's tokenizer: it says nothing, at the right speed."""
    if architecture in ARCHITECTURES:
        config = AutoConfig.for_model(**ARCHITECTURES[architecture])
    else:
        config = AutoConfig.from_pretrained(architecture)
    tokenizer = AutoTokenizer.from_pretrained(resolve_model(tokenizer_of))
    config.vocab_size = max(config.vocab_size, len(tokenizer))
    config.bos_token_id, config.eos_token_id = tokenizer.bos_token_id, tokenizer.eos_token_id
    torch.manual_seed(SEED)
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        AutoModelForCausalLM.from_config(config, dtype=getattr(torch, dtype)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
