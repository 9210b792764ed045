"""What tests of the page in a real Chromium share; those that need it are skipped without Playwright."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from review_items import ITEMS

sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright")
expect = sync_api.expect

# Without the last five Chromium calls its maker; without the second it does not start as root.
FLAGS = [
    "--disable-gpu",
    "--no-sandbox",
    "--no-first-run",
    "--disable-quic",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@contextmanager
def chromium() -> Iterator[Any]:
    names = (os.environ.get("BIOIE_TEST_CHROMIUM"), "chromium", "chromium-browser", "google-chrome")
    found = next((path for name in names if name and (path := shutil.which(name))), None)
    if found is None:
        pytest.skip("no Chromium: install one, or set BIOIE_TEST_CHROMIUM to its path")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=FLAGS)
        yield browser
        browser.close()


def say_who(page: Any, reviewer: str) -> None:
    """Give a name, and wait until keys count: not before the dialog is gone and an answer is shown."""
    page.fill("#name", reviewer)
    page.keyboard.press("Enter")
    expect(page.locator("#name-dialog")).to_be_hidden()
    expect(page.locator("#who")).to_have_text(reviewer)
    at(page, 1)


def at(page: Any, number: int) -> None:
    expect(page.locator("#document-meta")).to_have_text(re.compile(rf" {number} of {len(ITEMS)}$"))


def texts(page: Any, selector: str) -> list[str]:
    return [text.strip() for text in page.locator(selector).all_inner_texts()]
