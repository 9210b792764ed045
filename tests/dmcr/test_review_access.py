from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from review_client import Client, serving
from review_items import ITEMS, a_queue

from bioie_ray.artifacts.output import Output
from bioie_ray.artifacts.store import StoreAddress
from bioie_ray.dmcr.decision_log import DecisionLog
from bioie_ray.dmcr.review.access import check_binding
from bioie_ray.dmcr.review.serve import ReviewServer, serve

TOKEN = "a-token-of-&-some length"
DECISION = {"document_id": "10071832", "repeat": 1, "choice": "a", "answers": None, "reviewer": "Ada", "seen": ""}
DECISION |= {"queue": a_queue().identity, "answer_digest": ITEMS[0].answer_digest}


def a_log(folder: Path) -> DecisionLog:
    return DecisionLog(Output(StoreAddress(str(folder)), "dmcr/x@1"))


@pytest.fixture
def client(tmp_path: Path) -> Iterator[Client]:
    with serving(a_queue(), a_log(tmp_path)) as client:
        yield client


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[Client]:
    with serving(a_queue(), a_log(tmp_path), token=TOKEN, names=["review.lab.example"]) as client:
        yield client


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.7", "example.org", ""])
def test_other_machines_need_a_token(host: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="for other machines; give a token, or listen on 127"):
        serve(a_queue(), a_log(tmp_path), host=host)
    check_binding(host, TOKEN)


def test_a_short_token_is_none(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="the token has 5 characters; give one of at least 16"):
        serve(a_queue(), a_log(tmp_path), token="short")


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "::1", "localhost", "LOCALHOST"])
def test_this_machine_needs_none(host: str) -> None:
    check_binding(host, None)


def test_a_port_that_is_taken_is_named(client: Client, tmp_path: Path) -> None:
    port = int(client.url.rstrip("/").rpartition(":")[2])
    with pytest.raises(ValueError, match=f"cannot listen on 127.0.0.1, port {port}: .*give another port"):
        ReviewServer(a_queue(), a_log(tmp_path), port=port)


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "localhost.evil.example:80", "[", ""])
def test_a_name_that_is_made_to_point_here_is_refused(client: Client, host: str) -> None:
    for path in ("/", "/api/queue", "/login", "/nowhere"):
        assert client("GET", path, headers={"Host": host}).status in {400, 421}


@pytest.mark.parametrize("host", ["127.0.0.1:1", "localhost", "LocalHost:8080", "[::1]:80", "192.0.2.7"])
def test_addresses_and_loopback_names_are_ours(client: Client, host: str) -> None:
    assert client("GET", "/", headers={"Host": host}).status == 200


def test_another_site_can_neither_read_nor_decide(client: Client, tmp_path: Path) -> None:
    simple = {"Content-Type": "text/plain"}  # what a form of another site may send without asking
    assert client("POST", "/api/decisions", DECISION, simple).status == 403
    foreign = {"Content-Type": "application/json", "X-Bioie-Review": "1", "Origin": "https://evil.example"}
    assert client("POST", "/api/decisions", DECISION, foreign).status == 403
    assert client("POST", "/api/decisions", DECISION, {**foreign, "Origin": "null"}).status == 403
    asked = client("OPTIONS", "/api/decisions", headers={"Origin": "https://evil.example", "Access-Control-Request-Method": "POST"})
    assert asked.status == 403
    read = client("GET", "/api/queue", headers={})
    assert not [name for name in (*asked.headers, *read.headers) if name.startswith("access-control")]
    assert read.headers["cross-origin-resource-policy"] == "same-origin"
    assert a_log(tmp_path).all() == []
    own = {**foreign, "Origin": client.url.rstrip("/")}
    assert client("POST", "/api/decisions", DECISION, own).status == 200


def test_nothing_without_the_token(guarded: Client, tmp_path: Path) -> None:
    for path in ("/", "/review.js", "/api/queue", "/api/items/0", "/api/export", "/nowhere"):
        assert guarded("GET", path).status == 401
    csrf = {"X-Bioie-Review": "1", "Content-Type": "application/json"}
    assert guarded("POST", "/api/decisions", DECISION).status == 401
    assert guarded("POST", "/api/decisions", DECISION, {**csrf, "Authorization": "Bearer wrong"}).status == 401
    assert guarded("GET", "/", headers={"Cookie": "bioie_review=wrong; x"}).status == 401
    assert guarded("GET", "/", headers={"Cookie": f"bioie_review={TOKEN}"}).status == 401
    assert guarded("GET", "/login?token=wrong").status == guarded("GET", "/login").status == 401
    assert a_log(tmp_path).all() == []
    assert guarded("POST", "/api/decisions", DECISION, {**csrf, "Authorization": f"Bearer {TOKEN}"}).status == 200


def test_the_link_sets_a_cookie_that_other_sites_do_not_send(guarded: Client) -> None:
    link = guarded.url
    answer = guarded("GET", link[link.index("/login") :])
    assert answer.status == 200
    cookie = answer.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=strict" in cookie
    assert TOKEN not in cookie
    assert guarded("GET", "/api/queue", headers={"Cookie": cookie.partition(";")[0]}).status == 200
    assert guarded("POST", "/api/decisions", DECISION, {"Cookie": cookie.partition(";")[0]}).status == 403


def test_a_name_that_was_given_is_ours(guarded: Client) -> None:
    headers = {"Host": "review.lab.example:8443", "Authorization": f"Bearer {TOKEN}"}
    assert guarded("GET", "/", headers=headers).status == 200
    assert guarded("GET", "/", headers={**headers, "Host": "other.lab.example"}).status == 421
