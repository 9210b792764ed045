"""What a rendered RayJob holds: the pods' security, what is scheduled where, and the recipe itself."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from render_builders import GPU, IMAGE, QUEUED, Json, cluster_spec, containers, demo, job_spec, templates, variables

from bioie_ray.cluster.naming import job_name
from bioie_ray.cluster.pods import USER
from bioie_ray.cluster.rayjob import RAY_VERSION, read_recipe_text, render_rayjob, to_yaml
from bioie_ray.config.recipe import load_recipe
from bioie_ray.pipeline.plan import Planner

WITH_EVERYTHING = [
    "cluster.kube.ca_config_map=private-ca",
    "cluster.kube.storage_claim=bioie-store",
    "cluster.kube.image_pull_secrets=[registry]",
    "cluster.kube.env_secrets=[our-endpoint,our-tracker]",
    "cluster.kube.priority_class=batch",
    "cluster.kube.env={HF_HUB_OFFLINE: '1'}",
]
VARIANTS: dict[str, list[str]] = {"elastic": [], "queued": QUEUED, "gpu": GPU, "gpu queued": [*GPU, *QUEUED], "everything": WITH_EVERYTHING}


def rendered(*overrides: str) -> Json:
    return render_rayjob(demo(*overrides), image=IMAGE)


@pytest.fixture(params=VARIANTS.values(), ids=VARIANTS.keys())
def manifest(request: pytest.FixtureRequest) -> Json:
    return rendered(*request.param)


class TestEveryVariant:
    def test_every_container_is_restricted(self, manifest: Json) -> None:
        for name, container in containers(manifest):
            security = container["securityContext"]
            assert security["allowPrivilegeEscalation"] is False, name
            assert security["capabilities"] == {"drop": ["ALL"]}, name
            assert security["runAsNonRoot"] is True, name
            assert security["readOnlyRootFilesystem"] is True, name
            assert security["seccompProfile"] == {"type": "RuntimeDefault"}, name
        for name, template in templates(manifest).items():
            security = template["spec"]["securityContext"]
            assert (security["runAsUser"], security["runAsGroup"], security["fsGroup"]) == (USER, USER, USER), name
            allowed = {"emptyDir", "projected", "downwardAPI", "configMap", "persistentVolumeClaim"}
            assert {kind for volume in template["spec"]["volumes"] for kind in volume} - {"name"} <= allowed, name

    def test_what_is_requested_is_the_limit_and_ephemeral_storage_is_bounded(self, manifest: Json) -> None:
        for name, container in containers(manifest):
            requests, limits = container["resources"]["requests"], container["resources"]["limits"]
            assert set(requests) == set(limits) >= {"cpu", "memory", "ephemeral-storage"}, name
            fixed = set(requests) - ({"cpu"} if name.startswith("submitter") or name.endswith(("autoscaler", "ca-bundle")) else set())
            assert {key: requests[key] for key in fixed} == {key: limits[key] for key in fixed}, name
        for template in templates(manifest).values():
            for volume in template["spec"]["volumes"]:
                assert "sizeLimit" in volume.get("emptyDir", {"sizeLimit": ""}), volume["name"]

    def test_only_the_autoscaler_has_a_token_for_the_api_server(self, manifest: Json) -> None:
        accounts = {name: template["spec"]["serviceAccountName"] for name, template in templates(manifest).items()}
        assert accounts.pop("head") == "bioie-head"
        assert accounts.pop("submitter") == "bioie-submitter"
        assert set(accounts.values()) == {"bioie-worker"}
        for name, template in templates(manifest).items():
            assert template["spec"]["automountServiceAccountToken"] is False, name
        mounting = [name for name, container in containers(manifest) for mount in container["volumeMounts"] if mount["name"] == "api-token"]
        assert mounting == (["head/autoscaler"] if cluster_spec(manifest)["enableInTreeAutoscaling"] else [])

    def test_credentials_come_from_secrets_and_only_to_ray_pods(self, manifest: Json, request: pytest.FixtureRequest) -> None:
        given = {name: [entry["secretRef"]["name"] for entry in container.get("envFrom", ())] for name, container in containers(manifest)}
        of_ray = [sources for name, sources in given.items() if name.endswith(("/ray-head", "/ray-worker"))]
        assert len(of_ray) >= 2
        further = ["our-endpoint", "our-tracker"] if "everything" in request.node.name else []
        assert of_ray == [["bioie-storage", *further]] * len(of_ray)
        assert not any(sources for name, sources in given.items() if not name.endswith(("/ray-head", "/ray-worker")))
        text = to_yaml(manifest)
        assert "AWS_SECRET" not in text
        assert "AWS_ACCESS" not in text

    def test_a_dead_node_costs_30_seconds(self, manifest: Json) -> None:
        for name, template in templates(manifest).items():
            waits = {
                t["key"].rpartition("/")[2]: t.get("tolerationSeconds") for t in template["spec"]["tolerations"] if "node.kuber" in t["key"]
            }
            assert waits == {"not-ready": 30, "unreachable": 30}, name

    def test_the_object_store_is_shared_memory_that_counts_as_the_pods(self, manifest: Json) -> None:
        cluster = cluster_spec(manifest)
        for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
            spec = group["template"]["spec"]
            (volume,) = [entry for entry in spec["volumes"] if entry["name"] == "shared-mem"]
            assert volume["emptyDir"]["medium"] == "Memory"
            shm = int(volume["emptyDir"]["sizeLimit"].removesuffix("Mi")) << 20
            store, actors = (int(group["rayStartParams"][key]) for key in ("object-store-memory", "memory"))
            limit = int(spec["containers"][0]["resources"]["limits"]["memory"].removesuffix("Gi")) << 30
            assert store < shm
            assert shm + actors < limit
            assert {"name": "shared-mem", "mountPath": "/dev/shm"} in spec["containers"][0]["volumeMounts"]

    def test_the_dashboard_asks_for_a_token(self, manifest: Json) -> None:
        assert cluster_spec(manifest)["authOptions"] == {"mode": "token"}

    def test_labels_say_whose_pods_these_are_and_leave_kuberays_own_alone(self, manifest: Json) -> None:
        for name, template in templates(manifest).items():
            labels = template["metadata"]["labels"]
            assert labels["app.kubernetes.io/part-of"] == "bioie-ray", name
            assert labels["bioie/job"] == "select_examples"
            # Its head service of a RayJob selects app.kubernetes.io/name=kuberay.
            assert "app.kubernetes.io/name" not in labels, name

    def test_every_ray_pod_runs_the_image_and_knows_it(self, manifest: Json) -> None:
        for _, container in containers(manifest):
            assert container.get("image", IMAGE) == IMAGE
        for name, container in containers(manifest):
            if name.endswith(("/ray-head", "/ray-worker")):
                assert variables(container)["BIOIE_IMAGE"]["value"] == IMAGE
                assert container["workingDir"] == "/opt/bioie"

    def test_the_recipe_inside_is_the_recipe(self, manifest: Json, tmp_path: Path, request: pytest.FixtureRequest) -> None:
        overrides = VARIANTS[request.node.callspec.id]
        path = tmp_path / "recipe.yaml"
        path.write_text(read_recipe_text(manifest))
        there, here = load_recipe(path), demo(*overrides)
        assert there.cluster.num_workers is not None
        cluster = here.cluster.model_copy(update={"num_workers": there.cluster.num_workers})
        assert there.model_dump() == here.model_copy(update={"cluster": cluster}).model_dump()
        assert [cell.model_dump(exclude={"cluster"}) for cell in there.cells()] == [
            cell.model_dump(exclude={"cluster"}) for cell in here.cells()
        ]
        assert job_name(there) == job_name(here) == manifest["metadata"]["name"]

    def test_it_is_the_same_text_every_time_and_the_comments_are_comments(self, manifest: Json, request: pytest.FixtureRequest) -> None:
        again = rendered(*VARIANTS[request.node.callspec.id])
        assert to_yaml(manifest) == to_yaml(again)
        assert yaml.safe_load(to_yaml(manifest, header=["made by hand: no"])) == manifest


def test_the_recipe_inside_gives_the_same_fingerprints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BIOIE_STORE", str(tmp_path / "store"))
    path = tmp_path / "recipe.yaml"
    path.write_text(read_recipe_text(rendered("job=embed")))
    ours, theirs = (Planner().plan(recipe) for recipe in (demo("job=embed"), load_recipe(path)))
    assert [step.output.key for step in ours] == [step.output.key for step in theirs]
    assert [step.output.fingerprint for step in ours[:1]] == [step.output.fingerprint for step in theirs[:1]]


def test_an_elastic_job_grows_from_nothing_and_cleans_up_by_rules() -> None:
    spec = job_spec(rendered())
    cluster = spec["rayClusterSpec"]
    assert cluster["enableInTreeAutoscaling"] is True
    assert (cluster["autoscalerOptions"]["version"], cluster["autoscalerOptions"]["idleTimeoutSeconds"]) == ("v2", 60)
    (group,) = cluster["workerGroupSpecs"]
    assert (group["replicas"], group["minReplicas"], group["maxReplicas"]) == (0, 0, 4)
    assert "suspend" not in spec
    assert spec["shutdownAfterJobFinishes"] is False
    rules = [(rule["policy"], *rule["condition"].values()) for rule in spec["deletionStrategy"]["deletionRules"]]
    assert rules == [
        ("DeleteCluster", "SUCCEEDED", 600),
        ("DeleteSelf", "SUCCEEDED", 604_800),
        ("DeleteCluster", "Failed", 600),
        ("DeleteSelf", "Failed", 604_800),
    ]


def test_a_queued_job_is_of_fixed_size_and_waits_for_kueue() -> None:
    manifest = rendered(*QUEUED, "cluster.kube.priority_class=bioie-urgent")
    spec = job_spec(manifest)
    labels = manifest["metadata"]["labels"]
    assert labels["kueue.x-k8s.io/queue-name"] == "bioie"
    assert labels["kueue.x-k8s.io/priority-class"] == "bioie-urgent"
    assert (spec["suspend"], spec["shutdownAfterJobFinishes"], spec["ttlSecondsAfterFinished"]) == (True, True, 600)
    assert "deletionStrategy" not in spec
    assert "autoscalerOptions" not in spec["rayClusterSpec"]
    (group,) = spec["rayClusterSpec"]["workerGroupSpecs"]
    assert (group["replicas"], group["minReplicas"], group["maxReplicas"]) == (4, 4, 4)
    for template in templates(manifest).values():  # a PriorityClass of pods is another thing than Kueue's
        assert "priorityClassName" not in template["spec"]


def test_the_attempts_of_a_job_are_counted_as_the_operator_counts() -> None:
    spec = job_spec(rendered("cluster.kube.max_attempts=1", "cluster.kube.deadline_s=120"))
    assert (spec["backoffLimit"], spec["activeDeadlineSeconds"]) == (0, 120)


def test_gpu_pods_ask_for_gpus_and_tolerate_their_nodes() -> None:
    pod = templates(rendered(*GPU))["gpu"]["spec"]
    resources = pod["containers"][0]["resources"]
    assert resources["requests"]["nvidia.com/gpu"] == resources["limits"]["nvidia.com/gpu"] == "2"
    assert pod["nodeSelector"] == {"accelerator": "l4"}
    assert {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"} in pod["tolerations"]
    assert {"key": "spot", "operator": "Exists"} in pod["tolerations"]
    head = templates(rendered(*GPU))["head"]["spec"]
    assert "nvidia.com/gpu" not in head["containers"][0]["resources"]["limits"]
    assert all(toleration["key"].startswith("node.kubernetes.io/") for toleration in head["tolerations"])


def test_the_head_runs_no_actors_and_the_driver_reads_its_recipe_from_a_file() -> None:
    manifest = rendered()
    head = cluster_spec(manifest)["headGroupSpec"]
    assert head["rayStartParams"]["num-cpus"] == "0"
    assert job_spec(manifest)["entrypoint"] == "python jobs/select_examples.py --recipe /etc/bioie/recipe.yaml"
    spec = head["template"]["spec"]
    (volume,) = [entry for entry in spec["volumes"] if entry["name"] == "recipe"]
    (item,) = volume["downwardAPI"]["items"]
    assert (item["path"], item["fieldRef"]["fieldPath"]) == ("recipe.yaml", "metadata.annotations['bioie/recipe']")
    assert {"name": "recipe", "mountPath": "/etc/bioie", "readOnly": True} in spec["containers"][0]["volumeMounts"]
    assert variables(spec["containers"][0])["BIOIE_JOB_NAME"]["value"] == manifest["metadata"]["name"]


class TestWhereOutputsGo:
    def test_a_recipe_without_a_store_takes_the_sites(self) -> None:
        for name, container in containers(rendered()):
            if name.endswith(("/ray-head", "/ray-worker")):
                reference = variables(container)["BIOIE_STORE"]["valueFrom"]["configMapKeyRef"]
                assert reference == {"name": "bioie-site", "key": "store"}, "not optional: without it outputs would go with the pod"
        assert "store" not in yaml.safe_load(read_recipe_text(rendered()))

    def test_a_recipe_with_one_keeps_it(self) -> None:
        manifest = rendered("store=s3://b/p", "storage.endpoint=http://s3:9000")
        inside = yaml.safe_load(read_recipe_text(manifest))
        assert (inside["store"], inside["storage"]["endpoint"]) == ("s3://b/p", "http://s3:9000")
        head = templates(manifest)["head"]["spec"]["containers"][0]
        assert variables(head)["BIOIE_STORE"]["valueFrom"]["configMapKeyRef"]["optional"] is True

    def test_a_volume_is_a_store(self) -> None:
        for name, template in templates(rendered("cluster.kube.storage_claim=bioie-store")).items():
            mounts = [mount["mountPath"] for mount in template["spec"]["containers"][0]["volumeMounts"] if mount["name"] == "store"]
            assert mounts == ([] if name == "submitter" else ["/store"]), name
        rendered("cluster.kube.storage_claim=bioie-store", "store=/store/mine")

    @pytest.mark.parametrize(
        ("overrides", "told"),
        [
            (["store=./mine"], "lost with it; set store=s3://"),
            (["store=/store/mine"], "cluster.kube.storage_claim"),
            (["store=/elsewhere", "cluster.kube.storage_claim=c"], "set store=/store or a folder below it"),
            (["store=/storehouse", "cluster.kube.storage_claim=c"], "set store=/store or a folder below it"),
            (["cluster.kube.site_config_map=null"], "set store=s3://BUCKET/PREFIX, or one of the two"),
            (["cluster.executor=inline"], "set cluster.executor=ray"),
        ],
    )
    def test_outputs_that_would_be_lost_are_refused(self, overrides: list[str], told: str) -> None:
        with pytest.raises(ValueError, match=told):
            rendered(*overrides)


def test_a_private_ca_is_added_to_the_public_ones() -> None:
    head = templates(rendered("cluster.kube.ca_config_map=private-ca"))["head"]["spec"]
    (init,) = head["initContainers"]
    assert "certifi" in init["command"][2]
    assert "/run/private-ca/ca.crt" in init["command"][2]
    bundle = {variables(head["containers"][0])[name]["value"] for name in ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "AWS_CA_BUNDLE")}
    assert len(bundle) == 1
    assert init["command"][2].endswith(f"> {bundle.pop()}")


def test_settings_reach_all_pods() -> None:
    for name, template in templates(rendered(*WITH_EVERYTHING)).items():
        assert template["spec"]["imagePullSecrets"] == [{"name": "registry"}], name
        assert template["spec"]["priorityClassName"] == "batch", name
    head = templates(rendered(*WITH_EVERYTHING))["head"]["spec"]["containers"][0]
    assert variables(head)["HF_HUB_OFFLINE"]["value"] == "1"


def test_further_secrets_come_after_the_storages_and_without_it() -> None:
    for storage, expected in (
        ("bioie-storage", ["bioie-storage", "our-endpoint", "our-tracker"]),
        ("null", ["our-endpoint", "our-tracker"]),
    ):
        head = templates(rendered(*WITH_EVERYTHING, f"cluster.kube.storage_secret={storage}"))["head"]["spec"]["containers"][0]
        assert [entry["secretRef"]["name"] for entry in head["envFrom"]] == expected
    bare = templates(rendered("cluster.kube.storage_secret=null"))["head"]["spec"]["containers"][0]
    assert "envFrom" not in bare


def test_cpus_may_be_used_beyond_the_request() -> None:
    resources = templates(rendered("cluster.kube.head={cpus: 0.2, max_cpus: 1.5}"))["head"]["spec"]["containers"][0]["resources"]
    assert (resources["requests"]["cpu"], resources["limits"]["cpu"]) == ("200m", "1500m")


def test_rendering_needs_the_core_install_only(repository: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from bioie_ray.cluster.render_command import render_recipe; "
        "render_recipe(Path('jobs/recipes/select_demo.yaml'), [], image=None, kind='rayjob', schedule=''); "
        "print(sorted({'ray', 'torch', 'kubernetes', 'transformers', 'pyarrow', 'numpy'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=repository)
    assert done.stdout.strip() == "[]"


def test_the_version_of_ray_is_the_locked_one(repository: Path) -> None:
    locked = [line for line in (repository / "images/requirements/jobs.lock").read_text().splitlines() if line.startswith("ray==")]
    assert [line.split()[0] for line in locked] == [f"ray=={RAY_VERSION}"]
