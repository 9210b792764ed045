"""An S3 server for tests: the one of BIOIE_TEST_S3, or a versitygw of our own on a free loopback port."""

from __future__ import annotations

import os
import secrets
import socket
import subprocess
import time
import urllib.error
import urllib.request
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

KEY, SECRET = "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"


@dataclass
class S3Server:
    """A server and a bucket. ``folder`` and ``script`` are set for one of our own, which may be stopped and started."""

    endpoint: str
    environment: dict[str, str]
    folder: Path | None = None
    script: Path | None = None
    bucket: str = field(default_factory=lambda: f"bioie-test-{secrets.token_hex(6)}")
    _process: subprocess.Popen[bytes] | None = None

    @classmethod
    def own(cls, script: Path, folder: Path) -> S3Server:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        credentials = {KEY: "tester", SECRET: f"secret-{secrets.token_hex(16)}", "AWS_REGION": "us-east-1"}
        return cls(f"http://127.0.0.1:{port}", credentials, folder, script)

    def start(self) -> None:
        """Start it and wait until it answers; at once where it is not ours."""
        if self.script is not None:
            command = [str(self.script), str(self.folder), self.endpoint.rpartition(":")[2]]
            self._process = subprocess.Popen(
                command, env={**os.environ, **self.environment}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            try:
                urllib.request.urlopen(self.endpoint, timeout=5).close()
            except urllib.error.HTTPError:  # it wants credentials: it is there
                return
            except OSError:
                time.sleep(0.05)
            else:
                return
        raise RuntimeError(f"no S3 server answers at {self.endpoint}")

    def stop(self) -> None:
        """End it hard."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def make_bucket(self) -> None:
        self._filesystem().create_dir(self.bucket)

    def drop_bucket(self) -> None:
        for _ in range(2):  # versitygw refuses to drop a folder in the same request as what is in it: the second time it is empty
            with suppress(OSError):
                self._filesystem().delete_dir(self.bucket)

    def _filesystem(self):
        from pyarrow import fs

        scheme, _, address = self.endpoint.partition("://")
        return fs.S3FileSystem(
            access_key=self.environment[KEY],
            secret_key=self.environment[SECRET],
            endpoint_override=address,
            scheme=scheme,
            region=self.environment["AWS_REGION"],
            allow_bucket_creation=True,
            allow_bucket_deletion=True,
        )
