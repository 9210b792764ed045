"""Where a process stands among the ranks of a training, and what they tell each other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist

T = TypeVar("T")


@dataclass(frozen=True)
class Place:
    """Which rank this is."""

    rank: int
    num_ranks: int

    @classmethod
    def here(cls) -> Place:
        """From torch's process group, where there is one."""
        return cls(dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else cls(0, 1)


def agreed(mine: T, place: Place) -> T:
    """Rank 0's, for all: a checkpoint that becomes whole between two looks must not part the ranks."""
    if place.num_ranks == 1:
        return mine
    chosen: list[Any] = [mine]
    dist.broadcast_object_list(chosen, src=0)
    found: T = chosen[0]
    return found


def of_all(mine: str, place: Place) -> list[str]:
    """Each rank's."""
    if place.num_ranks == 1:
        return [mine]
    found = [""] * place.num_ranks
    dist.all_gather_object(found, mine)
    return found


def agreement(place: Place) -> Callable[[bool], bool]:
    """Whether any rank says so, which all learn together."""

    def agree(mine: bool) -> bool:  # noqa: FBT001
        if place.num_ranks == 1:
            return mine
        said = torch.tensor([int(mine)], device="cuda" if torch.cuda.is_available() else "cpu")
        dist.all_reduce(said, op=dist.ReduceOp.MAX)
        return bool(said.item())

    return agree
