"""A step: what makes one output from others. The steps of the method are one file each beside this one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from bioie_ray.artifacts.output import Marker, Output
from bioie_ray.artifacts.store import StoreAddress
from bioie_ray.config.recipe import Recipe
from bioie_ray.execution.units import WorkerSpec


class Step(Protocol):
    """One output in the making. Everything up to ``units`` is cheap: no model is loaded and no Ray started to plan."""

    @property
    def output(self) -> Output:
        """Where it goes; its payload says what it depends on."""
        ...

    @property
    def inputs(self) -> Sequence[Step]:
        """The steps whose outputs it reads."""
        ...

    @property
    def recipe(self) -> Recipe:
        """The resolved recipe it belongs to."""
        ...

    @property
    def takes_notes(self) -> bool:
        """Whether its units take so long that the worker notes down how far it is."""
        ...

    @property
    def what(self) -> str:
        """A few words for the progress line: ``embedding bc5cdr``."""
        ...

    def units(self) -> list[str]:
        """All units of work; inputs are finished when this is called."""
        ...

    def is_done(self, unit: str, markers: Mapping[str, Marker]) -> bool:
        """Whether a unit needs no more work."""
        ...

    def worker(self) -> WorkerSpec:
        """How to build what processes a unit."""
        ...

    def finalise(self, markers: Mapping[str, Marker]) -> dict[str, Any]:
        """Write what is made from all shards together; returns what the record holds beyond the common part.

        Raises:
            ValueError: the output must not be marked finished (too much in quarantine, say).
        """
        ...


class ShardStep:
    """What steps have in common whose unit of work is the shard: its marker says that it is done, and it is too short for notes."""

    @property
    def takes_notes(self) -> bool:
        """Its units are short."""
        return False

    def is_done(self, unit: str, markers: Mapping[str, Marker]) -> bool:
        """A shard with its marker."""
        return unit in markers


@dataclass(frozen=True)
class Existing:
    """An output that lies finished in the store and is taken as it is."""

    output: Output
    recipe: Recipe
    what: str = "taking what is in the store"
    takes_notes: bool = False
    inputs: tuple[Step, ...] = field(default=())

    def units(self) -> list[str]:
        """Nothing to do."""
        return []

    def is_done(self, unit: str, markers: Mapping[str, Marker]) -> bool:
        """Always."""
        return True

    def worker(self) -> WorkerSpec:
        """Never asked for, because there are no units."""
        raise AssertionError("a finished output has no work")

    def finalise(self, markers: Mapping[str, Marker]) -> dict[str, Any]:
        """Never asked for either."""
        raise AssertionError("a finished output is not finished again")


def address_of(recipe: Recipe) -> StoreAddress:
    """The recipe's store; a relative folder becomes absolute, because actors have other working folders."""
    address = StoreAddress(recipe.store, recipe.storage.endpoint, recipe.storage.region)
    return StoreAddress(str(address.folder)) if address.is_local else address


def existing(address: StoreAddress, key: str) -> Output | None:
    """The finished output under a key, with the payload it was made from; ``None`` where there is none."""
    output = Output(address, key)
    if not output.store.exists(f"{key}/record.json"):
        return None
    return Output(address, key, output.record()["payload"])
