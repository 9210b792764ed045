"""Finding outputs by what a person types: an output, a store with many, a folder or a URL."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace

from bioie_ray.artifacts.output import RECORD, Output
from bioie_ray.artifacts.store import StoreAddress, open_store

_OUTPUT = re.compile(r"^(?P<store>.*)/(?P<key>[^/@]+/[^/@]+@[^/@]+)$")


def locate(place: str, endpoint: str | None = None) -> Output:
    """The output at a place, finished or not.

    Raises:
        ValueError: no output lies there; the message says what does.
    """
    address, key = _split(place, endpoint)
    output = Output(address, key)
    if output.store.exists(f"{key}/{RECORD}") or output.store.exists(f"{key}/_claim.json"):
        return output
    inside = _finished_below(address, key)
    if inside:
        listed = "\n".join(f"  {found.location}" for found in inside[:20])
        raise ValueError(f"{place} is not one output but holds several; name one of them:\n{listed}")
    raise ValueError(f"{place} holds no output (no {RECORD}); outputs are folders like STORE/corpora/bc5cdr@1")


def locate_all(places: Iterable[str], endpoint: str | None = None) -> list[Output]:
    """The finished outputs at several places; a store stands for all of its outputs.

    Raises:
        ValueError: nothing finished lies at one of them.
    """
    found: dict[tuple[str, str], Output] = {}
    for place in places:
        address, key = _split(place, endpoint)
        here = _finished_below(address, key)
        if not here:
            locate(place, endpoint).record()  # raises with the reason: unfinished, or nothing there
        found.update({(output.address.url, output.key): output for output in here})
    return list(found.values())


def _split(place: str, endpoint: str | None) -> tuple[StoreAddress, str]:
    text = place.rstrip("/")
    if "://" not in text:
        text = str(StoreAddress(text).folder)
    match = _OUTPUT.match(text)
    if match:
        return StoreAddress(match["store"], endpoint), match["key"]
    if "://" not in text and (StoreAddress(text).folder / RECORD).is_file():
        store, _, key = text.rpartition("/")
        return StoreAddress(store or "/", endpoint), key
    return StoreAddress(text, endpoint), ""


def _finished_below(address: StoreAddress, key: str) -> list[Output]:
    store = open_store(address)
    keys = (name.removesuffix(f"/{RECORD}") for name in store.keys(key) if name.endswith(f"/{RECORD}"))
    return [_in_its_store(address, name) for name in keys]


def _in_its_store(address: StoreAddress, key: str) -> Output:
    """An output found below any folder, by its own store: what it was made from is looked for there."""
    match = _OUTPUT.match(f"{address.url}/{key}")
    return Output(replace(address, url=match["store"]), match["key"]) if match else Output(address, key)
