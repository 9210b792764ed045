"""The nightly job and the standing cluster."""

from __future__ import annotations

import subprocess

import pytest
from render_builders import DEMO, GPU, IMAGE, QUEUED, cluster_spec, containers, demo, job_spec

from bioie_ray.cluster.raycluster import render_raycluster
from bioie_ray.cluster.rayjob import render_raycronjob, to_yaml
from bioie_ray.config.recipe import load_recipe


class TestNightly:
    def test_two_jobs_of_one_tick_make_one_version(self) -> None:
        manifest = render_raycronjob(demo("job=embed"), image=IMAGE, schedule="30 2 * * *")
        entrypoint = job_spec(manifest)["entrypoint"]
        today = "$(date -u +%Y-%m-%d)"
        assert entrypoint.endswith(f"--set corpus_version={today} --set version={today}")
        done = subprocess.run(["/bin/bash", "-ce", f"echo {entrypoint}"], capture_output=True, text=True, check=True)
        versions = {word.partition("=")[2] for word in done.stdout.split() if "version=" in word}
        assert len(versions) == 1
        load_recipe(DEMO, [f"corpus_version={versions.pop()}"])

    def test_it_cannot_wait_in_a_queue(self) -> None:
        with pytest.raises(ValueError, match=r"set cluster\.kube\.profile=elastic"):
            render_raycronjob(demo(*QUEUED), image=IMAGE, schedule="30 2 * * *")

    @pytest.mark.parametrize("schedule", ["nightly", "30 2 * *", "* * * * * *", ""])
    def test_a_schedule_is_five_fields(self, schedule: str) -> None:
        with pytest.raises(ValueError, match=r"spec\.schedule"):
            render_raycronjob(demo(), image=IMAGE, schedule=schedule)


class TestStandingCluster:
    def test_it_scales_and_holds_no_recipe(self) -> None:
        manifest = render_raycluster(demo(*GPU).cluster.kube, image=IMAGE)
        assert manifest["metadata"]["name"] == "bioie"
        assert cluster_spec(manifest)["autoscalerOptions"]["version"] == "v2"
        assert [group["minReplicas"] for group in cluster_spec(manifest)["workerGroupSpecs"]] == [0]
        assert "bioie/recipe" not in to_yaml(manifest)
        assert all(container["securityContext"]["runAsNonRoot"] for _, container in containers(manifest))

    def test_the_heads_state_may_lie_in_redis(self) -> None:
        kube = demo("cluster.kube.gcs_redis=redis:6379", "cluster.kube.gcs_redis_secret=redis-password").cluster.kube
        options = cluster_spec(render_raycluster(kube, image=IMAGE))["gcsFaultToleranceOptions"]
        assert options["redisAddress"] == "redis:6379"
        assert options["redisPassword"] == {"valueFrom": {"secretKeyRef": {"name": "redis-password", "key": "password"}}}
        assert "gcsFaultToleranceOptions" not in cluster_spec(render_raycluster(demo().cluster.kube, image=IMAGE))

    def test_it_does_not_queue(self) -> None:
        with pytest.raises(ValueError, match="profile=elastic"):
            render_raycluster(demo(*QUEUED).cluster.kube, image=IMAGE)
