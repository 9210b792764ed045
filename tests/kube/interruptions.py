"""Runs that are struck half-way: one document a shard, so that there are many, and what must hold of the outputs in the end."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from kube_access import Cluster
from pod_store import Meta, PodStore

CORPORA = ("bc5cdr", "ddi_corpus", "biorelex")
# 154 shards: a quarter of a minute of work for one actor on an idle core, in which a pod or a node can be lost.
MANY_SHARDS: dict[str, Any] = {
    "job": "embed",
    "matrix": {"task": ["bc5cdr_disease", "ddi_corpus", "biorelex"]},
    "prepare": {"documents_per_shard": 1},
    "embed": {"max_seq_length": 256},
}
VECTORS = tuple(f"vectors/embedded_{corpus}-all-minilm-l6-v2@1" for corpus in CORPORA)


def wait_for_some(store: PodStore, is_over: Callable[[], bool], timeout_s: float = 400) -> None:
    """Wait until some shards are done; fails when the run was over before that could be seen."""
    store.wait_for_markers(VECTORS[0], 3, is_over, timeout_s)


def finished(store: PodStore) -> dict[str, Meta]:
    """Shards and markers that are there already."""
    return {key: meta for output in VECTORS for key, meta in store.finished_shards(output).items()}


def assert_whole(cluster: Cluster, store: PodStore, here: Path, before: dict[str, Meta]) -> None:
    """All shards are there, those of ``before`` were left alone, some were made after it, and all are those of a local run."""
    after = {key: meta for output in VECTORS for key, meta in store.metas(output).items()}
    assert {key: after[key] for key in before} == before
    num_before = len([key for key in before if "/_markers/" in key])
    assert 3 <= num_before < sum(len(store.record(output)["shards"]) for output in VECTORS)
    for corpus in CORPORA:
        assert store.differing(here, f"corpora/embedded_{corpus}@1") == []
    if cluster.is_this_machine():  # another CPU may move the last bits of a vector
        assert [name for output in VECTORS for name in store.differing(here, output)] == []
