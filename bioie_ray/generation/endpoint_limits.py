"""How fast, how often and for how much a server is asked."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from bioie_ray.config.generation import EndpointSettings
from bioie_ray.generation.base import EngineError

_FIRST_WAIT_S = 1.0
_SPREAD_S = 1.0


def wait_s(num_tries: int, max_wait_s: float, draw: float, asked_s: float | None = None) -> float:
    """Seconds before the next try, after ``num_tries`` that failed: 1, 2, 4, ... up to ``max_wait_s``, the upper half of it by chance.

    Only half is left to chance, unlike in "full jitter": with that, one request in twenty would draw eight waits that together are
    shorter than the minute for which a rate limit may hold, and one lost request ends a unit. With half, eight waits are at least
    91 seconds at the default limits, and still no two clients come back together.

    Args:
        num_tries: at least 1.
        max_wait_s: longest wait, also where the server asks for a longer one.
        draw: a random number from 0 to 1.
        asked_s: what the server asked for (``Retry-After``); the wait is no shorter, and up to a second longer, by chance.
    """
    longest = min(max_wait_s, _FIRST_WAIT_S * 2.0 ** min(num_tries - 1, 30))
    own = longest * (1.0 + draw) / 2.0
    return own if asked_s is None else min(max_wait_s, max(own, asked_s + draw * _SPREAD_S))


def retry_after_s(value: str | None, now: datetime | None = None) -> float | None:
    """Seconds that a ``Retry-After`` header asks for, which has them as a number or as a date; ``None`` where it says neither."""
    if value is None:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            date = parsedate_to_datetime(value)
        except ValueError:
            return None
        if date.tzinfo is None:
            date = date.replace(tzinfo=UTC)
        seconds = (date - (now or datetime.now(UTC))).total_seconds()
    return max(0.0, seconds) if seconds < float("inf") else None


class Pace:
    """At most so many requests a minute, evenly spaced; tries that failed count too."""

    def __init__(self, requests_per_minute: float | None, clock: Callable[[], float] = time.monotonic) -> None:
        self._gap_s = 60.0 / requests_per_minute if requests_per_minute else 0.0
        self._clock = clock
        self._next = clock()

    async def turn(self, sleep: Callable[[float], Awaitable[None]]) -> None:
        """Wait by ``sleep`` until another request may start. Turns are given in the order of the calls."""
        now = self._clock()
        mine = max(now, self._next)
        self._next = mine + self._gap_s
        if mine > now:
            await sleep(mine - now)


class Budget:
    """What the answers of an output cost so far, by the tokens that the server reports."""

    def __init__(self, settings: EndpointSettings) -> None:
        self._settings = settings
        self._num_unreported = 0
        self.spent_usd = 0.0

    @property
    def is_limited(self) -> bool:
        """Whether there is a cap."""
        return self._settings.max_usd is not None

    def start_from(self, num_prompt_tokens: int, num_answer_tokens: int) -> None:
        """Begin with what was asked before, by others too."""
        self.spent_usd = self._cost(num_prompt_tokens, num_answer_tokens)

    def check(self) -> None:
        """Ask before each request. Those under way already are not counted, so the cap can be passed by ``concurrency`` - 1 of them.

        Raises:
            EngineError: the cap is reached, or nobody can know whether it is.
        """
        cap = self._settings.max_usd
        if cap is None:
            return
        if self._num_unreported:
            raise EngineError(
                f"the server reports no `usage`, so nobody can know when endpoint.max_usd ({cap:g}) is reached; leave it out, or ask a server that does"
            )
        if self.spent_usd >= cap:
            raise EngineError(
                f"the answers of this output have cost ${self.spent_usd:.4f} and endpoint.max_usd is {cap:g}; "
                "they are kept: set it higher and run again to go on"
            )

    def add(self, num_prompt_tokens: int | None, num_answer_tokens: int | None) -> None:
        """Count a request that was answered; ``None`` where the server does not say."""
        if num_prompt_tokens is None or num_answer_tokens is None:
            self._num_unreported += 1
            return
        self.spent_usd += self._cost(num_prompt_tokens, num_answer_tokens)

    def _cost(self, num_prompt_tokens: int, num_answer_tokens: int) -> float:
        prices = self._settings.usd_per_million_prompt_tokens, self._settings.usd_per_million_answer_tokens
        return (num_prompt_tokens * prices[0] + num_answer_tokens * prices[1]) / 1e6
