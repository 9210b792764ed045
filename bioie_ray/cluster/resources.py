"""How much a pod must have for what Ray will start in it: the sum is checked when a manifest is rendered, not when a pod is killed.

Memory of a pod = shared memory (Ray's object store lies there) + Ray's own processes + actors. Ray fills a node with actors by
CPUs, GPUs and, where ``cluster.memory_per_worker_gib`` is set, by memory; so do these sums.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bioie_ray.cluster.work import Work, works_of
from bioie_ray.config.cluster import CPU_LEFT_FREE, ClusterSettings, PodSettings, WorkerGroupSettings
from bioie_ray.config.recipe import Recipe

GIB = 2**30
# Ray refuses a smaller object store (OBJECT_STORE_MINIMUM_MEMORY_BYTES).
MIN_OBJECT_STORE_BYTES = 75 * 2**20
# /dev/shm beyond the object store: Ray moves the store to disk where it does not fit whole, and page tables and torch's
# own segments need some; NCCL puts its rings there as soon as several GPUs of a pod talk to each other.
SHM_MARGIN_GIB = 0.125
NCCL_SHM_GIB = 1.0
# Resident memory of Ray's processes: on a worker raylet and agents (0.52 GiB seen); on the head also GCS, dashboard and job manager,
# which together with the demo's driver held 1.35 GiB.
RAY_WORKER_GIB = 0.75
RAY_HEAD_GIB = 1.25
# The driver of a job runs in the head's pod: Ray Data, pyarrow and the plan, but no model.
DRIVER_GIB = 0.75


class ResourceError(ValueError):
    """Pods too small for what the recipe would start in them; the message shows the sum, the key and a value that would do."""


@dataclass(frozen=True)
class Pod:
    """A pod in numbers of Ray and of Kubernetes, all memory in bytes."""

    ray_cpus: int
    gpus: int
    memory: int
    object_store: int
    shm: int
    ray: int

    @property
    def for_actors(self) -> int:
        """Memory left for actors; Ray is told that it has just this."""
        return self.memory - self.shm - self.ray


@dataclass(frozen=True)
class Sizes:
    """The result: pods of head and groups, and how many actors the groups hold together."""

    head: Pod
    groups: Mapping[str, Pod]
    num_workers: int


def size_pods(recipe: Recipe) -> Sizes:
    """Check the pods of a recipe against what its job will start in them.

    Raises:
        ResourceError: no group can hold an actor, a pod's memory is less than the sum, or GPUs that nothing would use.
    """
    cluster, kube = recipe.cluster, recipe.cluster.kube
    works = works_of(recipe)
    _check_gpus(cluster, works)
    groups = {name: pod_of(group, f"cluster.kube.workers.{name}", ray_gib=RAY_WORKER_GIB) for name, group in kube.workers.items()}
    places_of = [_places(work, groups, cluster) for work in works]
    slots = []
    for work, places in zip(works, places_of, strict=True):
        fitting = {name: _slots(work, pod, cluster) * kube.workers[name].max_replicas for name, pod in places.items()}
        if not any(fitting.values()):
            raise ResourceError(_no_place(work, places, cluster))
        slots.append(sum(fitting.values()))
        if work.kind == "train" and slots[-1] < (cluster.min_ranks or cluster.ranks):
            raise ResourceError(
                f"a training of cluster.ranks={cluster.ranks} processes needs room for all at once, and the groups of cluster.kube.workers hold "
                f"{slots[-1]} of {work.threads} CPUs; raise max_replicas or ray_cpus of a group, or set cluster.ranks={max(1, slots[-1])}"
            )
    for name, pod in groups.items():
        _check_worker(name, pod, [work for work, places in zip(works, places_of, strict=True) if name in places], cluster)
    head = pod_of(kube.head, "cluster.kube.head", ray_gib=RAY_HEAD_GIB)
    check_head(head)
    # As many as there is room for, whatever the kind: an actor too many only waits, one too few leaves a pod idle.
    return Sizes(head, groups, cluster.num_workers or max(slots))


def _places(work: Work, groups: Mapping[str, Pod], cluster: ClusterSettings) -> Mapping[str, Pod]:
    """The groups for such actors: those that run no model stay out of pods with GPUs where there are others that can hold one."""
    without = {name: pod for name, pod in groups.items() if not pod.gpus and _slots(work, pod, cluster)}
    return groups if work.uses_gpu or not without else without


def pod_of(settings: PodSettings, key: str, *, ray_gib: float) -> Pod:
    """A pod's settings in numbers.

    Raises:
        ResourceError: an object store below Ray's minimum.
    """
    memory = round(settings.memory_gib * GIB)
    object_store = int(memory * settings.object_store_share)
    if object_store < MIN_OBJECT_STORE_BYTES:
        share = math.ceil(100 * MIN_OBJECT_STORE_BYTES / memory) / 100
        raise ResourceError(
            f"{key}: {settings.object_store_share:g} of {settings.memory_gib:g} GiB is {object_store / 2**20:.0f} MiB of object store, and "
            f"Ray starts with no less than 75; set {key}.object_store_share={share:g} or more"
        )
    gpus = settings.gpus if isinstance(settings, WorkerGroupSettings) else 0
    margin = SHM_MARGIN_GIB + (NCCL_SHM_GIB if gpus > 1 else 0.0)
    ray_cpus = settings.ray_cpus if settings.ray_cpus is not None else max(1, int(settings.cpus))
    return Pod(ray_cpus, gpus, memory, object_store, object_store + round(margin * GIB), round(ray_gib * GIB))


def _slots(work: Work, pod: Pod, cluster: ClusterSettings) -> int:
    """How many such actors Ray would put into a pod."""
    fitting = work.fitting(pod.ray_cpus, pod.gpus, cluster.gpus_per_worker)
    if cluster.memory_per_worker_gib:
        fitting = min(fitting, max(0, pod.for_actors) // round(cluster.memory_per_worker_gib * GIB))
    return fitting


def _check_gpus(cluster: ClusterSettings, works: Sequence[Work]) -> None:
    with_gpus = [name for name, group in cluster.kube.workers.items() if group.gpus]
    without = [name for name, group in cluster.kube.workers.items() if not group.gpus]
    asks = cluster.gpus_per_worker > 0 and any(work.uses_gpu for work in works)
    if asks and not with_gpus:
        raise ResourceError(
            f"cluster.gpus_per_worker={cluster.gpus_per_worker:g}, but no group of cluster.kube.workers has a GPU; set "
            f"cluster.kube.workers.{without[0]}.gpus={math.ceil(cluster.gpus_per_worker)}, or cluster.gpus_per_worker=0"
        )
    if with_gpus and not cluster.gpus_per_worker:
        raise ResourceError(
            f"cluster.kube.workers.{with_gpus[0]} has GPUs that nothing would use: no actor asks for one; set cluster.gpus_per_worker=1 "
            f"(or a fraction, for several small models on one), or cluster.kube.workers.{with_gpus[0]}.gpus=0"
        )
    queued = cluster.kube.profile == "queued"
    if with_gpus and not asks and (queued or not without):
        raise ResourceError(
            f"cluster.kube.workers.{with_gpus[0]} has GPUs that nothing would use: no actor of this job runs a model; set "
            f"cluster.kube.workers.{with_gpus[0]}.gpus=0" + (", or take the group out" if without else "")
        )
    if asks and queued and without:
        raise ResourceError(
            f"cluster.kube.workers.{without[0]} has no GPU: Kueue would admit its pods with the job, and they would stay idle while models run "
            "on GPUs; take the group out (what needs no GPU runs on the CPUs of the pods that have them)"
        )


def _no_place(work: Work, groups: Mapping[str, Pod], cluster: ClusterSettings) -> str:
    name, pod = max(groups.items(), key=lambda item: (item[1].gpus, item[1].ray_cpus))
    key = f"cluster.kube.workers.{name}"
    asks = f"an actor of {work.kind} asks for {work.cpus:g} CPUs of Ray"
    if work.uses_gpu and cluster.gpus_per_worker > pod.gpus:
        return (
            f"{asks} and {cluster.gpus_per_worker:g} GPUs, but a pod of {key} has {pod.gpus}; set {key}.gpus="
            f"{math.ceil(cluster.gpus_per_worker)}, or cluster.gpus_per_worker to at most {pod.gpus}"
        )
    if work.cpus > pod.ray_cpus:
        less = f", or {work.threads_key}={pod.ray_cpus}" if work.threads_key and pod.ray_cpus else ""
        return (
            f"{asks} ({work.threads_key or 'one thread'}, less the {CPU_LEFT_FREE:g} left to Ray's own tasks), but a pod of {key}, the largest, "
            f"has {pod.ray_cpus}: it would wait for ever; set {key}.ray_cpus={math.ceil(work.cpus)}{less}"
        )
    return _sum(name, pod, work, 1)


def _check_worker(name: str, pod: Pod, works: list[Work], cluster: ClusterSettings) -> None:
    if not works:
        return
    held = []
    for work in works:
        num = _slots(work, pod, cluster)
        held.append((num if work.most is None else min(num, work.most), work))
    num, work = max(held, key=lambda entry: entry[0] * entry[1].memory_gib)
    if num * round(work.memory_gib * GIB) > pod.for_actors:
        raise ResourceError(_sum(name, pod, work, num))


def _sum(name: str, pod: Pod, work: Work, num: int) -> str:
    key = f"cluster.kube.workers.{name}"
    actors = num * work.memory_gib
    needed = (pod.shm + pod.ray) / GIB + actors
    # The object store grows with the pod, so the pod must grow by more than what is missing.
    share = pod.object_store / pod.memory
    enough = math.ceil((needed - pod.object_store / GIB) / (1 - share) * 4) / 4
    return (
        f"{key}.memory_gib={pod.memory / GIB:g} is too little for {work.kind}: {pod.shm / GIB:.2f} shared memory (object store "
        f"{pod.object_store / GIB:.2f}) + {pod.ray / GIB:.2f} Ray itself + {num} actors x {work.memory_gib:g} = {needed:.2f} GiB; "
        f"set {key}.memory_gib={enough:g}, or {key}.ray_cpus to fewer than {pod.ray_cpus}, or lower {key}.object_store_share; if an actor "
        f"needs less than {work.memory_gib:g} GiB, say so by cluster.memory_per_worker_gib"
    )


def check_head(pod: Pod) -> None:
    """The head holds Ray's services and the driver.

    Raises:
        ResourceError: its memory is less than the sum.
    """
    needed = pod.shm + pod.ray + round(DRIVER_GIB * GIB)
    if needed <= pod.memory:
        return
    share = pod.object_store / pod.memory
    enough = math.ceil((needed - pod.object_store) / GIB / (1 - share) * 4) / 4
    raise ResourceError(
        f"cluster.kube.head.memory_gib={pod.memory / GIB:g} is too little: {pod.shm / GIB:.2f} shared memory (object store "
        f"{pod.object_store / GIB:.2f}) + {pod.ray / GIB:.2f} Ray itself + {DRIVER_GIB:.2f} the job's driver = {needed / GIB:.2f} GiB; set "
        f"cluster.kube.head.memory_gib={enough:g}, or lower cluster.kube.head.object_store_share"
    )
