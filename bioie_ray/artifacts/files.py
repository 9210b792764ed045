"""Files of an output (a trained model) as a folder on this machine, whatever the store."""

from __future__ import annotations

import os
import secrets
import shutil
from pathlib import Path

from bioie_ray.artifacts.output import Output


def cache_folder() -> Path:
    """Where downloaded and unpacked models live: ``BIOIE_CACHE``, else the user's cache folder."""
    configured = os.environ.get("BIOIE_CACHE")
    if configured:
        return Path(configured)
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "bioie_ray"


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
    keys = output.store.keys(prefix)
    if not keys:
        raise FileNotFoundError(output.store.describe(prefix))
    temporary = target.parent / f".tmp-{os.getpid()}-{secrets.token_hex(4)}"
    for key in keys:
        path = temporary / key.removeprefix(f"{prefix}/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(output.store.read(key))
    try:
        temporary.rename(target)
    except OSError:  # another process was faster: its copy is as good
        shutil.rmtree(temporary, ignore_errors=True)
        if not target.is_dir():
            raise
    return target
