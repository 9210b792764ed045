"""Ray's own autoscaler over nodes that are processes of this machine: groups really grow from zero and go back.

``ray.cluster_utils.AutoscalingCluster`` would do, but it ends every Ray of the machine, and its settings file is missing from
the wheel. The provider inside it is used here by name.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

HEAD_ID = "f" * 51 + "00000"
PROVIDER = "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider"
STORE_BYTES = 80_000_000


class FakeAutoscalingCluster:
    """A head without CPUs, and groups: name -> (resources of a node, most nodes). Nodes without work go after seconds."""

    def __init__(self, folder: Path, groups: Mapping[str, tuple[Mapping[str, float], int]]) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.address = f"127.0.0.1:{port}"
        settings = folder / "autoscaler.json"
        settings.write_text(json.dumps(self._settings(groups)))
        environment = {
            **os.environ,
            "AUTOSCALER_UPDATE_INTERVAL_S": "1",
            "RAY_FAKE_CLUSTER": "1",
            "RAY_enable_autoscaler_v2": "1",
            "RAY_CLOUD_INSTANCE_ID": HEAD_ID,
            "RAY_OVERRIDE_NODE_ID_FOR_TESTING": HEAD_ID,
        }
        command = [str(Path(sys.executable).parent / "ray"), "start", "--head", "--block", f"--port={port}", "--num-cpus=0", "--num-gpus=0"]
        command += [f"--autoscaling-config={settings}", f"--temp-dir={folder}", f"--object-store-memory={STORE_BYTES}"]
        command += ["--node-ip-address=127.0.0.1", "--include-dashboard=false", "--disable-usage-stats"]
        for tries_left in (2, 1, 0):  # on a busy machine a head misses Ray's fixed 30 s once in a while
            log = folder / f"head-{tries_left}.log"
            with log.open("w") as file:
                self._process = subprocess.Popen(command, env=environment, stdout=file, stderr=file, start_new_session=True)
            if self._starts(log):
                return
            self.stop()
        raise RuntimeError(f"the head of the cluster did not start: {log.read_text()[-2_000:]}")

    def _settings(self, groups: Mapping[str, tuple[Mapping[str, float], int]]) -> dict[str, object]:
        kinds: dict[str, object] = {
            name: {
                "resources": {**resources, "object_store_memory": STORE_BYTES},
                "node_config": {},
                "labels": {"ray.io/node-group": name},  # as KubeRay does it
                "min_workers": 0,
                "max_workers": most,
            }
            for name, (resources, most) in groups.items()
        }
        kinds["ray.head.default"] = {"resources": {}, "node_config": {}, "max_workers": 0}
        empty: dict[str, object] = {name: {} for name in ("auth", "docker", "file_mounts")}
        names = ("initialization", "setup", "head_setup", "worker_setup", "head_start_ray", "worker_start_ray")
        lists: dict[str, object] = {**{f"{name}_commands": [] for name in names}, "cluster_synced_files": []}
        return {
            "cluster_name": "fake",
            "max_workers": 8,
            "upscaling_speed": 100.0,
            "idle_timeout_minutes": 0.05,
            "provider": {
                "type": "external",
                "module": PROVIDER,
                "launch_multiple": True,
                "head_node_id": HEAD_ID,
                "gcs_address": self.address,
            },
            "available_node_types": kinds,
            "head_node_type": "ray.head.default",
            "file_mounts_sync_continuously": False,
            **empty,
            **lists,
        }

    def _starts(self, log: Path) -> bool:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and self._process.poll() is None:
            if "Ray runtime started" in log.read_text():
                return True
            time.sleep(0.2)
        return False

    def stop(self) -> None:
        """End the head and all that it started."""
        for pid in _descendants(self._process.pid):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._process.wait()


def _descendants(root: int) -> set[int]:
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):
                text = (entry / "stat").read_text()
                parents[int(entry.name)] = int(text[text.rindex(")") + 2 :].split()[1])
    found = {root}
    while more := {child for child, parent in parents.items() if parent in found} - found:
        found |= more
    return found
