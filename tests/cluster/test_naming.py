"""Names of jobs: the same for the same work, other for other work, and always legal."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from render_builders import demo

from bioie_ray.cluster.naming import MAX_RAYJOB_NAME, dns_name, job_name, label_value, labels, submission_fingerprint

DNS_1035 = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
LABEL = re.compile(r"([A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?)?")


@given(st.from_regex(r"[a-z0-9][a-z0-9_.-]{0,126}", fullmatch=True), st.integers(1, 47))
def test_any_name_of_a_recipe_makes_a_legal_one(name: str, length: int) -> None:
    made = dns_name(name, length)
    assert DNS_1035.fullmatch(made)
    assert len(made) <= length
    assert LABEL.fullmatch(label_value(name))


def test_a_job_is_named_after_its_recipe_and_what_it_does() -> None:
    assert re.fullmatch(r"demo-[0-9a-f]{8}", job_name(demo()))
    assert job_name(demo(), suffix="2") == f"{job_name(demo())}-2"
    long = job_name(demo(f"name={'x' * 100}"), suffix="abcdef")
    assert len(long) == MAX_RAYJOB_NAME
    assert DNS_1035.fullmatch(long)


@pytest.mark.parametrize("suffix", ["A", "a-b", "1234567"])
def test_a_suffix_is_short_and_plain(suffix: str) -> None:
    with pytest.raises(ValueError, match="one to six"):
        job_name(demo(), suffix=suffix)


def test_the_shape_of_the_cluster_makes_no_other_job() -> None:
    assert submission_fingerprint(demo("cluster.num_workers=7", "cluster.kube.head.memory_gib=9")) == submission_fingerprint(demo())


@pytest.mark.parametrize(
    "override", ["seed=1", "select.k=21", "store=s3://other/place", "job=embed", "version=2", "storage.endpoint=http://x"]
)
def test_everything_else_does(override: str) -> None:
    assert submission_fingerprint(demo(override)) != submission_fingerprint(demo())


def test_where_this_machine_keeps_its_store_is_not_part_of_the_job(monkeypatch: pytest.MonkeyPatch) -> None:
    before = job_name(demo())
    monkeypatch.setenv("BIOIE_STORE", "s3://mine/store")
    monkeypatch.setenv("BIOIE_STORAGE_ENDPOINT", "http://mine:9000")
    assert demo().store == "s3://mine/store"
    assert job_name(demo()) == before


def test_labels_are_legal() -> None:
    for value in labels(demo(f"name=a{'.' * 70}b")).values():
        assert LABEL.fullmatch(value)
