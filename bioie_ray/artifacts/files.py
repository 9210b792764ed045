"""Files of an output (a trained model) as a folder on this machine, whatever the store."""

from __future__ import annotations

import os
import secrets
import shutil
from pathlib import Path
from typing import Any

from bioie_ray.artifacts.output import Output


def cache_folder() -> Path:
    """Where downloaded and unpacked models live: ``BIOIE_CACHE``, else the user's cache folder."""
    configured = os.environ.get("BIOIE_CACHE")
    if configured:
        return Path(configured)
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "bioie_ray"


def files_below(folder: Path) -> dict[str, Path]:
    """All files of a folder by their names below it, sorted."""
    return {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}


def put_folder(output: Output, folder: str, source: Path) -> list[dict[str, Any]]:
    """Put the files of a local folder below ``folder`` of an output, as ``Output.put_file`` does; their entries for the record."""
    return [output.put_file(f"{folder}/{name}", path.read_bytes()) for name, path in files_below(source).items()]


def fetch_folder(output: Output, folder: str, target: Path) -> int:
    """Bring the files below ``folder`` of an output into a local folder; how many."""
    prefix = f"{output.key}/{folder}"
    keys = output.store.keys(prefix)
    for key in keys:
        path = target / key.removeprefix(f"{prefix}/")
        path.parent.mkdir(parents=True, exist_ok=True)
        output.store.read_file(key, path)
    return len(keys)


def local_copy(output: Output, folder: str) -> Path:
    """The files below ``folder`` of an output: in place for a local store, else a copy in the cache, made once.

    Raises:
        FileNotFoundError: the output has no such folder.
    """
    prefix = f"{output.key}/{folder}"
    if output.address.is_local:
        return output.address.folder / prefix
    target = cache_folder() / "outputs" / output.fingerprint / folder
    if target.is_dir():
        return target
    temporary = target.parent / f".tmp-{os.getpid()}-{secrets.token_hex(4)}"
    if not fetch_folder(output, folder, temporary):
        raise FileNotFoundError(output.store.describe(prefix))
    try:
        temporary.rename(target)
    except OSError:  # another process was faster: its copy is as good
        shutil.rmtree(temporary, ignore_errors=True)
        if not target.is_dir():
            raise
    return target
