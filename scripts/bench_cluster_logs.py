"""How long `bioie logs --follow` is silent when its connection is cut; a part of bench_cluster.py."""

from __future__ import annotations

import json
import os
import random
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

from kube_access import Cluster, wait_until

from bioie_ray.cluster.rayjob import render_rayjob, to_yaml
from bioie_ray.config.recipe import Recipe

LINE_EVERY_S = 0.1
# What the driver does: numbered lines, so that a lost or a doubled one is seen.
ENTRYPOINT = f"python -u -c 'import time; [(print(i), time.sleep({LINE_EVERY_S})) for i in range(36000)]'"
START_TIMEOUT_S = 300
SILENCE_TIMEOUT_S = 120
# Ray hands the driver's lines to the submitter about once a second: cuts and probes fall anywhere in that second.
BETWEEN_CUTS_S = (3.0, 5.0)
UNDISTURBED_S = 15.0


class CuttingProxy:
    """A TCP proxy on a free loopback port. ``cut`` closes every connection; new ones are taken at once."""

    def __init__(self, host: str, port: int) -> None:
        self.accepted: list[float] = []
        self._target = (host, port)
        self._open: set[socket.socket] = set()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def cut(self) -> float:
        """Close all connections on both sides; returns the moment."""
        moment = time.monotonic()
        for one in list(self._open):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        return moment

    def close(self) -> None:
        """End it."""
        self._listener.shutdown(socket.SHUT_RDWR)  # a mere close would leave accept() waiting
        self._listener.close()
        self.cut()

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self.accepted.append(time.monotonic())
            try:
                server = socket.create_connection(self._target, timeout=10)
            except OSError:
                client.close()
                continue
            server.settimeout(None)
            self._open |= {client, server}
            for source, target in ((client, server), (server, client)):
                threading.Thread(target=self._pump, args=(source, target), daemon=True).start()

    def _pump(self, source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65_536):
                target.sendall(data)
        for one in (source, target):
            self._open.discard(one)
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)


@dataclass
class Follower:
    """A running `bioie logs --follow`: when each of the driver's numbers came."""

    process: subprocess.Popen[str]
    came: list[tuple[float, int]] = field(default_factory=list)

    def read(self) -> None:
        """Until the command ends; its other lines (our notes) are passed over."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.strip().isdigit():
                self.came.append((time.monotonic(), int(line)))

    def first_after(self, moment: float) -> float | None:
        """When the first line after a moment came; None while there is none."""
        return next((at for at, _ in list(self.came) if at > moment), None)

    def faults(self) -> tuple[int, int]:
        """How many numbers are missing between the first and the last, and how many came twice."""
        numbers = [number for _, number in self.came]
        distinct = set(numbers)
        return max(distinct) - min(distinct) + 1 - len(distinct), len(numbers) - len(distinct)


@dataclass(frozen=True)
class Cuts:
    """Seconds from a cut to the new connection and to the next line; and to the next line from moments without a cut."""

    reconnected_s: list[float]
    next_line_s: list[float]
    undisturbed_s: list[float]
    num_lines: int
    num_lost: int
    num_twice: int


def time_cuts(cluster: Cluster, recipe: Recipe, image: str, num_cuts: int) -> Cuts:
    """Follow a driver that counts, and cut the connection again and again.

    Raises:
        AssertionError: the log did not begin, or was not read on.
    """
    manifest = render_rayjob(recipe, image=image)
    manifest["spec"]["entrypoint"] = ENTRYPOINT
    name = manifest["metadata"]["name"]
    moments = random.Random(0)
    with cluster.job(name), _followed(cluster, name, to_yaml(manifest)) as (proxy, follower):
        wait_until("the first line of the log", lambda: follower.came, START_TIMEOUT_S)
        time.sleep(BETWEEN_CUTS_S[1])  # what was printed before the client came is read in one go
        begun = time.monotonic()
        time.sleep(UNDISTURBED_S)
        probes = [begun + moments.uniform(0.0, UNDISTURBED_S * 0.8) for _ in range(max(num_cuts, 20))]
        reconnected, next_line = [], []
        for number in range(num_cuts):
            time.sleep(moments.uniform(*BETWEEN_CUTS_S))
            cut = proxy.cut()
            again = wait_until("the client to connect again", partial(_first, proxy.accepted, cut), SILENCE_TIMEOUT_S, 0.02)
            # A line that comes sooner was on its way when the connection was cut.
            line = wait_until("the next line after a cut", partial(follower.first_after, again), SILENCE_TIMEOUT_S, 0.02)
            reconnected.append(again - cut)
            next_line.append(line - cut)
            print(f"cut {number + 1}: connected after {again - cut:.2f} s, next line after {line - cut:.2f} s", file=sys.stderr, flush=True)
        time.sleep(BETWEEN_CUTS_S[0])
        waits = [found - moment for moment in probes if (found := follower.first_after(moment)) is not None]
        return Cuts(reconnected, next_line, waits, len(follower.came), *follower.faults())


def _first(moments: list[float], after: float) -> float | None:
    return next((moment for moment in moments if moment > after), None)


@contextmanager
def _followed(cluster: Cluster, name: str, manifest: str) -> Iterator[tuple[CuttingProxy, Follower]]:
    """Start the job, and `bioie logs --follow` through a proxy once there is something to follow."""
    config = json.loads(cluster.kubectl("config", "view", "--raw", "--minify", "--flatten", "-o", "json"))
    server = config["clusters"][0]["cluster"]
    if "proxy-url" in server:
        raise ValueError(
            "the kubeconfig reaches its API server through a proxy of its own (proxy-url): connections to it cannot be cut here"
        )
    url = urlsplit(server["server"])
    assert url.hostname is not None
    proxy = CuttingProxy(url.hostname, url.port or 443)
    server["server"] = f"{url.scheme}://127.0.0.1:{proxy.port}{url.path}"
    if url.hostname != "127.0.0.1":
        server.setdefault("tls-server-name", url.hostname)
    with tempfile.TemporaryDirectory() as folder:  # readable by nobody else: it holds credentials
        path = Path(folder) / "kubeconfig"
        path.write_text(json.dumps(config))
        environment = {**os.environ, "KUBECONFIG": str(path), "NO_PROXY": "127.0.0.1", "PYTHONUNBUFFERED": "1"}
        cluster.kubectl("apply", "-f", "-", text=manifest)
        wait_until("the submitter of the counting job", lambda: cluster.running(f"job-name={name}"), START_TIMEOUT_S)
        command = [sys.executable, "-m", "bioie_ray.cli", "logs", name, "--follow", "--namespace", cluster.namespace]
        follower = Follower(subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True))
        threading.Thread(target=follower.read, daemon=True).start()
        try:
            yield proxy, follower
        finally:
            follower.process.terminate()
            follower.process.wait()
            proxy.close()
