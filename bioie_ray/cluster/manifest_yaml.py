"""Manifests as YAML that says why: the same text for the checked-in files and for what ``bioie render`` prints.

Comments come from the table below by the field's path, ``*`` standing for any one step. PyYAML writes none itself, so they are
put above the lines at which its own parser finds those fields.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import yaml

_POD = "spec.rayClusterSpec.headGroupSpec.template.spec"
_WIDTH = 130

# RayJob paths; those of a RayCronJob's template and of a RayCluster are the same behind another beginning (_PREFIXES).
COMMENTS: dict[str, str | dict[bool, str]] = {
    "spec.entrypoint": "The driver, in the head's pod. The file is the annotation bioie/recipe of that pod, mounted.",
    "spec.submissionMode": (
        "A Kubernetes Job hands the job over and follows its log, so `kubectl logs job/NAME` shows it. If the head is lost, KubeRay makes a new "
        "one, and the submitter's next pod finds the job unknown there and submits it anew; shards that were done stay done. (HTTPMode has no "
        "log to follow; SidecarMode has no second try: with the head its submitter is gone, and the whole cluster is built again.)"
    ),
    "spec.submitterConfig.backoffLimit": (
        "Tries of the submitter at one cluster. Kubernetes waits 10, 20, 40, 80 s between them: a lost head has 150 s to come back."
    ),
    "spec.backoffLimit": (
        "Further attempts when the submitter gave up or the job ended with an error, each on a new RayCluster. Cheap, because finished shards "
        "are kept; a deadline that passed is not tried again."
    ),
    "spec.activeDeadlineSeconds": "Counted for each attempt, from the moment its cluster is asked for; time in a Kueue queue does not count.",
    "spec.suspend": "Kueue takes this away once quota for all pods is there (gang admission), and puts it back to take the job off.",
    "spec.shutdownAfterJobFinishes": {
        True: "Kueue wants it: the quota is free again when the cluster is gone.",
        False: "Excluded by deletionStrategy, which does the same and more.",
    },
    "spec.ttlSecondsAfterFinished": (
        "So long the pods stay for a look. The RayJob itself stays until someone deletes it; the driver's log is in the store."
    ),
    "spec.deletionStrategy": (
        "First the pods go (they cost), later the RayJob with its submitter (its history). The driver's log stays in the store. KubeRay refuses "
        "these rules together with shutdownAfterJobFinishes, and Kueue refuses a RayJob without that: hence two profiles, elastic and queued."
    ),
    "spec.submitterPodTemplate": "KubeRay's own submitter has no securityContext, and a namespace that enforces `restricted` would refuse it.",
    "spec.rayClusterSpec.authOptions": "Ray's dashboard runs any code it is sent: KubeRay makes a token (a Secret of the RayCluster's name) and all ask for it.",
    "spec.rayClusterSpec.enableInTreeAutoscaling": {
        True: "Groups grow by what the job's actors ask for, and shrink to minReplicas when idle.",
        False: "Fixed size: Kueue admits a job as a whole or not at all.",
    },
    "spec.rayClusterSpec.gcsFaultToleranceOptions": "State of the head in Redis: with a new head, actors and detached jobs go on.",
    "spec.rayClusterSpec.headGroupSpec.rayStartParams.num-cpus": "No actor runs beside the GCS and the driver.",
    "spec.rayClusterSpec.headGroupSpec.rayStartParams.memory": (
        "What shared memory and Ray's own processes leave; left out, Ray would count the pod's whole limit."
    ),
    f"{_POD}.automountServiceAccountToken": "Only the autoscaler's container mounts a token for the API server (autoscalerOptions); code of jobs has none.",
    f"{_POD}.terminationGracePeriodSeconds": (
        "`ray start` as the container's first process does not end when asked to, so every pod takes all of it. What is finished is in the store."
    ),
    f"{_POD}.tolerations": "A node that does not answer costs 30 s, not Kubernetes' 300.",
    f"{_POD}.containers.0.env.BIOIE_STORE": "Where this site keeps outputs: ConfigMap bioie-site, of the overlay.",
    "spec.rayClusterSpec.workerGroupSpecs.*.rayStartParams.memory": "For actors; bioie_ray/cluster/resources.py has the sum.",
    "spec.schedule": "UTC if the operator runs in UTC.",
    "spec.jobTemplate": (
        "KubeRay 1.6.2 was seen to start two RayJobs for one tick. That is harmless: both make the version of the same day, a version is claimed "
        "by one conditional put, a shard is finished by whoever is first with it, the other takes it, and both end with the same record. Had the "
        "source changed between their starts, the later one fails with the difference, and the version stays that of the earlier."
    ),
}
_PREFIXES = {
    "RayJob": (("spec", "spec"),),
    "RayCronJob": (("spec.jobTemplate", "spec"), ("spec", "spec")),
    "RayCluster": (("spec", "spec.rayClusterSpec"),),
}


class _Dumper(yaml.SafeDumper):
    """Block style throughout; texts of several lines stay readable."""

    def ignore_aliases(self, data: Any) -> bool:
        return True

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:  # noqa: FBT001, FBT002 - PyYAML's signature
        super().increase_indent(flow=flow, indentless=False)


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _represent_text)


def to_yaml(manifest: Mapping[str, Any], *, header: Sequence[str] = ()) -> str:
    """A manifest with its comments, below a header of comment lines; equal manifests give equal text."""
    text = yaml.dump(manifest, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=1_000)
    lines = text.splitlines()
    above: dict[int, list[str]] = {}
    seen: set[str] = set()
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    assert root is not None
    for path, line, value in _fields(root, ()):
        pattern, comment = _comment(manifest["kind"], path, value)
        if comment and pattern not in seen:  # said once, not for every group
            seen.add(pattern)
            indent = " " * (len(lines[line]) - len(lines[line].lstrip(" ")))
            above[line] = [f"{indent}# {part}" for part in _wrap(comment, _WIDTH - len(indent))]
    body = [out for number, line in enumerate(lines) for out in (*above.get(number, ()), line)]
    return "\n".join([*(f"# {line}".rstrip() for line in header), *body]) + "\n"


def _fields(node: yaml.Node, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], int, str]]:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            below = (*path, str(key.value))
            yield below, key.start_mark.line, str(value.value)
            yield from _fields(value, below)
    elif isinstance(node, yaml.SequenceNode):
        for number, value in enumerate(node.value):
            name = _name_of(value)
            if name is not None:
                yield (*path, name), value.start_mark.line, ""
            yield from _fields(value, (*path, str(number)))


def _name_of(node: yaml.Node) -> str | None:
    """The `name` with which a list's entry (a container, a variable) begins."""
    if isinstance(node, yaml.MappingNode) and node.value and node.value[0][0].value == "name":
        return str(node.value[0][1].value)
    return None


def _comment(kind: str, path: tuple[str, ...], value: str) -> tuple[str, str | None]:
    dotted = ".".join(path)
    for ours, theirs in _PREFIXES.get(kind, ()):
        if not f"{dotted}.".startswith(f"{ours}."):
            continue
        candidate = theirs + dotted[len(ours) :]
        for pattern, comment in COMMENTS.items():
            if _matches(pattern, candidate):
                return pattern, comment.get(value == "true") if isinstance(comment, dict) else comment
    return "", None


def _matches(pattern: str, dotted: str) -> bool:
    return re.fullmatch(re.escape(pattern).replace(r"\*", r"[^.]+"), dotted) is not None


def _wrap(text: str, width: int) -> list[str]:
    lines, line = [], ""
    for word in text.split():
        if line and len(line) + len(word) + 3 > width:
            lines.append(line)
            line = word
        else:
            line = f"{line} {word}".strip()
    return [*lines, line]
