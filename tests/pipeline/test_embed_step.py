"""Vectors of a corpus: unit length, taken over where nothing changed, and the same on any number of workers."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pipeline_builders import documents, make_recipe, quarantine, record, rows, run, shards, text_of, vectors, write_corpus

from bioie_ray.pipeline.embed import text_digest

OUTPUT = "vectors/bc5cdr-embedder@{}"


def embed(folder: Path, source: Path | str, model: str, version: str = "1", **embed: Any) -> Path:
    """Vectors of a source as corpus version ``version``, in shards of five documents."""
    store = run(
        folder, job="embed", source=str(source), corpus_version=version, prepare={"documents_per_shard": 5}, embed={"model": model, **embed}
    )
    return store / OUTPUT.format(version)


def test_every_document_has_a_unit_vector_in_the_corpus_order(tmp_path: Path, corpus: str, embedder: str) -> None:
    output = embed(tmp_path, corpus, embedder)
    found, texts = rows(output), rows(tmp_path / "store/corpora/bc5cdr@1")
    assert [row["id"] for row in found] == [row["id"] for row in texts]
    assert len(found) == 34
    assert [row["text_sha256"] for row in found] == [text_digest(row["text"]) for row in texts]
    norms = np.linalg.norm(np.array([row["vector"] for row in found], dtype=np.float64), axis=1)
    np.testing.assert_allclose(norms, 1.0, atol=1e-6)
    assert len({tuple(row["vector"]) for row in found}) == 34
    counts = record(output)["counts"]
    assert (counts["rows"], counts["embedded"], counts["reused"], counts["truncated"]) == (34, 34, 0, 0)


def test_vectors_are_the_models_own(tmp_path: Path, corpus: str, embedder: str) -> None:
    from sentence_transformers import SentenceTransformer

    found = vectors(embed(tmp_path, corpus, embedder))
    texts = {row["id"]: row["text"] for row in rows(tmp_path / "store/corpora/bc5cdr@1")}
    expected = SentenceTransformer(embedder, device="cpu").encode(list(texts.values()), normalize_embeddings=True)
    np.testing.assert_allclose(np.array([found[id_] for id_ in texts]), expected, atol=2e-6)


def test_cut_texts_are_counted_and_their_length_kept(tmp_path: Path, corpus: str, embedder: str) -> None:
    whole = {row["id"]: row["num_tokens"] for row in rows(embed(tmp_path, corpus, embedder))}
    limit = sorted(whole.values())[len(whole) // 2]
    output = embed(tmp_path, corpus, embedder, "2", max_seq_length=limit)
    found = rows(output)
    assert {row["id"]: row["num_tokens"] for row in found} == whole
    assert [row["truncated"] for row in found] == [row["num_tokens"] > limit for row in found]
    assert 0 < record(output)["counts"]["truncated"] == sum(n > limit for n in whole.values())


def test_another_run_gives_the_same_bytes(tmp_path: Path, corpus: str, embedder: str) -> None:
    outputs = []
    for name in "ab":
        (tmp_path / name).mkdir()
        outputs.append(embed(tmp_path / name, corpus, embedder))
    assert len(shards(outputs[0])) == 8
    assert shards(outputs[0]) == shards(outputs[1])


def test_a_grown_pool_embeds_only_what_is_new(tmp_path: Path, embedder: str) -> None:
    test = documents([40, 41], "t")
    small = write_corpus(tmp_path / "small", train=documents(range(8)), test=test)
    grown = write_corpus(tmp_path / "grown", train=[*documents([50, 51, 52], "new"), *documents(range(8))], test=test)
    first = embed(tmp_path, small, embedder)
    second = embed(tmp_path, grown, embedder, "2", base="1")
    counts = record(second)["counts"]
    assert (counts["embedded"], counts["reused"], counts["rows"]) == (3, 10, 13)
    old, new = vectors(first), vectors(second)
    assert all(old[id_].tobytes() == new[id_].tobytes() for id_ in old)
    anew = vectors(embed(tmp_path, grown, embedder, "3"))
    for id_ in new.keys() - old.keys():
        np.testing.assert_allclose(new[id_], anew[id_], atol=1e-6)


def test_a_changed_text_is_embedded_again_and_a_moved_one_is_not(tmp_path: Path, embedder: str) -> None:
    train = documents(range(6))
    embed(tmp_path, write_corpus(tmp_path / "a", train=train), embedder)
    changed = [(train[0][0], *text_of(60)), ("renamed", *train[1][1:]), *reversed(train[2:])]
    output = embed(tmp_path, write_corpus(tmp_path / "b", train=changed), embedder, "2", base="1")
    counts = record(output)["counts"]
    assert (counts["embedded"], counts["reused"]) == (1, 5)
    old, new = vectors(tmp_path / "store" / OUTPUT.format(1)), vectors(output)
    assert new["renamed"].tobytes() == old[train[1][0]].tobytes()
    assert not np.allclose(new[train[0][0]], old[train[0][0]])


def test_a_base_of_another_model_or_setting_is_refused(tmp_path: Path, corpus: str, embedder: str, cross_encoder: str) -> None:
    embed(tmp_path, corpus, embedder)
    with pytest.raises(
        ValueError, match=r"embed\.base=1: .*was made with other settings, .*leave embed\.base out to embed everything anew"
    ):
        embed(tmp_path, corpus, embedder, "2", base="1", max_seq_length=128)
    other = Path(cross_encoder).with_name("embedder")  # the same name, other weights
    if not other.exists():
        other.symlink_to(cross_encoder)
    with pytest.raises(ValueError, match=r"embed\.base=1: .*was made with other model,"):
        embed(tmp_path, corpus, str(other), "2", base="1")
    with pytest.raises(ValueError, match=r"bc5cdr-embedder@7 is not finished"):
        embed(tmp_path, corpus, embedder, "2", base="7")
    assert not (tmp_path / "store" / OUTPUT.format(2)).exists()


def test_another_setting_under_the_same_version_is_refused(tmp_path: Path, corpus: str, embedder: str) -> None:
    embed(tmp_path, corpus, embedder)
    with pytest.raises(ValueError, match=r"settings\.max_seq_length: 256 -> 128"):
        embed(tmp_path, corpus, embedder, max_seq_length=128)


def test_a_text_without_words_is_quarantined_and_the_others_are_embedded(tmp_path: Path, embedder: str) -> None:
    source = write_corpus(tmp_path / "bc5cdr", train=[*documents(range(4)), ("blank", " ", " "), *documents(range(4, 7))])
    output = embed(tmp_path, source, embedder)
    assert "blank" not in vectors(output)
    assert len(vectors(output)) == 7
    assert [(q["id"], q["shard"], q["reason"]) for q in quarantine(output)] == [("blank", "train-00000", "the text is empty")]
    assert record(output)["counts"]["quarantined"] == 1


def test_a_shard_with_nothing_to_embed_is_a_shard_all_the_same(tmp_path: Path, embedder: str) -> None:
    blanks = [(f"blank{n}", " " * (n + 1), " ") for n in range(5)]
    source = write_corpus(tmp_path / "bc5cdr", train=[*blanks, *documents(range(5))], test=documents([40], "t"))
    store = run(
        tmp_path, source=str(source), prepare={"documents_per_shard": 5}, embed={"model": embedder}, select={"rerank": False, "keep": 3}
    )
    assert [len(rows(store / OUTPUT.format(1), name)) for name in ("train-00000", "train-00001")] == [0, 5]
    assert [row["example_id"][0] for row in rows(store / "selections/r@1")] == ["d", "d", "d"]


def test_a_text_that_the_model_cannot_take_is_quarantined_alone(
    tmp_path: Path, corpus: str, embedder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sentence_transformers import SentenceTransformer

    real = SentenceTransformer.forward

    def forward(model: Any, inputs: dict[str, torch.Tensor], *rest: Any, **more: Any) -> Any:
        words = model.tokenizer.batch_decode(inputs["input_ids"])
        if any("delirium" in text for text in words):
            raise IndexError("index out of range in self")
        return real(model, inputs, *rest, **more)

    whole = vectors(embed(tmp_path, corpus, embedder))
    monkeypatch.setattr(SentenceTransformer, "forward", forward)
    output = embed(tmp_path, corpus, embedder, "2")
    texts = {row["id"]: row["text"] for row in rows(tmp_path / "store/corpora/bc5cdr@2")}
    bad = {id_ for id_, text in texts.items() if "delirium" in text.lower()}
    assert 0 < len(bad) < 34
    assert {q["id"] for q in quarantine(output)} == bad
    assert all("the model cannot embed it: IndexError: index out of range" in q["reason"] for q in quarantine(output))
    found = vectors(output)
    assert found.keys() == whole.keys() - bad
    for id_, vector in found.items():
        np.testing.assert_allclose(vector, whole[id_], atol=1e-5)


def test_running_out_of_memory_is_no_fault_of_a_text(tmp_path: Path, corpus: str, embedder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from sentence_transformers import SentenceTransformer

    def forward(*_: Any, **__: Any) -> Any:
        raise RuntimeError("CUDA out of memory. Tried to allocate 20 GiB")

    monkeypatch.setattr(SentenceTransformer, "forward", forward)
    with pytest.raises(ValueError, match=r"embed\.batch_tokens"):
        embed(tmp_path, corpus, embedder)
    output = tmp_path / "store" / OUTPUT.format(1)
    assert not (output / "record.json").exists()
    assert quarantine(output) == []


@pytest.mark.parametrize("finished", ["vectors", "taken over"])
def test_a_run_with_nothing_to_embed_loads_no_model(tmp_path: Path, corpus: str, embedder: str, finished: str) -> None:
    embed(tmp_path, corpus, embedder)
    if finished == "taken over":
        make_recipe(
            tmp_path,
            job="embed",
            source=corpus,
            corpus_version="2",
            prepare={"documents_per_shard": 7},
            embed={"model": embedder, "base": "1"},
        )
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from bioie_ray.config.recipe import load_recipe\n"
        "from bioie_ray.pipeline.job import run_recipe\n"
        f"run_recipe(load_recipe(Path({str(tmp_path / 'recipe.yaml')!r})))\n"
        "heavy = {'torch', 'transformers', 'sentence_transformers', 'ray'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert ("embedding bc5cdr@1: done before" in done.stderr) is (finished == "vectors")
    if finished == "taken over":
        counts = record(tmp_path / "store" / OUTPUT.format(2))["counts"]
        assert (counts["embedded"], counts["reused"]) == (0, 34)


def test_only_missing_shards_are_made_after_an_interruption(tmp_path: Path, corpus: str, embedder: str) -> None:
    output = embed(tmp_path, corpus, embedder)
    whole = shards(output)
    (output / "record.json").unlink()
    for name in ("train-00001", "test-00000"):
        (output / f"{name}.parquet").unlink()
        (output / "_markers" / f"{name}.json").unlink()
    (output / "_markers" / "train-00002.json").unlink()  # its data was written, its marker was not
    embed(tmp_path, corpus, embedder)
    timings = record(output)["timings"]
    assert (timings["shards_made"], timings["shards_kept"]) == (3, 5)
    assert shards(output) == whole


@pytest.mark.slow
def test_the_packaged_model_puts_related_sentences_together(tmp_path: Path) -> None:
    data: dict[str, Any] = {"task": "biorelex", "select": {"rerank": False, "keep": 1, "k": 1}}
    store = run(tmp_path, job="select_examples", **data)
    output = store / "vectors/embedded_biorelex-all-minilm-l6-v2@1"
    found = vectors(output)
    assert {vector.shape for vector in found.values()} == {(384,)}
    np.testing.assert_allclose([np.linalg.norm(vector) for vector in found.values()], 1.0, atol=1e-6)
    scores = {row["query_id"]: row["retrieval_score"] for row in rows(store / "selections/r@1")}
    random = np.mean([found[a] @ found[b] for a in scores for b in found if a != b])
    assert np.mean(list(scores.values())) > random + 0.2


@pytest.mark.ray
@pytest.mark.slow
def test_the_number_of_workers_changes_no_byte(tmp_path: Path, corpus: str, embedder: str) -> None:
    import ray

    found = []
    try:
        for name, cluster in {"inline": {"executor": "inline"}, "one": {"num_workers": 1}, "two": {"num_workers": 2}}.items():
            (tmp_path / name).mkdir()
            store = run(
                tmp_path / name, job="embed", source=corpus, prepare={"documents_per_shard": 5}, embed={"model": embedder}, cluster=cluster
            )
            found.append(shards(store / OUTPUT.format(1)))
    finally:
        ray.shutdown()
    assert len(found[0]) == 8
    assert found[0] == found[1] == found[2]
