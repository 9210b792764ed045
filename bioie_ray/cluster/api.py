"""Thin access to a Kubernetes API server: plain JSON objects in and out, a timeout on every call, errors as one sentence.

The `kubernetes` package reads the kubeconfig (certificates, tokens, exec plugins, proxies) and makes the connection pool; its
generated classes are left aside, since explanations and manifests are about plain objects, custom ones among them.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from importlib import import_module
from typing import Any
from urllib.parse import urlencode

from bioie_ray.cluster.api_errors import ApiError, ClusterError, UnreachableError, first_line, refused, unreachable

__all__ = ["RAY", "ApiError", "Cluster", "ClusterError", "Permission", "UnreachableError", "connect"]

Json = dict[str, Any]

RAY = "/apis/ray.io/v1"
_CONNECT_TIMEOUT_S = 5.0
_READ_TIMEOUT_S = 20.0
_PAGE = 500


@dataclass(frozen=True, slots=True)
class Permission:
    """One thing that may be allowed or not, as a SelfSubjectAccessReview asks for it."""

    verb: str
    resource: str
    group: str = ""
    subresource: str = ""
    namespace: str | None = None

    def __str__(self) -> str:
        name = f"{self.resource}/{self.subresource}" if self.subresource else self.resource
        return f"{self.verb} {name}{'.' + self.group if self.group else ''}"


class Cluster:
    """One API server, as one user. Thread-safe: the connection pool is urllib3's."""

    def __init__(self, configuration: Any, *, context: str) -> None:
        from kubernetes.client.rest import RESTClientObject

        self.configuration = configuration
        self.context = context
        self._ahead = timedelta(0)  # of the server's clock over ours
        self._pool = RESTClientObject(configuration).pool_manager

    @property
    def server(self) -> str:
        """URL of the API server."""
        return str(self.configuration.host).rstrip("/")

    def now(self) -> datetime:
        """The API server's clock (from its last answer), which wrote the timestamps that ages are counted from."""
        return datetime.now(UTC) + self._ahead

    def get(self, path: str, **query: str) -> Json:
        """The object (or list) at a path.

        Raises:
            ApiError: the server refused; `UnreachableError` where it did not answer.
        """
        return self._json("GET", path, query)

    def find(self, path: str, **query: str) -> Json | None:
        """The object at a path, or None where there is none (or no such kind of object)."""
        try:
            return self.get(path, **query)
        except ApiError as error:
            if error.status == 404:
                return None
            raise

    def items(self, path: str, *, labels: str = "", fields: str = "") -> list[Json]:
        """All objects of a collection, page by page."""
        query = {"limit": str(_PAGE)}
        if labels:
            query["labelSelector"] = labels
        if fields:
            query["fieldSelector"] = fields
        found: list[Json] = []
        while True:
            page = self.get(path, **query)
            found.extend(page.get("items") or ())
            token = page.get("metadata", {}).get("continue")
            if not token:
                return found
            query["continue"] = token

    def create(self, path: str, body: Mapping[str, Any], *, dry_run: bool = False) -> Json:
        """Create an object; with `dry_run` the server does everything but keep it."""
        query = {"dryRun": "All"} if dry_run else {}
        return self._json("POST", path, {**query, "fieldManager": "bioie", "fieldValidation": "Strict"}, body)

    def delete(self, path: str, *, propagation: str = "Foreground") -> Json:
        """Delete an object and, in the end, everything it owns."""
        return self._json("DELETE", path, {}, {"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": propagation})

    def allowed(self, permission: Permission) -> bool:
        """Whether this user may do that (asks the server, SelfSubjectAccessReview)."""
        attributes = {
            "verb": permission.verb,
            "resource": permission.resource,
            "group": permission.group,
            "subresource": permission.subresource,
            "namespace": permission.namespace or "",
        }
        review = self.create(
            "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews",
            {"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview", "spec": {"resourceAttributes": attributes}},
        )
        return bool(review.get("status", {}).get("allowed"))

    def lines(self, path: str, query: Mapping[str, str], *, read_timeout_s: float) -> Iterator[bytes]:
        """The body of a streamed answer, line by line without the newlines; a last line without one is not yielded.

        Raises:
            ApiError: the server refused.
            UnreachableError: the connection broke, or nothing came for `read_timeout_s`.
        """
        import urllib3

        response = self._open("GET", path, query, read_timeout_s=read_timeout_s)
        rest = b""
        try:
            for chunk in response.stream(amt=None if response.chunked else 16_384):
                *whole, rest = (rest + chunk).split(b"\n")
                yield from whole
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise unreachable(self.server, error) from error
        finally:
            response.close()
        if rest:
            yield rest

    def _json(self, method: str, path: str, query: Mapping[str, str], body: Mapping[str, Any] | None = None) -> Json:
        import urllib3

        response = self._open(method, path, query, body)
        try:
            answer = json.loads(response.data)
        except ValueError:
            raise ClusterError(
                f"{self.server}{path} answered something that is not JSON; is it a Kubernetes API server? `kubectl config view` shows the server"
            ) from None
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise unreachable(self.server, error) from error
        assert isinstance(answer, dict)
        return answer

    def _open(
        self,
        method: str,
        path: str,
        query: Mapping[str, str],
        body: Mapping[str, Any] | None = None,
        read_timeout_s: float = _READ_TIMEOUT_S,
    ) -> Any:
        import urllib3

        headers = {"Accept": "application/json, */*", "User-Agent": "bioie"}
        if body is not None:
            headers["Content-Type"] = "application/json"
        for setting in self.configuration.auth_settings().values():
            if setting["value"]:
                headers[setting["key"]] = setting["value"]
        try:
            response = self._pool.request(
                method,
                f"{self.server}{path}" + (f"?{urlencode(query)}" if query else ""),
                headers=headers,
                body=None if body is None else json.dumps(body),
                timeout=urllib3.Timeout(connect=_CONNECT_TIMEOUT_S, read=read_timeout_s),
                preload_content=False,
                retries=False,
            )
            with suppress(KeyError, TypeError, ValueError):
                self._ahead = parsedate_to_datetime(response.headers["Date"]) - datetime.now(UTC)
            if response.status >= 400:
                raise refused(method, path, response.status, response.data, server=self.server)
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise unreachable(self.server, error) from error
        return response


def connect(context: str | None = None) -> Cluster:
    """The cluster of KUBECONFIG (or ~/.kube/config, or of the pod this runs in).

    Raises:
        ClusterError: the `cluster` extra is missing, or no usable configuration.
    """
    try:
        from kubernetes import client
    except ImportError:
        raise ClusterError("this command talks to Kubernetes, whose package is not installed: pip install 'bioie-ray[cluster]'") from None
    import yaml

    config = _loaders()
    configuration = client.Configuration()
    where = os.environ.get("KUBECONFIG") or "~/.kube/config"
    try:
        config.load_kube_config(context=context, client_configuration=configuration)
    except (config.ConfigException, OSError, yaml.YAMLError, TypeError, KeyError) as error:
        if context is None and "KUBERNETES_SERVICE_HOST" in os.environ and "KUBECONFIG" not in os.environ:
            return Cluster(_in_cluster(configuration), context="in-cluster")
        raise ClusterError(
            f"no Kubernetes to talk to: {first_line(error)} ({where}); set KUBECONFIG to your cluster's kubeconfig, and check with: kubectl version"
        ) from None
    return Cluster(configuration, context=context or _current_context())


def _loaders() -> Any:
    """`kubernetes.config`, which has no types."""
    return import_module("kubernetes.config")


def _in_cluster(configuration: Any) -> Any:
    config = _loaders()
    try:
        config.load_incluster_config(client_configuration=configuration)
    except config.ConfigException as error:
        raise ClusterError(
            f"this pod may not talk to its API server: {first_line(error)}; give the pod a service account with a mounted token"
        ) from None
    return configuration


def _current_context() -> str:
    config = _loaders()
    try:
        return str(config.list_kube_config_contexts()[1]["name"])
    except (config.ConfigException, KeyError, TypeError):
        return ""
