"""Logs and port-forwards through a real API server and kubelet, through connections that are cut."""

from __future__ import annotations

import copy
import socket
import struct
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest
import yaml
from kube_access import wait_until

from bioie_ray.cluster.api import Cluster as Client
from bioie_ray.cluster.api import connect
from bioie_ray.cluster.pod_log import follow_container
from bioie_ray.cluster.port_forward import PortForward

if TYPE_CHECKING:
    from kube_access import Cluster

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]


@pytest.fixture
def client(kubeconfig: str) -> Client:
    return connect()


@pytest.fixture
def talker(cluster: Cluster, image: str, request: pytest.FixtureRequest) -> Iterator[str]:
    """A pod that serves HTTP on 8000 and prints so many numbers, ten a second."""
    name = f"talker-{request.param}"
    script = (
        "import http.server, sys, threading, time\n"
        "class H(http.server.BaseHTTPRequestHandler):\n"
        "    protocol_version = 'HTTP/1.1'\n"
        "    def do_POST(self):\n"
        "        body = self.rfile.read(int(self.headers['Content-Length']))\n"
        "        self.send_response(200); self.send_header('Content-Length', str(len(body))); self.end_headers(); self.wfile.write(body)\n"
        "    def log_message(self, *a): pass\n"
        "threading.Thread(target=http.server.ThreadingHTTPServer(('', 8000), H).serve_forever, daemon=True).start()\n"
        "for n in range(int(sys.argv[1])):\n"
        "    print(n, flush=True); time.sleep(0.1)\n"
    )
    restricted = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}, "runAsNonRoot": True, "runAsUser": 10001}
    container = {
        "name": "talker",
        "image": image,
        "command": ["python", "-c", script, str(request.param)],
        "securityContext": {**restricted, "seccompProfile": {"type": "RuntimeDefault"}},
        "resources": {"requests": {"cpu": "20m", "memory": "64Mi"}, "limits": {"memory": "128Mi"}},
    }
    spec = {"restartPolicy": "Never", "automountServiceAccountToken": False, "containers": [container]}
    cluster.kubectl("apply", "-f", "-", text=yaml.safe_dump({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec}))
    wait_until("the talker", lambda: cluster.core.read_namespaced_pod(name, cluster.namespace).status.phase != "Pending", 120)
    yield name
    cluster.kubectl("delete", "pod", name, "--wait=false")


@contextmanager
def cutting_proxy(host: str, port: int, every_s: float) -> Iterator[tuple[int, list[float]]]:
    """A TCP proxy that resets all of its connections now and then, as a lost network does; its port, and when it cut something."""
    listener = socket.create_server(("127.0.0.1", 0))
    live: set[socket.socket] = set()
    cuts: list[float] = []
    over = threading.Event()

    def pump(source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                target.sendall(data)
        for side in (source, target):
            live.discard(side)
            with suppress(OSError):
                side.close()

    def accept() -> None:
        while True:
            try:
                near, _ = listener.accept()
            except OSError:
                return
            far = socket.create_connection((host, port), timeout=10)
            far.settimeout(None)
            live.update((near, far))
            for pair in ((near, far), (far, near)):
                threading.Thread(target=pump, args=pair, daemon=True).start()

    def cut() -> None:
        while not over.wait(every_s):
            if live:
                cuts.append(time.monotonic())
            for side in list(live):
                with suppress(OSError):
                    side.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    side.shutdown(socket.SHUT_RDWR)

    for target in (accept, cut):
        threading.Thread(target=target, daemon=True).start()
    try:
        yield listener.getsockname()[1], cuts
    finally:
        over.set()
        listener.close()


@pytest.mark.parametrize("talker", [150], indirect=True)
def test_a_log_is_followed_through_cut_connections_with_every_line_once(cluster: Cluster, client: Client, talker: str) -> None:
    server = urlsplit(client.server)
    assert server.hostname is not None
    with cutting_proxy(server.hostname, server.port or 443, every_s=1.7) as (port, cuts):
        configuration = copy.copy(client.configuration)
        configuration.tls_server_name = configuration.tls_server_name or server.hostname
        configuration.host = f"{server.scheme}://127.0.0.1:{port}"
        breaks: list[str] = []
        through = Client(configuration, context="cut")
        found = list(follow_container(through, cluster.namespace, talker, "talker", on_break=breaks.append))
    assert found == [str(n) for n in range(150)]
    assert cuts  # some eight on an idle machine; a busy one is still starting when the first of them come
    assert breaks


@pytest.mark.parametrize("talker", [3000], indirect=True)
def test_a_port_forward_carries_several_connections_and_large_bodies(cluster: Cluster, client: Client, talker: str) -> None:
    bodies = [bytes([n]) * (300_000 * n + 1) for n in range(4)]
    with PortForward(client, cluster.namespace, 8000, lambda: talker) as forward:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

        def listens() -> bool:
            try:
                opener.open(f"http://{forward.address}/", data=b"x", timeout=20).close()
            except OSError:
                return False
            return True

        wait_until("the talker to listen", listens, 60)
        for body in [*bodies, *bodies]:
            with opener.open(f"http://{forward.address}/", data=body, timeout=60) as response:
                assert response.read() == body


def test_a_port_forward_to_nothing_says_why(cluster: Cluster, client: Client) -> None:
    with PortForward(client, cluster.namespace, 8000, lambda: "no-such-pod") as forward:
        with pytest.raises(OSError):  # noqa: PT011 - whichever way a closed connection shows
            urllib.request.build_opener(urllib.request.ProxyHandler({})).open(f"http://{forward.address}/", timeout=30)
        wait_until("the reason", lambda: forward.last_error, 10)
        assert "no port-forward to" in str(forward.last_error)
