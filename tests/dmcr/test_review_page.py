"""The page in a real Chromium."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from review_browser import at, expect, say_who, texts
from review_client import Client, serving
from review_items import ITEMS, a_queue

from bioie_ray.artifacts.output import Output
from bioie_ray.artifacts.store import StoreAddress
from bioie_ray.dmcr.decision_log import DecisionLog

pytestmark = pytest.mark.slow


@dataclass
class Review:
    browser: Any
    log: DecisionLog
    client: Client
    stack: ExitStack

    def open(self, reviewer: str = "Ada", **options: Any) -> Any:
        """A page of its own browser profile; whatever goes wrong in it fails the test at its end."""
        context = self.browser.new_context(viewport={"width": 1440, "height": 860}, **options)
        page = context.new_page()
        wrong: list[str] = []
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on(
            "console", lambda message: wrong.append(message.text) if message.type == "error" and "status of 4" not in message.text else None
        )
        page.on(
            "request", lambda request: wrong.append(request.url) if not request.url.startswith(("data:", self.client.url[:17])) else None
        )
        self.stack.callback(lambda: wrong and pytest.fail(f"the page complained: {wrong}"))
        self.stack.callback(context.close)
        page.goto(self.client.url)
        say_who(page, reviewer)
        return page


@pytest.fixture
def review(browser: Any, tmp_path: Path) -> Iterator[Review]:
    log = DecisionLog(Output(StoreAddress(str(tmp_path)), "dmcr/x@1"))
    with serving(a_queue(), log) as client, ExitStack() as stack:
        yield Review(browser, log, client, stack)


def test_both_proposals_with_their_difference_and_the_text(review: Review) -> None:
    page = review.open()
    assert page.locator("#text").inner_text().replace("\n", " ").split() == ITEMS[0].text.split()
    assert page.locator("#answer").text_content() == ITEMS[0].answer
    assert texts(page, ".proposal.a li.only .item") == ["thyrotoxicosis", "steroid-induced diabetes"]
    assert texts(page, ".proposal.b li.only .item") == ["amiodarone-induced thyrotoxicosis", "diabetes", "hyperthyroidism"]
    assert (
        texts(page, ".proposal.a li.common .item")
        == texts(page, ".proposal.b li.common .item")
        == ["atrial fibrillation", "tremor", "Crohn's disease"]
    )
    assert texts(page, "li:has(.invented) .item") == ["hyperthyroidism"]
    assert texts(page, "#text mark.both") == ["tremor", "atrial fibrillation", "tremor", "tremor", "Crohn's disease"]
    assert texts(page, "#text mark.a.b") == ["thyrotoxicosis", "diabetes"]
    assert texts(page, "#text mark.b:not(.a)") == ["amiodarone-induced"]


def test_the_whole_queue_by_keys_alone(review: Review) -> None:
    page = review.open()
    page.keyboard.press("a")
    at(page, 2)
    assert review.log.standing(ITEMS[0].key).winner.answers == ITEMS[0].list_a  # type: ignore[union-attr]
    page.keyboard.press("b")
    at(page, 3)
    page.keyboard.press("b")  # it is no list
    expect(page.locator("#take-b")).to_be_disabled()
    page.keyboard.press("s")
    at(page, 4)
    page.keyboard.press("0")
    at(page, 5)
    assert review.log.standing(ITEMS[3].key).winner.answers == ()  # type: ignore[union-attr]
    page.keyboard.press("b")
    at(page, 6)
    page.keyboard.press("a")
    at(page, 3)  # what was skipped comes last
    expect(page.locator("#progress-text")).to_have_text("5 of 6 decided")
    page.keyboard.press("a")
    expect(page.locator("#notice")).to_contain_text("Everything is decided.")
    page.keyboard.press("u")
    expect(page.locator("#progress-text")).to_have_text("5 of 6 decided")
    expect(page.locator("#state")).to_contain_text("Open")
    assert review.log.standing(ITEMS[2].key).winner is None
    assert review.log.num_effective() == 5


def test_a_list_of_ones_own(review: Review) -> None:
    page = review.open()
    page.keyboard.press("e")
    assert [page.locator("#rows input").nth(n).input_value() for n in range(8)] == [
        "atrial fibrillation", "tremor", "thyrotoxicosis", "steroid-induced diabetes", "Crohn's disease",
        "amiodarone-induced thyrotoxicosis", "diabetes", "hyperthyroidism",
    ]  # fmt: skip
    page.keyboard.press("Control+Backspace")
    page.keyboard.type("abj 0")  # in a field these are letters
    for _ in range(7):
        page.keyboard.press("Enter")
    page.keyboard.type(' [new], "item" ')
    page.keyboard.press("Control+Enter")
    at(page, 2)
    assert review.log.standing(ITEMS[0].key).winner.answers == (  # type: ignore[union-attr]
        "tremorabj 0", "thyrotoxicosis", "steroid-induced diabetes", "Crohn's disease", "amiodarone-induced thyrotoxicosis",
        "diabetes", "hyperthyroidism", '[new], "item"',
    )  # fmt: skip
    page.keyboard.press("e")
    page.locator("#rows input").nth(1).fill("")
    page.keyboard.press("Control+Enter")
    expect(page.locator("#notice")).to_contain_text("A pair needs both of its names.")
    page.locator("#rows input").nth(1).fill("liver failure")
    page.keyboard.press("Control+Enter")
    at(page, 3)
    answers = review.log.standing(ITEMS[1].key).winner.answers  # type: ignore[union-attr]
    assert answers is not None
    assert answers[0] == ("amiodarone", "liver failure")
    page.keyboard.press("e")
    page.keyboard.press("Escape")
    page.keyboard.press("a")
    at(page, 4)


def test_two_reviewers_at_once(review: Review) -> None:
    ada, bo = review.open("Ada"), review.open("Bo")
    bo.keyboard.press("b")
    at(bo, 2)
    ada.keyboard.press("a")
    expect(ada.locator("#notice")).to_contain_text("Not saved: Bo took B while you were looking.")
    assert texts(ada, "#notice li") == list(ITEMS[0].list_b or ())
    expect(ada.locator("#state")).to_contain_text("Bo took B")
    at(ada, 1)
    assert review.log.standing(ITEMS[0].key).winner.reviewer == "Bo"  # type: ignore[union-attr]
    ada.keyboard.press("a")  # now knowing
    at(ada, 2)
    assert review.log.standing(ITEMS[0].key).winner.reviewer == "Ada"  # type: ignore[union-attr]


def test_a_key_never_decides_about_what_is_not_shown_yet(review: Review) -> None:
    page = review.open()
    page.route(re.compile(r"/api/items/1\b"), lambda route: (page.wait_for_timeout(400), route.continue_()))
    page.keyboard.press("j")
    page.keyboard.press("a")
    at(page, 2)
    assert review.log.all() == []


def test_what_another_decides_never_moves_a_key_to_an_answer_that_is_not_shown(review: Review) -> None:
    ada, bo = review.open("Ada"), review.open("Bo")
    late: list[Any] = []

    def hold(route: Any) -> None:
        """The answer to Ada's poll, which comes when she has gone on."""
        late.append(route)

    ada.route(re.compile(r"/api/items/0\b"), hold, times=1)
    bo.keyboard.press("b")
    at(bo, 2)
    for _ in range(100):
        ada.wait_for_timeout(200)
        if late:
            break
    assert len(late) == 1
    ada.keyboard.press("j")
    at(ada, 2)
    late[0].continue_()
    ada.wait_for_timeout(400)
    ada.keyboard.press("a")
    at(ada, 3)
    assert review.log.standing(ITEMS[0].key).winner.reviewer == "Bo"  # type: ignore[union-attr]
    assert review.log.standing(ITEMS[1].key).winner.reviewer == "Ada"  # type: ignore[union-attr]


def test_texts_and_answers_are_text(review: Review) -> None:
    page = review.open()
    page.locator("#list button").nth(5).click()
    at(page, 6)
    assert page.locator("#answer").text_content() == ITEMS[5].answer
    assert texts(page, ".proposal.a li .item") == ["gout", "[tophi]", "<b>"]
    assert page.locator("#text img, #text b, #answer script").count() == 0
    expect(page).to_have_title("Review · dmcr/diseases@1")


def test_a_file_goes_out_and_comes_back(review: Review, tmp_path: Path) -> None:
    page = review.open()
    with page.expect_download() as download:
        page.click("#export")
    lines = [json.loads(line) for line in Path(download.value.path()).read_text().splitlines()]
    lines[0] |= {"choice": "b", "reviewer": "Cy"}
    file = tmp_path / "from-cy.jsonl"
    file.write_text("\n".join(json.dumps(line) for line in lines))
    page.set_input_files("#import-file", file)
    expect(page.locator("#notice")).to_contain_text("from-cy.jsonl: 1 added, 0 known already, 0 refused")
    expect(page.locator("#state")).to_contain_text("Cy took B")
    file.write_text("nonsense")
    page.set_input_files("#import-file", file)
    expect(page.locator("#notice")).to_contain_text("from-cy.jsonl, line 1: no JSON")


def test_with_a_token_the_link_opens_the_page(browser: Any, tmp_path: Path) -> None:
    log = DecisionLog(Output(StoreAddress(str(tmp_path)), "dmcr/x@1"))
    with serving(a_queue(), log, token="a-token-of-some-length") as client, browser.new_context() as context:
        page = context.new_page()
        assert page.goto(client.url.partition("login")[0]).status == 401
        page.goto(client.url)
        page.wait_for_selector("#name")
        assert "token" not in page.url
        say_who(page, "Ada")
        page.keyboard.press("a")
        at(page, 2)
        assert log.num_effective() == 1


def test_a_server_that_is_gone_is_said(browser: Any, tmp_path: Path) -> None:
    log = DecisionLog(Output(StoreAddress(str(tmp_path)), "dmcr/x@1"))
    with browser.new_context() as context:
        page = context.new_page()
        with serving(a_queue(), log) as client:
            page.goto(client.url)
            say_who(page, "Ada")
            at(page, 1)
        page.keyboard.press("a")
        expect(page.locator("#notice")).to_contain_text("The server does not answer")
        at(page, 1)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [400, 700, 1000, 1440])
def test_nothing_is_wider_than_the_page(review: Review, scheme: str, width: int) -> None:
    page = review.open(color_scheme=scheme)
    page.set_viewport_size({"width": width, "height": 800})
    page.keyboard.press("j")
    at(page, 2)
    page.keyboard.press("e")
    widths = page.locator("html, body, main > section").evaluate_all("all => all.map(one => one.scrollWidth - one.clientWidth)")
    assert max(widths) <= 0
    ratio = page.evaluate(CONTRAST)
    assert ratio >= 4.5  # what WCAG AA asks for


# The smallest contrast of a text to what is behind it.
CONTRAST = """() => {
  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const rgba = (colour) => { canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1); return [...canvas.getImageData(0, 0, 1, 1).data]; };
  const light = ([r, g, b]) => [r, g, b].map((c) => c / 255).map((c) => (c <= .03928 ? c / 12.92 : ((c + .055) / 1.055) ** 2.4)).reduce((sum, c, i) => sum + c * [.2126, .7152, .0722][i], 0);
  const behind = (element) => { for (let e = element; e; e = e.parentElement) { const c = rgba(getComputedStyle(e).backgroundColor); if (c[3] === 255) return c; } return [255, 255, 255, 255]; };
  const texts = [...document.querySelectorAll("body *")].filter((e) => e.checkVisibility() && !e.closest(":disabled") && [...e.childNodes].some((n) => n.nodeType === 3 && n.data.trim()));
  return Math.min(...texts.map((e) => { const [x, y] = [light(rgba(getComputedStyle(e).color)), light(behind(e))].sort((p, q) => q - p); return (x + .05) / (y + .05); }));
}"""
