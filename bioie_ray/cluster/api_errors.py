"""What an API server's refusals and silences mean, in one sentence each, with the next step."""

from __future__ import annotations

import json
from urllib.parse import urlsplit

from bioie_ray.artifacts import reasons


class ClusterError(ValueError):
    """Something about the cluster that a person can mend; the message says what, where and how."""


class ApiError(ClusterError):
    """The API server refused. `status` is the HTTP status, `reason` Kubernetes' own word for it (``NotFound``, ``Forbidden``)."""

    def __init__(self, message: str, *, status: int, reason: str, server_message: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason
        self.server_message = server_message


class UnreachableError(ApiError):
    """No answer from the API server, or one that says it cannot answer now. Worth another try."""


def refused(method: str, path: str, status: int, body: bytes, *, server: str) -> ApiError:
    """The error for an answer of status 400 and more; one that may pass is an `UnreachableError`."""
    try:
        answer = json.loads(body)
    except ValueError:
        answer = {}
    message = str(answer.get("message") or body[:200].decode(errors="replace").strip() or f"HTTP {status}")
    reason = str(answer.get("reason") or f"HTTP {status}")
    details = (method, path, message)
    if status in {429, 500, 502, 503, 504} and not (status == 500 and "admission webhook" in message):
        return UnreachableError(f"{server} cannot answer now: {message}", status=status, reason=reason, server_message=message)
    return ApiError(_advise(status, *details), status=status, reason=reason, server_message=message)


def _advise(status: int, method: str, path: str, message: str) -> str:
    verb = {"GET": "read", "POST": "create", "DELETE": "delete", "PATCH": "change"}.get(method, method)
    what = urlsplit(path).path.removeprefix("/apis/").removeprefix("/api/")
    if status == 401:
        return f"the API server does not know you (HTTP 401): {message}; log in again, or renew the credentials of your kubeconfig"
    if status == 404 and "/apis/ray.io/" in path and "not found" not in message.replace("404 page not found", ""):
        return (
            "the cluster has no RayJob resource: the KubeRay operator and its CRDs are not installed; install KubeRay 1.6 (k8s/README.md)"
        )
    if status == 403 and "is forbidden: User" in message:
        return f"you may not {verb} {what}: {message}; have the role bioie-client of k8s/base bound to you; `bioie doctor` lists every missing right"
    return f"the API server refused to {verb} {what}: {message}"


def unreachable(server: str, error: BaseException) -> UnreachableError:
    """The error for an answer that did not come."""
    import urllib3

    if isinstance(error, urllib3.exceptions.MaxRetryError) and error.reason is not None:
        error = error.reason
    text = first_line(error)
    if isinstance(error, urllib3.exceptions.SSLError):
        text += "; the kubeconfig's certificate-authority does not fit this server"
    return UnreachableError(
        f"no answer from the API server {server}: {text}; check KUBECONFIG, the network and VPN, and: kubectl get --raw /readyz",
        status=0,
        reason="Unreachable",
    )


def first_line(error: BaseException) -> str:
    """What an exception says, without what libraries put around it."""
    # urllib3 puts a connection's memory address in front of what happened
    return reasons.first_line(error).split(">, ")[-1].split("): ")[-1].strip("'\")")
