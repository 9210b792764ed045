"""The recipe: one YAML file that says what to run, with ``--set key=value`` on top."""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any, Literal, Self

import yaml
from pydantic import Field, field_validator, model_validator

from bioie_ray.config.base import Settings
from bioie_ray.config.cluster import ClusterSettings
from bioie_ray.config.generation import DmcrSettings, EvaluateSettings, GenerateSettings, PromptSettings
from bioie_ray.config.keys import RecipeError, merged, validate, with_key
from bioie_ray.config.steps import (
    EmbedSettings,
    IndexSettings,
    PrepareSettings,
    RerankSettings,
    SelectSettings,
    TaskName,
    TrainRerankerSettings,
)
from bioie_ray.config.training import (
    STAGE_PREFIX,
    STAGES,
    DpopSettings,
    InstructionSettings,
    PreferenceSettings,
    SftSettings,
    StageName,
    TrainSettings,
    check_dev_is_not_trained_on,
)

JobName = Literal[
    "prepare_corpora",
    "embed",
    "train_reranker",
    "select_examples",
    "prepare_instructions",
    "train_preft",
    "make_preferences",
    "train_dpop",
    "train_postft",
    "generate",
    "dmcr",
    "evaluate",
]
_ASKING_JOBS = frozenset({"generate", "dmcr", "evaluate"})
# Sections that an output does not depend on, by kind: what a matrix varies there adds nothing to that output's name.
_AFTER_SELECTION = frozenset({"prompt", "generate", "dmcr", "evaluate"})
# Instruction data is made from corpora and files; whoever is tuned on it, and is asked what, is not in its name.
_BESIDE_INSTRUCTIONS = _AFTER_SELECTION | {
    *("embed", "index", "train_reranker", "rerank", "select"),
    *("preferences", "preft", "dpop", "postft"),
}
_BESIDE_TRAINING = _AFTER_SELECTION | {"embed", "index", "train_reranker", "rerank", "select"}
_NOT_IN_NAME = {
    "selections": _AFTER_SELECTION,
    "prompts": frozenset({"dmcr", "evaluate"}),
    "generations": frozenset({"dmcr", "evaluate"}),
    "dmcr": frozenset({"evaluate"}),
    "scores": frozenset[str](),
    "records": _BESIDE_INSTRUCTIONS,
    "instructions": _BESIDE_INSTRUCTIONS,
    "preft": _BESIDE_TRAINING | {"preferences", "dpop", "postft"},
    "preferences": _BESIDE_TRAINING | {"dpop", "postft"},
    "dpop": _BESIDE_TRAINING | {"postft"},
    "postft": _BESIDE_TRAINING,
}
# Zero-shot has no examples, so how they would be chosen is not in its name either: the cells of all methods are one.
_EXAMPLES_ONLY = frozenset({"select", "rerank", "embed", "index", "train_reranker"})


class StorageSettings(Settings):
    """How a store is reached. Credentials come from the environment only, never from a recipe."""

    endpoint: str | None = Field(
        default_factory=lambda: os.environ.get("BIOIE_STORAGE_ENDPOINT") or None,
        description="URL of an S3-compatible server; left out: BIOIE_STORAGE_ENDPOINT, else AWS",
    )
    region: str = "us-east-1"


class Recipe(Settings):
    """One job over one task, or (with ``matrix``) over the product of several values of its keys."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_.-]{0,126}$")
    version: str = Field(default="1", pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,30}$")
    job: JobName
    store: str = Field(
        default_factory=lambda: os.environ.get("BIOIE_STORE") or "./store",
        description="a folder, or an s3://bucket/prefix; left out: BIOIE_STORE, else ./store",
    )
    storage: StorageSettings = Field(default_factory=StorageSettings)
    source: str | None = Field(default=None, description="folder of the corpora; left out: the store's corpus, else the embedded one")
    seed: int = Field(default=0, ge=0)
    task: TaskName = "bc5cdr_disease"
    nlm_gene_types: tuple[str, ...] | None = Field(
        default=None, description="mention types that count as genes in nlm_gene; left out: Gene, FamilyName, DomainMotif"
    )
    corpus_version: str = Field(default="1", pattern=r"^[^/@\s]+$")
    prepare: PrepareSettings = PrepareSettings()
    embed: EmbedSettings = EmbedSettings()
    index: IndexSettings = IndexSettings()
    train_reranker: TrainRerankerSettings = TrainRerankerSettings()
    rerank: RerankSettings = RerankSettings()
    select: SelectSettings = SelectSettings()
    prompt: PromptSettings = PromptSettings()
    generate: GenerateSettings = GenerateSettings()
    dmcr: DmcrSettings = DmcrSettings()
    evaluate: EvaluateSettings = EvaluateSettings()
    instructions: InstructionSettings = InstructionSettings()
    preferences: PreferenceSettings = PreferenceSettings()
    train: TrainSettings = TrainSettings()
    preft: SftSettings = SftSettings()
    dpop: DpopSettings = DpopSettings()
    postft: SftSettings = SftSettings()
    cluster: ClusterSettings = ClusterSettings()
    matrix: dict[str, tuple[Any, ...]] = Field(
        default_factory=dict,
        description="dotted key -> values; cells are the product, and a value that is a section may have a `label` for the cell's name",
    )
    labels: dict[str, str] = Field(
        default_factory=dict, description="of a cell, made from the matrix: what each of its keys adds to `name`"
    )

    @field_validator("version", "corpus_version", mode="before")
    @classmethod
    def _version_is_text(cls, value: Any) -> Any:
        return str(value) if isinstance(value, int | date) else value  # YAML reads 1 and 2030-01-31 as other things

    @field_validator("matrix")
    @classmethod
    def _matrix_has_values(cls, value: dict[str, tuple[Any, ...]]) -> dict[str, tuple[Any, ...]]:
        for key, values in value.items():
            if not values:
                raise ValueError(f"matrix.{key} has no values; give at least one, or drop the key")
            if key.split(".")[0] in {"matrix", "labels", "store", "name", "job"}:
                raise ValueError(f"matrix.{key} cannot vary inside one recipe; write a second recipe")
        return value

    @model_validator(mode="after")
    def _enough_examples_are_kept(self) -> Self:
        if self.job in {"generate", "dmcr", "evaluate"} and self.prompt.num_examples > self.select.keep and not self.matrix:
            raise ValueError(
                f"prompt.num_examples is {self.prompt.num_examples} but only select.keep={self.select.keep} examples are kept for a query; "
                f"set select.keep to at least {self.prompt.num_examples}"
            )
        return self

    @model_validator(mode="after")
    def _a_server_can_be_asked_so(self) -> Self:
        if self.job not in {"generate", "dmcr", "evaluate"} or self.generate.engine != "openai" or self.matrix:
            return self
        if self.prompt.form == "plain":
            raise ValueError(
                "prompt.form is plain, but what a server (generate.engine=openai) gets is a conversation; leave prompt.form out"
            )
        for name in ("max_tokens", "max_document_tokens"):
            if getattr(self.prompt, name) is not None and self.generate.tokenizer is None:
                raise ValueError(f"prompt.{name} needs a tokenizer to count with; set generate.tokenizer, or leave prompt.{name} out")
        return self

    @model_validator(mode="after")
    def _dev_scores_are_honest(self) -> Self:
        if self.train.score_every_steps is not None and not self.matrix:
            check_dev_is_not_trained_on(self.instructions, self.preferences)
        return self

    def cells(self) -> list[Self]:
        """The single-task recipes this one stands for, in the order of the matrix (itself alone without one)."""
        if not self.matrix:
            return [self]
        base = self.model_dump(mode="json", exclude={"matrix"}, exclude_unset=True)
        cells = []
        for values in itertools.product(*self.matrix.values()):
            labels = dict(zip(self.matrix, map(_label, values), strict=True))
            data = {**base, "name": "-".join([self.name, *labels.values()]), "labels": labels}
            for key, value in zip(self.matrix, values, strict=True):
                data = with_key(data, key, _unlabelled(value), merge=True)
            cells.append(validate(type(self), data, where=f"matrix cell {dict(zip(self.matrix, values, strict=True))}"))
        return cells

    def _trains_once_for_all_tasks(self, kind: str) -> bool:
        """Whether nothing of instruction data, for stages of dev questions, and for later ones of preferences, is about the recipe's own task."""
        settings, pairs = self.instructions, self.preferences
        about = [source.tasks for source in settings.sources if source.kind == "tasks"]
        if not settings.held_out or not all(about):
            return False
        is_trained = kind in STAGES or (kind == "preferences" and pairs.path is None)
        if is_trained and self.train.score_every_steps is not None and not about:
            return False
        return kind in {"records", "instructions", "preft"} or bool(pairs.path or pairs.tasks)

    def stages(self, job: JobName | None = None) -> tuple[StageName, ...]:
        """The training stages that a job (the recipe's own, if left out) needs, first to last: those asked, and those they build on."""
        job = job or self.job
        asked = (
            {cell.generate.model.removeprefix(STAGE_PREFIX) for cell in self.cells()}
            if job in _ASKING_JOBS
            else {job.removeprefix("train_")}
        )
        if job == "make_preferences":
            asked = set() if self.preferences.path else {"preft"}
        return STAGES[: max((STAGES.index(name) + 1 for name in STAGES if name in asked), default=0)]

    def _training_not_asked(self) -> frozenset[str]:
        """Sections of training that the model which is asked does not come from: the cells of all their values are one."""
        stage = self.generate.model.removeprefix(STAGE_PREFIX)
        if stage not in STAGES or not self.generate.model.startswith(STAGE_PREFIX):
            return frozenset({"instructions", "train", "preferences", *STAGES})
        later = frozenset(STAGES[STAGES.index(stage) + 1 :])
        return later | {"preferences"} if stage == "preft" else later

    def name_of(self, kind: str) -> str:
        """The name of this cell's output of a kind: `name` less the labels of what that output does not depend on."""
        without = _NOT_IN_NAME.get(kind, frozenset())
        if kind != "selections" and self.prompt.num_examples == 0:
            without |= _EXAMPLES_ONLY
        if kind in {"prompts", "generations", "dmcr", "scores"}:
            without |= self._training_not_asked()
        if kind in {"records", "instructions", *STAGES, "preferences"} and self._trains_once_for_all_tasks(kind):
            without |= {"task"}
        base = self.name.removesuffix("".join(f"-{label}" for label in self.labels.values()))
        return "-".join([base, *(label for key, label in self.labels.items() if key.split(".")[0] not in without)])


def load_recipe(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe and put overrides on top, in their order.

    ``key=value`` sets one key (values are YAML: ``select.k=20``, ``rerank.model=null``); ``@FILE`` sets all keys of a YAML file, a
    section at a time, so that the pods of a site are written down once for every recipe.

    Raises:
        RecipeError: no such file, not YAML, an unknown key, a value out of range; the message says which and what would do.
    """
    return resolve(_read(path), overrides, where=str(path))


def resolve(data: Mapping[str, Any], overrides: Sequence[str], where: str) -> Recipe:
    """``data`` with overrides on top, as ``load_recipe`` has them; ``where`` names the recipe in messages.

    Raises:
        RecipeError: as ``load_recipe``.
    """
    for override in overrides:
        if override.startswith("@"):
            data = merged(data, _read(Path(override[1:])))
            continue
        key, separator, text = override.partition("=")
        if not separator or not key:
            raise RecipeError(f"--set {override!r} is not KEY=VALUE; for example --set select.k=20, or --set @FILE.yaml for many keys")
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError:
            value = text
        data = with_key(data, key.strip(), value, merge=False)
    recipe = validate(Recipe, data, where=where)
    recipe.cells()
    return recipe


def with_site(recipe: Recipe, text: str, where: str) -> Recipe:
    """The recipe with a site's `cluster` section (YAML) below it: a key of `cluster` or `cluster.kube` that the recipe sets stays as it is, whole.

    Raises:
        RecipeError: the section is not YAML, has an unknown key, or does not go with the recipe; ``where`` names it in the message.
    """
    try:
        site = yaml.safe_load(text) or {}
    except yaml.YAMLError as error:
        raise RecipeError(f"{where} is not YAML: {error}") from None
    if not isinstance(site, dict) or not isinstance(site.get("kube", {}), dict):
        raise RecipeError(f"{where} holds no `cluster` section of a recipe; it begins with keys like `kube:`")
    data = recipe.model_dump(mode="json", exclude_unset=True)
    own = data.get("cluster", {})
    kube = {**site.get("kube", {}), **own.get("kube", {})}
    return validate(Recipe, {**data, "cluster": {**site, **own, "kube": kube}}, where=f"the recipe with {where}")


def _read(path: Path) -> dict[str, Any]:
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RecipeError(f"no recipe at {path}; the ones that ship are in jobs/recipes/") from None
    except OSError as error:
        raise RecipeError(f"{path} cannot be read: {error.strerror}; give a YAML file of jobs/recipes/") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path} is not YAML: {error}") from None
    if not isinstance(data, dict):
        raise RecipeError(f"{path} holds no mapping; a recipe begins with `name:` and `job:`")
    return data


def _label(value: Any) -> str:
    """What a matrix value adds to the name of its cell: ``label`` of a mapping, else its values."""
    if isinstance(value, Mapping):
        text = str(value["label"]) if "label" in value else "-".join(str(v) for v in value.values())
    else:
        text = str(value)
    return re.sub(r"[^a-z0-9_.]+", "-", text.lower()).strip("-")


def _unlabelled(value: Any) -> Any:
    return {k: v for k, v in value.items() if k != "label"} if isinstance(value, Mapping) else value
