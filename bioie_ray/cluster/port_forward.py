"""A local TCP port that leads to a port of a pod, through the API server (as `kubectl port-forward` does, without kubectl)."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Any, Self

from bioie_ray.cluster.api import Cluster, ClusterError

_CHUNK = 64 * 1024


class PortForward:
    """While it is open, connections to `address` go to a pod. Each connection asks `find_pod` anew, so a replaced pod is found.

    Every connection is a websocket of its own to the API server: they are as independent as connections to the pod itself.
    """

    def __init__(self, cluster: Cluster, namespace: str, port: int, find_pod: Callable[[], str]) -> None:
        self._cluster, self._namespace, self._port, self._find_pod = cluster, namespace, port, find_pod
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._closed = threading.Event()
        self.last_error: str | None = None

    @property
    def address(self) -> str:
        """`127.0.0.1:PORT`; nobody outside this machine can connect."""
        host, port = self._listener.getsockname()[:2]
        return f"{host}:{port}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, name=f"port-forward {self.address}", daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._closed.set()
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        while not self._closed.is_set():
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection:
            try:
                forward = self._open()
            except (ClusterError, OSError) as error:
                self.last_error = str(error)
                return
            remote = forward.socket(self._port)
            remote.settimeout(None)
            back = threading.Thread(target=_pump, args=(remote, connection), daemon=True)
            back.start()
            _pump(connection, remote)
            back.join(timeout=5.0)
            with suppress(OSError):
                remote.close()
            if forward.error(self._port):  # nothing listens on that port of the pod, for example
                self.last_error = f"port {self._port} of the pod: {' '.join(str(forward.error(self._port)).split())[:300]}"

    def _open(self) -> Any:
        from kubernetes import client
        from kubernetes.stream import portforward

        pod = self._find_pod()
        # A client of its own: `portforward` swaps a method of the client for the time of the call, which threads cannot share.
        core = client.CoreV1Api(client.ApiClient(self._cluster.configuration))
        try:
            return portforward(core.connect_get_namespaced_pod_portforward, pod, self._namespace, ports=str(self._port))
        except client.ApiException as error:
            raise ClusterError(
                f"no port-forward to {self._namespace}/{pod}: {str(error.reason).splitlines()[0]}; you need the rights `get` and `create` on pods/portforward"
            ) from None


def _pump(source: Any, target: Any) -> None:
    """Copy until one side ends, then end the other: half-open connections are of no use to HTTP."""
    with suppress(OSError):
        while data := source.recv(_CHUNK):
            target.sendall(data)
    for side in (source, target):
        with suppress(OSError):
            side.shutdown(socket.SHUT_RDWR)
