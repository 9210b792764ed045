"""Fixtures for all tests. The environment is set before anything imports Ray or transformers."""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import hypothesis
import pytest
from s3_server import KEY, SECRET, S3Server
from tiny_models import save_llama

# A busy machine is no reason to fail: how long one example takes says nothing here.
hypothesis.settings.register_profile("bioie", deadline=None)
hypothesis.settings.load_profile("bioie")

for name, value in {
    "HF_HUB_OFFLINE": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "TOKENIZERS_PARALLELISM": "false",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}.items():
    os.environ.setdefault(name, value)
os.environ.pop("RAY_ADDRESS", None)  # tests start their own Ray


@pytest.fixture(scope="session")
def corpora_dir() -> Path:
    """The folder of real corpora, in their original formats."""
    folder = os.environ.get("BIOIE_TEST_CORPORA")
    if not folder or not Path(folder).is_dir():
        pytest.skip("BIOIE_TEST_CORPORA is not set to a folder of real corpora")
    return Path(folder)


@pytest.fixture(scope="session")
def repository() -> Path:
    """The checkout."""
    return Path(__file__).parents[1]


@pytest.fixture(scope="session")
def tiny_llm(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A chat model with random weights: what it says is no list."""
    return str(save_llama(tmp_path_factory.mktemp("models") / "tiny"))


@pytest.fixture(scope="session")
def other_llm(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A base model with other random weights."""
    return str(save_llama(tmp_path_factory.mktemp("models") / "other", seed=1, chat=False))


@pytest.fixture(scope="session")
def s3_server(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """A running S3 server with a bucket, its credentials in the environment."""
    endpoint = os.environ.get("BIOIE_TEST_S3")
    if endpoint:
        if not {KEY, SECRET} <= os.environ.keys():
            pytest.skip(f"BIOIE_TEST_S3 is set, but {KEY} and {SECRET} are not")
        region = os.environ.get("AWS_REGION", "us-east-1")
        server = S3Server(endpoint.rstrip("/"), {KEY: os.environ[KEY], SECRET: os.environ[SECRET], "AWS_REGION": region})
    else:
        script = repository / "scripts/s3_server.sh"
        if subprocess.run([script, "path"], stdout=subprocess.DEVNULL, check=False).returncode != 0:
            pytest.skip("no S3 server: build one with scripts/s3_server.sh build (needs Go), or set BIOIE_TEST_S3 to the URL of one")
        server = S3Server.own(script, tmp_path_factory.mktemp("s3"))
    with pytest.MonkeyPatch.context() as environment:
        for name, value in server.environment.items():
            environment.setenv(name, value)
        environment.delenv("AWS_SESSION_TOKEN", raising=False)
        server.start()
        try:
            server.make_bucket()
            yield server
            server.drop_bucket()
        finally:
            server.stop()


@dataclass(frozen=True)
class S3Store:
    """An empty place in the bucket."""

    url: str
    server: S3Server

    @property
    def settings(self) -> list[str]:
        """What a recipe needs to use it."""
        return [f"store={self.url}", f"storage.endpoint={self.server.endpoint}"]


@pytest.fixture
def s3(s3_server: S3Server) -> S3Store:
    """An empty store on the S3 server."""
    return S3Store(f"s3://{s3_server.bucket}/{secrets.token_hex(6)}/store", s3_server)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MiB, in memory."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("a small file system can only be mounted by root")
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", folder], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"no small file system can be mounted here: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)
