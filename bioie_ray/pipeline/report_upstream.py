"""What an output was made from: its inputs, theirs, and so on down to the corpus."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from bioie_ray.artifacts.output import IncompleteError, Output

Found = tuple[Output, dict[str, Any]]


def upstream(output: Output, record: dict[str, Any]) -> Iterator[Found]:
    """The finished outputs below one, nearest first, each once. What was deleted since is left out: scores outlive their inputs."""
    waiting, seen = [(output, record)], {output.key}
    while waiting:
        above, its_record = waiting.pop(0)
        for key in (str(i["output"]) for i in its_record["inputs"]):
            if key in seen:
                continue
            seen.add(key)
            below = Output(above.address, key)
            try:
                found = (below, below.record())
            except IncompleteError:
                continue
            yield found
            waiting.append(found)


def with_upstream(found: Sequence[Found], outputs: Sequence[Output]) -> list[Found]:
    """``found``, and whatever some of these outputs were made from."""
    everything = {(output.address.url, output.key): (output, record) for output, record in found}
    for output in outputs:
        _, record = everything[output.address.url, output.key]
        for below, its_record in upstream(output, record):
            everything.setdefault((below.address.url, below.key), (below, its_record))
    return list(everything.values())
