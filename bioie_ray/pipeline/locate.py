"""Finding outputs by what a person types: an output, a store with many, a folder or a URL."""

from __future__ import annotations

import re
from collections.abc import Iterable

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
    inside = [found.key for found in _finished_below(address, key)]
    if inside:
        listed = "\n".join(f"  {place.rstrip('/')}/{name.removeprefix(key).lstrip('/')}" for name in inside[:20])
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
    return [Output(address, name) for name in keys]
