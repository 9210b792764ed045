"""Requests of a unit to an engine, with every finished chunk kept at once: what was answered is never asked again."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

from bioie_ray.artifacts.output import Marker, Output
from bioie_ray.artifacts.record import sum_of
from bioie_ray.config.generation import ModelSettings
from bioie_ray.generation.adapters import adapter_folder
from bioie_ray.generation.base import Completion, Engine, PaidEngine, Request, Tokens
from bioie_ray.retrieval.models import ModelSource, folder_fingerprint

# Servers take non-negative numbers of 31 bits at least.
_SERVER_SEEDS: Final = 2**31


def answer(engine: Engine, requests: Sequence[Request], output: Output, unit: str) -> dict[str, Completion]:
    """The completion of every request, by id. Chunks that an earlier try left in the store are taken from there.

    Raises:
        EngineError: the engine cannot go on; the chunks it finished are kept.
        ValueError: the kept chunks are not those of this plan, so that some answers would be missing.
    """
    chunks = engine.plan(requests)
    kept = output.parts(unit)
    done = {completion.id: completion for data in kept.values() for completion in _read(data)}

    def keep(number: int, completions: Sequence[Completion]) -> None:
        data = json.dumps([dataclasses.asdict(completion) for completion in completions], ensure_ascii=False).encode()
        done.update({completion.id: completion for completion in _read(output.put_part(unit, number, data))})

    left = [(number, chunk) for number, chunk in enumerate(chunks) if number not in kept]
    if left:
        if isinstance(engine, PaidEngine):
            engine.start_from(lambda: _asked(output))
        engine.generate(left, keep)
    missing = next((request.id for request in requests if request.id not in done), None)
    if missing is not None:  # never as if it had not been asked
        raise ValueError(
            f"{output.location} has parts of {unit} that were cut otherwise (another version of a package?), and {missing} is in none; "
            f"delete _parts/{unit} there and run again"
        )
    return done


def _read(data: bytes) -> list[Completion]:
    return [Completion(**fields) for fields in json.loads(data)]


def _asked(output: Output) -> Tokens:
    """What all answers in the store of an output took: those of finished shards, and of shards under way."""
    markers = output.markers()
    under_way = [shard for shard in output.shards_with_parts() if shard not in markers]
    kept = [completion for shard in under_way for data in output.parts(shard).values() for completion in _read(data)]
    finished_prompt, finished_answers = tokens_of(markers)
    return (
        finished_prompt + sum(completion.num_prompt_tokens for completion in kept),
        finished_answers + sum(completion.num_answer_tokens for completion in kept),
    )


def tokens_of(markers: Mapping[str, Marker]) -> Tokens:
    """Of the finished shards of an output."""
    return sum_of(markers, "prompt_tokens"), sum_of(markers, "answer_tokens")


def sample_seed(settings: ModelSettings, seed: int, document_id: str, repeat: int) -> int:
    """The seed of one answer, which depends on the recipe's seed, the document and the repeat alone: of 63 bits, and of 31 for servers and vLLM."""
    digest = hashlib.sha256(f"answer:{seed}:{document_id}:{repeat}".encode()).digest()
    number = int.from_bytes(digest[:8], "big") >> 1
    return number if settings.engine == "transformers" else number % _SERVER_SEEDS


def model_identity(settings: ModelSettings, made_by: Output | None = None) -> dict[str, Any]:
    """What of a model and its engine can change an answer, for fingerprints. How an endpoint is called, and where, is not in it."""
    identity: dict[str, Any] = {"engine": settings.engine}
    if settings.engine == "openai":
        return {**identity, "model": settings.model, "sends_seed": settings.endpoint.sends_seed}
    # vLLM packs by the memory it finds and has threads of its own: these settings do not reach it.
    reaching = {"dtype"} if settings.engine == "vllm" else {"dtype", "threads", "batch_size", "batch_tokens"}
    identity |= settings.model_dump(mode="json", include=reaching)
    identity["model"] = ModelSource(settings.model, made_by).fingerprint()
    if settings.adapter is not None:
        identity["adapter"] = folder_fingerprint(adapter_folder(settings.adapter))
    return identity


def affinity(settings: ModelSettings) -> str:
    """Units with the same one share a loaded model, or a server."""
    server = f" {settings.endpoint.url} {settings.endpoint.key_variable}" if settings.engine == "openai" else ""
    return f"{settings.engine} {settings.model} {settings.adapter} {settings.dtype}{server}"


def finish_asking(output: Output, settings: ModelSettings, markers: Mapping[str, Marker]) -> dict[str, Any]:
    """Put the kept chunks of an output away that is whole; whom it asked and, at the recipe's prices, what that cost, for the record."""
    output.drop_parts()
    prompt, answers = tokens_of(markers)
    endpoint = settings.endpoint
    cost = (prompt * endpoint.usd_per_million_prompt_tokens + answers * endpoint.usd_per_million_answer_tokens) / 1e6
    return {"model": settings.model, "engine": settings.engine, "cost_usd": round(cost, 6)}
