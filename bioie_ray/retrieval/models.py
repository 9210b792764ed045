"""Model references: a folder, a hub id (``org/name`` or ``org/name@revision``), or ``offline:NAME`` for a packaged model."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from bioie_ray.artifacts.files import local_copy
from bioie_ray.artifacts.output import Output
from bioie_ray.artifacts.reasons import first_line
from bioie_ray.retrieval.packaged import PACKAGED, ModelError, packaged_model

# What decides a model's numbers; other files of a repository (pictures, other formats of the weights) do not.
_MATTERS = ("*.json", "*.txt", "*.model", "*.safetensors", "*.bin", "*.jinja")
_TOKENIZER = (
    *("added_tokens.json", "chat_template.jinja", "chat_template.json", "merges.txt", "sentencepiece.bpe.model", "special_tokens_map.json"),
    *("spiece.model", "tokenizer.json", "tokenizer.model", "tokenizer_config.json", "vocab.json", "vocab.txt"),
)


@dataclass(frozen=True)
class ModelSource:
    """A model by reference, or one that a step makes: the folder ``model/`` of its output. Picklable."""

    ref: str
    made_by: Output | None = None

    def fingerprint(self) -> str:
        """What names the model in fingerprints: of a model that is made, its output's, which is known before it is.

        Raises:
            ModelError: as ``resolve_model``.
        """
        return self.made_by.fingerprint if self.made_by is not None else model_fingerprint(self.ref)

    def folder(self) -> Path:
        """Its folder on this machine.

        Raises:
            ModelError: as ``resolve_model``.
            FileNotFoundError: it is not made yet.
        """
        return local_copy(self.made_by, "model") if self.made_by is not None else resolve_model(self.ref)


class HubError(ValueError):
    """What the hub says when it does not give something."""


def resolve_model(ref: str) -> Path:
    """The folder of a model on this machine, unpacked or downloaded where needed.

    Raises:
        ModelError: no such folder, package or hub model.
    """
    if ref.startswith("offline:"):
        return packaged_model(ref.removeprefix("offline:"))
    path = Path(ref).expanduser()
    if path.is_dir():
        if not (path / "config.json").is_file() and not (path / "modules.json").is_file():
            raise ModelError(f"{ref} is a folder but holds no model (no config.json, no modules.json)")
        return path
    if path.is_absolute() or ref.startswith(".") or ref.count("/") != 1:
        raise ModelError(
            f"no model at {ref}; give a folder, a hub id like org/name, or one of {', '.join(f'offline:{name}' for name in PACKAGED)}"
        )
    return _from_hub(ref)


def model_fingerprint(ref: str) -> str:
    """Digest of names and bytes of the files that matter, so that another path to the same model is the same model.

    Raises:
        ModelError: as ``resolve_model``.
    """
    return folder_fingerprint(resolve_model(ref))


def folder_fingerprint(folder: Path) -> str:
    """The same of a folder that holds no whole model, such as an adapter's."""
    files = sorted({path for pattern in _MATTERS for path in folder.rglob(pattern) if path.is_file()})
    if any(path.suffix == ".safetensors" for path in files):
        files = [path for path in files if path.suffix != ".bin"]
    return _fingerprint(files, folder)


def tokenizer_fingerprint(ref: str) -> str:
    """Digest of the files of a model that decide what its tokens are; other weights with the same tokenizer count as the same.

    Raises:
        ModelError: as ``resolve_model``.
    """
    folder = resolve_model(ref)
    return _fingerprint([folder / name for name in _TOKENIZER if (folder / name).is_file()], folder)


def _fingerprint(files: Sequence[Path], folder: Path) -> str:
    total = hashlib.sha256()
    for path in files:
        stat = path.stat()
        total.update(f"{path.relative_to(folder).as_posix()}\0{_digest(path, stat.st_mtime_ns, stat.st_size)}\0".encode())
    return total.hexdigest()


def max_positions(model: Any) -> int | None:
    """Longest input in tokens of a loaded sentence-transformers model; ``None`` if its positions are not a table.

    RoBERTa's table of 514 rows begins with the row of the padding id, so 512 are left.
    """
    for module in model.modules():
        table = getattr(module, "position_embeddings", None)
        rows = getattr(table, "num_embeddings", None)
        if rows is not None:
            padding = getattr(table, "padding_idx", None)
            return int(rows) - (0 if padding is None else int(padding) + 1)
    return None


@lru_cache(maxsize=256)
def _digest(path: Path, mtime_ns: int, size: int) -> str:  # noqa: ARG001 - the last two are the cache's key
    """sha256 of a file, remembered while it does not change."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def hub_snapshot(ref: str, patterns: Sequence[str] | None = None, repo_type: Literal["model", "dataset"] = "model") -> Path:
    """The folder of a repository of the hub, ``org/name`` or ``org/name@revision``, or of its files that match ``patterns``.

    Raises:
        HubError: it cannot be had; the message is the hub's reason.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    name, _, revision = ref.partition("@")
    try:
        return Path(
            snapshot_download(name, repo_type=repo_type, revision=revision or None, allow_patterns=list(patterns) if patterns else None)
        )
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
        raise HubError(first_line(error)) from None


def _from_hub(ref: str) -> Path:
    try:
        return hub_snapshot(ref, _MATTERS)
    except HubError as error:
        raise ModelError(
            f"cannot get {ref} from the hub: {error}; check the name, or the network, or give a folder; a gated model needs HF_TOKEN (HF_HUB_OFFLINE is "
            f"{os.environ.get('HF_HUB_OFFLINE', 'not set')})"
        ) from None
