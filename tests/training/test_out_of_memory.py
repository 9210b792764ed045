"""Running out of memory says what to lower, whoever's memory it was."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from bioie_ray.training.rank import _telling_what_to_lower
from bioie_ray.training.stage import TrainingError

STAGE: Any = SimpleNamespace(name="dpop", settings=SimpleNamespace(micro_batch_size=4, max_length=512))


def of_the_cpu() -> None:
    torch.empty(10**15)


def of_a_gpu() -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


@pytest.mark.parametrize("allocate", [of_the_cpu, of_a_gpu])
def test_the_arithmetic_and_what_to_set(allocate: Any) -> None:
    with pytest.raises(TrainingError, match=r"^out of memory: .*") as caught, _telling_what_to_lower(STAGE):
        allocate()
    assert "dpop.micro_batch_size=4 x dpop.max_length=512 x 2 answers = 4096 tokens" in str(caught.value)


def test_any_other_error_stays_itself() -> None:
    with pytest.raises(RuntimeError, match="shapes differ"), _telling_what_to_lower(STAGE):
        raise RuntimeError("shapes differ")
