"""Answers by any server that speaks OpenAI's /chat/completions.

Guarantee: none beyond the server's own. A seed is sent with each request; most servers draw otherwise on another day, with another
neighbour in the batch or after an update. What is promised is that each request is answered once, and that an answer that came is
handed over, whatever happens to the others.

A server cannot stop at the closing bracket of a list; answers are cut behind it when they are there, so that an answer is the
same thing from every engine. What is cut was paid for and is counted: tokens and cost are what the server reports. Tries
that brought nothing (a lost connection) may have cost something too; nobody here can know.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

from bioie_ray.config.generation import ModelSettings
from bioie_ray.generation.base import Completion, EngineError, EngineLostError, OnChunk, Request, Sampling, Tokens
from bioie_ray.generation.endpoint_client import Endpoint, EndpointClient
from bioie_ray.generation.endpoint_limits import Budget, Pace, wait_s
from bioie_ray.generation.endpoint_replies import PassingError, Reply
from bioie_ray.generation.structure import cut_at_list

_LOG = logging.getLogger(__name__)

Chunk = tuple[int, Sequence[Request]]


class OpenAIEngine:
    """A server's model. The pace holds for all calls of one engine.

    The budget is one of an output: when a unit begins, all that is in the store of it counts, also what other runs and other workers
    asked. What these ask while the unit lasts does not, so with several workers the cap can be passed by what the others
    spend in one unit, and in any case by what is under way (``endpoint.concurrency``).
    """

    def __init__(self, settings: ModelSettings, sampling: Sampling) -> None:
        """Nothing is asked yet.

        Raises:
            EngineError: the URL or the key cannot be one.
        """
        self.settings = settings
        self.sampling = sampling
        self.endpoint = Endpoint(settings)
        self.budget = Budget(settings.endpoint)
        self.pace = Pace(settings.endpoint.requests_per_minute)

    @property
    def spent_usd(self) -> float:
        """What the answers have cost so far."""
        return self.budget.spent_usd

    def start_from(self, asked: Callable[[], Tokens]) -> None:
        """Count from what the output's answers took so far, where there is a cap."""
        if self.budget.is_limited:
            self.budget.start_from(*asked())

    def plan(self, requests: Sequence[Request]) -> list[list[Request]]:
        """Each by itself: an answer that was paid for is kept at once."""
        return [[request] for request in requests]

    def generate(self, chunks: Sequence[Chunk], on_chunk: OnChunk) -> None:
        """Up to ``endpoint.concurrency`` requests at once.

        ``on_chunk`` is called from one other thread, never twice at a time: while it writes, the requests under way go on.

        Raises:
            EngineError: the server refuses, gives no answer after all tries, or the budget is spent. Requests that were under way
                have been waited for and handed over before; none was started any more.
        """
        asyncio.run(self._generate(chunks, on_chunk))

    async def _generate(self, chunks: Sequence[Chunk], on_chunk: OnChunk) -> None:
        with ThreadPoolExecutor(max_workers=1, thread_name_prefix="completions") as hand_over:
            async with EndpointClient(self.endpoint, self.settings, self.sampling) as client:
                run = _Run(self, client, on_chunk, hand_over)
                left = iter(chunks)
                async with asyncio.TaskGroup() as workers:
                    for _ in range(min(self.settings.endpoint.concurrency, len(chunks))):
                        workers.create_task(run.work(left))
        if run.failure is not None:
            raise run.failure


class _StoppedError(Exception):
    """Another request failed for good: this one is not tried again."""


class _Run:
    """One call of ``generate``: the first failure ends it, after what is under way."""

    def __init__(self, engine: OpenAIEngine, client: EndpointClient, on_chunk: OnChunk, hand_over: ThreadPoolExecutor) -> None:
        self._engine = engine
        self._client = client
        self._on_chunk = on_chunk
        self._hand_over = hand_over
        self._over = asyncio.Event()
        self._num_answered = 0
        self.failure: Exception | None = None

    async def work(self, left: Iterator[Chunk]) -> None:
        """Take chunks until there are none, or the run is over."""
        for number, requests in left:
            try:
                completions = [await self._answer(request) for request in requests]
                await asyncio.get_running_loop().run_in_executor(self._hand_over, self._on_chunk, number, completions)
            except _StoppedError:
                return
            except Exception as error:  # noqa: BLE001 - raised when the others are done
                self.failure = self.failure or error
                self._over.set()
            if self._over.is_set():
                return

    async def _answer(self, request: Request) -> Completion:
        """Ask until there is an answer, or there will be none (``EngineError``)."""
        endpoint = self._engine.settings.endpoint
        began = time.monotonic()
        num_tries = 0
        while True:
            await self._engine.pace.turn(self._sleep)
            self._engine.budget.check()
            try:
                reply = await self._client.ask(request)
            except PassingError as problem:
                num_tries += 1
                if num_tries > endpoint.max_retries:
                    # Where none of a unit's requests had an answer, it is the server.
                    kind = EngineError if self._num_answered else EngineLostError
                    raise kind(self._gave_up(request, problem, num_tries, time.monotonic() - began)) from None
                pause_s = wait_s(num_tries, endpoint.max_wait_s, random.random(), problem.asked_s)  # noqa: S311 - no result hangs on it
                _LOG.info(
                    "%s: try %d of %d failed (%s), the next in %.1f s", request.id, num_tries, endpoint.max_retries + 1, problem, pause_s
                )
                await self._sleep(pause_s)
            else:
                self._num_answered += 1
                self._engine.budget.add(reply.num_prompt_tokens, reply.num_answer_tokens)
                return self._completion(request, reply)

    async def _sleep(self, seconds: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._over.wait()
            raise _StoppedError

    def _completion(self, request: Request, reply: Reply) -> Completion:
        text, finish = reply.text, reply.finish
        stop_at = self._engine.sampling.stop_at
        if stop_at is not None:
            text, finish = cut_at_list(text, finish, stop_at)
        return Completion(request.id, text, finish, reply.num_prompt_tokens or 0, reply.num_answer_tokens or 0)

    def _gave_up(self, request: Request, problem: PassingError, num_tries: int, after_s: float) -> str:
        asked = "" if problem.asked_s is None else f", and the server asks to be left alone for {problem.asked_s:.0f} s"
        return (
            f"{self._engine.endpoint.shown} gave no answer to {request.id} in {num_tries} tries over {after_s:.0f} s; the last: {problem}{asked}. "
            "What was answered is kept: run again when the server is well, or set endpoint.max_retries, endpoint.max_wait_s or "
            "endpoint.timeout_s higher, or endpoint.concurrency or endpoint.requests_per_minute lower"
        )
