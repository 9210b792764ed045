"""Every rule of the operator, by a manifest that breaks it: the API server would have said nothing."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
from render_builders import GPU, IMAGE, QUEUED, Json, demo

from bioie_ray.cluster.raycluster import render_raycluster
from bioie_ray.cluster.rayjob import render_rayjob
from bioie_ray.cluster.rules import RuleError, check_raycluster, check_rayjob

ELASTIC = render_rayjob(demo(), image=IMAGE)
IN_QUEUE = render_rayjob(demo(*QUEUED), image=IMAGE)
Change = Callable[[Json], object]


def spec(**fields: object) -> Change:
    return lambda manifest: manifest["spec"].update(fields)


def cluster(**fields: object) -> Change:
    return lambda manifest: manifest["spec"]["rayClusterSpec"].update(fields)


def group(**fields: object) -> Change:
    return lambda manifest: manifest["spec"]["rayClusterSpec"]["workerGroupSpecs"][0].update(fields)


def head_variable(name: str) -> Change:
    def change(manifest: Json) -> None:
        head = manifest["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]["containers"][0]
        head["env"].append({"name": name, "value": "1"})

    return change


def name(text: str) -> Change:
    return lambda manifest: manifest["metadata"].update(name=text)


def rules(*entries: tuple[str, str, int]) -> Change:
    made = [{"policy": policy, "condition": {"jobStatus": state, "ttlSeconds": seconds}} for policy, state, seconds in entries]
    return spec(deletionStrategy={"deletionRules": made})


def pods_restart(manifest: Json) -> None:
    manifest["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]["restartPolicy"] = "Always"


def large_recipe(manifest: Json) -> None:
    manifest["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["metadata"]["annotations"]["bioie/recipe"] = "x" * 300_000


BROKEN: list[tuple[Json, Change, str]] = [
    (ELASTIC, name("x" * 48), "48 characters, and the operator's own names leave room for 47"),
    (ELASTIC, name("1st"), "no DNS label"),
    (ELASTIC, spec(suspend=True), "suspend needs"),
    (ELASTIC, spec(ttlSecondsAfterFinished=5), "ttlSecondsAfterFinished needs"),
    (IN_QUEUE, spec(ttlSecondsAfterFinished=-5), "at least 0"),
    (ELASTIC, spec(activeDeadlineSeconds=0), "at least 1"),
    (ELASTIC, spec(backoffLimit=-1), "at least 0"),
    (ELASTIC, spec(shutdownAfterJobFinishes=True), "exclude each other"),
    (ELASTIC, spec(deletionStrategy={}), "has no deletionRules"),
    (ELASTIC, spec(deletionStrategy={"onSuccess": {}, "onFailure": {}}), "old form"),
    (ELASTIC, spec(deletionStrategy={"deletionRules": [{"policy": "DeleteSelf", "condition": {}}]}), "wants one of jobStatus"),
    (ELASTIC, rules(("DeleteWorkers", "FAILED", 1)), "does not go with the autoscaler"),
    (ELASTIC, rules(("DeleteSelf", "FAILED", 1), ("DeleteSelf", "FAILED", 2)), "a second DeleteSelf"),
    (
        ELASTIC,
        rules(("DeleteSelf", "FAILED", 1), ("DeleteCluster", "FAILED", 2)),
        "DeleteSelf after 1 s comes before DeleteCluster after 2 s",
    ),
    (ELASTIC, spec(clusterSelector={"ray.io/cluster": "bioie"}), "submit --to ray"),
    (ELASTIC, spec(submissionMode="InteractiveMode"), "must be 0 with submissionMode InteractiveMode"),
    (ELASTIC, spec(submissionMode="SidecarMode"), "takes neither submitterPodTemplate"),
    (ELASTIC, spec(submitterPodTemplate={"spec": {"restartPolicy": "Always"}}), "Never or OnFailure"),
    (ELASTIC, spec(rayClusterSpec=None), "rayClusterSpec is missing"),
    (ELASTIC, pods_restart, "restartPolicy Never with autoscaler v2"),
    (ELASTIC, group(minReplicas=5), "minReplicas 5 and maxReplicas 4"),
    (IN_QUEUE, group(minReplicas=None), "needs minReplicas and maxReplicas"),
    (ELASTIC, group(resources={"CPU": "4"}), "use one"),
    (ELASTIC, group(rayStartParams={"labels": "a=b"}), "does not take"),
    (ELASTIC, group(template={"spec": {"containers": []}}), "has no container"),
    (
        ELASTIC,
        lambda m: m["spec"]["rayClusterSpec"]["workerGroupSpecs"].append(m["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]),
        "one name",
    ),
    (ELASTIC, head_variable("RAY_REDIS_ADDRESS"), "gcsFaultToleranceOptions"),
    (ELASTIC, head_variable("RAY_enable_autoscaler_v2"), "autoscalerOptions.version says it"),
    (IN_QUEUE, head_variable("RAY_enable_autoscaler_v2"), "there is no autoscaler"),
    (ELASTIC, cluster(autoscalerOptions={"idleTimeoutSeconds": -1}), "negative"),
    (ELASTIC, cluster(authOptions={}), "would run what anybody sends"),
    (ELASTIC, cluster(rayVersion="2.51.9"), "2.52.0 or later"),
    (ELASTIC, cluster(rayVersion=""), "2.52.0 or later"),
    (ELASTIC, large_recipe, "split its matrix"),
    (IN_QUEUE, cluster(enableInTreeAutoscaling=True), "cluster.kube.profile=queued"),
    (IN_QUEUE, spec(shutdownAfterJobFinishes=False, suspend=False, ttlSecondsAfterFinished=0), "Kueue wants true"),
    (IN_QUEUE, group(groupName="head"), "Kueue's name of the head"),
]


@pytest.mark.parametrize(("manifest", "change", "told"), BROKEN, ids=[entry[2][:40] for entry in BROKEN])
def test_a_broken_rule_is_told(manifest: Json, change: Change, told: str) -> None:
    broken = copy.deepcopy(manifest)
    change(broken)
    with pytest.raises(RuleError) as caught:
        check_rayjob(broken)
    assert told in str(caught.value)


def test_all_broken_rules_are_told_at_once() -> None:
    broken = copy.deepcopy(ELASTIC)
    broken["metadata"]["name"] = "X" * 60
    broken["spec"]["backoffLimit"] = -1
    with pytest.raises(RuleError) as caught:
        check_rayjob(broken)
    assert len(str(caught.value).splitlines()) == 4


def test_kueue_takes_seven_groups() -> None:
    groups = ", ".join(f"g{number}: {{}}" for number in range(8))
    render_rayjob(demo(f"cluster.kube.workers={{{groups}}}"), image=IMAGE)
    with pytest.raises(RuleError, match="8 groups, and Kueue takes 7"):
        render_rayjob(demo(f"cluster.kube.workers={{{groups}}}", *QUEUED), image=IMAGE)


def test_a_standing_cluster_has_rules_too() -> None:
    manifest = render_raycluster(demo(*GPU).cluster.kube, image=IMAGE, name="x" * 53)
    manifest["metadata"]["name"] += "x"
    with pytest.raises(RuleError, match="leave room for 53"):
        check_raycluster(manifest)
