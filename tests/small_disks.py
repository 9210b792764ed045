"""A disk with little space left, on a file system of the fixture ``small_disk``."""

from __future__ import annotations

import os
from pathlib import Path


def fill(disk: Path, free_bytes: int) -> Path:
    """A file that leaves only so much space."""
    ballast = disk / "ballast"
    status = os.statvfs(disk)
    ballast.write_bytes(b"x" * (status.f_bavail * status.f_frsize - free_bytes))
    return ballast
