"""The browser of the review page's tests."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from review_browser import chromium

    with chromium() as browser:
        yield browser
