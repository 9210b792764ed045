"""A store in an S3 server that pods reach, seen from this machine."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import obstore
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from kube_access import Cluster
from kubernetes.client.exceptions import ApiException
from obstore.store import from_url
from s3_server import KEY, SECRET

from bioie_ray.artifacts.store import StoreAddress, open_store


@dataclass(frozen=True)
class PodS3:
    """One server under two addresses, and its credentials."""

    pods: str
    host: str
    environment: dict[str, str]

    @classmethod
    def from_environment(cls) -> PodS3:
        """The one of BIOIE_TEST_KUBE_S3 and its like (conftest.py says which), else the service `s3` of the namespace `testbed`.

        Raises:
            LookupError: none is there, or no credentials for it.
        """
        pods = os.environ.get("BIOIE_TEST_KUBE_S3", "")
        if not pods:
            try:
                service = Cluster.connect("testbed").core.read_namespaced_service("s3", "testbed")
            except ApiException:
                raise LookupError("no S3 for pods: set BIOIE_TEST_KUBE_S3, or run a service `s3` in the namespace `testbed`") from None
            pods = f"http://{service.spec.cluster_ip}:{service.spec.ports[0].port}"
        host = os.environ.get("BIOIE_TEST_KUBE_S3_HOST") or pods
        key, secret = (os.environ.get(f"BIOIE_TEST_KUBE_S3_{name}", "") for name in ("KEY", "SECRET"))
        if not key or not secret:
            raise LookupError("BIOIE_TEST_KUBE_S3_KEY and BIOIE_TEST_KUBE_S3_SECRET are not set: the S3 of the cluster wants credentials")
        return cls(pods, host, {KEY: key, SECRET: secret, "AWS_REGION": "us-east-1"})

    @contextmanager
    def credentials(self) -> Iterator[None]:
        """The credentials in the environment: other tests have a server of their own there."""
        with pytest.MonkeyPatch.context() as patch:
            for name, value in self.environment.items():
                patch.setenv(name, value)
            patch.delenv("AWS_SESSION_TOKEN", raising=False)
            yield


@dataclass(frozen=True)
class Meta:
    """What tells an object that was written again from one that was left alone."""

    etag: str
    modified: str


@dataclass(frozen=True)
class PodStore:
    """An empty place in a bucket."""

    url: str
    server: PodS3

    @property
    def settings(self) -> dict[str, Any]:
        """What a recipe needs so that pods use it."""
        return {"store": self.url, "storage": {"endpoint": self.server.pods}}

    @property
    def address(self) -> StoreAddress:
        """From this machine."""
        return StoreAddress(self.url, self.server.host)

    def read(self, key: str) -> bytes:
        with self.server.credentials():
            return open_store(self.address).read(key)

    def keys(self, prefix: str = "") -> list[str]:
        with self.server.credentials():
            return open_store(self.address).keys(prefix)

    def record(self, output: str) -> dict[str, Any]:
        """The record of an output like ``selections/x@1``."""
        found: dict[str, Any] = json.loads(self.read(f"{output}/record.json"))
        return found

    def markers(self, output: str) -> list[str]:
        """Keys of the markers of an output's finished shards."""
        return self.keys(f"{output}/_markers")

    def metas(self, prefix: str) -> dict[str, Meta]:
        """ETag and time of writing of every object."""
        with self.server.credentials():
            options: Any = {"endpoint": self.server.host, "region": "us-east-1", "client_options": {"allow_http": True}}
            listed = [meta for batch in obstore.list(from_url(self.url, **options), prefix=prefix) for meta in batch]
        return {meta["path"]: Meta(str(meta["e_tag"]), str(meta["last_modified"])) for meta in listed}

    def finished_shards(self, output: str) -> dict[str, Meta]:
        """Shards whose markers are there, and the markers themselves."""
        names = {key.rpartition("/")[2].removesuffix(".json") for key in self.markers(output)}
        return {
            key: meta
            for key, meta in self.metas(output).items()
            if key.rpartition("/")[2].partition(".")[0] in names and not key.endswith("record.json")
        }

    def differing(self, local_store: Path, output: str) -> list[str]:
        """Names of an output's shards and lists that are not the same bytes as in a store on this machine."""
        here = {path.relative_to(local_store).as_posix() for path in (local_store / output).rglob("*") if path.is_file()}
        names = sorted(name for name in here | set(self.keys(output)) if name.endswith((".parquet", "best_examples.json")))
        assert names, f"{output} has no files"
        there = set(self.keys(output))
        return [name for name in names if name not in here & there or self.read(name) != (local_store / name).read_bytes()]

    def far_apart(self, local_store: Path, selection: str, *, within: float) -> list[str]:
        """Rows of a selection that are not those of a store on this machine: other ids, or scores further apart."""
        found = []
        for path in sorted((local_store / selection).glob("*.parquet")):
            here = pq.read_table(path).to_pylist()
            there = pq.read_table(pa.BufferReader(self.read(f"{selection}/{path.name}"))).to_pylist()
            assert len(here) == len(there), path.name
            for one, other in zip(here, there, strict=True):
                scores = [name for name, value in one.items() if isinstance(value, float)]
                same = all(one[name] == other[name] for name in one if name not in scores)
                if not same or any(abs(one[name] - other[name]) > within for name in scores):
                    found.append(f"{path.name}: {one} {other}")
        return found

    def wait_for_markers(self, output: str, num: int, is_over: Callable[[], bool], timeout_s: float = 300) -> int:
        """Wait until so many shards are done; fails when the run ended before that could be seen."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            found = len(self.markers(output))
            if found >= num:
                return found
            assert not is_over(), f"the run was over with {found} shards of {output} done, before {num} were seen"
            time.sleep(0.05)
        raise AssertionError(f"waited {timeout_s:.0f} s for {num} shards of {output}; {len(self.markers(output))} are there")
