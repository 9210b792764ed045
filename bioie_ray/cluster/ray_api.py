"""Jobs on a Ray cluster that is there already, through Ray's job server: what `ray job submit` does, idempotent and with reconnects.

Where: an address that is given (``--address``, RAY_API_SERVER_ADDRESS, or RAY_ADDRESS in its http form), else the standing RayCluster
of the namespace, through a port-forward and with the token of its Secret.
https://docs.ray.io/en/latest/cluster/running-applications/job-submission/sdk.html
"""

from __future__ import annotations

import base64
import logging
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from bioie_ray.cluster.api import RAY, ApiError, Cluster, ClusterError, connect
from bioie_ray.cluster.explain import Finding, explain
from bioie_ray.cluster.naming import STANDING_CLUSTER
from bioie_ray.cluster.port_forward import PortForward
from bioie_ray.cluster.snapshot import gather_standing

T = TypeVar("T")
Json = Mapping[str, Any]

_DASHBOARD_PORT = 8265
# The operator's rule for the Secret it makes (CheckName): the last 50 characters, not beginning with a digit or a point.
_SECRET_NAME_LENGTH = 50
# Uploads and closed sockets are no news here; each of these sets a level of its own.
_TALKATIVE = ("ray.dashboard.modules.job.sdk", "ray.dashboard.modules.dashboard_sdk", "ray._private.runtime_env.packaging")
_TOKEN_KEY = "auth_token"  # noqa: S105 - the name of a key, not a secret


@dataclass(frozen=True, slots=True)
class RayServer:
    """A job server that answers. `cluster_spec` and `findings` (what holds its pods up) are known of a standing RayCluster of ours."""

    jobs: Any
    where: str
    cluster_spec: Json | None = None
    findings: Callable[[], list[Finding]] = list


def given_address(address: str | None) -> str | None:
    """The address that the user gave, by option or environment, if any."""
    found = address or os.environ.get("RAY_API_SERVER_ADDRESS")
    if found is None and os.environ.get("RAY_ADDRESS", "").startswith(("http://", "https://")):
        found = os.environ["RAY_ADDRESS"]
    if found is not None and not found.startswith(("http://", "https://")):
        raise ClusterError(
            f"{found} is not the address of a Ray job server; give http://HOST:8265 (the dashboard's), not the address of the GCS or of a client"
        )
    return found


@contextmanager
def ray_server(address: str | None, namespace: str, context: str | None = None) -> Iterator[RayServer]:
    """A job server to talk to for the time of the `with` block.

    Raises:
        ClusterError: Ray is not installed here, nothing answers, the token is wrong, or there is no standing cluster.
    """
    found = given_address(address)
    if found is not None:
        yield RayServer(_client(found, os.environ.get("RAY_AUTH_TOKEN")), found)
        return
    cluster = connect(context)
    standing = cluster.find(f"{RAY}/namespaces/{namespace}/rayclusters/{STANDING_CLUSTER}")
    if standing is None:
        raise ClusterError(
            f"no RayCluster {STANDING_CLUSTER} in namespace {namespace}; start it (kubectl apply -f k8s/raycluster.yaml), or name a job server: "
            "--address http://HOST:8265"
        )
    token = os.environ.get("RAY_AUTH_TOKEN") or _token(cluster, namespace, standing)
    with PortForward(cluster, namespace, _DASHBOARD_PORT, lambda: _head_pod(cluster, namespace, standing)) as forward:
        # requests would send even this through a proxy of the environment
        os.environ["NO_PROXY"] = ",".join(filter(None, [os.environ.get("NO_PROXY") or os.environ.get("no_proxy"), "127.0.0.1"]))
        try:
            jobs = _client(f"http://{forward.address}", token)
        except ClusterError as error:
            raise ClusterError(forward.last_error or str(error)) from None
        findings = partial(_findings, cluster, namespace, standing)
        yield RayServer(jobs, f"the RayCluster {STANDING_CLUSTER} in namespace {namespace}", standing.get("spec"), findings)


def _findings(cluster: Cluster, namespace: str, standing: Json) -> list[Finding]:
    """What holds the pods of the standing cluster up; nothing where that cannot be read now."""
    try:
        return explain(gather_standing(cluster, namespace, standing))
    except ApiError:
        return []


def asked(call: Callable[..., T], *arguments: Any, **options: Any) -> T:
    """Call the job server, with Ray's several kinds of errors as one.

    Raises:
        ClusterError: it refused or did not answer.
    """
    import requests

    try:
        return call(*arguments, **options)
    except (RuntimeError, OSError, requests.RequestException) as error:  # Ray's AuthenticationError is a RuntimeError
        raise ClusterError(_sentence(error)) from error


def find_job(server: RayServer, name: str) -> Any | None:
    """What the job server knows of a submission, or None."""
    try:
        return asked(server.jobs.get_job_info, name)
    except ClusterError as error:
        if "404" in str(error) or "does not exist" in str(error):
            return None
        raise


def known_job(server: RayServer, name: str) -> Any:
    """What the job server knows of a submission.

    Raises:
        ClusterError: nothing.
    """
    found = find_job(server, name)
    if found is None:
        raise ClusterError(f"{server.where} knows no job {name}; bioie status --to ray lists those it knows")
    return found


def _client(address: str, token: str | None) -> Any:
    try:
        from ray.job_submission import JobSubmissionClient
    except ImportError:
        raise ClusterError("this talks to Ray's job server, which needs Ray's own client: pip install 'bioie-ray[cluster]'") from None
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    client = asked(JobSubmissionClient, address, headers=headers)
    for module in _TALKATIVE:
        logging.getLogger(module).setLevel(logging.WARNING)
    return client


def _token(cluster: Cluster, namespace: str, standing: Json) -> str | None:
    """The token of the cluster, where it asks for one."""
    options = standing.get("spec", {}).get("authOptions") or {}
    if options.get("mode") != "token":
        return None
    name = options.get("secretName") or secret_name(standing["metadata"]["name"])
    secret = cluster.find(f"/api/v1/namespaces/{namespace}/secrets/{name}")
    if secret is None or _TOKEN_KEY not in (secret.get("data") or {}):
        raise ClusterError(
            f"the RayCluster asks for a token, but the Secret {name} with the key {_TOKEN_KEY} is not there; the KubeRay operator makes it: does it run? "
            "Or set RAY_AUTH_TOKEN"
        )
    return base64.b64decode(secret["data"][_TOKEN_KEY]).decode().strip()


def secret_name(ray_cluster: str) -> str:
    """Name of the Secret that the operator makes for a RayCluster (KubeRay 1.6)."""
    name = ray_cluster[-_SECRET_NAME_LENGTH:]
    return "r" + name[1:] if name[0].isdigit() or name[0] in ".-" else name


def _head_pod(cluster: Cluster, namespace: str, standing: Json) -> str:
    pods = cluster.items(f"/api/v1/namespaces/{namespace}/pods", labels=f"ray.io/cluster={STANDING_CLUSTER},ray.io/node-type=head")
    running = [
        p["metadata"]["name"]
        for p in pods
        if (p.get("status") or {}).get("phase") == "Running" and not p["metadata"].get("deletionTimestamp")
    ]
    if not running:
        state = f"its head pod is {(pods[0].get('status') or {}).get('phase')}" if pods else "it has no head pod"
        causes = "".join(f"; {finding}" for finding in _findings(cluster, namespace, standing)[:1])
        raise ClusterError(
            f"the RayCluster {STANDING_CLUSTER} in namespace {namespace} does not run: {state}{causes}; see: kubectl -n {namespace} describe raycluster {STANDING_CLUSTER}"
        )
    return str(running[0])


def _sentence(error: BaseException) -> str:
    text = " ".join(str(error).split())
    if "401" in text or "403" in text or "Authentication" in text or "Unauthorized" in text:
        return f"the Ray job server does not accept the token: {text[:200]}; set RAY_AUTH_TOKEN to the cluster's"
    return f"the Ray job server: {text[:400]}"
