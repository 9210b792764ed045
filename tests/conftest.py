"""Fixtures for all tests. The environment is set before anything imports Ray or transformers."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

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
