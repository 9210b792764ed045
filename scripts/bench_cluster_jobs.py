"""One job as a RayJob, and on this machine, with the moments at which something was seen of it; a part of bench_cluster.py."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml
from kube_access import CLUSTER_LABEL, ROLE_LABEL, Cluster
from pod_store import PodStore

from bioie_ray.cluster.rayjob import render_rayjob, to_yaml
from bioie_ray.config.recipe import Recipe

REPOSITORY = Path(__file__).resolve().parents[1]
LOOK_EVERY_S = 0.25
JOB_TIMEOUT_S = 1_800
SELECTION = "selections/bench@1"


def recipe_of(options: argparse.Namespace, namespace: str, store: PodStore, **changes: Any) -> Recipe:
    """The job that is measured, or another on the same pods."""
    pod = {"cpus": options.cpu_request, "max_cpus": options.cores, "spill_gib": 1, "object_store_share": 0.1}
    worker = {**pod, "ray_cpus": options.actors, "memory_gib": 1.5 + 1.5 * options.actors, "min_replicas": 0, "max_replicas": 1}
    kube = {
        "namespace": namespace,
        "image": options.image,
        "idle_timeout_s": options.idle_timeout,
        "keep_after_finish_s": 600,
        "head": {**pod, "ray_cpus": 0, "memory_gib": 2.5},
        "workers": {"cpu": worker},
    }
    return Recipe.model_validate(
        {
            "name": "bench",
            "job": "select_examples",
            **store.settings,
            "task": options.task,
            "prepare": {"documents_per_shard": options.documents_per_shard},
            "embed": {"max_seq_length": options.max_length},
            # An untrained head: how long it takes is the same.
            "rerank": {"model": "offline:all-minilm-l6-v2", "max_length": options.max_length},
            "cluster": {"num_workers": options.actors, "memory_per_worker_gib": 1.2, "kube": kube},
            **changes,
        }
    )


@dataclass
class Seen:
    """When this machine first saw something, in seconds after the job was started."""

    at: dict[str, float] = field(default_factory=dict)
    num_shards: int = 0

    def note(self, what: str, now: float) -> None:
        """Remember the first time."""
        self.at.setdefault(what, now)

    def shards(self, store: PodStore, now: float) -> None:
        """Look at the markers: the first of any output, and the first and the last of the selection."""
        markers = [key for key in store.keys("") if "/_markers/" in key]
        num = sum(key.startswith(f"{SELECTION}/") for key in markers)
        if markers:
            self.note("first shard", now)
        if num > self.num_shards:
            self.note("first selected", now)
            self.at["last selected"] = now
            self.num_shards = num

    def pods(self, pods: Sequence[Any], now: float) -> None:
        """Look at head and workers of the job's Ray cluster."""
        found = {(pod.metadata.labels or {}).get(ROLE_LABEL): pod for pod in pods if CLUSTER_LABEL in (pod.metadata.labels or {})}
        for role in ("head", "worker"):
            pod = found.get(role)
            if pod is not None:
                self.note(f"{role} pod", now)
                self.at.pop(f"{role} gone", None)
                if pod.status.phase == "Running":  # a worker takes work before its readiness probe has looked
                    self.note(f"{role} runs", now)
            elif f"{role} pod" in self.at:
                self.note(f"{role} gone", now)

    @property
    def between_shards_s(self) -> float:
        """From the first shard of the selection to the last."""
        return self.at["last selected"] - self.at["first selected"]


def time_rayjob(cluster: Cluster, recipe: Recipe, store: PodStore, *, until_gone: bool) -> Seen:
    """Apply the recipe's RayJob and look until it is complete, and with ``until_gone`` until its worker has been taken away."""
    image = recipe.cluster.kube.image
    assert image is not None
    manifest = render_rayjob(recipe, image=image)
    name, text, seen = manifest["metadata"]["name"], to_yaml(manifest), Seen()
    with cluster.job(name):
        start, started = time.monotonic(), time.time()
        cluster.kubectl("apply", "-f", "-", text=text)
        while not {"complete", *(("worker gone",) if until_gone else ())} <= seen.at.keys():
            now = time.monotonic() - start
            if now > JOB_TIMEOUT_S:
                raise RuntimeError(f"{name} was not over after {now:.0f} s\n{cluster.picture()}")
            seen.pods(cluster.pods(), now)
            if "complete" not in seen.at:
                seen.shards(store, now)
                state = cluster.job_state(name)
                if state == "Failed":
                    raise RuntimeError(f"{name} failed\n{cluster.picture()}")
                if state == "Complete":
                    seen.note("complete", now)
            time.sleep(LOOK_EVERY_S)
        records = [key.removesuffix("/record.json") for key in store.keys("") if key.endswith("/record.json")]
        begun = [datetime.fromisoformat(store.record(output)["timings"]["started"]) for output in records]
        seen.note("asked", min(begun).timestamp() - started)
    pulled = [event.message for event in cluster.core.list_namespaced_event(cluster.namespace).items if event.reason == "Pulling"]
    if len(pulled) > 1:  # once by the pod that was there for it
        raise RuntimeError("a node had to pull the image during a run: give every node the image, or leave one schedulable; then run again")
    return seen


def time_local(recipe: Recipe, store: PodStore, cores: int) -> Seen:
    """The same recipe by `bioie run`, on a Ray of its own on this machine."""
    environment = {name: value for name, value in os.environ.items() if name not in {"RAY_ADDRESS", "BIOIE_IMAGE"}}
    environment |= {**store.server.environment, "PYTHONPATH": str(REPOSITORY)}
    seen = Seen()
    with tempfile.TemporaryDirectory() as folder, _on_cores(cores), (Path(folder) / "log").open("w+") as log:
        path = Path(folder) / "recipe.yaml"
        data = recipe.model_dump(mode="json", exclude_unset=True)
        path.write_text(yaml.safe_dump({**data, "store": store.url, "storage": {"endpoint": store.server.host}}))
        start = time.monotonic()
        running = subprocess.Popen([sys.executable, "-m", "bioie_ray.cli", "run", str(path)], env=environment, stdout=log, stderr=log)
        try:
            while running.poll() is None:
                seen.shards(store, time.monotonic() - start)
                with suppress(subprocess.TimeoutExpired):
                    running.wait(LOOK_EVERY_S)
            now = time.monotonic() - start
        finally:
            running.terminate()
            running.wait()
        if running.returncode != 0:
            log.seek(0)
            raise RuntimeError(f"bioie run failed:\n{log.read()[-2_000:]}")
        seen.shards(store, now)
        seen.note("complete", now)
    return seen


@contextmanager
def _on_cores(num: int) -> Iterator[None]:
    """Processes that are started meanwhile may use so many cores."""
    usual = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(usual)[:num])
    try:
        yield
    finally:
        os.sched_setaffinity(0, usual)
