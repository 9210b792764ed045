"""How many megabytes a change of one line pushes; a part of bench_cluster.py. Needs a registry, and no cluster."""

from __future__ import annotations

import secrets
import subprocess
import sys
import tarfile
import tempfile
import time
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bioie_ray.cluster.image import NAME, parse_reference
from bioie_ray.cluster.registry import Registry

CHANGED = "bioie_ray/pipeline/run.py"
# The engine is the one that the scripts would take.
REMOVE = 'source scripts/image_tools.sh; find_engine; for one; do engine_has "$one" && "$engine" rmi "$one" >/dev/null; done; true'


@dataclass(frozen=True)
class Push:
    """What one changed line cost."""

    pushed_mb: float
    num_blobs: int
    image_mb: float
    build_s: float
    push_s: float


def time_pushes(repository: Path, where: str, build_options: Sequence[str], num: int) -> list[Push]:
    """Build and push the commit that is checked out, then ``num`` times a copy with another comment, whose tags go again.

    The commit's own image stays: it is what its tag says. ``where`` is the registry, with a path if it has one. Megabytes (10^6
    bytes) are of blobs that no tag there had before.

    Raises:
        RuntimeError: a build or a push failed; the message is the script's.
    """
    registry = Registry(parse_reference(f"{where}/{NAME}:any"))
    made: list[str] = []
    found: list[Push] = []
    with tempfile.TemporaryDirectory(prefix="bioie-push-") as folder:
        copy = Path(folder) / "copy"
        _unpack(repository, copy)
        try:
            _build(copy, build_options)
            _run(copy, "scripts/push_image.sh", where)
            for _ in range(num):
                changed = copy / CHANGED
                changed.write_text(f"{changed.read_text()}# {secrets.token_hex(16)}\n")
                began = time.monotonic()
                made.append(_build(copy, build_options))
                built = time.monotonic()
                have = registry.all_blobs()
                began_push = time.monotonic()
                _run(copy, "scripts/push_image.sh", where)
                pushed = time.monotonic()
                blobs = registry.blobs(made[-1])
                new = [size for digest, size in blobs.items() if digest not in have]
                found.append(Push(sum(new) / 1e6, len(new), sum(blobs.values()) / 1e6, built - began, pushed - began_push))
            return found
        finally:
            _forget(copy, registry, where, made)


def _unpack(repository: Path, copy: Path) -> None:
    """The commit as it is: other changes in the checkout are not of this measurement."""
    archive = copy.with_suffix(".tar")
    done = subprocess.run(
        ["git", "-C", str(repository), "archive", "-o", str(archive), "HEAD"], capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise RuntimeError(f"{repository} is no git checkout to take a copy of: {done.stderr.strip()}")
    with tarfile.open(archive) as tar:
        tar.extractall(copy, filter="data")


def _build(copy: Path, options: Sequence[str]) -> str:
    """The new image's tag."""
    return _run(copy, "scripts/build_image.sh", *options).rpartition(":")[2]


def _run(copy: Path, *command: str) -> str:
    """The last line of what a script prints."""
    print(f"{' '.join(command)} ...", file=sys.stderr, flush=True)
    done = subprocess.run(command, cwd=copy, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr[-2_000:]}")
    return done.stdout.split()[-1]


def _forget(copy: Path, registry: Registry, where: str, tags: Sequence[str]) -> None:
    """Take tags away here and in the registry; its blobs go when it next collects garbage."""
    references = [f"{place}{NAME}:{tag}" for tag in tags for place in ("", f"{where}/")]
    subprocess.run(["bash", "-c", REMOVE, "remove", *references], cwd=copy, stdout=subprocess.DEVNULL, check=False)
    opener = (
        urllib.request.build_opener(urllib.request.ProxyHandler({})) if where.startswith("localhost") else urllib.request.build_opener()
    )
    for tag in set(tags) & set(registry.tags()):
        request = urllib.request.Request(f"{registry.url}/manifests/{registry.manifest(tag)[0]}", method="DELETE")
        try:
            opener.open(request, timeout=30).close()
        except OSError as error:
            print(f"{where}/{NAME}:{tag} stays in the registry ({error}); delete it there", file=sys.stderr)
