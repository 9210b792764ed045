"""What cannot be answered costs itself: a query that a server does not take, and a cell of a grid with nothing to ask."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pipeline_builders import documents, make_recipe, record, rows, text_of, write_corpus

from bioie_ray.execution.units import UnitsFailedError
from bioie_ray.pipeline.job import run_recipe

sys.path.insert(0, str(Path(__file__).parents[1] / "generation"))
from fake_endpoint import FakeEndpoint, Json, Reply, answer, error, fake_endpoint

NUM_ROWS = 6
TOO_LONG = "This model's maximum context length is 8192 tokens. However, your messages resulted in 9001 tokens."
FORBIDDEN = "The response was filtered due to the prompt triggering Azure OpenAI's content management policy."


@pytest.fixture
def server() -> Iterator[FakeEndpoint]:
    with fake_endpoint() as fake:
        fake.respond = lambda number, body: answer("[]")
        yield fake


def recipe_for(folder: Path, server: FakeEndpoint, **sections: Any) -> Any:
    endpoint = {"url": server.url, "concurrency": 1, "max_retries": 0, **sections.pop("endpoint", {})}
    generate = {"engine": "openai", "model": "tiny", "endpoint": endpoint, **sections.pop("generate", {})}
    source = str(write_corpus(folder / "bc5cdr", train=documents(range(60, 64)), test=documents(range(NUM_ROWS), "t")))
    defaults = {"job": "evaluate", "prompt": {"num_examples": 0}, "dmcr": {"evaluators": []}}
    return make_recipe(folder, source=source, task="bc5cdr_disease", generate=generate, **{**defaults, **sections})


def test_queries_that_a_server_does_not_take_count_as_unanswered(server: FakeEndpoint, tmp_path: Path) -> None:
    replies = {
        "t001": error(400, TOO_LONG, code="context_length_exceeded"),
        "t003": error(400, FORBIDDEN, code="content_filter"),
        "t004": Reply({"choices": [{"message": {"content": ""}, "finish_reason": "content_filter"}], "usage": {"prompt_tokens": 9}}),
        "t005": Reply({"choices": [{"message": {"content": '["gout", "an'}, "finish_reason": "content_filter"}]}),
    }

    def respond(number: int, body: Json) -> Reply:
        asked = body["messages"][-1]["content"].replace("\n", " ")
        (id_,) = [f"t{n:03d}" for n in range(NUM_ROWS) if " ".join(text_of(n)) in asked]
        return replies.get(id_, answer("[]"))

    server.respond = respond
    run_recipe(recipe_for(tmp_path, server))
    shown = {
        row["document_id"]: (row["answer"], row["finish"], row["num_prompt_tokens"]) for row in rows(tmp_path / "store/generations/r@1")
    }
    assert [shown[f"t{n:03d}"][:2] for n in (0, 1, 2, 3)] == [("[]", "list"), ("", "not_asked"), ("[]", "list"), ("", "not_asked")]
    assert shown["t004"] == ("", "not_asked", 9)  # it was paid for
    assert shown["t005"][:2] == ('["gout", "an', "length")
    made = record(tmp_path / "store/generations/r@1")
    counted = {name: made["counts"][name] for name in ("answers", "not_asked", "too_long_for_server", "refused", "cut_off")}
    assert counted == {"answers": 3, "not_asked": 3, "too_long_for_server": 1, "refused": 2, "cut_off": 1}
    assert made["warnings"] == [
        "1 queries are longer than the server takes, which counts as no answer",
        "2 queries are refused by the server's content policy, which counts as no answer",
    ]
    assert record(tmp_path / "store/scores/r@1")["not_asked"] == 3


def test_a_server_that_takes_no_query_at_all_makes_no_answers(server: FakeEndpoint, tmp_path: Path) -> None:
    server.respond = lambda number, body: error(400, TOO_LONG)
    recipe = recipe_for(tmp_path, server)
    with pytest.raises(ValueError, match=r"no answer at all; 6 queries are longer than the server takes.*prompt\.max_tokens"):
        run_recipe(recipe)
    assert not (tmp_path / "store/generations/r@1/record.json").exists()
    server.respond = lambda number, body: answer("[]")  # a server with more room
    run_recipe(recipe)
    assert record(tmp_path / "store/generations/r@1")["counts"]["answers"] == NUM_ROWS


def test_what_was_paid_for_is_not_given_up_and_not_asked_again(server: FakeEndpoint, tmp_path: Path) -> None:
    filtered = {
        "choices": [{"message": None, "finish_reason": "content_filter"}],
        "usage": {"prompt_tokens": 1_000_000, "completion_tokens": 0},
    }
    server.respond = lambda number, body: Reply(filtered)
    recipe = recipe_for(tmp_path, server, endpoint={"usd_per_million_prompt_tokens": 1.0, "max_usd": 7.0})
    for _ in range(3):
        with pytest.raises(
            ValueError, match=r"6 queries are refused by the server's content policy.*ask another server or model, and delete"
        ):
            run_recipe(recipe)
    assert len(server.asked) == NUM_ROWS


@pytest.mark.parametrize(("sends_seed", "is_there"), [(True, True), (False, False)])
def test_the_seeds_on_record_are_those_that_were_sent(server: FakeEndpoint, tmp_path: Path, sends_seed: bool, is_there: bool) -> None:
    run_recipe(recipe_for(tmp_path, server, job="generate", endpoint={"sends_seed": sends_seed}))
    kept = sorted(row["seed"] for row in rows(tmp_path / "store/generations/r@1")) if is_there else [None] * NUM_ROWS
    sent = [body.get("seed") for body in server.asked]
    assert (sorted(sent) if is_there else sent) == kept
    assert all(seed is None or 0 <= seed < 2**31 for seed in sent)
    if not is_there:
        assert {row["seed"] for row in rows(tmp_path / "store/generations/r@1")} == {None}


def test_a_cell_with_nothing_to_ask_costs_a_grid_that_cell_alone(
    server: FakeEndpoint, tmp_path: Path, other_llm: str, capfd: pytest.CaptureFixture[str]
) -> None:
    cells = [{"label": "none", "num_examples": 0, "max_document_tokens": 1}, {"label": "all", "num_examples": 0}]
    recipe = recipe_for(tmp_path, server, generate={"tokenizer": other_llm}, matrix={"prompt": cells})
    with pytest.raises(ValueError, match="r-none@1: no query of the test split is left to be asked about") as caught:
        run_recipe(recipe)
    assert not isinstance(caught.value, UnitsFailedError)  # it is the only thing that went wrong, and said in its own words
    assert "1 of 2 outputs wait for what failed" in capfd.readouterr().err
    assert [path.name for path in (tmp_path / "store/scores").iterdir()] == ["r-all@1"]


def test_what_several_cells_refuse_is_told_together(server: FakeEndpoint, tmp_path: Path, other_llm: str) -> None:
    cells = [
        {"label": "none", "num_examples": 0, "max_document_tokens": 1},
        {"label": "nil", "num_examples": 0, "max_document_tokens": 2},
        {"label": "all", "num_examples": 0},
    ]
    with pytest.raises(UnitsFailedError) as caught:
        run_recipe(recipe_for(tmp_path, server, generate={"tokenizer": other_llm}, matrix={"prompt": cells}))
    told = str(caught.value)
    assert told.count("no query of the test split is left to be asked about") == 2
    assert [path.name for path in (tmp_path / "store/scores").iterdir()] == ["r-all@1"]
