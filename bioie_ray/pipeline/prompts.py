"""``prompts/<name>@<version>``: what a model is asked about every query, as it will see it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pyarrow as pa

from bioie_ray.artifacts.output import Marker, Output
from bioie_ray.artifacts.record import sum_of
from bioie_ray.config.recipe import Recipe
from bioie_ray.corpora.document import Document
from bioie_ray.corpora.draws import in_drawn_order
from bioie_ray.corpora.tasks import Task, gold
from bioie_ray.execution.units import WorkerSpec
from bioie_ray.pipeline.select import SelectStep
from bioie_ray.pipeline.step import ShardStep, Step
from bioie_ray.pipeline.view import View
from bioie_ray.prompting.instructions import Instructions, load_instructions
from bioie_ray.prompting.prompt import Example, Prompt, PromptBuilder, QueryTooLongError
from bioie_ray.prompting.tokenizer import ModelTokenizer, load_tokenizer
from bioie_ray.retrieval.models import ModelSource
from bioie_ray.retrieval.pool import DocumentPool, Loaders

FORMAT_VERSION = 1
PROMPT_SCHEMA = pa.schema(
    [
        ("document_id", pa.string()),
        ("messages", pa.string()),
        ("text", pa.string()),
        ("example_ids", pa.list_(pa.string())),
        ("num_dropped", pa.int32()),
        ("num_tokens", pa.int32()),
        ("problem", pa.string()),
    ]
)


def draw_unit(unit: str, draw: int) -> str:
    """The unit of a draw (or repeat, from 1) over a shard of queries: ``test-00003`` and 2 are ``test.r02-00003``."""
    split, _, number = unit.rpartition("-")
    return f"{split}.r{draw:02d}-{number}"


def split_unit(unit: str) -> tuple[str, int]:
    """The inverse of ``draw_unit``."""
    split, _, number = unit.rpartition("-")
    name, _, draw = split.rpartition(".r")
    return f"{name}-{number}", int(draw)


@dataclass(frozen=True)
class PromptsStep(ShardStep):
    """One prompt for every query and draw of examples. A random method draws anew for each repeat; zero-shot needs no selection."""

    recipe: Recipe
    task: Task
    corpus: Step
    selections: tuple[SelectStep, ...]
    tuned: Step | None = None

    @cached_property
    def output(self) -> Output:
        """The prompts; the payload covers their text in every respect."""
        recipe = self.recipe
        settings = recipe.prompt.model_dump(mode="json", exclude={"instructions"})
        payload: dict[str, Any] = {
            "kind": "prompts",
            "format_version": FORMAT_VERSION,
            "task": recipe.task,
            "types": list(self.task.types or ()),
            "corpus": self.corpus.output.fingerprint,
            "selections": [step.output.fingerprint for step in self.selections],
            "queries": {"split": recipe.select.queries, "dev_share": recipe.select.dev_share, "seed": recipe.seed},
            "settings": settings,
            "instructions": self.instructions.digest,
            "max_new_tokens": recipe.generate.max_new_tokens,
            "tokenizer": self.counts_by.fingerprint() if self.counts_by else None,
        }
        return Output(self.corpus.output.address, f"prompts/{recipe.name_of('prompts')}@{recipe.version}", payload)

    @cached_property
    def instructions(self) -> Instructions:
        """Read once, here: a file of one's own is not where the workers are, or may be edited before they begin."""
        return load_instructions(self.recipe.prompt.instructions)

    @property
    def counts_by(self) -> ModelSource | None:
        """The model whose tokenizer counts and whose template writes; the recipe's own stage where it asks one."""
        ref = self.recipe.generate.counts_by
        return ModelSource(ref, self.tuned.output if self.tuned else None) if ref else None

    @property
    def inputs(self) -> Sequence[Step]:
        """Corpus and selections, and the stage that is asked."""
        return (self.corpus, *self.selections, *([self.tuned] if self.tuned else []))

    @property
    def what(self) -> str:
        """For the progress line."""
        return f"writing prompts {self.output.key.removeprefix('prompts/')}"

    @cached_property
    def view(self) -> View:
        """Queries and pool."""
        return View(self.corpus.output, self.recipe.select, self.recipe.seed)

    @property
    def num_draws(self) -> int:
        """How many sets of examples a query has: one a repeat where they are random, else one."""
        return max(1, len(self.selections))

    def units(self) -> list[str]:
        """One unit a draw and shard of queries."""
        return [draw_unit(unit, draw) for draw in range(1, self.num_draws + 1) for unit in self.view.query_units()]

    def worker(self) -> WorkerSpec:
        """Tokenizer and pool, loaded once per process."""
        return WorkerSpec(
            PromptsWorker,
            {
                "recipe": self.recipe,
                "task": self.task,
                "instructions": self.instructions,
                "view": self.view,
                "counts_by": self.counts_by,
                "selections": tuple(step.output for step in self.selections),
                "output": self.output,
            },
        )

    def finalise(self, markers: Mapping[str, Marker]) -> dict[str, Any]:
        """Nothing to ask gives no answer to score: what was written is given up, so that other settings can have the name.

        Raises:
            ValueError: nobody would be asked anything.
        """
        num_asked, num_too_long = sum_of(markers, "prompts"), sum_of(markers, "too_long")
        if not num_asked:
            self.output.discard()
            raise ValueError(
                f"{self.what}: no query of the {self.recipe.select.queries} split is left to be asked about ({num_too_long} prompts are too long); "
                "set select.queries to another split, or prompt.max_document_tokens or prompt.max_tokens higher"
            )
        warnings = [f"{num_too_long} of {num_asked + num_too_long} prompts are too long and not asked, which counts as no answer"]
        return {"task": self.recipe.task, "num_draws": self.num_draws, **({"warnings": warnings} if num_too_long else {})}


class PromptsWorker:
    """Selection shard in, prompt shard out."""

    def __init__(
        self,
        recipe: Recipe,
        task: Task,
        instructions: Instructions,
        view: View,
        counts_by: ModelSource | None,
        selections: Sequence[Output],
        output: Output,
    ) -> None:
        self._recipe = recipe
        self._task = task
        self._view = view
        self._selections = selections
        self._output = output
        self._tokenizer = load_tokenizer(str(counts_by.folder())) if counts_by else None
        self._builder = PromptBuilder(
            task,
            instructions,
            prompt_form(recipe.prompt.form, self._tokenizer),
            recipe.prompt.order,
            self._tokenizer,
            prompt_budget(recipe, self._tokenizer),
        )
        self._pool = self._open_pool() if selections else None
        self._chosen: frozenset[str] | None = None

    def process(self, unit: str) -> None:
        """Write the prompts of one shard; a query that is too long is in it too, with the problem instead of a prompt."""
        shard, draw = split_unit(unit)
        table = self._view.queries(shard, ["id", "text"])
        chosen = self._choose_queries()
        examples = self._examples(shard, draw)
        rows: list[dict[str, Any]] = []
        num_left_out = num_tokens = 0
        for id_, text in zip(table["id"].to_pylist(), table["text"].to_pylist(), strict=True):
            if chosen is not None and id_ not in chosen:
                num_left_out += 1
                continue
            rows.append(self._row(id_, text, examples.get(id_, [])))
            num_tokens += rows[-1]["num_tokens"] or 0
        counts = {
            "prompts": sum(row["problem"] is None for row in rows),
            "too_long": sum(row["problem"] is not None for row in rows),
            "queries_left_out": num_left_out,
            "examples": sum(len(row["example_ids"]) for row in rows),
            "examples_dropped": sum(row["num_dropped"] for row in rows),
            "prompt_tokens": num_tokens,
        }
        self._output.commit(unit, pa.Table.from_pylist(rows, schema=PROMPT_SCHEMA), counts)

    def _row(self, id_: str, text: str, examples: Sequence[Example]) -> dict[str, Any]:
        try:
            prompt: Prompt | None = self._builder.build(text, examples)
            problem = None
        except QueryTooLongError as error:
            prompt, problem = None, str(error)
        return {
            "document_id": id_,
            "messages": json.dumps([{"role": t.role, "content": t.content} for t in prompt.turns], ensure_ascii=False) if prompt else "[]",
            "text": prompt.text if prompt else None,
            "example_ids": list(prompt.example_ids) if prompt else [],
            "num_dropped": prompt.num_dropped if prompt else 0,
            "num_tokens": prompt.num_tokens if prompt else None,
            "problem": problem,
        }

    def _examples(self, shard: str, draw: int) -> dict[str, list[Example]]:
        """The examples of every query of a shard, best first."""
        found: dict[str, list[Example]] = {}
        if self._pool is None:
            return found
        table = self._selections[draw - 1].read_shard(shard, ["query_id", "rank", "example_id"])
        for query, rank, id_ in zip(*(table[name].to_pylist() for name in ("query_id", "rank", "example_id")), strict=True):
            if rank <= self._recipe.prompt.num_examples:
                found.setdefault(query, []).append(self._example(self._pool.document(id_)))
        return found

    def _example(self, document: Document) -> Example:
        return Example(document.id, document.text, gold(self._task, document).answers)

    def _open_pool(self) -> DocumentPool:
        return DocumentPool(
            self._view.pool_shards(),
            Loaders(documents=self._view.corpus.read_shard),
            gold_of=lambda document: gold(self._task, document).keys(),
            concepts_of=lambda _: frozenset(),
        )

    def _choose_queries(self) -> frozenset[str] | None:
        """Ids of the queries that are asked about; ``None`` for all. A function of the corpus and the recipe, not of the shard."""
        settings = self._recipe.prompt
        if settings.max_documents is None and settings.max_document_tokens is None:
            return None
        if self._chosen is None:
            ids: list[str] = []
            for unit in self._view.query_units():
                table = self._view.queries(unit, ["id", "text"])
                ids += [
                    id_ for id_, text in zip(table["id"].to_pylist(), table["text"].to_pylist(), strict=True) if self._is_short_enough(text)
                ]
            drawn = in_drawn_order(ids, "queries", self._recipe.seed)
            self._chosen = frozenset(drawn[: settings.max_documents])
        return self._chosen

    def _is_short_enough(self, text: str) -> bool:
        limit = self._recipe.prompt.max_document_tokens
        if limit is None:
            return True
        assert self._tokenizer is not None, "a recipe without a tokenizer has no limits"
        return self._tokenizer.count(text) <= limit


def prompt_form(form: str, tokenizer: ModelTokenizer | None) -> Any:
    """``chat`` or ``plain``: what a setting of ``auto`` means for a model. A server without a known tokenizer gets a conversation."""
    if form != "auto":
        return form
    return "chat" if tokenizer is None or tokenizer.has_template else "plain"


def prompt_budget(recipe: Recipe, tokenizer: ModelTokenizer | None) -> int | None:
    """Tokens that a prompt may have.

    Raises:
        ValueError: the answer alone would fill the model's context.
    """
    if tokenizer is None or tokenizer.context is None:
        return recipe.prompt.max_tokens
    room = tokenizer.context - recipe.generate.max_new_tokens
    if room <= 0:
        raise ValueError(
            f"generate.max_new_tokens is {recipe.generate.max_new_tokens}, but the context of {recipe.generate.model} has only "
            f"{tokenizer.context} tokens; set generate.max_new_tokens to less"
        )
    return room if recipe.prompt.max_tokens is None else min(room, recipe.prompt.max_tokens)
