"""LoRA adapters: a folder, or a hub id (``org/name`` or ``org/name@revision``)."""

from __future__ import annotations

from pathlib import Path

from bioie_ray.generation.base import EngineError
from bioie_ray.retrieval.models import HubError, hub_snapshot


def adapter_folder(adapter: str) -> Path:
    """The folder of an adapter on this machine, downloaded where needed.

    Raises:
        EngineError: no such folder or hub id, or it holds no adapter.
    """
    folder = Path(adapter).expanduser()
    if not folder.is_dir():
        try:
            folder = hub_snapshot(adapter)
        except HubError as error:
            raise EngineError(f"no adapter at {adapter}: {error}; give a folder or a hub id") from None
    if not (folder / "adapter_config.json").is_file():
        raise EngineError(f"{adapter} holds no adapter (no adapter_config.json)")
    return folder
