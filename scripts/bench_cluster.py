#!/usr/bin/env python
"""What a cluster adds to a job: start and end, overhead over a local Ray, scaling, what a changed line pushes, cut logs.

    scripts/bench_cluster.py                              # all parts
    scripts/bench_cluster.py start overhead --repeats 5
    scripts/bench_cluster.py push --registry localhost:5000 --build="--variant cpu"      # needs no cluster
    bash -c 'source scripts/cluster_env.sh && exec scripts/bench_cluster.py'             # makes image and environment first

Needs KUBECONFIG, kubectl, an image that the nodes can pull and an S3 server that pods reach, by the same variables as the
tests (tests/kube/conftest.py): BIOIE_TEST_IMAGE, BIOIE_TEST_KUBE_S3_KEY and so on.

start     from `kubectl apply` of a RayJob to its first shard, to its last, and to Complete, with the image present
overhead  the same, and the same recipe by `bioie run` on this machine with as many cores; the two take turns
scaling   a worker group from nothing to a running pod because the job asks, and back after its last work
logs      `bioie logs --follow` through a proxy that closes its connections: until the next line, and whether one is lost
push      the checked-out commit with another comment, built and pushed: megabytes that the registry had not

The first three look at the same RayJobs: a selection with a cross-encoder over the embedded corpus, a document a shard. All
times are of this machine's clock, which looks every quarter of a second; only when the driver asks for workers is told by
the head's, in whole seconds. Everything happens in a namespace and a bucket of their own, which go away in the end. Prints
Markdown tables. A comparison with this machine means something only where the nodes are this machine or one like it.
"""

from __future__ import annotations

import argparse
import os
import platform
import secrets
import shlex
import signal
import statistics
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests/kube"))

from bench_cluster_jobs import REPOSITORY, Seen, recipe_of, time_local, time_rayjob
from bench_cluster_logs import time_cuts
from bench_cluster_push import time_pushes
from kube_access import Cluster, own_namespace
from kubernetes import client
from kubernetes.utils.quantity import parse_quantity
from pod_store import PodS3, PodStore
from s3_server import S3Server

PARTS = ("start", "overhead", "scaling", "logs", "push")
OF_JOBS = {"start", "overhead", "scaling"}


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[float]], digits: int = 1) -> None:
    """A row for each repetition and, of several, the median with the least and the most; ``digits`` are those of fractions."""

    def shown(value: float) -> str:
        return str(value) if isinstance(value, int) else f"{value:.{digits}f}"

    print(f"\n**{title}**\n\n| | {' | '.join(columns)} |\n|{' --- |' * (len(columns) + 1)}")
    for number, row in enumerate(rows, start=1):
        print(f"| {number} | {' | '.join(map(shown, row))} |")
    if len(rows) > 1:
        cells = (f"{shown(statistics.median(c))} [{shown(min(c))}, {shown(max(c))}]" for c in zip(*rows, strict=True))
        print(f"| median [least, most] | {' | '.join(cells)} |")
    sys.stdout.flush()


def bench_jobs(options: argparse.Namespace, cluster: Cluster, server: PodS3, bucket: str, parts: set[str]) -> None:
    """All runs first: one RayJob a repetition serves every table."""
    on_cluster: list[Seen] = []
    here: list[Seen] = []

    def run(where: str, number: int) -> None:
        store = PodStore(f"s3://{bucket}/{where}-{number}-{secrets.token_hex(4)}", server)
        recipe = recipe_of(options, cluster.namespace, store)
        if where == "rayjob":
            on_cluster.append(time_rayjob(cluster, recipe, store, until_gone="scaling" in parts))
        else:
            here.append(time_local(recipe, store, options.cores))
        print(f"{where} {number + 1}: {(on_cluster if where == 'rayjob' else here)[-1]}", file=sys.stderr, flush=True)

    try:
        for number in range(options.repeats):
            turns = ["rayjob", "local"] if "overhead" in parts else ["rayjob"]
            for where in turns if number % 2 == 0 else reversed(turns):
                run(where, number)
    finally:
        if on_cluster:
            show_jobs(on_cluster, here, options, parts)


def show_jobs(on_cluster: Sequence[Seen], here: Sequence[Seen], options: argparse.Namespace, parts: set[str]) -> None:
    """The tables of the first three parts."""
    pairs = list(zip(on_cluster, here, strict=False))
    if "start" in parts:
        names = {"head runs": "head runs", "worker runs": "worker runs", "first shard": "first shard written"}
        names |= {"first selected": "first shard of the selection", "last selected": "last shard", "complete": "Complete"}
        table("Seconds after `kubectl apply`", list(names.values()), [[seen.at[name] for name in names] for seen in on_cluster])
    if "overhead" in parts and pairs:
        columns = ["RayJob: first to last shard, s", "here, s", "ratio", "RayJob: apply to Complete, s", "here: whole run, s", "ratio"]
        rows = []
        for there, local in pairs:
            shards, whole = (there.between_shards_s, local.between_shards_s), (there.at["complete"], local.at["complete"])
            rows.append([*shards, shards[0] / shards[1] if shards[1] else float("nan"), *whole, whole[0] / whole[1]])
        table(f"Overhead over `bioie run` on {options.cores} cores, {options.actors} actors", columns, rows, digits=2)
    if "scaling" in parts:
        columns = [
            "driver asks to pod, s",
            "pod to Running, s",
            "Running to first shard, s",
            "last shard to pod gone, s",
            "of it beyond idle_timeout_s",
        ]
        spans = [("asked", "worker pod"), ("worker pod", "worker runs"), ("worker runs", "first shard"), ("last selected", "worker gone")]
        rows = [[seen.at[end] - seen.at[begin] for begin, end in spans] for seen in on_cluster]
        table(
            f"A worker group from 0 to 1 and back (idle_timeout_s={options.idle_timeout})",
            columns,
            [[*row, row[-1] - options.idle_timeout] for row in rows],
        )


def bench_logs(options: argparse.Namespace, cluster: Cluster, server: PodS3, bucket: str) -> None:
    """Its RayJob counts; the recipe is only what pods are made from."""
    recipe = recipe_of(options, cluster.namespace, PodStore(f"s3://{bucket}/logs", server), name="counting")
    cuts = time_cuts(cluster, recipe, options.image, options.cuts)
    rows = list(zip(cuts.reconnected_s, cuts.next_line_s, strict=True))
    table("`bioie logs --follow`, seconds after its connections were closed", ["connected again", "next line"], rows, digits=2)
    usual = cuts.undisturbed_s
    print(
        f"\nWithout a cut the next line comes after {statistics.median(usual):.2f} [{min(usual):.2f}, {max(usual):.2f}] s: Ray hands lines on in "
        f"batches. Of {cuts.num_lines:,} lines {cuts.num_lost} were lost and {cuts.num_twice} came twice."
    )


def bench_push(options: argparse.Namespace) -> None:
    columns = ["pushed, MB", "blobs", "image, MB", "build, s", "push, s"]
    found = time_pushes(REPOSITORY, options.registry or options.image.rpartition("/")[0], shlex.split(options.build), options.repeats)
    table("A change of one line", columns, [[p.pushed_mb, p.num_blobs, p.image_mb, p.build_s, p.push_s] for p in found], digits=2)


def machine(cluster: Cluster | None) -> str:
    """Where this was measured, in a sentence or two."""
    info = Path("/proc/cpuinfo")
    models = (
        {line.partition(":")[2].strip() for line in info.read_text().splitlines() if line.startswith("model name")}
        if info.exists()
        else set()
    )
    load = os.getloadavg()[0]
    said = f"This machine: {os.cpu_count()} cores ({', '.join(sorted(models)) or platform.machine()}), load {load:.1f} at the beginning; {datetime.now(UTC):%Y-%m-%d}."
    if cluster is None:
        return said
    nodes = cluster.core.list_node().items
    shapes = sorted(
        {f"{node.status.capacity['cpu']} cores, {parse_quantity(node.status.capacity['memory']) / 2**30:.0f} GiB" for node in nodes}
    )
    operators = cluster.core.list_pod_for_all_namespaces(label_selector="app.kubernetes.io/component=kuberay-operator").items
    operator = operators[0].spec.containers[0].image.rpartition("/")[2] if operators else "KubeRay"
    where = "this machine" if cluster.is_this_machine() else "another machine"
    return f"{said} Cluster: {len(nodes)} node{'s' * (len(nodes) > 1)} on {where} ({'; '.join(shapes)}), Kubernetes {nodes[0].status.node_info.kubelet_version}, {operator}."


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; left out: all")
    parser.add_argument("--image", default=os.environ.get("BIOIE_TEST_IMAGE"), help="what the nodes can pull; left out: BIOIE_TEST_IMAGE")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--cuts", type=int, default=10)
    parser.add_argument("--cores", type=int, default=2, help="limit of a pod, and of the run on this machine")
    parser.add_argument("--actors", type=int, default=1, help="of one thread each, all in one worker pod")
    parser.add_argument(
        "--cpu-request", type=float, default=0.1, help="what a pod requests: little, where a small machine holds everything"
    )
    parser.add_argument("--idle-timeout", type=int, default=30, help="seconds until a worker pod without work goes")
    parser.add_argument("--task", default="bc5cdr_disease")
    parser.add_argument("--documents-per-shard", type=int, default=1)
    parser.add_argument("--max-length", type=int, default=256, help="tokens, of embedder and cross-encoder")
    parser.add_argument("--registry", help="of push; left out: the image's")
    parser.add_argument(
        "--build", default="", metavar="OPTIONS", help="of scripts/build_image.sh, for push (the base image: BIOIE_BASE_IMAGE)"
    )
    options = parser.parse_args()
    unknown = set(options.parts) - set(PARTS)
    if unknown:
        parser.error(f"no part is called {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    options.parts = set(options.parts or PARTS)
    if not options.image and not (options.parts == {"push"} and options.registry):
        parser.error("--image (or BIOIE_TEST_IMAGE) has to name an image that the nodes can pull; scripts/cluster_env.sh makes one")
    return options


def bench_cluster(options: argparse.Namespace) -> None:
    """The parts that need one."""
    server = PodS3.from_environment()
    bucket = S3Server(server.host, dict(server.environment), bucket=f"bioie-bench-{secrets.token_hex(6)}")
    with own_namespace(REPOSITORY, server.environment, prefix="bioie-bench") as cluster:
        print(machine(cluster), flush=True)
        bucket.make_bucket()
        try:
            cluster.pull(options.image)
            if options.parts & OF_JOBS:
                bench_jobs(options, cluster, server, bucket.bucket, options.parts)
            if "logs" in options.parts:
                bench_logs(options, cluster, server, bucket.bucket)
        finally:
            bucket.drop_bucket()


def main() -> None:
    options = read_options()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped by SIGTERM"))  # so that the namespace goes all the same
    try:
        if options.parts != {"push"}:
            bench_cluster(options)
        else:
            print(machine(None), flush=True)
        if "push" in options.parts:
            bench_push(options)
    except (AssertionError, LookupError, RuntimeError, ValueError, client.ApiException) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
