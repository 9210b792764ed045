"""Settings of the steps of RAG-ICL. Everything here can change an output's bytes and is part of its fingerprint."""

from __future__ import annotations

from datetime import date
from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from bioie_ray.config.base import Settings

CorpusName = Literal["bc5cdr", "ncbi_disease", "nlm_gene", "chemdner", "ddi_corpus", "biorelex"]
TaskName = Literal[
    "bc5cdr_chemical",
    "bc5cdr_disease",
    "ncbi_disease",
    "chemdner",
    "nlm_gene",
    "bc5cdr_cid",
    "ddi_corpus",
    "biorelex",
]
Split = Literal["train", "dev", "test", "test_ner"]
Dtype = Literal["float32", "bfloat16", "float16"]
Threads = Field(default=1, ge=1, description="CPU threads per actor; fixed, because sums change with their number")


class PrepareSettings(Settings):
    """How a corpus becomes parquet shards."""

    format: str = Field(default="auto", description="source format, or `auto`: the first of the corpus's formats found in the source")
    documents_per_shard: int = Field(default=128, ge=1)
    max_quarantined_share: float = Field(
        default=0.01, ge=0.0, le=1.0, description="above this share of quarantined documents the job fails"
    )
    max_document_chars: int = Field(
        default=2_000_000, ge=1_000, description="a longer document is quarantined: it would hold one actor's memory"
    )


class EmbedSettings(Settings):
    """How document texts become unit vectors."""

    model: str = Field(
        default="offline:all-minilm-l6-v2",
        description="a folder, a hub id (`org/name` or `org/name@revision`), or `offline:NAME` for a packaged model",
    )
    max_seq_length: int = Field(default=256, ge=8, description="tokens; what is cut is counted in the record")
    batch_tokens: int = Field(default=8_192, ge=256, description="padded tokens in one batch")
    dtype: Dtype = "float32"
    threads: int = Threads
    base: str | None = Field(
        default=None,
        description="version of a finished output of the same name: texts embedded there are taken over, not embedded again",
    )

    @field_validator("base", mode="before")
    @classmethod
    def _base_is_text(cls, value: Any) -> Any:
        return str(value) if isinstance(value, int | date) else value


class IndexSettings(Settings):
    """How vectors are searched: exactly (`flat`), or by an approximate index, one FAISS index a shard."""

    kind: Literal["flat", "ivf", "hnsw"] = "flat"
    ivf_lists: int = Field(default=256, ge=1, description="coarse cells of one shard's index")
    ivf_probes: int = Field(default=96, ge=1, description="cells visited by a query")
    hnsw_links: int = Field(default=32, ge=2)
    hnsw_build_depth: int = Field(default=200, ge=8)
    hnsw_search_depth: int = Field(default=128, ge=8)

    @model_validator(mode="after")
    def _probes_within_lists(self) -> Self:
        if self.ivf_probes > self.ivf_lists:
            raise ValueError(
                f"index.ivf_probes is {self.ivf_probes} but there are only index.ivf_lists={self.ivf_lists} cells; "
                f"set index.ivf_probes to at most {self.ivf_lists}"
            )
        return self


class RerankSettings(Settings):
    """How candidates are reordered by a cross-encoder: sigmoid of the logit of (query, candidate)."""

    model: str | None = Field(
        default=None,
        description="a folder or hub id of a cross-encoder; left out, the one that `train_reranker` makes in the store",
    )
    max_length: int = Field(default=512, ge=16, description="tokens of a pair, special tokens included")
    batch_tokens: int = Field(default=8_192, ge=512, description="padded tokens in one batch")
    dtype: Dtype = "float32"
    rescore_margin: float = Field(
        default=0.0,
        ge=0.0,
        le=1.0,
        description="with a low-precision dtype: pairs whose score lies this near the last kept one are scored again in float32",
    )
    threads: int = Threads

    @model_validator(mode="after")
    def _rescore_only_low_precision(self) -> Self:
        if self.rescore_margin and self.dtype == "float32":
            raise ValueError(
                "rerank.rescore_margin asks for a float32 second look, but rerank.dtype is float32 already; "
                "set rerank.rescore_margin=0 or rerank.dtype=bfloat16"
            )
        return self


class TrainRerankerSettings(Settings):
    """How a cross-encoder is trained from an embedder's weights, on pairs labelled by shared gold answers."""

    tasks: tuple[TaskName, ...] = Field(default=(), description="tasks whose training documents make pairs; empty: the recipe's task")
    name: str | None = Field(
        default=None,
        pattern=r"^[a-z0-9][a-z0-9_.-]{0,62}$",
        description="name of the output; left out: the task's (needed for several tasks)",
    )
    base_model: str = "offline:all-minilm-l6-v2"
    max_length: int = Field(default=512, ge=16, description="tokens of a pair")
    candidates_per_query: int = Field(default=30, ge=2, description="nearest training documents that pairs are drawn from")
    pairs_per_query: int = Field(default=16, ge=2, description="half the best-covering candidates, half hard negatives")
    nearness_weight: float = Field(
        default=0.5, ge=0.0, le=1.0, description="of a candidate's place by cosine in its label; the rest is its share of the gold answers"
    )
    max_queries: int | None = Field(default=None, ge=2, description="use only this many training queries (seeded draw)")
    held_out_share: float = Field(default=0.1, gt=0.0, lt=1.0, description="queries kept for nDCG@10, never trained on")
    epochs: int = Field(default=1, ge=1)
    batch_size: int = Field(default=16, ge=1, description="pairs a step; the pairs of a query stay together, however many")
    learning_rate: float = Field(default=1e-4, gt=0.0)
    warmup_share: float = Field(default=0.1, ge=0.0, lt=1.0)
    weight_decay: float = Field(default=0.01, ge=0.0)
    dtype: Literal["float32", "bfloat16"] = Field(
        default="float32",
        description="of matrix products; bfloat16 pays where the processor has it, weights and optimizer stay float32",
    )
    checkpoint_every_steps: int = Field(default=50, ge=1)
    threads: int = Field(default=2, ge=1)

    @model_validator(mode="after")
    def _joint_training_has_a_name(self) -> Self:
        if len(self.tasks) > 1 and self.name is None:
            raise ValueError("train_reranker.tasks lists several tasks, so the reranker needs a name; set train_reranker.name=joint")
        return self


class SelectSettings(Settings):
    """Which examples a query gets."""

    method: str = Field(default="similarity", description="a selector of `bioie_ray.retrieval.selectors`")
    options: dict[str, Any] = Field(default_factory=dict, description="settings of that selector")
    k: int = Field(default=30, ge=1, description="candidates retrieved per query")
    keep: int = Field(default=10, ge=1, description="examples kept per query")
    rerank: bool | None = Field(default=None, description="left out: as the selector says (similarity types yes, random ones no)")
    repeat: int = Field(default=0, ge=0, description="which draw of a random method this is; added to the seed")
    pool: tuple[Split, ...] = ("train",)
    queries: Split = "test"
    dev_share: float = Field(
        default=0.1, gt=0.0, lt=1.0, description="share of train carved out as dev (by seed) where the corpus has no dev split"
    )

    @model_validator(mode="after")
    def _no_test_document_is_an_example(self) -> Self:
        tests = [split for split in self.pool if split.startswith("test")]
        if tests or not self.pool:
            raise ValueError(
                f"select.pool is {list(self.pool)}: examples come from train and dev only, never from a test split; set select.pool=[train]"
            )
        return self

    @model_validator(mode="after")
    def _keep_within_k(self) -> Self:
        if self.keep > self.k:
            raise ValueError(
                f"select.keep is {self.keep} but only select.k={self.k} candidates are retrieved; "
                f"set select.k to at least {self.keep} or select.keep to at most {self.k}"
            )
        return self
