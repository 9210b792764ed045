"""The time in a record is that of its own output, not of all that was made in one go with it."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from pipeline_builders import documents, make_recipe, record, write_corpus

from bioie_ray.pipeline.job import run_recipe

sys.path.insert(0, str(Path(__file__).parents[1] / "generation"))
from fake_endpoint import Json, Reply, answer, fake_endpoint


def test_an_output_that_is_made_after_others_does_not_count_their_time(tmp_path: Path) -> None:
    source = str(write_corpus(tmp_path / "bc5cdr", train=documents(range(60, 64)), test=documents(range(6), "t")))

    def respond(number: int, body: Json) -> Reply:
        time.sleep(0.5 if body["model"] == "a-slow" else 0.0)
        return answer("[]")

    with fake_endpoint() as server:
        server.respond = respond
        recipe = make_recipe(
            tmp_path,
            job="generate",
            source=source,
            task="bc5cdr_disease",
            prompt={"num_examples": 0},
            generate={"engine": "openai", "model": "x", "endpoint": {"url": server.url, "concurrency": 1}},
            matrix={"generate.model": ["a-slow", "b-fast"]},
        )
        run_recipe(recipe)
    slow, fast = (record(tmp_path / f"store/generations/r-{name}@1")["timings"] for name in ("a-slow", "b-fast"))
    assert slow["wall_s"] >= 3.0
    assert fast["wall_s"] < slow["wall_s"]
    assert slow["finished"] <= fast["finished"]
