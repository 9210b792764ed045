"""What is kept of a unit under way, and what of a model is in a fingerprint."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pipeline_builders import make_recipe, rows

from bioie_ray.artifacts.output import Output
from bioie_ray.artifacts.store import StoreAddress
from bioie_ray.config.generation import ModelSettings
from bioie_ray.generation.base import Completion, OnChunk, Request, Tokens
from bioie_ray.pipeline.answering import answer, model_identity
from bioie_ray.pipeline.plan import Planner
from bioie_ray.prompting.instructions import load_instructions

REQUESTS = [Request(f"d{i}", "x", (), i) for i in range(4)]


class Echo:
    """Answers with the id, in chunks of a size."""

    def __init__(self, size: int) -> None:
        self._size = size
        self.asked: list[str] = []

    def plan(self, requests: Sequence[Request]) -> list[list[Request]]:
        return [list(requests[start : start + self._size]) for start in range(0, len(requests), self._size)]

    def generate(self, chunks: Sequence[tuple[int, Sequence[Request]]], on_chunk: OnChunk) -> None:
        for number, requests in chunks:
            self.asked += [request.id for request in requests]
            on_chunk(number, [Completion(request.id, request.id, "stop", 1, 1) for request in requests])


@pytest.fixture
def output(tmp_path: Path) -> Output:
    return Output(StoreAddress(str(tmp_path)), "generations/r@1")


def test_what_was_answered_is_not_asked_again(output: Output) -> None:
    answer(Echo(2), REQUESTS, output, "u")
    output.store.delete(f"{output.key}/_parts/u/00001.json")
    again = Echo(2)
    assert sorted(answer(again, REQUESTS, output, "u")) == ["d0", "d1", "d2", "d3"]
    assert again.asked == ["d2", "d3"]


def test_parts_that_were_cut_otherwise_never_leave_an_answer_out(output: Output) -> None:
    answer(Echo(2), REQUESTS[:2], output, "u")
    with pytest.raises(ValueError, match=r"parts of u that were cut otherwise .*d2 is in none; delete _parts/u there"):
        answer(Echo(3), REQUESTS, output, "u")


def test_a_budget_begins_with_all_that_lies_in_the_store(output: Output) -> None:
    class Paid(Echo):
        def start_from(self, asked: Callable[[], Tokens]) -> None:
            self.before = asked()

    def part(prompt: int, answers: int) -> bytes:
        return json.dumps([{"id": "d", "text": "", "finish": "stop", "num_prompt_tokens": prompt, "num_answer_tokens": answers}]).encode()

    output.commit("done", pa.table({"x": [1]}), {"prompt_tokens": 100, "answer_tokens": 20})
    output.put_part("done", 0, part(100, 20))  # left by a run that was killed behind the marker: not counted twice
    output.put_part("of-another-worker", 0, part(1_000, 200))
    output.put_part("u", 7, part(10_000, 2_000))
    engine = Paid(2)
    answer(engine, REQUESTS, output, "u")
    assert engine.before == (11_100, 2_220)


def test_a_part_that_is_gone_with_its_finished_shard_is_no_failure(output: Output, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another run put the part first and committed the shard before we could read it."""
    output.put_part("u", 0, b"theirs")
    create = type(output.store).create

    def then_finished(store: Any, key: str, data: bytes) -> bool:
        made = create(store, key, data)
        output.drop_parts("u")
        return made

    monkeypatch.setattr(type(output.store), "create", then_finished)
    assert output.put_part("u", 0, b"ours") == b"ours"


def test_an_adapter_is_in_the_fingerprint_by_its_content(tiny_llm: str, tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text(json.dumps({"r": 8}))
    (tmp_path / "adapter_model.safetensors").write_bytes(b"one")
    settings = ModelSettings(model=tiny_llm, adapter=str(tmp_path))
    first = model_identity(settings)
    (tmp_path / "adapter_model.safetensors").write_bytes(b"another")
    assert model_identity(settings)["adapter"] != first["adapter"]
    with pytest.raises(ValueError, match="holds no adapter"):
        model_identity(ModelSettings(model=tiny_llm, adapter=str(tmp_path.parent)))


def test_batches_and_threads_are_in_the_fingerprint_of_the_engine_that_heeds_them(tiny_llm: str) -> None:
    def identity(engine: Any, **changes: Any) -> dict[str, Any]:
        return model_identity(ModelSettings(engine=engine, model=tiny_llm, **changes))

    for change in ({"batch_size": 3}, {"batch_tokens": 999}, {"threads": 2}):
        assert identity("vllm", **change) == identity("vllm")
        assert identity("transformers", **change) != identity("transformers")
    assert identity("vllm", dtype="bfloat16") != identity("vllm")


def test_the_tokenizer_that_says_what_a_server_can_convert_is_in_the_fingerprint(
    corpus: str, tiny_llm: str, other_llm: str, tmp_path: Path
) -> None:
    def fingerprint(tokenizer: str | None) -> str:
        server = {"engine": "openai", "model": "m", "tokenizer": tokenizer, "endpoint": {"url": "http://h/v1"}}
        recipe = make_recipe(
            tmp_path,
            job="dmcr",
            source=corpus,
            task="bc5cdr_disease",
            prompt={"num_examples": 0},
            generate={"model": tiny_llm},
            dmcr={"evaluators": [server, {"model": other_llm}]},
        )
        return next(step.output.fingerprint for step in Planner().plan(recipe) if step.output.key.startswith("conversions-a/"))

    assert len({fingerprint(None), fingerprint(tiny_llm), fingerprint(other_llm)}) == 3


def test_instructions_are_those_of_the_fingerprint_though_the_file_is_edited(corpus: str, tiny_llm: str, tmp_path: Path) -> None:
    """Read when the run is planned: workers, which may be elsewhere, get the text and not the file's name."""
    import yaml

    from bioie_ray.pipeline.progress import Progress
    from bioie_ray.pipeline.run import run_plan

    own = tmp_path / "own.yaml"
    own.write_text(yaml.safe_dump({**load_instructions("1").data, "input": "Document: {text}"}))
    prompt = {"num_examples": 0, "instructions": str(own), "max_documents": 1}
    generate = {"model": tiny_llm, "max_new_tokens": 1}
    steps = Planner().plan(make_recipe(tmp_path, job="generate", source=corpus, task="bc5cdr_disease", prompt=prompt, generate=generate))
    for step in steps:
        assert step.output.fingerprint
    own.unlink()
    run_plan(steps, Progress(quiet=True))
    (row,) = rows(tmp_path / "store" / "prompts/r@1")
    assert "Document: " in row["text"]
