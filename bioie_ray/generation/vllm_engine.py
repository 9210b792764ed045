"""Answers by vLLM on a GPU, one engine in each actor of our Ray Data pool.

Not tried on a GPU: what is rendered for vLLM is tested, and the calls against a stand-in with vLLM's documented signatures (0.11 and later).

``ray.data.llm`` was weighed and left. ``build_processor`` maps a dataset to a dataset through actor pools of its own, cuts batches by
block and hands rows on to whoever reads the dataset. Here an actor owns a unit: it writes finished chunks to the store, resumes by document
and repeat, and ends with the same file byte for byte; inside an actor a processor would be a second pool. What it does better: it
has the next batch under way while the last answers of one are finished, where ``LLM.generate`` drains at the end of each chunk.

Prompts that begin alike lie together in a chunk, and vLLM keeps what they share (prefix caching). It has stop strings only, and none can tell
the bracket that closes a list from one inside a name or in a sentence before it; answers are cut behind their list when they are done.

Guarantee: seeds are per request and chunks are a function of the unit's prompts, so the number of workers changes no chunk; scheduling is
deterministic (``VLLM_ENABLE_V1_MULTIPROCESSING=0``). Still the last bits of logits depend on what a request is batched with and on what the
prefix cache holds, so a resumed run may differ; ``VLLM_BATCH_INVARIANT=1`` (vLLM, beta, newer GPUs) is meant to end that.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from bioie_ray.artifacts.reasons import first_line
from bioie_ray.config.generation import ModelSettings
from bioie_ray.generation.adapters import adapter_folder
from bioie_ray.generation.base import Completion, EngineError, Finish, OnChunk, Request, Sampling
from bioie_ray.generation.structure import cut_at_list, schema
from bioie_ray.retrieval.models import resolve_model

_CHUNK: Final = 256
_RANKS: Final = (8, 16, 32, 64, 128, 256, 320, 512)  # that vLLM has kernels for


def engine_arguments(settings: ModelSettings, model: str, adapter_rank: int | None = None) -> dict[str, Any]:
    """Keyword arguments of ``vllm.LLM``. ``batch_size`` and ``batch_tokens`` have no say: vLLM packs by the memory it finds.

    Args:
        settings: the model's.
        model: its folder.
        adapter_rank: of the LoRA adapter, if there is one.

    Raises:
        EngineError: a rank that vLLM does not take.
    """
    arguments: dict[str, Any] = {"model": model, "dtype": settings.dtype, "seed": 0, "enable_prefix_caching": True}
    if adapter_rank is not None:
        room = next((rank for rank in _RANKS if rank >= adapter_rank), None)
        if room is None:
            raise EngineError(
                f"the adapter {settings.adapter} has rank {adapter_rank}, and vLLM takes {_RANKS[-1]} at most; set engine=transformers"
            )
        arguments |= {"enable_lora": True, "max_loras": 1, "max_lora_rank": room}
    return arguments


def sampling_arguments(request: Request, sampling: Sampling) -> dict[str, Any]:
    """Keyword arguments of ``vllm.SamplingParams``; ``structured_outputs`` holds those of ``StructuredOutputsParams``."""
    arguments: dict[str, Any] = {
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "max_tokens": sampling.max_new_tokens,
        "seed": request.seed,
    }
    if sampling.structured is not None:
        arguments["structured_outputs"] = {"json": schema(sampling.structured)}
    return arguments


class VllmEngine:
    """vLLM in this process."""

    def __init__(self, settings: ModelSettings, sampling: Sampling) -> None:
        # Before vLLM is imported; it would start a process that an actor that is killed leaves behind.
        os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
        try:
            import vllm
        except ImportError as error:
            raise EngineError(
                f"engine is vllm, which cannot be imported here ({error}); install it on the GPU nodes by: pip install vllm, or set engine=transformers"
            ) from None
        self._vllm: Any = vllm
        self._sampling = sampling
        adapter = None if settings.adapter is None else adapter_folder(settings.adapter)
        arguments = engine_arguments(settings, str(resolve_model(settings.model)), None if adapter is None else _rank(adapter))
        try:
            self._llm: Any = vllm.LLM(**arguments)
        except (OSError, RuntimeError, ValueError) as error:
            raise EngineError(f"vLLM cannot load {settings.model}: {first_line(error)}") from None
        self._tokenizer: Any = self._llm.get_tokenizer()
        self._lora: Any = None
        if adapter is not None:
            from vllm.lora.request import LoRARequest

            self._lora = LoRARequest(lora_name=adapter.name, lora_int_id=1, lora_path=str(adapter))

    def plan(self, requests: Sequence[Request]) -> list[list[Request]]:
        """By prompt, so that those that begin alike are neighbours; vLLM batches inside a chunk as it goes."""
        ordered = sorted(requests, key=lambda request: (request.text or "", request.id))
        return [ordered[start : start + _CHUNK] for start in range(0, len(ordered), _CHUNK)]

    def generate(self, chunks: Sequence[tuple[int, Sequence[Request]]], on_chunk: OnChunk) -> None:
        """One chunk after the other."""
        for number, requests in chunks:
            prompts = [self._prompt(request) for request in requests]
            parameters = [self._parameters(request) for request in requests]
            try:
                outputs = self._llm.generate(prompts, parameters, use_tqdm=False, lora_request=self._lora)
            except (RuntimeError, ValueError) as error:
                raise EngineError(f"vLLM failed at {requests[0].id} and the {len(requests) - 1} after it: {first_line(error)}") from None
            on_chunk(number, [self._completion(request, output) for request, output in zip(requests, outputs, strict=True)])

    def _prompt(self, request: Request) -> dict[str, Any]:
        """Tokens, because a rendered prompt has its special tokens in words, and vLLM would add another beginning."""
        return {"prompt_token_ids": self._tokenizer.encode(request.local_text(), add_special_tokens=False)}

    def _parameters(self, request: Request) -> Any:
        arguments = sampling_arguments(request, self._sampling)
        if "structured_outputs" in arguments:
            from vllm.sampling_params import StructuredOutputsParams

            arguments["structured_outputs"] = StructuredOutputsParams(**arguments["structured_outputs"])
        return self._vllm.SamplingParams(**arguments)

    def _completion(self, request: Request, output: Any) -> Completion:
        answer = output.outputs[0]
        text: str = answer.text
        finish: Finish = "length" if answer.finish_reason == "length" else "stop"
        if self._sampling.stop_at is not None:
            text, finish = cut_at_list(text, finish, self._sampling.stop_at)
        return Completion(request.id, text, finish, len(output.prompt_token_ids), len(answer.token_ids))


def _rank(adapter: Path) -> int:
    """The largest rank in the adapter."""
    config = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))
    return max([int(config["r"]), *map(int, (config.get("rank_pattern") or {}).values())])
