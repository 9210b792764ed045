"""What KubeRay's operator and Kueue check in their controllers and not in the CRD, as errors before anything is applied.

``kubectl apply`` and a server-side dry run accept such objects; the operator then marks them ValidationFailed, or only writes an
event. From ``controllers/ray/utils/validation.go`` of ray-operator v1.6.2 and the RayJob webhook of Kueue v0.15.0, those rules that our
settings can meet. Every function returns nothing or raises; the message names the field and, where a setting decides, that.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from bioie_ray.cluster.naming import MAX_RAYCLUSTER_NAME, MAX_RAYCRONJOB_NAME, MAX_RAYJOB_NAME, RECIPE_ANNOTATION

Json = Mapping[str, Any]
MIN_RAY_FOR_TOKENS = (2, 52)
MAX_GROUPS_IN_QUEUE = 7
# Kubernetes allows 256 KiB for all annotations of an object; the rest is for what others add.
MAX_RECIPE_BYTES = 200 * 1024
_DNS_1035 = re.compile(r"^[a-z]([-a-z0-9]*[a-z0-9])?$")
_DELETION_ORDER = ("DeleteWorkers", "DeleteCluster", "DeleteSelf")
_CRON_FIELD = r"[0-9*/,A-Za-z?-]+"
_RESOURCE_PARAMS = frozenset({"num-cpus", "num-gpus", "memory", "resources"})
_REDIS_VARIABLES = ("RAY_REDIS_ADDRESS", "REDIS_PASSWORD", "REDIS_USERNAME")


class RuleError(ValueError):
    """A manifest that the API server would take and the operator would refuse; the message has one line for each rule."""


def check_rayjob(manifest: Json) -> None:
    """Raises RuleError for what the operator (or, with a queue, Kueue) would refuse of a RayJob."""
    problems = [*_name(manifest, MAX_RAYJOB_NAME), *_job(manifest["spec"])]
    if "kueue.x-k8s.io/queue-name" in manifest["metadata"].get("labels", {}):
        problems += _queued(manifest["spec"])
    _raise(manifest, problems)


def check_raycluster(manifest: Json) -> None:
    """Raises RuleError for what the operator would refuse of a RayCluster."""
    _raise(manifest, [*_name(manifest, MAX_RAYCLUSTER_NAME), *_cluster(manifest["spec"], "spec")])


def check_raycronjob(manifest: Json) -> None:
    """Raises RuleError for what the operator would refuse of a RayCronJob or of the RayJobs it makes."""
    spec = manifest["spec"]
    problems = [*_name(manifest, MAX_RAYCRONJOB_NAME), *_job(spec["jobTemplate"])]
    if not re.fullmatch(rf"@(yearly|annually|monthly|weekly|daily|midnight|hourly)|{_CRON_FIELD}( {_CRON_FIELD}){{4}}", spec["schedule"]):
        problems.append(
            f"spec.schedule is {spec['schedule']!r}; five fields of cron are wanted, for example '30 2 * * *' for 02:30 each day"
        )
    _raise(manifest, problems)


def _raise(manifest: Json, problems: Sequence[str]) -> None:
    if problems:
        raise RuleError("\n  ".join([f"{manifest['kind']} {manifest['metadata']['name']} would be refused:", *problems]))


def _name(manifest: Json, longest: int) -> Iterator[str]:
    name = manifest["metadata"]["name"]
    if len(name) > longest:
        yield f"its name has {len(name)} characters, and the operator's own names leave room for {longest}; shorten the recipe's `name`"
    if not _DNS_1035.match(name):
        yield f"its name {name!r} is no DNS label: a-z, 0-9 and -, a letter first, no - last"


def _job(spec: Json) -> Iterator[str]:
    yield from _numbers(spec)
    yield from _ending(spec)
    yield from _submission(spec)
    cluster = spec.get("rayClusterSpec")
    if cluster is None:
        yield "spec.rayClusterSpec is missing"
        return
    yield from _deletion(spec, autoscaling=bool(cluster.get("enableInTreeAutoscaling")))
    yield from _cluster(cluster, "spec.rayClusterSpec")


def _numbers(spec: Json) -> Iterator[str]:
    leasts = {"activeDeadlineSeconds": 1, "preRunningDeadlineSeconds": 1, "backoffLimit": 0, "ttlSecondsAfterFinished": 0}
    for field, least in leasts.items():
        if spec.get(field, least) < least:
            yield f"spec.{field} is {spec[field]}; it must be at least {least}"


def _ending(spec: Json) -> Iterator[str]:
    shutdown = spec.get("shutdownAfterJobFinishes", False)
    if spec.get("suspend") and not shutdown:
        yield "spec.suspend needs spec.shutdownAfterJobFinishes: true"
    if spec.get("ttlSecondsAfterFinished", 0) and not shutdown:
        yield "spec.ttlSecondsAfterFinished needs spec.shutdownAfterJobFinishes: true"
    if shutdown and spec.get("deletionStrategy", {}).get("deletionRules"):
        yield "spec.deletionStrategy.deletionRules and spec.shutdownAfterJobFinishes: true exclude each other"


def _submission(spec: Json) -> Iterator[str]:
    mode = spec.get("submissionMode", "K8sJobMode")
    if spec.get("clusterSelector"):
        yield "spec.clusterSelector: our RayJobs bring their own cluster; submit to a standing one by `bioie submit --to ray`"
    if mode == "InteractiveMode" and spec.get("backoffLimit", 0):
        yield "spec.backoffLimit must be 0 with submissionMode InteractiveMode"
    if mode == "SidecarMode" and {"submitterPodTemplate", "submitterConfig"} & spec.keys():
        yield "submissionMode SidecarMode takes neither submitterPodTemplate nor submitterConfig; its submitter runs in the head's pod"
    if spec.get("submitterPodTemplate", {}).get("spec", {}).get("restartPolicy", "Never") not in {"Never", "OnFailure"}:
        yield "spec.submitterPodTemplate: a Kubernetes Job wants restartPolicy Never or OnFailure"


def _deletion(spec: Json, *, autoscaling: bool) -> Iterator[str]:
    strategy = spec.get("deletionStrategy")
    if strategy is None:
        return
    rules = strategy.get("deletionRules", [])
    if {"onSuccess", "onFailure"} & strategy.keys():
        yield "spec.deletionStrategy: onSuccess and onFailure are the old form; use deletionRules"
    if not rules:
        yield "spec.deletionStrategy has no deletionRules"
    found: dict[str, dict[str, int]] = {}
    for number, rule in enumerate(rules):
        where, condition = f"spec.deletionStrategy.deletionRules[{number}]", rule["condition"]
        states = [condition[key] for key in ("jobStatus", "jobDeploymentStatus") if key in condition]
        if len(states) != 1:
            yield f"{where}.condition wants one of jobStatus and jobDeploymentStatus"
            continue
        if autoscaling and rule["policy"] == "DeleteWorkers":
            yield f"{where}: DeleteWorkers does not go with the autoscaler"
        seconds = found.setdefault(states[0], {})
        if rule["policy"] in seconds:
            yield f"{where}: a second {rule['policy']} for {states[0]}"
        seconds[rule["policy"]] = condition.get("ttlSeconds", 0)
    yield from _order_of_deletion(found)


def _order_of_deletion(found: Mapping[str, Mapping[str, int]]) -> Iterator[str]:
    for state, seconds in found.items():
        ordered = [(policy, seconds[policy]) for policy in _DELETION_ORDER if policy in seconds]
        for (earlier, first), (later, second) in itertools.pairwise(ordered):
            if second < first:
                yield f"spec.deletionStrategy: {state}: {later} after {second} s comes before {earlier} after {first} s"


def _cluster(spec: Json, where: str) -> Iterator[str]:
    groups, autoscaling = spec.get("workerGroupSpecs", []), bool(spec.get("enableInTreeAutoscaling"))
    yield from _group(spec["headGroupSpec"], f"{where}.headGroupSpec", autoscaling=autoscaling)
    names = [group["groupName"] for group in groups]
    if len(set(names)) != len(names):
        yield f"{where}.workerGroupSpecs: two groups have one name"
    for group in groups:
        place = f"{where}.workerGroupSpecs {group['groupName']}"
        yield from _group(group, place, autoscaling=autoscaling)
        least, most = group.get("minReplicas"), group.get("maxReplicas")
        if not autoscaling and (least is None or most is None):
            yield f"{place} needs minReplicas and maxReplicas without the autoscaler"
        if least is not None and most is not None and not 0 <= least <= most:
            yield f"{place} has minReplicas {least} and maxReplicas {most}"
    yield from _head_variables(spec, where, autoscaling=autoscaling)
    yield from _tokens(spec, where)
    annotations = spec["headGroupSpec"]["template"].get("metadata", {}).get("annotations", {})
    size = len(annotations.get(RECIPE_ANNOTATION, "").encode())
    if size > MAX_RECIPE_BYTES:
        yield f"the recipe has {size // 1024} KiB, and an annotation holds {MAX_RECIPE_BYTES // 1024}; split its matrix"


def _group(group: Json, where: str, *, autoscaling: bool) -> Iterator[str]:
    spec, params = group["template"]["spec"], group.get("rayStartParams", {})
    if not spec.get("containers"):
        yield f"{where} has no container"
    if group.get("resources") and _RESOURCE_PARAMS & params.keys():
        yield f"{where} sets resources and rayStartParams {', '.join(sorted(_RESOURCE_PARAMS & params.keys()))}; use one"
    if "labels" in params:
        yield f"{where} sets rayStartParams.labels, which the operator does not take"
    if autoscaling and spec.get("restartPolicy", "Never") != "Never":
        yield f"{where} wants restartPolicy Never with autoscaler v2"


def _head_variables(spec: Json, where: str, *, autoscaling: bool) -> Iterator[str]:
    containers = spec["headGroupSpec"]["template"]["spec"].get("containers") or [{}]
    variables = {entry["name"] for entry in containers[0].get("env", [])}
    for name in _REDIS_VARIABLES:
        if name in variables:
            yield f"{where}: the head's variable {name} is set; give gcsFaultToleranceOptions instead (cluster.kube.gcs_redis)"
    if "RAY_enable_autoscaler_v2" in variables:
        what = "autoscalerOptions.version says it" if autoscaling else "there is no autoscaler"
        yield f"{where}: the head's variable RAY_enable_autoscaler_v2 is set, but {what}; take it out of cluster.kube.env"
    if spec.get("autoscalerOptions", {}).get("idleTimeoutSeconds", 0) < 0:
        yield f"{where}.autoscalerOptions.idleTimeoutSeconds is negative"


def _tokens(spec: Json, where: str) -> Iterator[str]:
    options = spec.get("authOptions", {})
    if options.get("mode") != "token":
        yield f"{where}.authOptions.mode is not token: the dashboard would run what anybody sends it"
    version = re.match(r"^(\d+)\.(\d+)\.\d+", spec.get("rayVersion", ""))
    if version is None or (int(version[1]), int(version[2])) < MIN_RAY_FOR_TOKENS:
        yield f"{where}.rayVersion is {spec.get('rayVersion')!r}; tokens need 2.52.0 or later"


def _queued(spec: Json) -> Iterator[str]:
    cluster = spec.get("rayClusterSpec", {})
    if cluster.get("enableInTreeAutoscaling"):
        yield "spec.rayClusterSpec.enableInTreeAutoscaling: Kueue admits fixed sizes only; set cluster.kube.profile=queued"
    if not spec.get("shutdownAfterJobFinishes"):
        yield "spec.shutdownAfterJobFinishes: Kueue wants true, or the quota would stay taken"
    groups = cluster.get("workerGroupSpecs", [])
    if len(groups) > MAX_GROUPS_IN_QUEUE:
        yield f"spec.rayClusterSpec.workerGroupSpecs: {len(groups)} groups, and Kueue takes {MAX_GROUPS_IN_QUEUE}"
    if any(group["groupName"] == "head" for group in groups):
        yield "spec.rayClusterSpec.workerGroupSpecs: `head` is Kueue's name of the head's pods"
