"""LoRA adapters: a folder, or a hub id (``org/name`` or ``org/name@revision``)."""

from __future__ import annotations

from pathlib import Path

from bioie_ray.generation.base import EngineError


def adapter_folder(adapter: str) -> Path:
    """The folder of an adapter on this machine, downloaded where needed.

    Raises:
        EngineError: no such folder or hub id, or it holds no adapter.
    """
    folder = Path(adapter).expanduser()
    if not folder.is_dir():
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

        name, _, revision = adapter.partition("@")
        try:
            folder = Path(snapshot_download(name, revision=revision or None))
        except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise EngineError(f"no adapter at {adapter}: {reason}; give a folder or a hub id") from None
    if not (folder / "adapter_config.json").is_file():
        raise EngineError(f"{adapter} holds no adapter (no adapter_config.json)")
    return folder
