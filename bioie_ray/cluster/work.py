"""What a recipe's job will start: the kinds of actors, with the CPUs, GPUs and memory that each asks for or holds."""

from __future__ import annotations

from dataclasses import dataclass, replace

from bioie_ray.config.cluster import actor_cpus
from bioie_ray.config.recipe import Recipe
from bioie_ray.config.training import STAGES

# What one actor of each kind holds with the default models, where the recipe does not say (memory_per_worker_gib).
ACTOR_GIB = {
    "prepare": 0.5,
    "embed": 1.5,
    "index": 1.5,
    "train_reranker": 4.0,
    "select": 2.0,
    "prompts": 1.0,
    "records": 1.0,
    "instructions": 3.0,
    "generate": 3.0,
    "convert": 3.0,
    "evaluate": 0.75,
    "tokens": 1.0,
    "candidates": 3.0,
    "preferences": 1.0,
    "reference": 3.0,
    "train": 4.5,
}
# These methods pass the cross-encoder by unless the recipe says otherwise.
NOT_RERANKED = frozenset({"ders", "fers", "longest"})


@dataclass(frozen=True)
class Work:
    """One kind of actors that a job starts: their threads and, each, their memory in GiB; Ray starts no more than ``most``.

    Those that run a model each ask for ``cluster.gpus_per_worker``.
    """

    kind: str
    threads: int
    memory_gib: float
    threads_key: str
    most: int | None = None
    uses_gpu: bool = False

    @property
    def cpus(self) -> float:
        """What an actor asks Ray for."""
        return actor_cpus(self.threads)

    def fitting(self, cpus: int, gpus: int, gpus_per_worker: float) -> int:
        """How many such actors CPUs and GPUs of Ray hold. Integer hundredths: 3 actors of 0.9 fit 2.7 CPUs."""
        by_cpu = cpus * 100 // round(self.cpus * 100)
        if self.uses_gpu and gpus_per_worker:
            return min(by_cpu, gpus * 1000 // round(gpus_per_worker * 1000))
        return by_cpu


def works_of(recipe: Recipe) -> list[Work]:
    """The kinds of actors that a recipe's job starts, each with the most that a cell of the matrix asks for."""
    found: dict[str, Work] = {}
    cells, pool = recipe.cells(), recipe.cluster.num_workers
    # A mixture, and the pairs of a training, are made by one actor each; ranks are no actors of the pool.
    few = min(len(cells), pool or len(cells))
    most = {"train_reranker": 1, "instructions": few, "preferences": few, "train": recipe.cluster.ranks}
    for cell in cells:
        for kind, (threads, key) in _kinds(cell).items():
            memory = recipe.cluster.memory_per_worker_gib or ACTOR_GIB[kind]
            work = Work(kind, threads, memory, key, most.get(kind, pool), _runs_a_model(kind, cell))
            before = found.get(kind, work)
            found[kind] = replace(work, threads=max(threads, before.threads), uses_gpu=work.uses_gpu or before.uses_gpu)
    return list(found.values())


def _runs_a_model(kind: str, recipe: Recipe) -> bool:
    if kind == "select":
        return _reranks(recipe)
    if kind == "generate":
        return recipe.generate.uses_gpu
    if kind == "convert":
        return any(model.uses_gpu for model in recipe.dmcr.evaluators)
    return kind in {"embed", "train_reranker", "candidates", "reference", "train"}


def _reranks(recipe: Recipe) -> bool:
    return recipe.select.rerank if recipe.select.rerank is not None else recipe.select.method not in NOT_RERANKED


def _kinds(recipe: Recipe) -> dict[str, tuple[int, str]]:
    kinds = {"prepare": (1, "")}
    if recipe.job == "prepare_corpora":
        return kinds
    if recipe.job == "prepare_instructions":
        return kinds | {"records": (1, ""), "instructions": (1, "")}
    kinds |= _training_kinds(recipe)
    if recipe.job == "make_preferences" or recipe.job.removeprefix("train_") in STAGES:
        return kinds
    if recipe.job in {"generate", "dmcr", "evaluate"} and not recipe.prompt.num_examples:  # zero-shot chooses none
        return kinds | _asking_kinds(recipe)
    kinds["embed"] = (recipe.embed.threads, "embed.threads")
    selects = recipe.job not in {"embed", "train_reranker"}
    if recipe.job == "train_reranker" or (selects and _reranks(recipe) and recipe.rerank.model is None):
        kinds["train_reranker"] = (recipe.train_reranker.threads, "train_reranker.threads")
    if selects:
        if recipe.index.kind != "flat":
            kinds["index"] = (1, "")
        kinds["select"] = (recipe.rerank.threads, "rerank.threads")
    return kinds | _asking_kinds(recipe)


def _training_kinds(recipe: Recipe) -> dict[str, tuple[int, str]]:
    """What the stages need that a recipe trains. A rank is an actor too, and all of them run at once."""
    stages = recipe.stages()
    if not stages and recipe.job != "make_preferences":
        return {}
    kinds = {"records": (1, ""), "instructions": (1, ""), "tokens": (1, "")}
    if stages:
        kinds["train"] = (recipe.train.threads, "train.threads")
    if recipe.job == "make_preferences" or "dpop" in stages:
        kinds |= {"preferences": (1, "")} | (
            {} if recipe.preferences.path else {"candidates": (recipe.generate.threads, "generate.threads")}
        )
    if "dpop" in stages:
        kinds["reference"] = (recipe.train.threads, "train.threads")
    return kinds


def _asking_kinds(recipe: Recipe) -> dict[str, tuple[int, str]]:
    """What comes after a selection."""
    kinds: dict[str, tuple[int, str]] = {}
    if recipe.job in {"generate", "dmcr", "evaluate"}:
        kinds |= {"prompts": (1, ""), "generate": (recipe.generate.threads, "generate.threads")}
    if recipe.job in {"dmcr", "evaluate"}:
        if recipe.dmcr.evaluators:
            kinds["convert"] = (max(model.threads for model in recipe.dmcr.evaluators), "dmcr.evaluators")
        kinds["evaluate"] = (1, "")
    return kinds
