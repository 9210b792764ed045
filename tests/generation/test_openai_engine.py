"""Every fault of a server ends in a finished run or in one sentence, and nothing that was answered is lost."""

import logging
import re
import threading
import time
from dataclasses import replace

import pytest
from fake_endpoint import Reply, answer, error, fake_endpoint

from bioie_ray.config.generation import EndpointSettings, ModelSettings
from bioie_ray.generation.base import Completion, EngineError, Request, Sampling
from bioie_ray.generation.openai_engine import OpenAIEngine
from bioie_ray.generation.structure import schema
from bioie_ray.prompting.prompt import Message

KEY = "sk-s3cret-0123456789abcdef"
SAMPLING = Sampling(temperature=0.5, top_p=0.9, max_new_tokens=64)


@pytest.fixture(autouse=True)
def no_key(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


@pytest.fixture
def server():
    with fake_endpoint() as fake:
        yield fake


def requests(number):
    return [Request(f"d{i}/1", None, (Message("user", f"question {i}"),), seed=i) for i in range(number)]


def engine(server, sampling=SAMPLING, model="tiny", **endpoint):
    quick = {"timeout_s": 5.0, "max_wait_s": 0.05, "url": server.url}
    return OpenAIEngine(ModelSettings(engine="openai", model=model, endpoint=EndpointSettings(**(quick | endpoint))), sampling)


def run(asked, number=1, done=None):
    """All completions by id; those before a failure are in ``done``."""
    done = {} if done is None else done
    chunks = list(enumerate(asked.plan(requests(number))))
    left = [(index, chunk) for index, chunk in chunks if any(request.id not in done for request in chunk)]
    asked.generate(left, lambda index, completions: done.update({completion.id: completion for completion in completions}))
    return done


def fails(asked, number=1, done=None):
    with pytest.raises(EngineError) as caught:
        run(asked, number, done)
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 900
    return message


def echo(number, body):
    return answer(f'["{body["messages"][0]["content"]}"]')


# --- what is asked and what comes back


def test_what_is_asked(server):
    run(engine(server), 3)
    asked = sorted(server.asked, key=lambda body: body["seed"])
    assert asked[2] == {
        "model": "tiny",
        "messages": [{"role": "user", "content": "question 2"}],
        "temperature": 0.5,
        "top_p": 0.9,
        "max_tokens": 64,
        "seed": 2,
    }
    assert all("Authorization" not in headers for headers in server.headers)


def test_seeds_are_sent_as_they_are_or_stay_at_home(server):
    big = [(0, [Request("d/1", None, (Message("user", "?"),), seed=2**31 - 5)])]
    engine(server).generate(big, lambda number, completions: None)
    engine(server, sends_seed=False).generate(big, lambda number, completions: None)
    assert [body.get("seed") for body in server.asked] == [2**31 - 5, None]


def test_structured_sends_the_schema(server):
    run(engine(server, Sampling(0.0, 1.0, 8, structured="re")))
    assert server.asked[0]["response_format"] == {
        "type": "json_schema",
        "json_schema": {"name": "answer", "schema": schema("re"), "strict": True},
    }


@pytest.mark.parametrize(
    ("kind", "said", "finish", "text", "finished"),
    [
        ("ner", 'Sure:\n["a]", "b"]\nInput: more ["c"]', "length", 'Sure:\n["a]", "b"]', "list"),
        ("ner", '["a"]', "stop", '["a"]', "list"),
        ("ner", 'none [1] of "a"', "stop", 'none [1] of "a"', "stop"),
        ("re", '[["a", "b"], ["c"', "length", '[["a", "b"], ["c"', "length"),
        (None, '["a"] and more', "stop", '["a"] and more', "stop"),
        (None, None, "content_filter", "", "refused"),
    ],
)
def test_answers_are_cut_behind_their_list(server, kind, said, finish, text, finished):
    server.respond = lambda number, body: answer(said, finish, usage=(7, 3))
    assert run(engine(server, Sampling(0.5, 0.9, 64, stop_at=kind))) == {"d0/1": Completion("d0/1", text, finished, 7, 3)}


def test_a_server_that_reports_no_tokens_is_taken(server):
    server.respond = lambda number, body: answer("[]", usage=None)
    assert run(engine(server))["d0/1"] == Completion("d0/1", "[]", "stop", 0, 0)


def test_no_more_at_once_than_allowed_and_each_once(server):
    def slow(number, body):
        time.sleep(0.05)
        return echo(number, body)

    server.respond = slow
    done = run(engine(server, concurrency=4), 20)
    assert {name: completion.text for name, completion in done.items()} == {f"d{i}/1": f'["question {i}"]' for i in range(20)}
    assert server.most_at_once == 4
    assert len(server.asked) == 20


def test_requests_go_on_while_one_is_handed_over_and_only_one_is(server):
    server.respond = lambda number, body: Reply(answer("[]").body, after_s=0.0 if number == 1 else 0.3)
    threads, inside = set(), []

    def slow(number, completions):
        inside.append(number)
        assert len(inside) == 1
        threads.add(threading.get_ident())
        time.sleep(1.5)
        inside.clear()

    asked = engine(server, concurrency=3, timeout_s=1.0)
    asked.generate(list(enumerate(asked.plan(requests(3)))), slow)
    assert len(threads) == 1
    assert len(server.asked) == 3  # none ran out of time because a disk was slow


def test_requests_per_minute(server):
    began = time.monotonic()
    run(engine(server, requests_per_minute=600, concurrency=8), 6)
    # None comes before its turn; how much later is the machine's affair.
    assert all(at - began > 0.1 * turn - 0.01 for turn, at in enumerate(server.times))
    assert len(server.times) == 6


def test_what_hand_over_raises_comes_through_after_the_others(server):
    server.respond = lambda number, body: Reply(answer("[]").body, after_s=0.1 if number > 1 else 0.0)
    seen = []

    def full(number, completions):
        seen.append(number)
        raise OSError("no space left")

    asked = engine(server, concurrency=2)
    with pytest.raises(OSError, match="no space left"):
        asked.generate(list(enumerate(asked.plan(requests(9)))), full)
    assert len(seen) == len(server.asked) == 2


# --- faults that pass


@pytest.mark.parametrize(
    "fault",
    [
        lambda: error(429, "slow down"),
        lambda: error(408, "too slow"),
        lambda: error(500, "oops"),
        lambda: Reply(b"<html>Bad gateway</html>", 502),
        lambda: Reply({"error": "CUDA out of memory"}, 503),
        lambda: None,
        lambda: Reply(b'{"choices": [{"message": {"content": "[\\"a'),
        lambda: Reply(b'{"choices": [{"message"', promised=500),
        lambda: Reply({"choices": []}),
        lambda: Reply([]),
        lambda: Reply({"error": {"message": "provider is away", "code": 502}}),
        lambda: Reply({"error": {"message": "later", "type": "rate_limit_error"}}),
        lambda: Reply({"object": "error", "message": "engine is overloaded", "code": "overloaded"}),
    ],
    ids=[
        "429", "408", "500", "502", "503", "lost", "half a JSON", "cut off", "no choice", "no object", "502 in 200", "rate in 200", "load in 200",
    ],
)  # fmt: skip
def test_faults_that_pass(server, fault):
    server.respond = lambda number, body: fault() if number <= 6 else echo(number, body)
    done = run(engine(server, concurrency=3), 10)
    assert [done[f"d{i}/1"].text for i in range(10)] == [f'["question {i}"]' for i in range(10)]
    assert len(server.asked) == 16


def test_a_server_that_hangs_is_asked_again(server):
    server.respond = lambda number, body: Reply(answer("[]").body, after_s=15.0 if number == 1 else 0.0)
    began = time.monotonic()
    run(engine(server, timeout_s=1.0))
    assert 1.0 < time.monotonic() - began < 14.0
    assert len(server.asked) == 2


def test_a_server_that_always_hangs_is_one_sentence(server):
    server.respond = lambda number, body: Reply(answer("[]").body, after_s=1.0)
    message = fails(engine(server, timeout_s=0.1, max_retries=2))
    assert re.search(r"gave no answer to d0/1 in 3 tries over \d+ s; the last: no answer in 0.1 s \(endpoint.timeout_s\)", message)


def test_429_for_as_long_as_the_waits_last(server):
    """The default waits scaled to a fiftieth: 429 for 60 / 50 seconds; `test_endpoint_limits` proves that they are long enough."""
    until = time.monotonic() + 1.0
    server.respond = lambda number, body: error(429, "slow down") if time.monotonic() < until else echo(number, body)
    assert len(run(engine(server, max_wait_s=0.3), 16)) == 16


@pytest.mark.parametrize("form", ["seconds", "date"])
def test_retry_after_is_honoured(server, form):
    def busy(number, body):
        if number > 1:
            return answer("[]")
        when = "2" if form == "seconds" else time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(time.time() + 3))
        return error(429, "slow down", headers={"Retry-After": when})

    server.respond = busy
    run(engine(server, max_wait_s=30.0))
    assert 2.0 <= server.times[1] - server.times[0] < 4.5


def test_a_server_that_asks_for_hours_is_named(server):
    server.respond = lambda number, body: error(429, "daily limit", headers={"Retry-After": "7200"})
    message = fails(engine(server, max_retries=1))
    assert "HTTP 429: daily limit, and the server asks to be left alone for 7200 s" in message


def test_nobody_there_is_one_sentence():
    with fake_endpoint() as gone:
        pass
    message = fails(engine(gone, max_retries=1))
    assert f"{gone.url} gave no answer to d0/1 in 2 tries" in message
    assert "no connection" in message


def test_one_that_fails_for_good_does_not_cost_those_under_way(server):
    def respond(number, body):
        if body["messages"][0]["content"] == "question 1":
            return error(500, "always this one")
        return Reply(echo(number, body).body, after_s=0.5)

    server.respond = respond
    done = {}
    message = fails(engine(server, concurrency=4, max_retries=1), 40, done)
    assert "no answer to d1/1 in 2 tries" in message
    assert set(done) == {"d0/1", "d2/1", "d3/1"}  # were under way, and no other was begun
    assert len(server.asked) == 5


def test_those_that_wait_are_not_tried_again_once_it_is_over(server):
    def respond(number, body):
        if body["messages"][0]["content"] == "question 0":
            return Reply(error(400, "no").body, 400, after_s=0.3)
        return error(503, "busy", headers={"Retry-After": "20"})

    server.respond = respond
    began = time.monotonic()
    assert "refuses d0/1: HTTP 400" in fails(engine(server, concurrency=4, max_wait_s=60.0), 10)
    assert time.monotonic() - began < 15.0


def test_a_server_that_dies_at_row_30_of_50(server):
    port = int(server.url.split(":")[2].split("/")[0])

    def respond(number, body):
        if number > 30:
            server.die()
            return None
        return echo(number, body)

    server.respond = respond
    done = {}
    message = fails(engine(server, concurrency=4, max_retries=2), 50, done)
    assert "gave no answer" in message
    assert len(done) == 30
    with fake_endpoint(port) as again:
        again.respond = echo
        run(engine(again), 50, done)
        assert len(again.asked) == 20
    assert {name: completion.text for name, completion in done.items()} == {f"d{i}/1": f'["question {i}"]' for i in range(50)}


# --- faults that do not pass


@pytest.mark.parametrize(
    ("reply", "says"),
    [
        (error(400, "this model's context has 4096 tokens"), ["HTTP 400: this model's context", "prompt.max_tokens"]),
        (error(401, "no key"), ["HTTP 401: no key", "OPENAI_API_KEY, which is not set"]),
        (error(403, "not yours"), ["HTTP 403", "OPENAI_API_KEY"]),
        (Reply(b"Not Found", 404), ["HTTP 404: Not Found", "ends before /chat/completions"]),
        (error(402, "no money"), ["HTTP 402", "paid"]),
        (error(429, "you exceeded your quota", code="insufficient_quota"), ["HTTP 429", "quota is used up"]),
        (Reply({"detail": [{"msg": "extra field seed"}]}, 422), ["HTTP 422", "extra field seed", "endpoint.sends_seed"]),
        (Reply(b"", 307, {"Location": "https://elsewhere"}), ["HTTP 307", "set endpoint.url"]),
        (error(200, "bad temperature", code=400), ["HTTP 400: bad temperature"]),
        (error(200, "something is off", code="weird"), ["HTTP 200: something is off"]),
        (error(400, "x" * 5000), ["HTTP 400: xxx"]),
    ],
    ids=["400", "401", "403", "404", "402", "quota", "422", "307", "400 in 200", "unknown in 200", "long"],
)
def test_refusals_are_one_sentence_at_once(server, reply, says):
    server.respond = lambda number, body: reply
    message = fails(engine(server, concurrency=1), 5)
    assert f"{server.url} refuses d0/1: " in message
    assert [part for part in says if part not in message] == []
    assert len(server.asked) == 1


TOO_LONG = [
    error(
        400,
        "This model's maximum context length is 8192 tokens. However, your messages resulted in 9001 tokens.",
        code="context_length_exceeded",
    ),
    error(400, "The decoder prompt (length 5000) is longer than the maximum model length of 4096. Make sure ..."),
    error(400, "the request exceeds the available context size. try increasing the context size or enable context shift"),
    error(400, "Please reduce the length of the messages.", code="context_length_exceeded"),
    error(400, "prompt is too long: 210000 tokens > 200000 maximum", type="invalid_request_error"),
    error(400, "The input token count (2000000) exceeds the maximum number of tokens allowed (1048576)."),
    Reply({"error": "Input validation error: `inputs` must have less than 1024 tokens. Given: 2000", "error_type": "validation"}, 422),
    error(200, "This endpoint's maximum context length is 4096 tokens", code=400),
    error(400, "maximum context length is 8,192 tokens, and you asked for 9,000"),
]


def only_the_second_goes_unanswered(server, reply, finish):
    """Ask three questions that may go unanswered, of which the second gets this reply; the engine that asked."""
    server.respond = lambda number, body: reply if body["messages"][0]["content"] == "question 1" else echo(number, body)
    asked, done = engine(server, concurrency=1), {}
    chunks = [(number, [replace(request, may_go_unanswered=True)]) for number, request in enumerate(requests(3))]
    asked.generate(chunks, lambda index, completions: done.update({completion.id: completion for completion in completions}))
    assert done["d1/1"] == Completion("d1/1", "", finish, 0, 0)
    assert [done[f"d{i}/1"].text for i in (0, 2)] == ['["question 0"]', '["question 2"]']
    return asked


@pytest.mark.parametrize("reply", TOO_LONG)
def test_one_that_is_too_long_and_may_be_costs_only_itself(server, reply):
    asked = only_the_second_goes_unanswered(server, reply, "too_long")
    assert len(server.asked) == 3
    assert "HTTP" in fails(asked, 2)  # where it may not, it ends the run


@pytest.mark.parametrize(
    "reply",
    [
        error(400, "'max_tokens' is too large: 64. This model's maximum context length is 64 tokens and your request has 20 input tokens"),
        error(400, "Unsupported value: 'temperature' does not support 0.5 with this model."),
        error(404, "no model with a context length of 8192"),
    ],
    ids=["nothing would fit", "another reason", "another status"],
)
def test_what_is_not_about_the_length_of_one_request_still_ends_the_run(server, reply):
    server.respond = lambda number, body: reply
    chunks = [(0, [replace(requests(1)[0], may_go_unanswered=True)])]
    with pytest.raises(EngineError, match="refuses d0/1: HTTP 40"):
        engine(server).generate(chunks, lambda *_: pytest.fail("an answer"))


@pytest.mark.parametrize(
    "reply",
    [
        error(400, "The response was filtered due to the prompt triggering our content management policy.", code="content_filter"),
        error(403, "Your request was rejected", code="content_policy_violation"),
        error(200, "blocked by the content filter", code=400),
        error(400, "Invalid prompt: your prompt was flagged as potentially violating our usage policy.", code="invalid_prompt"),
        error(403, "openai/gpt-4o requires moderation on Azure. Your input was flagged for violence"),
        error(400, "Input data may contain inappropriate content.", code="data_inspection_failed"),
        Reply({"choices": [{"message": None, "finish_reason": "content_filter"}]}),
        Reply({"choices": [{"message": {"content": None}, "finish_reason": "content_filter"}]}),
    ],
)
def test_one_that_a_content_policy_forbids_costs_only_itself(server, reply):
    only_the_second_goes_unanswered(server, reply, "refused")


def test_a_model_that_is_not_served(server):
    server.models = [f"model-{i}" for i in range(12)]
    server.respond = lambda number, body: error(404, f"The model `{body['model']}` does not exist.", code="model_not_found")
    message = fails(engine(server, model="tinny"))
    assert "it does not list a model tinny: set model to one that it does (model-0, model-1" in message
    assert "and 2 more" in message


def test_a_server_that_wants_max_completion_tokens(server):
    def picky(number, body):
        if "max_tokens" in body:
            return error(400, "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead.")
        return answer("[]")

    server.respond = picky
    assert len(run(engine(server, concurrency=1), 4)) == 4
    assert [body.get("max_completion_tokens") for body in server.asked] == [None, 64, 64, 64, 64]


def test_only_a_servers_url_will_do():
    for url in ["localhost:8000", "ftp://a/v1", "http://", "http://[::1", "not a url"]:
        with pytest.raises(EngineError, match=r"endpoint\.url is no URL of a server"):
            OpenAIEngine(ModelSettings(engine="openai", endpoint=EndpointSettings(url=url)), SAMPLING)


# --- money


def test_the_budget_holds_over_all_units_of_a_worker(server):
    server.respond = lambda number, body: answer("[]", usage=(1000, 500))
    prices = {"usd_per_million_prompt_tokens": 1.0, "usd_per_million_answer_tokens": 4.0}  # 0.003 a request
    asked = engine(server, concurrency=1, max_usd=0.0149, **prices)
    run(asked, 3)
    assert asked.spent_usd == pytest.approx(0.009)
    done = {}
    assert "the answers of this output have cost $0.0150 and endpoint.max_usd is 0.0149" in fails(asked, 10, done)
    assert len(done) == 2
    assert len(server.asked) == 5
    fails(asked)
    assert len(server.asked) == 5


def test_the_budget_counts_what_was_asked_before(server):
    prices = {"usd_per_million_prompt_tokens": 1.0, "usd_per_million_answer_tokens": 4.0}
    asked = engine(server, concurrency=1, max_usd=0.01, **prices)
    asked.start_from(lambda: (2000, 2000))
    assert "have cost $0.0100" in fails(asked)
    assert server.asked == []
    free = engine(server, **prices)
    free.start_from(lambda: pytest.fail("dear to find out, and not needed"))
    assert len(run(free)) == 1


def test_the_budget_is_passed_by_what_is_under_way_at_most(server):
    server.respond = lambda number, body: Reply(answer("[]", usage=(1000, 0)).body, after_s=0.05)
    asked = engine(server, concurrency=4, max_usd=0.5, usd_per_million_prompt_tokens=100.0)
    done = {}
    fails(asked, 40, done)
    assert 5 <= len(done) == len(server.asked) <= 8


def test_a_budget_without_usage_cannot_be_kept(server):
    server.respond = lambda number, body: answer("[]", usage=None)
    done = {}
    message = fails(engine(server, concurrency=1, max_usd=1.0, usd_per_million_prompt_tokens=1.0), 5, done)
    assert "reports no `usage`" in message
    assert len(done) == 1


# --- secrets


def test_the_key_goes_to_the_server_and_nowhere_else(server, monkeypatch, caplog, capfd):
    monkeypatch.setenv("MY_KEY", f" {KEY}\n")
    caplog.set_level(logging.DEBUG)
    asked = engine(server, key_variable="MY_KEY", max_retries=1)
    messages = []
    cut = f"{'long ' * 58}{KEY}"  # a message is cut after 300 characters, in the middle of the key
    for reply in [
        error(401, f"{KEY} is wrong"),
        error(403, cut),
        error(500, f"key {KEY}"),
        Reply(cut.encode()),
        Reply(f"{KEY} {{".encode()),
        None,
    ]:
        server.respond = lambda number, body, reply=reply: reply
        messages.append(fails(asked))
    assert "MY_KEY, which is set, and it does not take it" in messages[0]
    seen = [*messages, repr(asked), repr(vars(asked)), caplog.text, *capfd.readouterr()]
    assert not [text for text in seen if KEY[:8] in text]
    assert "***" in messages[0]
    assert "***" in caplog.text


def test_half_a_surrogate_pair_is_a_broken_character(server):
    """JSON can name it, and neither JSON in UTF-8 nor Parquet can hold it: an answer that was paid for could not be kept."""
    server.respond = lambda number, body: answer('["caf\u00e9", "\U0001f600", "\ud83d"]')
    (completion,) = run(engine(server)).values()
    assert completion.text == '["caf\u00e9", "\U0001f600", "\ufffd"]'


def test_a_short_key_of_a_local_server_does_not_garble_messages(server, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "e")
    server.respond = lambda number, body: error(400, "seed is refused here")
    assert "seed is refused here" in fails(engine(server))


def test_the_key_is_sent(server, monkeypatch):
    monkeypatch.setenv("MY_KEY", f" {KEY}\n")
    run(engine(server, key_variable="MY_KEY"))
    assert server.headers[0]["Authorization"] == f"Bearer {KEY}"
    monkeypatch.setenv("MY_KEY", "s\u00e9cret key\u2028")
    with pytest.raises(EngineError, match=r"^MY_KEY holds characters that no key has; set it anew$"):
        engine(server, key_variable="MY_KEY")


def test_a_key_that_is_a_word_is_left_in_answers(server, monkeypatch):
    monkeypatch.setenv("MY_KEY", "local")
    server.respond = lambda number, body: answer('["local anesthesia"]')
    done = {}
    run(engine(server, key_variable="MY_KEY"), 1, done)
    assert {completion.text for completion in done.values()} == {'["local anesthesia"]'}
