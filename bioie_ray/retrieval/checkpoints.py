"""Training checkpoints: one file each, which appears by rename, so that a kill leaves the old one or the new one."""

from __future__ import annotations

import os
import pickle
import secrets
import zipfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

_PREFIX, _SUFFIX = "step-", ".pt"


def save_checkpoint(folder: Path, step: int, content: dict[str, Any]) -> Path:
    """Write ``step-XXXXXXXX.pt``, flushed to disk before its name appears, then drop older files and torn remains."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{_PREFIX}{step:08d}{_SUFFIX}"
    temporary = folder / f".{path.name}.{secrets.token_hex(4)}"
    try:
        with temporary.open("wb") as file:
            torch.save(content, file)
            file.flush()
            os.fsync(file.fileno())
        with suppress(FileNotFoundError):  # a second run of this training took it for torn remains: its own are as good
            temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    for other in [*_checkpoints(folder), *folder.glob(f".{_PREFIX}*")]:
        if other != path:
            other.unlink(missing_ok=True)
    return path


def load_checkpoint(folder: Path, key: str) -> dict[str, Any] | None:
    """The newest whole checkpoint of the training that ``key`` names, or ``None``.

    A file that cannot be read (a disk that lied about its flush) is passed over: training the steps again is safe.
    """
    for path in reversed(_checkpoints(folder)):
        try:
            content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        except (RuntimeError, EOFError, OSError, pickle.UnpicklingError, zipfile.BadZipFile):
            continue
        if content.get("key") == key:
            return content
    return None


def _checkpoints(folder: Path) -> list[Path]:
    return sorted(folder.glob(f"{_PREFIX}*{_SUFFIX}"))
