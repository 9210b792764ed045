"""The engine of a recipe's settings, loaded once per process."""

from __future__ import annotations

from bioie_ray.config.generation import ModelSettings
from bioie_ray.generation.base import Engine, Sampling
from bioie_ray.generation.keeping import keep_one


@keep_one
def load_engine(settings: ModelSettings, sampling: Sampling) -> Engine:
    """The engine; the cells of a matrix that have the same one share it, and it goes before another one is made.

    Raises:
        EngineError: it cannot be had here; the message says what is missing.
    """
    if settings.engine == "openai":
        from bioie_ray.generation.openai_engine import OpenAIEngine

        return OpenAIEngine(settings, sampling)
    if settings.engine == "vllm":
        from bioie_ray.generation.vllm_engine import VllmEngine

        return VllmEngine(settings, sampling)
    from bioie_ray.generation.transformers_engine import TransformersEngine

    return TransformersEngine(settings, sampling)
