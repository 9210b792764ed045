"""Waits, turns and money, without a server."""

import asyncio
import itertools
from datetime import UTC, datetime
from email.utils import format_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bioie_ray.config.generation import EndpointSettings
from bioie_ray.generation.endpoint_limits import Pace, retry_after_s, wait_s

DRAWS = st.floats(0.0, 1.0)


@given(st.lists(DRAWS, min_size=8, max_size=8))
def test_the_default_survives_a_minute_of_429(draws):
    limits = EndpointSettings()
    assert limits.max_retries == len(draws)
    waits = [wait_s(tries, limits.max_wait_s, draw) for tries, draw in enumerate(draws, start=1)]
    assert sum(waits) > 90.0
    assert max(waits) <= limits.max_wait_s


@given(st.integers(1, 10_000), st.floats(0.01, 1e4), DRAWS, st.none() | st.floats(0.0, 1e6))
def test_waits_grow_within_their_limits(num_tries, max_wait_s, draw, asked_s):
    wait = wait_s(num_tries, max_wait_s, draw, asked_s)
    assert 0.0 < wait <= max_wait_s
    assert wait >= wait_s(max(1, num_tries - 1), max_wait_s, draw, asked_s)
    assert asked_s is None or wait >= min(asked_s, max_wait_s)


def test_clients_that_were_refused_together_do_not_come_back_together():
    assert len({wait_s(1, 60.0, draw / 10, 5.0) for draw in range(10)}) == 10
    assert len({wait_s(3, 60.0, draw / 10) for draw in range(10)}) == 10


NOW = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None),
        ("30", 30.0),
        ("0.5", 0.5),
        ("-3", 0.0),
        ("soon", None),
        ("", None),
        ("inf", None),
        ("nan", None),
        (format_datetime(NOW.replace(minute=1), usegmt=True), 60.0),
        ("Sun, 01 Mar 2026 11:00:00 GMT", 0.0),
        ("Sun, 01 Mar 2026 12:00:07 -0000", 7.0),
    ],
)
def test_retry_after_in_both_forms(value, seconds):
    assert retry_after_s(value, NOW) == seconds


@given(st.lists(st.floats(0.0, 10.0), min_size=1, max_size=30), st.floats(1.0, 1_000.0))
def test_turns_are_never_closer_than_the_pace(pauses, per_minute):
    now = 0.0
    started = []

    async def sleep(seconds):
        nonlocal now
        now += seconds

    async def use():
        nonlocal now
        pace = Pace(per_minute, clock=lambda: now)
        for pause in pauses:
            now += pause
            asked = now
            await pace.turn(sleep)
            started.append(now)
            assert now - asked <= 60.0 / per_minute + 1e-6

    asyncio.run(use())
    gaps = [later - earlier for earlier, later in itertools.pairwise(started)]
    assert min(gaps, default=1e9) >= 60.0 / per_minute - 1e-6


def test_no_pace_is_no_wait():
    async def never(seconds):
        raise AssertionError("waited")

    async def use():
        pace = Pace(None)
        for _ in range(100):
            await pace.turn(never)

    asyncio.run(use())
