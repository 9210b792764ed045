"""Where and how wide a job runs. Nothing here changes an output's bytes, so nothing here is in a fingerprint."""

from __future__ import annotations

import math
import re
from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from bioie_ray.config.base import Settings

Profile = Literal["elastic", "queued"]
# A label value of Kubernetes, short enough that the operator's own prefixes and suffixes still fit.
GroupName = r"^[a-z]([a-z0-9-]{0,13}[a-z0-9])?$"
# Names of variables that hold credentials: those come from Secrets, never from a recipe.
_CREDENTIAL = re.compile(r"(SECRET|TOKEN|PASSWORD|PASSWD|CREDENTIAL|API_?KEY|ACCESS_KEY|PRIVATE_KEY)", re.IGNORECASE)


# Actors that hold every CPU starve Ray's own tasks; the fraction is left to them.
CPU_LEFT_FREE = 0.1


def actor_cpus(threads: int) -> float:
    """What an actor of so many threads asks Ray for."""
    return max(threads - CPU_LEFT_FREE, CPU_LEFT_FREE)


class PodSettings(Settings):
    """What one Ray pod asks Kubernetes for. Requests are limits, unless `max_cpus` says more: Ray plans with all it is told it has."""

    cpus: float = Field(default=4.0, gt=0.0, description="CPUs of the pod: what it requests, and its limit where `max_cpus` is left out")
    max_cpus: float | None = Field(default=None, gt=0.0, description="limit of CPUs above `cpus`, for pods that may use idle cores")
    ray_cpus: int | None = Field(default=None, ge=0, description="CPUs that Ray counts on; left out: `cpus` rounded down, at least 1")
    memory_gib: float = Field(default=16.0, gt=0.0, description="memory of the pod, shared memory included (request and limit)")
    object_store_share: float = Field(
        default=0.1,
        gt=0.0,
        le=0.8,
        description="share of the memory that Ray's object store gets, through which little goes here; it lies in /dev/shm",
    )
    spill_gib: float = Field(default=20.0, gt=0.0, description="ephemeral storage: spilled objects, logs, unpacked models")
    node_selector: dict[str, str] = Field(default_factory=dict)
    tolerations: tuple[dict[str, Any], ...] = Field(
        default=(), description="as Kubernetes writes them; those for dead nodes come by themselves"
    )

    @model_validator(mode="after")
    def _limit_above_request(self) -> Self:
        if self.max_cpus is not None and self.max_cpus < self.cpus:
            raise ValueError(
                f"max_cpus is {self.max_cpus:g} but cpus is {self.cpus:g}; set max_cpus to at least {self.cpus:g}, or leave it out"
            )
        return self


class HeadSettings(PodSettings):
    """The head's pod: Ray's services and the job's driver, no actors."""

    cpus: float = Field(default=2.0, gt=0.0, description="CPUs of the pod: what it requests, and its limit where `max_cpus` is left out")
    memory_gib: float = Field(default=8.0, gt=0.0, description="memory of the pod, shared memory included (request and limit)")


class WorkerGroupSettings(PodSettings):
    """Worker pods of one kind."""

    gpus: int = Field(default=0, ge=0, description="nvidia.com/gpu of a pod")
    min_replicas: int = Field(default=0, ge=0)
    max_replicas: int = Field(default=4, ge=1)

    @model_validator(mode="after")
    def _min_within_max(self) -> Self:
        if self.min_replicas > self.max_replicas:
            raise ValueError(
                f"min_replicas is {self.min_replicas} but max_replicas is {self.max_replicas}; set min_replicas to at most {self.max_replicas}"
            )
        return self


class KubeSettings(Settings):
    """The Kubernetes side: which image, which namespace, which pods, and how failures and waiting are treated."""

    namespace: str = Field(default="bioie", pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")
    profile: Profile = Field(
        default="elastic",
        description="`elastic`: worker groups grow from zero under Ray's autoscaler; `queued`: fixed size, admitted as a whole by Kueue",
    )
    image: str | None = Field(
        default=None, description="image of all pods; left out: BIOIE_IMAGE, else the release of this version in `registry`"
    )
    registry: str | None = Field(
        default=None, description="where the release image is pulled from (registry.example.org/team), when `image` is left out"
    )
    image_pull_policy: Literal["IfNotPresent", "Always", "Never"] = "IfNotPresent"
    image_pull_secrets: tuple[str, ...] = ()
    storage_claim: str | None = Field(
        default=None, description="a PersistentVolumeClaim, mounted at /store: a store is then a folder below it"
    )
    storage_secret: str | None = Field(
        default="bioie-storage", description="Secret whose keys become environment variables (AWS_ACCESS_KEY_ID, ...); null: none"
    )
    env_secrets: tuple[str, ...] = Field(
        default=(), description="further Secrets whose keys become environment variables: an endpoint's key, HF_TOKEN, a tracker's key"
    )
    site_config_map: str | None = Field(
        default="bioie-site",
        description="ConfigMap that says where this site keeps things, for recipes that do not: `store`, and `storage-endpoint` (optional)",
    )
    ca_config_map: str | None = Field(
        default=None, description="ConfigMap with `ca.crt`: a private CA that pods trust beside the public ones"
    )
    env: dict[str, str] = Field(default_factory=dict, description="further environment variables of all pods; never a credential")
    queue: str | None = Field(default=None, description="Kueue LocalQueue (profile `queued`)")
    priority_class: str | None = Field(default=None, description="Kueue WorkloadPriorityClass (queued), else a PriorityClass of pods")
    max_attempts: int = Field(default=3, ge=1, description="how often a job is started in all, each time on a fresh cluster")
    deadline_s: int = Field(default=86_400, ge=60, description="an attempt, waiting for pods included, is ended after this long")
    keep_after_finish_s: int = Field(default=600, ge=0, description="how long the pods of a finished job stay for a look")
    forget_after_s: int = Field(
        default=604_800, ge=0, description="elastic: how long the RayJob object of a finished job stays; queued ones stay until deleted"
    )
    idle_timeout_s: int = Field(default=60, ge=1, description="elastic: a worker pod without work is removed after this long")
    gcs_redis: str | None = Field(
        default=None, description="host:port of a Redis that keeps the head's state through a head restart (standing clusters)"
    )
    gcs_redis_secret: str | None = Field(default=None, description="Secret with the Redis password under `password`; left out: none")
    head: HeadSettings = HeadSettings()
    workers: dict[str, WorkerGroupSettings] = Field(default_factory=lambda: {"cpu": WorkerGroupSettings()})

    @field_validator("env")
    @classmethod
    def _no_credentials(cls, value: dict[str, str]) -> dict[str, str]:
        for name in value:
            if _CREDENTIAL.search(name):
                raise ValueError(
                    f"cluster.kube.env.{name} looks like a credential, and recipes, manifests and records can be read by many; put it into a "
                    "Secret and name that in cluster.kube.env_secrets"
                )
        return value

    @field_validator("workers")
    @classmethod
    def _group_names(cls, value: dict[str, WorkerGroupSettings]) -> dict[str, WorkerGroupSettings]:
        if not value:
            raise ValueError(
                "cluster.kube.workers has no group, and the head runs no work; give one, for example workers.cpu.max_replicas=2"
            )
        for name in value:
            if not re.match(GroupName, name):
                raise ValueError(f"cluster.kube.workers.{name}: a group's name has at most 15 of a-z, 0-9 and -, and begins with a letter")
            if name in {"head", "headgroup"}:  # Kueue's name of the head's pods, and KubeRay's
                raise ValueError(f"cluster.kube.workers.{name}: this name is the head's own; call the group cpu or gpu, say")
        return value

    @model_validator(mode="after")
    def _pods_go_before_their_job(self) -> Self:
        if self.forget_after_s < self.keep_after_finish_s:
            raise ValueError(
                f"cluster.kube.forget_after_s is {self.forget_after_s}, but the pods stay for cluster.kube.keep_after_finish_s="
                f"{self.keep_after_finish_s}, and go with their RayJob; set forget_after_s to at least {self.keep_after_finish_s}"
            )
        return self

    @model_validator(mode="after")
    def _queue_of_the_profile(self) -> Self:
        if self.profile == "queued" and self.queue is None:
            raise ValueError("cluster.kube.profile=queued waits in a Kueue queue; set cluster.kube.queue to a LocalQueue of the namespace")
        if self.profile == "elastic" and self.queue is not None:
            raise ValueError(
                "cluster.kube.queue is for cluster.kube.profile=queued: Kueue admits fixed sizes only; set that, or drop the queue"
            )
        return self


class ClusterSettings(Settings):
    """The executor and its pool of actors; `kube` is read only where a job goes to Kubernetes."""

    executor: Literal["ray", "inline"] = Field(default="ray", description="`inline`: one plain process, no Ray")
    num_workers: int | None = Field(default=None, ge=1, description="actors of the pool; left out: as many as the CPUs or GPUs allow")
    ranks: int = Field(default=1, ge=1, description="processes of a training, each on `gpus_per_worker` GPUs or `train.threads` CPUs")
    min_ranks: int | None = Field(
        default=None, ge=1, description="go on with so few when ranks are lost for good; left out: a training waits until all are there"
    )
    gpus_per_worker: float = Field(
        default=0.0,
        ge=0.0,
        description="of an actor that runs a model, or a rank; actors that run none (preparing corpora, scoring answers) reserve no GPU",
    )
    memory_per_worker_gib: float | None = Field(default=None, gt=0.0)
    max_worker_restarts: int = Field(
        default=5, ge=0, description="a shard that kills its actor more often than this is reported, not tried for ever"
    )
    max_lost_nodes: int = Field(
        default=20, ge=0, description="how many nodes (spot, say) may be lost under one shard in addition before it is reported"
    )
    start_timeout_s: int = Field(
        default=900,
        ge=1,
        description="a job ends with an error when for this long no worker could be started (no such pod can be had); a training, when its waits "
        "for ranks are so long together and no checkpoint came meanwhile",
    )
    kube: KubeSettings = KubeSettings()

    @model_validator(mode="after")
    def _min_ranks_within_ranks(self) -> Self:
        if self.min_ranks is not None and self.min_ranks > self.ranks:
            raise ValueError(
                f"cluster.min_ranks is {self.min_ranks} but cluster.ranks is {self.ranks}; set min_ranks to at most {self.ranks}"
            )
        return self

    @model_validator(mode="after")
    def _a_rank_has_whole_gpus(self) -> Self:
        if self.ranks > 1 and self.gpus_per_worker % 1:
            raise ValueError(
                f"cluster.gpus_per_worker={self.gpus_per_worker:g} would put two of cluster.ranks={self.ranks} on one GPU, which NCCL refuses; "
                f"set gpus_per_worker={math.ceil(self.gpus_per_worker)}, or ranks=1"
            )
        return self
