"""Batches side by side, each computed by one thread.

Two threads that share every matrix product wait for each other hundreds of times a batch, the longer the busier the machine.
Two threads with a batch each wait for nobody, and as every sum is made by one thread, no number depends on how many there are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

Job = TypeVar("Job")
Done = TypeVar("Done")


def run_in_lanes(work: Callable[[Job], Done], jobs: Iterable[Job], threads: int) -> list[Done]:
    """Results of ``work`` on each job, in order, ``threads`` jobs at a time; on a GPU give 1, it has one queue anyway.

    Raises:
        Exception: the first one that ``work`` raised.
    """
    before = torch.get_num_threads()

    def alone(job: Job) -> Done:
        torch.set_num_threads(1)  # in each thread and each time: OpenMP counts per thread, MKL per process
        with torch.inference_mode():
            return work(job)

    try:
        if threads == 1:
            return [alone(job) for job in jobs]
        with ThreadPoolExecutor(threads) as pool:
            return list(pool.map(alone, jobs))
    finally:
        torch.set_num_threads(before)
