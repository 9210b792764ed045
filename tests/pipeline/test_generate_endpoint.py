"""A server that fails while a run asks it: the run ends whole or with one clear sentence, and what was answered is never asked again."""

from __future__ import annotations

import hashlib
import json
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pipeline_builders import documents, make_recipe, record, rows, text_of, write_corpus

from bioie_ray.execution.units import UnitsFailedError
from bioie_ray.pipeline.job import main, run_recipe
from bioie_ray.pipeline.show_prompt import show_prompt

sys.path.insert(0, str(Path(__file__).parents[1] / "generation"))
from fake_endpoint import FakeEndpoint, Json, Reply, answer, error, fake_endpoint

KEY = "sk-s3cret-0123456789abcdef"
NUM_ROWS = 50

Respond = Callable[[int, Json], Reply | None]


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> str:
    """50 documents to ask about."""
    folder = tmp_path_factory.mktemp("corpus") / "bc5cdr"
    return str(write_corpus(folder, train=documents(range(60, 64)), test=documents(range(NUM_ROWS), "t")))


@pytest.fixture
def server() -> Iterator[FakeEndpoint]:
    with fake_endpoint() as fake:
        fake.respond = say
        yield fake


def say(number: int, body: Json) -> Reply:
    """An answer that depends on what was asked and nothing else."""
    return answer(f'["{hashlib.sha256(json.dumps(body["messages"]).encode()).hexdigest()[:8]}"]')


def asked_of(body: Json) -> str:
    """The document that a request is about."""
    return str(body["messages"][-1]["content"])


class Asking:
    """Runs of `generate` with a recipe that asks a server, each as `jobs/generate.py` would do it."""

    def __init__(self, folder: Path, source: str, capfd: pytest.CaptureFixture[str]) -> None:
        self.store = folder / "store"
        self._folder = folder
        self._source = source
        self._capfd = capfd
        self._said = ""

    def __call__(self, url: str, *overrides: str, **endpoint: Any) -> tuple[int, str]:
        """Exit code, and what the run said."""
        # Where and how a server is called is in no fingerprint, so a rerun may call another one.
        settings = {"timeout_s": 5.0, "max_retries": 3, "max_wait_s": 0.05, "concurrency": 4, "url": url, **endpoint}
        make_recipe(
            self._folder,
            job="generate",
            source=self._source,
            task="bc5cdr_disease",
            prepare={"documents_per_shard": 64},
            prompt={"num_examples": 0},
            generate={"engine": "openai", "model": "tiny", "endpoint": settings},
        )
        arguments = [argument for override in overrides for argument in ("--set", override)]
        code = main("generate", "", ["--recipe", str(self._folder / "recipe.yaml"), *arguments])
        out, err = self._capfd.readouterr()
        self._said += out + err
        return code, out + err

    @property
    def answers(self) -> list[dict[str, Any]]:
        return rows(self.store / "generations/r@1")

    @property
    def kept(self) -> int:
        """Answers of the unit under way that are in the store."""
        return len(list(self.store.glob("generations/r@1/_parts/*/*.json")))

    def assert_whole(self) -> None:
        """Every document has the answer of an undisturbed server; nothing of the run under way is left."""
        assert [row["document_id"] for row in self.answers] == [f"t{n:03d}" for n in range(NUM_ROWS)]
        for row, prompt in zip(self.answers, rows(self.store / "prompts/r@1"), strict=True):
            assert row["answer"] == say(0, {"messages": json.loads(prompt["messages"])}).body["choices"][0]["message"]["content"]
        assert record(self.store / "generations/r@1")["counts"]["answers"] == NUM_ROWS
        assert self.kept == 0

    def assert_no_key(self) -> None:
        """The key is in no file, no name of one, and nothing that was said."""
        assert KEY not in self._said
        files = [path for path in self._folder.rglob("*") if path.is_file()]
        assert files
        assert [path for path in files if KEY in str(path) or KEY.encode() in path.read_bytes()] == []


@pytest.fixture
def asking(tmp_path: Path, source: str, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> Iterator[Asking]:
    """Runs that must not have left the key anywhere, whatever went wrong."""
    caplog.set_level("DEBUG")
    runs = Asking(tmp_path, source, capfd)
    yield runs
    runs.assert_no_key()
    assert KEY not in caplog.text


def the_sentence(said: str) -> str:
    """The one line that says why the only unit failed, between what every failed run says."""
    told = said[said.index("error: ") :].splitlines()
    assert "1 unit failed" in told[0]
    assert told[2:] == ["Mend the cause and run the same command again; what is done is not done again."]
    assert "Traceback" not in said
    return told[1].strip()


def test_a_server_that_dies_at_row_30_of_50_is_asked_for_the_other_20_only(server: FakeEndpoint, asking: Asking) -> None:
    def dies(number: int, body: Json) -> Reply | None:
        if number == 30:
            server.die()
        return say(number, body) if number <= 30 else None

    server.respond = dies
    code, said = asking(server.url)
    assert code == 1
    sentence = the_sentence(said)
    assert server.url in sentence
    assert "What was answered is kept: run again when the server is well" in sentence
    assert asking.kept == 30
    assert asking.answers == []

    with fake_endpoint() as well:
        well.respond = say
        assert asking(well.url)[0] == 0
        assert len(well.asked) == NUM_ROWS - 30
        first, second = ({asked_of(body) for body in bodies} for bodies in (server.asked[:30], well.asked))
        assert first & second == set()
        assert len(first | second) == NUM_ROWS
        asking.assert_whole()
        assert asking(well.url)[0] == 0
        assert len(well.asked) == NUM_ROWS - 30  # done is done


@pytest.mark.parametrize(
    ("first", "endpoint"),
    [
        pytest.param(lambda number: error(429, "slow down"), {}, id="429 for a while"),
        pytest.param(
            lambda number: error(429, "slow down", headers={"Retry-After": "0.1"}), {"max_wait_s": 0.3}, id="429 with Retry-After"
        ),
        pytest.param(lambda number: error(503, "overloaded"), {}, id="503"),
        pytest.param(lambda number: None, {}, id="closed connections"),
        pytest.param(lambda number: Reply(b'{"choices": [{"mess'), {}, id="half a JSON"),
        pytest.param(lambda number: Reply(b'{"choices": [{"mess', promised=500), {}, id="half of what was promised"),
        pytest.param(lambda number: Reply({"error": {"message": "busy", "code": 503}}), {}, id="200 with an error that passes"),
        pytest.param(lambda number: Reply(answer("[]").body, after_s=1.0), {"timeout_s": 0.5}, id="hangs"),
    ],
)
def test_what_passes_ends_in_a_finished_run(
    server: FakeEndpoint, asking: Asking, first: Callable[[int], Reply | None], endpoint: dict[str, Any]
) -> None:
    tries: Counter[str] = Counter()

    def respond(number: int, body: Json) -> Reply | None:
        tries[asked_of(body)] += 1  # four at once, but never the same one twice
        is_hit = int(hashlib.sha256(asked_of(body).encode()).hexdigest(), 16) % 8 == 0
        return first(number) if is_hit and tries[asked_of(body)] <= 2 else say(number, body)

    server.respond = respond
    assert asking(server.url, **endpoint)[0] == 0
    assert set(tries.values()) == {1, 3}
    asking.assert_whole()


@pytest.mark.parametrize(
    ("reply", "endpoint", "says"),
    [
        pytest.param(lambda: error(400, "too long"), {}, ["refuses", "HTTP 400: too long"], id="refuses"),
        pytest.param(
            lambda: error(401, f"Incorrect API key provided: {KEY}", code="invalid_api_key"),
            {},
            ["HTTP 401", "OPENAI_API_KEY, which is set, and it does not take it"],
            id="another key, which it repeats",
        ),
        pytest.param(lambda: error(404, "no model tiny"), {}, ["does not list a model tiny", "(medium, large)"], id="wrong model"),
        pytest.param(
            lambda: Reply({"error": {"message": "bad prompt", "code": 400}}), {}, ["HTTP 400: bad prompt"], id="200 with an error"
        ),
        pytest.param(lambda: error(429, "slow down"), {}, ["4 tries", "HTTP 429: slow down"], id="429 for ever"),
        pytest.param(lambda: Reply(b'{"choices": [{"mess'), {}, ["4 tries", "in the middle of an answer"], id="always half a JSON"),
        pytest.param(
            lambda: Reply(answer("[]").body, after_s=0.6), {"timeout_s": 0.2}, ["4 tries", "no answer in 0.2 s"], id="always hangs"
        ),
    ],
)
def test_what_lasts_is_one_sentence_and_costs_no_answer(
    server: FakeEndpoint, asking: Asking, reply: Callable[[], Reply], endpoint: dict[str, Any], says: list[str]
) -> None:
    """The server answers ten, then no more; when it is well again it is asked for the others."""
    server.models = ["medium", "large"]
    answered: set[str] = set()

    def respond(number: int, body: Json) -> Reply:
        with server.lock:
            if len(answered) >= 10:
                return reply()
            answered.add(asked_of(body))
        return say(number, body)

    server.respond = respond
    code, said = asking(server.url, **endpoint)
    assert code == 1
    sentence = the_sentence(said)
    assert [part for part in [server.url, *says] if part not in sentence] == []
    assert asking.kept == 10

    server.respond = say
    server.asked.clear()
    assert asking(server.url)[0] == 0
    assert len(server.asked) == NUM_ROWS - 10
    assert {asked_of(body) for body in server.asked}.isdisjoint(answered)
    asking.assert_whole()


def test_a_budget_is_one_of_the_output_however_often_it_is_run(server: FakeEndpoint, asking: Asking) -> None:
    prices = {"usd_per_million_prompt_tokens": 1_000.0, "concurrency": 1}  # $ 0.1 a request
    assert asking(server.url, max_usd=0.95, **prices)[0] == 1
    assert asking.kept == len(server.asked) == 10
    code, said = asking(server.url, max_usd=0.95, **prices)
    assert code == 1
    assert "the answers of this output have cost $1.0000 and endpoint.max_usd is 0.95" in the_sentence(said)
    assert len(server.asked) == 10
    assert asking(server.url, max_usd=5.0, **prices)[0] == 0
    assert len(server.asked) == NUM_ROWS


def test_empty_answers_are_not_converted_and_too_long_ones_cost_only_themselves(server: FakeEndpoint, tmp_path: Path, source: str) -> None:
    said = {"t000": " \n", "t001": "far too long", "t002": '["gout"]'}
    texts = {" ".join(text_of(number)): f"t{number:03d}" for number in range(NUM_ROWS)}

    def respond(number: int, body: Json) -> Reply:
        if body["model"] == "tiny":
            (id_,) = [id_ for text, id_ in texts.items() if text in asked_of(body).replace("\n", " ")]
            return answer(said.get(id_, f"gout and {id_}"))
        if "far too long" in asked_of(body) and body["model"] == "judge-a":
            return error(400, "This model's maximum context length is 8192 tokens. However, your messages resulted in 9001 tokens.")
        return answer(f'["{asked_of(body).splitlines()[1]}"]')

    server.respond = respond
    endpoint = {"url": server.url, "concurrency": 4}
    evaluators = [{"engine": "openai", "model": name, "endpoint": endpoint} for name in ("judge-a", "judge-b")]
    recipe = make_recipe(
        tmp_path,
        job="dmcr",
        source=source,
        task="bc5cdr_disease",
        prompt={"num_examples": 0},
        generate={"engine": "openai", "model": "tiny", "endpoint": endpoint},
        dmcr={"evaluators": evaluators},
    )
    run_recipe(recipe)
    judged = {row["document_id"]: row for row in rows(tmp_path / "store/dmcr/r@1")}
    shown = {id_: [judged[id_][name] for name in ("status", "verdict", "conversion_a", "conversion_b", "corrected")] for id_ in judged}
    assert shown["t000"] == ["malformed", "empty", None, None, None]
    assert shown["t001"] == ["malformed", "differ", None, '["far too long"]', None]
    assert shown["t003"] == ["malformed", "agreed", '["gout and t003"]', '["gout and t003"]', '["gout and t003"]']
    assert sum(body["model"] == "judge-b" for body in server.asked) == NUM_ROWS - 2
    record_a, record_b = (record(tmp_path / f"store/conversions-{letter}/r@1") for letter in "ab")
    counted = [[each["counts"][name] for name in ("malformed", "empty", "too_long", "conversions")] for each in (record_a, record_b)]
    assert counted == [[NUM_ROWS - 1, 1, 1, NUM_ROWS - 3], [NUM_ROWS - 1, 1, 0, NUM_ROWS - 2]]
    assert record_a["warnings"] == ["1 answers are too long for judge-a, and stay without a conversion by it"]
    (row,) = [row for row in rows(tmp_path / "store/conversions-a/r@1") if row["document_id"] == "t001"]
    assert (row["conversion"], row["finish"]) == (None, "too_long")


def test_what_is_shown_is_what_the_server_was_sent(
    server: FakeEndpoint, asking: Asking, other_llm: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """And not the plain text as which a tokenizer without a template counted it."""
    code, said = asking(server.url, f"generate.tokenizer={other_llm}")
    assert code == 0, said
    for kind in ("prompts", "generations"):
        show_prompt(str(asking.store / kind / "r@1"), "t007")
        shown = capfd.readouterr().out
        (sent,) = [body["messages"] for body in server.asked if shown.startswith(f"[user]\n{body['messages'][0]['content']}\n")]
        assert len(sent) == 1


def test_no_server_at_all_is_one_sentence(asking: Asking, server: FakeEndpoint) -> None:
    server.die()
    code, said = asking(server.url, max_retries=1)
    assert code == 1
    assert "no connection" in the_sentence(said)


@pytest.mark.parametrize(
    ("reply", "num_tries"), [(lambda: error(401, "no such key"), 1), (lambda: error(503, "gone"), 4)], ids=["refuses the key", "is gone"]
)
def test_a_server_that_is_lost_is_asked_by_one_unit_and_costs_a_grid_its_own_cells_alone(
    server: FakeEndpoint, tmp_path: Path, source: str, capfd: pytest.CaptureFixture[str], reply: Callable[[], Reply], num_tries: int
) -> None:
    asked: list[str] = []

    def respond(number: int, body: Json) -> Reply:
        if body["model"] == "good":
            return say(number, body)
        asked.append(body["model"])
        return reply()

    server.respond, server.models = respond, ["good", "gated"]
    endpoint = {"url": server.url, "concurrency": 1, "max_retries": 3, "max_wait_s": 0.01}
    recipe = make_recipe(
        tmp_path,
        job="evaluate",
        source=source,
        task="bc5cdr_disease",
        prepare={"documents_per_shard": 16},
        prompt={"num_examples": 0},
        generate={"engine": "openai", "model": "good", "repeats": 2, "endpoint": endpoint},
        dmcr={"evaluators": []},
        matrix={"generate": [{"label": "bad", "model": "gated"}, {"label": "good", "model": "good"}]},
    )
    with pytest.raises(UnitsFailedError) as caught:
        run_recipe(recipe)
    assert len(asked) == num_tries
    told = str(caught.value).splitlines()
    assert "8 units failed" in told[0]
    assert [line.split(": ")[1].partition(",")[0] for line in told[2:-1]] == ["not tried any more"]
    assert " and 6 more: " in told[2]
    assert record(tmp_path / "store/scores/r-good@1")["summary"]
    assert sorted(path.name for path in (tmp_path / "store/scores").iterdir()) == ["r-good@1"]
    said = capfd.readouterr().err
    assert "1 of 2 outputs wait for what failed" in said

    server.respond = say
    run_recipe(recipe)
    assert sorted(path.name for path in (tmp_path / "store/scores").iterdir()) == ["r-bad@1", "r-good@1"]


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.timeout(900)
def test_actors_of_ray_ask_with_the_key(server: FakeEndpoint, asking: Asking) -> None:
    code, said = asking(server.url, "cluster.executor=ray", "cluster.num_workers=1")
    assert code == 0, said
    assert len(server.headers) == NUM_ROWS
    assert {headers["Authorization"] for headers in server.headers} == {f"Bearer {KEY}"}
    asking.assert_whole()
