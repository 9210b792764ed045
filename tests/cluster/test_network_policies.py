"""Whom the network policies let through, by the semantics of NetworkPolicy: the cluster at hand may not enforce them."""

from __future__ import annotations

import pytest
from overlays import LABELS, OVERLAYS, Json, built, matches

# Who reaches whom. The semantics of NetworkPolicy, for the forms used here: a pod that some policy selects is closed in that
# direction but for what the policies that select it allow, all together; both ends must agree.
Pod = tuple[str, dict[str, str]]  # namespace, labels
HEAD: Pod = ("bioie", {"ray.io/is-ray-node": "yes", "ray.io/node-type": "head", "ray.io/cluster": "c", **LABELS})
WORKER: Pod = ("bioie", {"ray.io/is-ray-node": "yes", "ray.io/node-type": "worker", "ray.io/cluster": "c", **LABELS})
SUBMITTER: Pod = ("bioie", {**LABELS})
STRANGER: Pod = ("bioie", {"app": "notebook"})
OPERATOR: Pod = ("kuberay", {"app.kubernetes.io/name": "kuberay", "app.kubernetes.io/component": "kuberay-operator"})
PROMETHEUS: Pod = ("monitoring", {"app": "prometheus"})
DNS: Pod = ("kube-system", {"k8s-app": "kube-dns"})
S3: Pod = ("storage", {"app": "minio"})
OUTSIDE = "203.0.113.7"
METADATA = "169.254.169.254"


def is_peer(peer: Json, other: Pod | str) -> bool:
    if "ipBlock" in peer:
        return isinstance(other, str) and peer["ipBlock"]["cidr"] == f"{other}/32"
    if isinstance(other, str):
        return False
    namespace, labels = other
    if "namespaceSelector" in peer:
        here = matches(peer["namespaceSelector"], {"kubernetes.io/metadata.name": namespace})
    else:
        here = namespace == "bioie"
    return here and matches(peer.get("podSelector"), labels)


def allows(policies: list[Json], direction: str, pod: Pod | str, other: Pod | str, port: int) -> bool:
    if isinstance(pod, str) or pod[0] != "bioie":
        return True
    key, peers = {"Ingress": ("ingress", "from"), "Egress": ("egress", "to")}[direction]
    selecting = [p["spec"] for p in policies if direction in p["spec"]["policyTypes"] and matches(p["spec"]["podSelector"], pod[1])]
    return not selecting or any(
        (not rule.get(peers) or any(is_peer(peer, other) for peer in rule[peers]))
        and (not rule.get("ports") or any(entry["port"] == port for entry in rule["ports"]))
        for spec in selecting
        for rule in spec.get(key, ())
    )


def reaches(overlay: str, source: Pod | str, target: Pod | str, port: int) -> bool:
    policies = [item for item in built(overlay) if item["kind"] == "NetworkPolicy"]
    return allows(policies, "Egress", source, target, port) and allows(policies, "Ingress", target, source, port)


OPEN = [
    (WORKER, HEAD, 6379),
    (HEAD, WORKER, 40_123),
    (WORKER, WORKER, 40_123),
    (OPERATOR, HEAD, 8265),
    (SUBMITTER, HEAD, 8265),
    (PROMETHEUS, WORKER, 8080),
    (PROMETHEUS, HEAD, 44_217),
    (HEAD, OUTSIDE, 6443),
    (WORKER, DNS, 53),
    (SUBMITTER, DNS, 1053),
]
CLOSED = [
    (OPERATOR, HEAD, 6379),
    (OPERATOR, WORKER, 8265),
    (SUBMITTER, HEAD, 6379),
    (SUBMITTER, WORKER, 40_123),
    (STRANGER, HEAD, 8265),
    (HEAD, STRANGER, 80),
    (("elsewhere", LABELS), HEAD, 8265),
    (("elsewhere", WORKER[1]), HEAD, 6379),
    (S3, HEAD, 8265),
    (PROMETHEUS, HEAD, 8265),
    (OUTSIDE, HEAD, 8265),
    (WORKER, OUTSIDE, 6443),
    (WORKER, OUTSIDE, 80),
    (WORKER, METADATA, 80),
    (SUBMITTER, OUTSIDE, 443),
    (STRANGER, OUTSIDE, 443),
]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_network_is_closed_but_for_what_ray_needs(overlay: str) -> None:
    assert [(source, target, port) for source, target, port in OPEN if not reaches(overlay, source, target, port)] == []
    assert [(source, target, port) for source, target, port in CLOSED if reaches(overlay, source, target, port)] == []


def test_the_store_is_reached_inside_on_a_local_cluster_and_over_https_elsewhere() -> None:
    assert reaches("local", WORKER, S3, 9000)
    assert not reaches("local", WORKER, OUTSIDE, 443)
    assert reaches("gpu", WORKER, OUTSIDE, 443)
    assert not reaches("gpu", WORKER, S3, 9000)
