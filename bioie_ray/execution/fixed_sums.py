"""Sums in a fixed order while a model is trained: the number of threads and the choice of algorithms move their last bits."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def fixed_sums(threads: int, *, warn_only: bool) -> Iterator[None]:
    """So many threads and deterministic algorithms; the process's own settings come back afterwards.

    Args:
        threads: of torch on the CPU.
        warn_only: go on where an operation has no deterministic algorithm; else that is a RuntimeError.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    before, deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(mode=True, warn_only=warn_only)
    try:
        yield
    finally:
        torch.set_num_threads(before)
        torch.use_deterministic_algorithms(mode=deterministic)
