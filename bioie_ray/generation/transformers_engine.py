"""Answers by transformers, on a CPU or a GPU.

Prompts are sorted by length into batches; what all prompts of a batch begin with (the instruction, the examples of FERS) goes through the
model once. The rest of each is read in groups that are as large as keeps the device busy, and no larger, because a shorter prompt in a group is padded; then all
answers of the batch go on together, and one that is done leaves it. Every sample draws from its own random numbers, and batches are a function of the unit's
prompts, so the number of workers, resumed runs and retries change nothing. Guarantee: the same bytes on the same kind of machine with the
same locked packages, threads and ``batch_size``; another batch moves logits in their last bits, as everywhere.

``transformers.generate`` was weighed: it draws one stream of random numbers for a whole batch, carries finished samples along to the end of the longest, and has
no shared prefix.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from bioie_ray.artifacts.reasons import first_line
from bioie_ray.config.generation import ModelSettings
from bioie_ray.execution.linear_layers import pack_linears
from bioie_ray.generation.adapters import adapter_folder
from bioie_ray.generation.base import Completion, EngineError, Finish, OnChunk, Request, Sampling
from bioie_ray.generation.keeping import keep_one
from bioie_ray.generation.kv_cache import can_share_prefix, joined, joined_masks, new_cache, repeated, shortest_window
from bioie_ray.generation.sampler import choose, uniform
from bioie_ray.prompting.answers import find_list
from bioie_ray.prompting.tokenizer import load_tokenizer
from bioie_ray.retrieval.models import resolve_model

# A shorter beginning is not worth a pass of its own.
_MIN_SHARED = 32
# Padded tokens that are read at once. A core is busy with one prompt of 300 already: 16 of them in one call took as long a token, and 14 % of the tokens were padding.
# A GPU is not, so there it is the whole batch (`batch_tokens`).
_READ_ON_CPU = 512


@dataclass
class _Sample:
    """One answer in the making."""

    request: Request
    prompt: list[int]
    tokens: list[int] = field(default_factory=list)
    state: Any = None


class TransformersEngine:
    """A causal language model in this process."""

    def __init__(self, settings: ModelSettings, sampling: Sampling) -> None:
        self._settings = settings
        self._sampling = sampling
        self._tokenizer = load_tokenizer(settings.model)
        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        self._model = _load_model(settings.model, settings.adapter, settings.dtype, self._device)
        self._ends = _end_tokens(self._model, self._tokenizer.tokenizer)
        self._constraint: Any = None
        if sampling.structured is not None:
            from bioie_ray.generation.structure import make_constraint

            self._constraint = make_constraint(
                self._tokenizer.tokenizer, self._model.config.get_text_config().vocab_size, sampling.structured
            )

    def plan(self, requests: Sequence[Request]) -> list[list[Request]]:
        """Batches of prompts of like length, the longest first: if memory is short, it is at once."""
        sized = sorted(((len(self._encode(request)), request.id, request) for request in requests), key=lambda each: (-each[0], each[1]))
        batches: list[list[Request]] = []
        room = 0
        for length, _, request in sized:
            if room <= 0 or len(batches[-1]) >= self._settings.batch_size:
                batches.append([])
                room = max(1, self._settings.batch_tokens // max(length, 1))
            batches[-1].append(request)
            room -= 1
        return batches

    def generate(self, chunks: Sequence[tuple[int, Sequence[Request]]], on_chunk: OnChunk) -> None:
        """One batch after the other."""
        torch.set_num_threads(self._settings.threads)  # what ran here since may have set another number, and sums change with it
        for number, requests in chunks:
            with torch.inference_mode():
                done = self._batch(requests)
            on_chunk(number, [done[request.id] for request in requests])

    def _encode(self, request: Request) -> list[int]:
        return self._tokenizer.encode(request.local_text())

    def _batch(self, requests: Sequence[Request]) -> dict[str, Completion]:
        samples = [_Sample(request, self._encode(request)) for request in requests]
        if self._constraint is not None:
            for sample in samples:
                sample.state = self._constraint.start()
        cache, mask, logits = self._prefill(samples)
        lengths = torch.tensor([len(sample.prompt) for sample in samples], device=self._device)
        done: dict[str, Completion] = {}
        for step in range(self._sampling.max_new_tokens):
            chosen = self._choose(samples, logits, step)
            left = []
            for row, (sample, token) in enumerate(zip(samples, chosen, strict=True)):
                completion = self._take(sample, token)
                if completion is None:
                    left.append(row)
                else:
                    done[sample.request.id] = completion
            if not left:
                break
            if len(left) < len(samples):
                kept = torch.tensor(left, device=self._device)
                cache.batch_select_indices(kept)
                mask, lengths = mask[kept], lengths[kept]
                samples = [samples[row] for row in left]
            mask = torch.cat([mask, mask.new_ones((len(samples), 1))], dim=1)
            last = torch.tensor([[sample.tokens[-1]] for sample in samples], device=self._device)
            logits = self._forward(last, mask, lengths.unsqueeze(1) + step, cache)
        return done

    def _prefill(self, samples: Sequence[_Sample]) -> tuple[Any, torch.Tensor, torch.Tensor]:
        """Cache, attention mask [samples, tokens] and the logits [samples, vocabulary] after the prompts."""
        num_shared = self._num_shared(samples)
        beginning = None
        if num_shared:
            beginning = new_cache(self._model.config)
            ids = torch.tensor([samples[0].prompt[:num_shared]], device=self._device)
            self._forward(ids, torch.ones_like(ids), torch.arange(num_shared, device=self._device).unsqueeze(0), beginning)
        parts = [self._read(group, num_shared, beginning) for group in self._groups(samples, num_shared)]
        if len(parts) == 1:
            return parts[0]
        caches, masks, logits = zip(*parts, strict=True)
        return joined(caches, self._model.config), joined_masks(masks), torch.cat(logits)

    def _groups(self, samples: Sequence[_Sample], num_shared: int) -> Sequence[Sequence[_Sample]]:
        """The samples in groups that go through the model at once, padded to the longest of each."""
        if self._device != "cpu" or not can_share_prefix(self._model.config):
            return [samples]
        groups: list[list[_Sample]] = []
        longest = 0
        for sample in samples:
            longest = max(longest, len(sample.prompt) - num_shared)
            if not groups or longest * (len(groups[-1]) + 1) > _READ_ON_CPU:
                groups.append([])
                longest = len(sample.prompt) - num_shared
            groups[-1].append(sample)
        return groups

    def _read(self, samples: Sequence[_Sample], num_shared: int, beginning: Any) -> tuple[Any, torch.Tensor, torch.Tensor]:
        """What follows the beginning that they share through the model, padded on the left; results as of ``_prefill``."""
        config = self._model.config
        cache = new_cache(config) if beginning is None else repeated(beginning, len(samples), config)
        longest = max(len(sample.prompt) for sample in samples) - num_shared
        ids = torch.full((len(samples), longest), self._ends[0], device=self._device)
        mask = torch.zeros((len(samples), num_shared + longest), dtype=torch.long, device=self._device)
        mask[:, :num_shared] = 1
        for row, sample in enumerate(samples):
            own = sample.prompt[num_shared:]
            ids[row, longest - len(own) :] = torch.tensor(own, device=self._device)
            mask[row, num_shared + longest - len(own) :] = 1
        positions = (mask.cumsum(dim=1) - 1).clamp(min=0)[:, num_shared:]
        return cache, mask, self._forward(ids, mask, positions, cache)

    def _num_shared(self, samples: Sequence[_Sample]) -> int:
        """Tokens that all prompts begin with; each keeps at least one of its own.

        None where padding after the beginning would push tokens out of a sliding window.
        """
        config = self._model.config
        prompts = [sample.prompt for sample in samples]
        if len(prompts) < 2 or not can_share_prefix(config):
            return 0
        window = shortest_window(config)
        if window is not None and max(map(len, prompts)) + self._sampling.max_new_tokens > window:
            return 0
        first, last = min(prompts), max(prompts)
        limit = min(map(len, prompts)) - 1
        num = next((i for i in range(limit) if first[i] != last[i]), limit)
        return num if num >= _MIN_SHARED else 0

    def _forward(self, ids: torch.Tensor, mask: torch.Tensor, positions: torch.Tensor, cache: Any) -> torch.Tensor:
        """Logits [samples, vocabulary] after the last token."""
        out = self._model(
            input_ids=ids, attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=True, logits_to_keep=1
        )
        return out.logits[:, -1]  # type: ignore[no-any-return]

    def _choose(self, samples: Sequence[_Sample], logits: torch.Tensor, step: int) -> list[int]:
        if self._constraint is not None:
            logits = logits.float().clone()
            for row, sample in enumerate(samples):
                sample.state.mask(logits[row])
        return choose(logits, self._sampling.temperature, self._sampling.top_p, [uniform(sample.request.seed, step) for sample in samples])

    def _take(self, sample: _Sample, token: int) -> Completion | None:
        """Add a token; the completion if it was the last one."""
        if token in self._ends:
            return self._completion(sample, "stop")
        sample.tokens.append(token)
        if sample.state is not None and sample.state.accept(token):
            return self._completion(sample, "list")
        stop_at = self._sampling.stop_at
        if stop_at is not None and "]" in self._decode([token]):
            text = self._decode(sample.tokens)
            found = find_list(text, stop_at)
            if found is not None:
                return self._completion(sample, "list", text[: found[1]])
        if len(sample.tokens) == self._sampling.max_new_tokens:
            return self._completion(sample, "length")
        return None

    def _completion(self, sample: _Sample, finish: Finish, text: str | None = None) -> Completion:
        text = self._decode(sample.tokens) if text is None else text
        return Completion(sample.request.id, text, finish, len(sample.prompt), len(sample.tokens))

    def _decode(self, tokens: list[int]) -> str:
        return str(self._tokenizer.tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False))


@keep_one
def _load_model(model: str, adapter: str | None, dtype: str, device: str) -> Any:
    """The model of this process, which the cells of a matrix share; one at a time, however many a recipe has."""
    from transformers import AutoModelForCausalLM

    path = resolve_model(model)
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(path, dtype=getattr(torch, dtype))
    except (OSError, ValueError) as error:
        raise EngineError(f"{model} cannot be loaded as a causal language model: {first_line(error)}") from None
    if adapter is not None:
        loaded = _with_adapter(loaded, adapter)
    loaded = loaded.to(device).eval()
    pack_linears(loaded)
    return loaded


def _with_adapter(model: Any, adapter: str) -> Any:
    """The adapter merged into the weights: answers then cost what the model alone does."""
    try:
        from peft import PeftModel
    except ImportError:
        raise EngineError("an adapter needs peft; install it by: pip install 'bioie-ray[generate]'") from None
    try:
        return PeftModel.from_pretrained(model, str(adapter_folder(adapter))).merge_and_unload()
    except (OSError, ValueError) as error:
        raise EngineError(f"the adapter {adapter} cannot be put on: {first_line(error)}") from None


def _end_tokens(model: Any, tokenizer: Any) -> list[int]:
    """Tokens that end an answer, by the model's own generation settings and its tokenizer; never empty."""
    ends: list[int] = []
    for found in (model.generation_config.eos_token_id, model.config.get_text_config().eos_token_id, tokenizer.eos_token_id):
        ends += [found] if isinstance(found, int) else list(found or ())
    if not ends:
        raise EngineError("neither the model nor its tokenizer names a token that ends a text (eos_token_id)")
    return list(dict.fromkeys(ends))
