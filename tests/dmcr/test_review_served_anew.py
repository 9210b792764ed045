"""The page in a real Chromium, once its address serves another output than the one it shows."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from review_browser import at, expect, say_who, texts
from review_client import serving
from review_items import ITEMS, a_queue

from bioie_ray.artifacts.output import Output
from bioie_ray.artifacts.store import StoreAddress
from bioie_ray.dmcr.decision_log import DecisionLog
from bioie_ray.dmcr.review.queue import ItemQueue

pytestmark = pytest.mark.slow

ANOTHER = replace(ITEMS[0], answer="thyrotoxicosis? tremor", list_a=("thyrotoxicosis",), list_b=("tremor",))


@contextmanager
def served_anew(
    browser: Any, folder: Path, before: Callable[[Any], None] = lambda _: None
) -> Iterator[tuple[Any, DecisionLog, DecisionLog]]:
    """A page of one output, its log, and that of another output at the same address: the first is not served any more."""
    logs = [DecisionLog(Output(StoreAddress(str(folder)), f"dmcr/{name}@1")) for name in "xy"]
    with browser.new_context() as context:
        page = context.new_page()
        with serving(a_queue(), logs[0]) as client:
            page.goto(client.url)
            say_who(page, "Ada")
            before(page)
        with serving(ItemQueue("dmcr/another@1", [*ITEMS[1:4], ANOTHER, *ITEMS[4:]]), logs[1], port=urlsplit(client.url).port):
            yield page, *logs


def test_no_key_decides_on_an_answer_that_was_never_shown(browser: Any, tmp_path: Path) -> None:
    with served_anew(browser, tmp_path) as (page, first, second):
        page.keyboard.press("a")
        dialog = page.locator("#changed-dialog")
        expect(dialog).to_contain_text("Not saved: this answer has changed since it was shown.")
        expect(dialog).to_contain_text("dmcr/another@1")
        at(page, 4)  # the same document and repeat
        assert page.locator("#answer").text_content() == ANOTHER.answer
        assert texts(page, ".proposal.a li .item") == ["thyrotoxicosis"]
        page.keyboard.press("a")  # meant for the one before
        assert first.all() == second.all() == []
        page.keyboard.press("Enter")
        expect(dialog).to_be_hidden()
        page.keyboard.press("b")
        at(page, 5)
        assert second.standing(ANOTHER.key).winner.answers == ("tremor",)  # type: ignore[union-attr]
        assert second.all()[0].answer_digest == ANOTHER.answer_digest
        assert first.all() == []


def test_a_list_that_cannot_be_saved_any_more_is_shown(browser: Any, tmp_path: Path) -> None:
    def write(page: Any) -> None:
        page.keyboard.press("e")
        page.locator("#rows input").nth(0).fill("heart <trouble>")

    with served_anew(browser, tmp_path, write) as (page, first, second):
        page.keyboard.press("Control+Enter")
        expect(page.locator("#changed-typed")).to_be_visible()
        assert texts(page, "#changed-typed li")[:2] == ["heart <trouble>", "tremor"]
        assert first.all() == second.all() == []


def test_to_go_on_shows_no_answer_of_another_output_as_if_nothing_had_happened(browser: Any, tmp_path: Path) -> None:
    with served_anew(browser, tmp_path) as (page, *_):
        page.keyboard.press("j")
        expect(page.locator("#changed-dialog")).to_contain_text("Other answers are served here now.")
        at(page, 4)


def test_another_output_is_noticed_without_a_key(browser: Any, tmp_path: Path) -> None:
    with served_anew(browser, tmp_path) as (page, *_):
        expect(page.locator("#changed-dialog")).to_contain_text("Other answers are served here now.", timeout=20_000)
        expect(page.locator("#queue-name")).to_have_text("dmcr/another@1")
        assert page.locator("#answer").text_content() == ANOTHER.answer


def test_another_output_takes_no_key_from_who_is_writing(browser: Any, tmp_path: Path) -> None:
    with served_anew(browser, tmp_path, lambda page: page.keyboard.press("e")) as (page, _, second):
        expect(page.locator("#notice")).to_contain_text("What you write cannot be saved any more.", timeout=20_000)
        page.keyboard.type("ab")
        assert page.locator("#rows input").nth(0).input_value() == "atrial fibrillationab"
        assert second.all() == []
