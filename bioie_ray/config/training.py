"""Settings of DFPO: instruction data, preferences, and the three training stages. The method's own numbers are recipes, not defaults."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from bioie_ray.config.base import Settings
from bioie_ray.config.steps import Split, TaskName

StageName = Literal["preft", "dpop", "postft"]
STAGES: tuple[StageName, ...] = ("preft", "dpop", "postft")
STAGE_PREFIX = "stage:"
ErrorKind = Literal["missed", "invented", "boundary", "direction", "malformed"]
_KINDS: dict[ErrorKind, float] = {"missed": 1.0, "invented": 1.0, "boundary": 1.0, "direction": 1.0, "malformed": 0.25}


def _check_no_tests(splits: tuple[Split, ...]) -> None:
    tests = [split for split in splits if split.startswith("test")]
    if tests:
        raise ValueError(f"splits lists {', '.join(tests)}: nobody trains on test documents; take train")


class SourceSettings(Settings):
    """Where conversations come from: the recipe's own corpora, or files in a published form."""

    kind: Literal["tasks", "taiyi", "adelie"] = Field(
        default="tasks", description="tasks: our corpora asked as in generation; taiyi, adelie: files in the form of these data sets"
    )
    path: str | None = Field(default=None, description="for taiyi, adelie: a JSON or JSONL file, a folder of them, or a hub id (org/name)")
    tasks: tuple[TaskName, ...] = Field(default=(), description="for kind=tasks; empty: the recipe's task")
    splits: tuple[Split, ...] = Field(default=("train",), description="for kind=tasks: splits whose documents become instructions")
    phrasings: int = Field(default=1, ge=1, description="for kind=tasks: how many wordings of the instruction each document is asked in")
    max_records: int | None = Field(default=None, ge=1, description="take only so many records (a seeded draw)")
    weight: float = Field(
        default=1.0, gt=0.0, le=100.0, description="how often a record comes: 2 is twice, 0.5 is half of the records (a seeded draw)"
    )

    @model_validator(mode="after")
    def _has_a_place(self) -> Self:
        if self.kind != "tasks" and self.path is None:
            raise ValueError(f"a source of kind {self.kind} needs its path: a file, a folder or a hub id")
        if self.kind == "tasks" and self.path is not None:
            raise ValueError("a source of kind tasks is made from the recipe's corpora (--set source=DIR); leave its path out")
        _check_no_tests(self.splits)
        return self


class InstructionSettings(Settings):
    """Which conversations a model is tuned on, and how they are curated."""

    sources: tuple[SourceSettings, ...] = Field(default=(SourceSettings(),), min_length=1)
    held_out: tuple[TaskName, ...] = Field(
        default=(),
        description="tasks whose test documents must not be inside; empty: the recipe's task. With it (and tasks named everywhere) a matrix over "
        "tasks trains once for all of them",
    )
    max_tokens: int = Field(
        default=3_000, ge=16, description="a longer conversation is left out, by the tokenizer and template of train.base_model"
    )
    max_chars: int = Field(default=200_000, ge=100, description="a record with a longer text is quarantined")
    near_duplicates: float | None = Field(
        default=0.9,
        gt=0.0,
        lt=1.0,
        description="leave out a record this similar (Jaccard, of word 5-grams) to one before; null: exact only",
    )
    languages: tuple[str, ...] = Field(default=(), description="keep only these (en, zh, ...); empty: all")
    overlap_words: int = Field(
        default=13, ge=5, description="a record that shares so many words in a row with a test document is left out and counted"
    )
    max_quarantined_share: float = Field(default=0.05, ge=0.0, le=1.0, description="above this share of bad records the job fails")
    records_per_shard: int = Field(default=2_000, ge=1)


class PreferenceSettings(Settings):
    """Pairs of a right and a wrong answer to the same prompt."""

    path: str | None = Field(
        default=None,
        description="take given pairs (prompt, chosen, rejected as JSONL) instead of making them: a file, a folder or a hub id",
    )
    tasks: tuple[TaskName, ...] = Field(default=(), description="tasks whose training documents are asked about; empty: the recipe's task")
    splits: tuple[Split, ...] = ("train",)
    samples: int = Field(default=4, ge=1, description="answers sampled for each document")
    temperature: float = Field(default=1.0, gt=0.0, le=2.0)
    top_p: float = Field(default=0.95, gt=0.0, le=1.0)
    max_new_tokens: int = Field(default=256, ge=1)
    max_documents: int | None = Field(default=None, ge=1, description="ask about this many documents of a task only (a seeded draw)")
    pairs_per_document: int = Field(default=1, ge=1)
    corruptions: float = Field(
        default=1.0,
        ge=0.0,
        le=1.0,
        description="share of the documents without a wrong answer of the model that get a corrupted gold answer instead",
    )
    kinds: dict[ErrorKind, float] = Field(
        default=_KINDS,
        description="how much of each kind of error is wanted among the wrong answers, relative to each other",
    )
    fill_kinds: float = Field(
        default=0.5,
        ge=0.0,
        le=1.0,
        description="part of its wanted share to which a kind that the model hardly ever gives is filled up by corrupted gold answers; 0: not at all",
    )
    max_f1: float = Field(default=0.99, gt=0.0, lt=1.0, description="a wrong answer with a higher F1 is too nearly right to be one")

    @model_validator(mode="after")
    def _wants_something(self) -> Self:
        if not any(self.kinds.values()) or min(self.kinds.values(), default=0.0) < 0:
            raise ValueError("preferences.kinds must want at least one kind of error, and none less than 0; for example {missed: 1}")
        _check_no_tests(self.splits)
        return self


class LoraSettings(Settings):
    """A low-rank adapter (Hu et al. 2021, arXiv 2106.09685)."""

    r: int = Field(default=16, ge=1)
    alpha: int = Field(default=32, ge=1)
    dropout: float = Field(default=0.0, ge=0.0, lt=1.0)
    modules: tuple[str, ...] = Field(
        default=("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"), description="linear layers that get one"
    )


class StageSettings(Settings):
    """One training stage. ``batch_size`` is the sequences of an optimizer step over all ranks, so that their number changes rounding and dropout only."""

    method: Literal["full", "lora", "qlora"] = Field(default="lora", description="qlora: a frozen base in 4 bits (nf4, doubly quantised)")
    lora: LoraSettings = LoraSettings()
    learning_rate: float = Field(default=2e-4, gt=0.0)
    schedule: Literal["constant", "constant_with_warmup", "linear", "cosine"] = "constant_with_warmup"
    warmup_share: float = Field(default=0.03, ge=0.0, lt=1.0)
    epochs: float = Field(default=1.0, gt=0.0)
    max_steps: int | None = Field(default=None, ge=1, description="end after so many optimizer steps, whatever the epochs")
    batch_size: int = Field(default=8, ge=1, description="sequences of an optimizer step, over all ranks and accumulation")
    micro_batch_size: int = Field(default=1, ge=1, description="sequences of a forward pass of one rank")
    max_grad_norm: float = Field(default=1.0, gt=0.0)
    weight_decay: float = Field(default=0.0, ge=0.0)
    optimizer: Literal["adamw_torch", "adamw_torch_fused", "paged_adamw_32bit", "adafactor"] = "adamw_torch"
    max_length: int = Field(default=2_048, ge=16, description="tokens of a sequence; what is longer is left out and counted, never cut")
    packing: bool = Field(default=True, description="fill sequences with several conversations that do not see each other")


class SftSettings(StageSettings):
    """Supervised fine-tuning: the loss is over the assistant's tokens only."""


class DpopSettings(StageSettings):
    """DPO-Positive (Pal et al. 2024, arXiv 2402.13228); ``penalty`` 0 is DPO."""

    learning_rate: float = Field(default=5e-6, gt=0.0)
    packing: Literal[False] = Field(default=False, description="pairs are padded")
    beta: float = Field(default=0.4, gt=0.0)
    penalty: float = Field(default=2.0, ge=0.0, description="the paper's lambda: what a fall of the chosen answer's likelihood costs")
    label_smoothing: float = Field(default=0.0, ge=0.0, lt=0.5)
    max_prompt_tokens: int = Field(default=512, ge=8, description="a pair with a longer prompt is left out and counted")


class TrainSettings(Settings):
    """What the stages have in common: the base model and how training is run."""

    base_model: str = Field(default="offline:gemma3-270m", description="a folder, a hub id, or offline:NAME")
    template: str = Field(
        default="auto", description="chat template: auto (the model's own, else `plain`), plain (instruction and response), or a Jinja file"
    )
    dtype: Literal["float32", "bfloat16"] = Field(
        default="float32",
        description="of weights and matrix products; adapters stay float32, but for DeepSpeed's, which are rounded to bfloat16 when they are saved",
    )
    attention: Literal["auto", "eager", "sdpa", "flash_attention_2"] = Field(
        default="auto", description="auto: sdpa; eager for Gemma 2 (soft-capped logits) and for models without sdpa"
    )
    gradient_checkpointing: bool = False
    liger: bool = Field(default=False, description="Liger's layer kernels (GPU)")
    zero_stage: Literal[0, 1, 2, 3] = Field(default=0, description="DeepSpeed ZeRO; 0 with one rank: no DeepSpeed at all")
    offload: Literal["none", "optimizer", "all"] = Field(default="none", description="to CPU memory: optimizer states, or parameters too")
    threads: int = Field(default=2, ge=1, description="CPU threads of a rank; fixed, because sums change with their number")
    checkpoint_every_steps: int = Field(default=50, ge=1)
    keep_checkpoints: int = Field(default=2, ge=1, description="the newest so many are kept while a stage is under way")
    score_every_steps: int | None = Field(
        default=None, ge=1, description="ask the model about dev documents that often; the best checkpoint by F1 is the stage's result"
    )
    score_documents: int = Field(default=16, ge=1)
    patience: int | None = Field(default=None, ge=1, description="end a stage after so many scores without a better one")
    planned_tokens_per_s: float | None = Field(default=None, gt=0.0, description="for the hours that a dry run prints")
    report_to: tuple[Literal["mlflow", "wandb"], ...] = Field(default=(), description="trackers that get every step's numbers too")
    max_retries: int = Field(
        default=3,
        ge=0,
        description="how often a training goes on after lost ranks; where a checkpoint came meanwhile, it counts anew instead of giving up",
    )

    @model_validator(mode="after")
    def _offload_has_zero(self) -> Self:
        if self.offload != "none" and self.zero_stage < 2:
            raise ValueError(f"train.offload={self.offload} needs DeepSpeed ZeRO; set train.zero_stage=2 (or 3 for offload=all)")
        if self.offload == "all" and self.zero_stage != 3:
            raise ValueError("train.offload=all moves parameters too, which only ZeRO 3 can; set train.zero_stage=3, or offload=optimizer")
        if self.score_every_steps is not None and self.zero_stage == 3:
            raise ValueError(
                "train.score_every_steps asks a whole model, and with train.zero_stage=3 no rank has one; set zero_stage=2, or leave it out"
            )
        if self.patience is not None and self.score_every_steps is None:
            raise ValueError("train.patience counts scores; set train.score_every_steps, for example 50")
        return self


def check_dev_is_not_trained_on(instructions: InstructionSettings, preferences: PreferenceSettings) -> None:
    """For a model that is scored on dev, while it is trained or after.

    Raises:
        ValueError: its data is made from dev documents too.
    """
    splits = {f"instructions.sources[{n}].splits": one.splits for n, one in enumerate(instructions.sources) if one.kind == "tasks"}
    if preferences.path is None:
        splits["preferences.splits"] = preferences.splits
    key = next((key for key, listed in splits.items() if "dev" in listed), None)
    if key is not None:
        raise ValueError(
            f"{key} lists dev, and the model is scored by its answers about dev documents (train.score_every_steps, or select.queries=dev), which it "
            f"must not be trained on; set {key} to [train], or do without those scores"
        )
