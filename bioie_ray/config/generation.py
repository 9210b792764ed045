"""Settings of prompting, generation, review and evaluation. All of it is in fingerprints, but how an endpoint is called; it can change an output's bytes."""

from __future__ import annotations

import re
from typing import Final, Literal, Self

from pydantic import Field, model_validator

from bioie_ray.config.base import Settings
from bioie_ray.config.steps import Dtype
from bioie_ray.config.training import STAGE_PREFIX, STAGES

# What may stand behind a URL's question mark. Whatever else does may be a key, and recipes are recorded.
_PARAMETERS: Final = frozenset({"api-version", "api_version", "deployment", "model", "project", "region", "version"})
_PLAIN_NAME: Final = re.compile(r"[a-z_-]{1,20}", re.IGNORECASE)

EngineName = Literal["transformers", "vllm", "openai"]


class PromptSettings(Settings):
    """How a query and its examples become a prompt."""

    num_examples: int = Field(default=5, ge=0, le=50, description="input/output pairs before the query; 0: zero-shot, which has no method")
    order: Literal["best_first", "best_last"] = Field(default="best_last", description="where the most similar example stands")
    form: Literal["auto", "chat", "plain"] = Field(
        default="auto",
        description="chat: through the model's template; plain: one text, for base models; auto: chat where there is a template",
    )
    instructions: str = Field(
        default="1", description="version of the task instructions that ship, or a YAML file of your own in the same form"
    )
    max_tokens: int | None = Field(
        default=None, ge=16, description="tokens of a prompt; left out: the model's context less generate.max_new_tokens"
    )
    max_documents: int | None = Field(default=None, ge=1, description="ask about this many queries only (a seeded draw)")
    max_document_tokens: int | None = Field(
        default=None, ge=1, description="leave out longer queries, by the model's tokenizer; the record counts them"
    )


class EndpointSettings(Settings):
    """An OpenAI-compatible server. Its key comes from the environment only, never from a recipe."""

    url: str | None = Field(default=None, description="base URL, ending before /chat/completions: https://HOST/v1")
    key_variable: str = Field(
        default="OPENAI_API_KEY", pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", description="environment variable with the key"
    )
    concurrency: int = Field(default=8, ge=1, description="requests under way at once, for each worker")
    requests_per_minute: float | None = Field(default=None, gt=0.0, description="at most so many requests a minute, for each worker")
    timeout_s: float = Field(default=120.0, gt=0.0, description="of one request")
    max_retries: int = Field(default=8, ge=0, description="of one request, on 429, 5xx, time-outs and lost connections, with growing waits")
    max_wait_s: float = Field(default=60.0, gt=0.0, description="longest wait between two tries")
    usd_per_million_prompt_tokens: float = Field(default=0.0, ge=0.0)
    usd_per_million_answer_tokens: float = Field(default=0.0, ge=0.0)
    max_usd: float | None = Field(
        default=None, gt=0.0, description="stop when the answers of an output have cost this much, earlier runs included"
    )
    sends_seed: bool = Field(default=True, description="send `seed` with each request; some servers refuse it")

    @model_validator(mode="after")  # of the section, because the message about a key would repeat its value
    def _no_password_in_the_url(self) -> Self:
        if re.match(r"[^/]*//[^/?#]*@", self.url or ""):
            raise ValueError(
                f"the URL holds a user or password, and recipes are recorded; take it out, and put the key into the variable {self.key_variable}"
            )
        return self

    @model_validator(mode="after")
    def _no_key_in_the_url(self) -> Self:
        query = re.split(r"[?#]", self.url or "", maxsplit=1)[1:]
        other = [part for part in re.split(r"[?&;#]", query[0]) if part.partition("=")[0].lower() not in _PARAMETERS] if query else []
        if other:
            name, is_named, _ = other[0].partition("=")
            shown = f"a parameter `{name}`" if is_named and _PLAIN_NAME.fullmatch(name) else "more than an address"  # never a key itself
            raise ValueError(
                f"the URL holds {shown}, which may be a key, and recipes are recorded; "
                f"take it out, and put a key into the variable {self.key_variable} (parameters that may be there: {', '.join(sorted(_PARAMETERS))})"
            )
        return self

    @model_validator(mode="after")
    def _budget_has_a_price(self) -> Self:
        if self.max_usd is not None and not (self.usd_per_million_prompt_tokens or self.usd_per_million_answer_tokens):
            raise ValueError(
                "endpoint.max_usd needs prices to count with; set endpoint.usd_per_million_prompt_tokens and usd_per_million_answer_tokens"
            )
        return self


class ModelSettings(Settings):
    """A language model and how it is run."""

    engine: EngineName = "transformers"
    model: str = Field(
        default="offline:smollm2-135m-instruct",
        description="a folder, a hub id (`org/name` or `org/name@revision`), `offline:NAME`, or `stage:preft` (`dpop`, `postft`) for what "
        "this recipe trains; for `openai` the model's name at the server",
    )
    adapter: str | None = Field(default=None, description="a LoRA adapter to put on: a folder or a hub id")
    tokenizer: str | None = Field(
        default=None, description="for `openai`: a folder or hub id whose tokenizer counts the tokens; left out: prompts are not cut"
    )
    dtype: Dtype = "float32"
    threads: int = Field(default=1, ge=1, description="CPU threads per actor; fixed, because sums change with their number")
    batch_size: int = Field(default=16, ge=1, description="answers under way at once (transformers; vLLM sees to it itself)")
    batch_tokens: int = Field(default=16_384, ge=256, description="padded tokens of the prompts of a batch")
    endpoint: EndpointSettings = EndpointSettings()

    @property
    def counts_by(self) -> str | None:
        """The model whose tokenizer counts; ``None`` for a server whose tokenizer is not known."""
        return self.tokenizer if self.engine == "openai" else self.model

    @property
    def uses_gpu(self) -> bool:
        """Whether the model is run by the actor itself, not by a server."""
        return self.engine != "openai"

    @model_validator(mode="after")
    def _endpoint_where_needed(self) -> Self:
        if self.engine == "openai" and self.endpoint.url is None:
            raise ValueError("engine is openai, so endpoint.url is needed: the server's base URL, for example http://localhost:8000/v1")
        if self.model.startswith(STAGE_PREFIX) and (self.model.removeprefix(STAGE_PREFIX) not in STAGES or self.engine == "openai"):
            raise ValueError(
                f"model is {self.model}: a stage is one of {', '.join(STAGE_PREFIX + stage for stage in STAGES)}, and asked by an engine of ours"
            )
        if self.engine == "openai" and self.adapter is not None:
            raise ValueError("an adapter cannot be put on a model behind an endpoint; serve it there, and leave adapter out")
        return self


class GenerateSettings(ModelSettings):
    """How answers are sampled."""

    temperature: float = Field(default=0.5, ge=0.0, le=2.0, description="0: greedy")
    top_p: float = Field(default=0.9, gt=0.0, le=1.0)
    max_new_tokens: int = Field(default=512, ge=1)
    repeats: int = Field(default=1, ge=1, le=1_000, description="answers for each document, each with a seed of its own")
    stop_at_list: bool = Field(default=True, description="end an answer at the closing bracket of a complete list")
    structured: bool = Field(default=False, description="decode so that only a valid list can come out (llguidance)")


class DmcrSettings(Settings):
    """Dual-model consistency review: two evaluators convert what does not parse; where they differ, a person decides."""

    evaluators: tuple[ModelSettings, ...] = Field(
        default=(ModelSettings(), ModelSettings(model="offline:gemma3-270m")),
        description="two models, any engine each; empty: answers are only parsed and undressed",
    )
    max_new_tokens: int = Field(default=512, ge=1)

    @model_validator(mode="after")
    def _two_different(self) -> Self:
        if self.evaluators and len(self.evaluators) != 2:
            raise ValueError(f"dmcr.evaluators lists {len(self.evaluators)}; give two, or none ([]) to go without them")
        staged = next((one.model for one in self.evaluators if one.model.startswith(STAGE_PREFIX)), None)
        if staged:
            raise ValueError(
                f"dmcr.evaluators names {staged}: evaluators are models that are there before the recipe is run; give a folder, a hub id or offline:NAME"
            )
        if len({(one.model, one.adapter, one.endpoint.url) for one in self.evaluators}) == 1:
            raise ValueError("dmcr.evaluators are the same model twice; give two different ones, or their agreement means nothing")
        return self


class EvaluateSettings(Settings):
    """How answers are scored."""

    bootstrap_samples: int = Field(default=1_000, ge=100)
    confidence: float = Field(default=0.95, gt=0.0, lt=1.0)
