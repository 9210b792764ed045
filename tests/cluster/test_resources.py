"""The sums: pods that hold what Ray will start in them, and errors whose advice works."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from render_builders import GPU, QUEUED, demo

from bioie_ray.cluster.resources import GIB, ResourceError, size_pods
from bioie_ray.cluster.work import NOT_RERANKED, works_of
from bioie_ray.config.keys import RecipeError
from bioie_ray.config.recipe import load_recipe
from bioie_ray.config.training import STAGES
from bioie_ray.pipeline.plan import Planner
from bioie_ray.retrieval.selectors import known_methods, make_selector

CPU = "cluster.kube.workers.cpu"
RECIPES = Path(__file__).parents[2] / "jobs/recipes"


def advice(message: str) -> list[str]:
    """The `key=value` that a message says would do."""
    return re.findall(r"[a-z_.]+=[0-9.]*[0-9]", message.partition("; set ")[2].partition("; if")[0])


def test_the_defaults_hold_the_demo() -> None:
    sizes = size_pods(demo())
    pod = sizes.groups["cpu"]
    assert (pod.ray_cpus, sizes.num_workers) == (4, 16)
    assert pod.for_actors == pod.memory - pod.shm - pod.ray >= 4 * 2 * GIB


def test_too_little_memory_shows_the_sum_and_what_would_do() -> None:
    with pytest.raises(ResourceError) as caught:
        size_pods(demo(f"{CPU}.memory_gib=6"))
    message = str(caught.value)
    numbers = re.search(r"([\d.]+) shared memory .* \+ ([\d.]+) Ray itself \+ (\d+) actors x ([\d.]+) = ([\d.]+) GiB", message)
    assert numbers is not None
    shared, ray, num, each, total = map(float, numbers.groups())
    assert shared + ray + num * each == pytest.approx(total, abs=0.02)
    assert total > 6
    for override in advice(message):
        size_pods(demo(f"{CPU}.memory_gib=6", override))


@settings(max_examples=30)
@given(st.floats(1.5, 12), st.sampled_from([0.1, 0.3, 0.6]), st.integers(2, 8))
def test_the_advised_memory_is_always_enough(memory: float, share: float, cpus: int) -> None:
    given_ = [f"{CPU}.memory_gib={memory:.2f}", f"{CPU}.object_store_share={share}", f"{CPU}.ray_cpus={cpus}"]
    try:
        size_pods(demo(*given_))
    except ResourceError as error:
        size_pods(demo(*given_, next(entry for entry in advice(str(error)) if entry.startswith(f"{CPU}.memory_gib="))))


def test_threads_that_no_pod_has_would_wait_for_ever() -> None:
    with pytest.raises(ResourceError, match=r"train_reranker\.threads.*would wait for ever") as caught:
        size_pods(demo(f"{CPU}.ray_cpus=1"))
    assert len(advice(str(caught.value))) == 2
    for override in advice(str(caught.value)):
        size_pods(demo(f"{CPU}.ray_cpus=1", override))


def test_declared_memory_bounds_the_actors_of_a_pod() -> None:
    assert size_pods(demo("cluster.memory_per_worker_gib=5")).num_workers == 8
    with pytest.raises(ResourceError, match="1 actors x 14"):
        size_pods(demo("cluster.memory_per_worker_gib=14"))


def test_the_head_holds_the_driver() -> None:
    with pytest.raises(ResourceError, match="the job's driver") as caught:
        size_pods(demo("cluster.kube.head.memory_gib=2"))
    size_pods(demo(advice(str(caught.value))[0]))


def test_ray_starts_with_no_tiny_object_store() -> None:
    with pytest.raises(ResourceError, match="no less than 75") as caught:
        size_pods(demo(f"{CPU}.object_store_share=0.001"))
    size_pods(demo(advice(str(caught.value))[0]))


@pytest.mark.parametrize("recipe", sorted(path.name for path in RECIPES.glob("*.yaml")))
def test_every_recipe_goes_to_pods_of_the_default_size(recipe: str) -> None:
    size_pods(load_recipe(RECIPES / recipe))


def test_ranks_are_counted_and_what_one_actor_makes_is_not() -> None:
    training = ["job=train_preft", "cluster.ranks=4", "cluster.num_workers=1", f"{CPU}.cpus=8", f"{CPU}.max_replicas=1"]
    with pytest.raises(ResourceError, match=r"too little for train: .* 4 actors x 4\.5"):
        size_pods(load_recipe(RECIPES / "preft_gemma3_270m.yaml", training))
    size_pods(load_recipe(RECIPES / "instructions_demo.yaml", [f"{CPU}.memory_gib=8"]))
    several = load_recipe(RECIPES / "instructions_demo.yaml", ["matrix={seed: [1, 2, 3]}", "cluster.num_workers=2"])
    assert {work.kind: work.most for work in works_of(several)} == {"prepare": 2, "records": 2, "instructions": 2}


class TestGpus:
    @pytest.mark.parametrize(("gpus", "num"), [(0.25, 8), (0.5, 4)])
    def test_a_fraction_puts_several_actors_on_one(self, gpus: float, num: int) -> None:
        with pytest.raises(ResourceError, match=rf"too little for select: .* {num} actors x 2 "):
            size_pods(demo(*GPU, f"cluster.gpus_per_worker={gpus}", "cluster.kube.workers.gpu.memory_gib=6"))

    def test_what_runs_no_model_fills_the_cpus(self) -> None:
        """Two GPUs and eight CPUs in each of three pods; with a group without GPUs beside them, in its four pods of four CPUs alone."""
        assert {work.kind: work.uses_gpu for work in works_of(demo(*GPU))} == {
            "prepare": False,
            "embed": True,
            "train_reranker": True,
            "select": True,
        }
        assert size_pods(demo(*GPU)).num_workers == 3 * 8
        both = "cluster.kube.workers={cpu: {}, gpu: {gpus: 1, cpus: 8, max_replicas: 3}}"
        assert size_pods(demo("cluster.gpus_per_worker=1", both)).num_workers == 4 * 4

    def test_a_group_that_cannot_hold_what_runs_no_model_leaves_it_to_the_others(self) -> None:
        both = "cluster.kube.workers={cpu: {ray_cpus: 1}, gpu: {gpus: 1, cpus: 8}}"
        size_pods(demo("cluster.gpus_per_worker=1", both, "matrix={}", "select.rerank=false", "rerank.threads=2"))

    def test_pods_with_gpus_need_no_memory_for_what_stays_out_of_them(self) -> None:
        both = "cluster.kube.workers={cpu: {}, gpu: {gpus: 1, cpus: 16, memory_gib: 12}}"
        size_pods(demo("cluster.gpus_per_worker=1", both, "job=evaluate", "matrix={}"))
        with pytest.raises(ResourceError, match=r"too little for prompts: .* 17 actors x 1"):
            size_pods(demo("cluster.gpus_per_worker=1", both.replace("cpu: {}, ", ""), "job=evaluate", "matrix={}"))

    def test_a_job_without_models_uses_none(self) -> None:
        job = ["job=prepare_corpora", "cluster.gpus_per_worker=1"]
        both = "cluster.kube.workers={cpu: {}, gpu: {gpus: 1}}"
        size_pods(demo(*job))
        size_pods(demo(*job, both))
        for overrides in ([both, *QUEUED], ["cluster.kube.workers={gpu: {gpus: 1}}"]):
            with pytest.raises(ResourceError, match=r"workers\.gpu has GPUs that nothing would use: no actor of this job runs a model"):
                size_pods(demo(*job, *overrides))

    def test_a_server_that_is_asked_needs_none(self) -> None:
        asked = [
            "job=generate",
            "matrix={}",
            "generate.engine=openai",
            "generate.endpoint={url: http://localhost:8000/v1}",
            "prompt.num_examples=0",
        ]
        assert {work.kind: work.uses_gpu for work in works_of(demo(*asked))}["generate"] is False
        assert {work.kind: work.uses_gpu for work in works_of(demo(*asked[:2]))}["generate"] is True

    def test_two_ranks_do_not_share_one(self) -> None:
        with pytest.raises(RecipeError, match=r"two of cluster\.ranks=2 on one GPU, which NCCL refuses; set gpus_per_worker=1, or ranks=1"):
            demo(*GPU, "cluster.gpus_per_worker=0.5", "cluster.ranks=2")

    def test_no_group_has_one(self) -> None:
        with pytest.raises(ResourceError, match=r"no group of cluster\.kube\.workers has a GPU") as caught:
            size_pods(demo("cluster.gpus_per_worker=1"))
        size_pods(demo("cluster.gpus_per_worker=1", advice(str(caught.value))[0]))

    def test_no_actor_asks_for_one(self) -> None:
        with pytest.raises(ResourceError, match="GPUs that nothing would use"):
            size_pods(demo(*GPU, "cluster.gpus_per_worker=0"))

    def test_more_than_a_pod_has(self) -> None:
        with pytest.raises(ResourceError, match=r"set cluster\.kube\.workers\.gpu\.gpus=3"):
            size_pods(demo(*GPU, "cluster.gpus_per_worker=3"))

    def test_kueue_would_admit_pods_that_stay_idle(self) -> None:
        both = "cluster.kube.workers={cpu: {}, gpu: {gpus: 1}}"
        size_pods(demo("cluster.gpus_per_worker=1", both))
        with pytest.raises(ResourceError, match="stay idle while models run on GPUs; take the group out"):
            size_pods(demo("cluster.gpus_per_worker=1", both, *QUEUED))

    def test_several_in_a_pod_talk_through_shared_memory(self) -> None:
        one, two = (size_pods(demo(*GPU, f"cluster.kube.workers.gpu.gpus={num}")).groups["gpu"] for num in (1, 2))
        assert two.shm - one.shm == GIB


@pytest.mark.parametrize(
    ("overrides", "kinds"),
    [
        (["job=prepare_corpora"], ["prepare"]),
        (["job=embed"], ["prepare", "embed"]),
        (["job=prepare_instructions"], ["prepare", "records", "instructions"]),
        (["job=train_reranker"], ["prepare", "embed", "train_reranker"]),
        ([], ["prepare", "embed", "train_reranker", "select"]),
        (["matrix={}", "select.rerank=false", "index.kind=hnsw"], ["prepare", "embed", "index", "select"]),
        (["matrix={}", "rerank.model=org/name"], ["prepare", "embed", "select"]),
    ],
)
def test_a_job_brings_the_kinds_of_work_before_its_own(overrides: list[str], kinds: list[str]) -> None:
    assert [work.kind for work in works_of(demo(*overrides))] == kinds


def test_the_methods_that_pass_the_reranker_by_are_those_of_the_selectors() -> None:
    assert {name for name in known_methods() if not make_selector(name).reranks} == NOT_RERANKED


KINDS = {
    "corpora": "prepare",
    "vectors": "embed",
    "indexes": "index",
    "rerankers": "train_reranker",
    "selections": "select",
    "prompts": "prompts",
    "generations": "generate",
    "conversions-a": "convert",
    "conversions-b": "convert",
    "dmcr": "evaluate",
    "scores": "evaluate",
    "records": "records",
    "instructions": "instructions",
    "candidates": "candidates",
    "preferences": "preferences",
    "reference": "reference",
    **{f"tokens-{stage}": "tokens" for stage in STAGES},
}


@pytest.mark.parametrize("recipe", ["select_demo.yaml", "icl_grid_demo.yaml", "dfpo_demo.yaml", "select_large_pool.yaml"])
def test_the_sums_and_the_steps_agree_on_what_uses_gpus(recipe: str, tmp_path: Path) -> None:
    told = load_recipe(RECIPES / recipe, [f"store={tmp_path}"])
    steps: dict[str, bool] = {}
    for step in Planner().plan(told):
        spec = step.worker()
        if not spec.in_driver:  # ranks ask for themselves
            kind = KINDS[step.output.key.partition("/")[0]]
            steps[kind] = steps.get(kind, False) or spec.uses_gpu
    assert steps == {work.kind: work.uses_gpu for work in works_of(told) if work.kind != "train"}
