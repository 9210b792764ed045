"""A training as one process, or as the ranks of Ray Train's ``TorchTrainer``."""

from __future__ import annotations

import logging
import math
import os
import tempfile
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, TypeVar

from bioie_ray.config.cluster import ClusterSettings, actor_cpus
from bioie_ray.training.stage import Stage, TrainingError, accumulation

if TYPE_CHECKING:
    from bioie_ray.training.checkpoints import Checkpoint

# How long Ray Train waits for all its ranks before it counts that as a failure of its own and tries again.
_START_TRY_S = 60
# A rank that died is noticed by Ray Train at once; this is for one that hangs. As torch has it, and for each step of generating as long as a large model on a
# slow CPU takes: a GPU takes a twentieth.
_PATIENCE_S = 1_800
_TOKEN_S = 2.0
_LOG = logging.getLogger(__name__)
T = TypeVar("T")
# What ranks must have set before torch and DeepSpeed are imported.
_RANK_ENVIRONMENT = {"TOKENIZERS_PARALLELISM": "false", "TRANSFORMERS_VERBOSITY": "error", "WANDB_SILENT": "true"}


def launch(stage: Stage, cluster: ClusterSettings, say: Callable[[str], None]) -> None:
    """Train a stage to its end. Ranks that are lost come back and go on from the last whole checkpoint.

    Raises:
        TrainingError: it cannot be done; the message says why and what to change.
    """
    _check_trackers(stage)
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it tells at import what it cannot do on a CPU
    if cluster.executor == "inline":
        if cluster.ranks > 1:
            raise TrainingError(
                f"cluster.executor=inline is one process, and cluster.ranks is {cluster.ranks}; set cluster.ranks=1, or executor=ray"
            )
        if stage.train.zero_stage:
            raise TrainingError(
                f"train.zero_stage={stage.train.zero_stage} is for ranks, and cluster.executor=inline is one plain process; "
                "set cluster.executor=ray (with as many cluster.ranks as you like), or train.zero_stage=0"
            )
        import torch

        if not torch.cuda.is_available():
            os.environ.update(_accelerator(on_gpu=False))
        from bioie_ray.training.rank import train

        train(stage)
        return
    _launch_ranks(stage, cluster, say)


def _launch_ranks(stage: Stage, cluster: ClusterSettings, say: Callable[[str], None]) -> None:
    os.environ.setdefault("RAY_TRAIN_ENABLE_CONTROLLER_STRUCTURED_LOGGING", "0")
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer
    from ray.train.v2.api.exceptions import TrainingFailedError

    from bioie_ray.execution.ray_cluster import connect
    from bioie_ray.training.checkpoints import CheckpointStore
    from bioie_ray.training.failures import failure, forget_failure
    from bioie_ray.training.lost_ranks import MemoryWatch, too_often
    from bioie_ray.training.rank import train_under_ray

    _check_ranks(stage, cluster)
    connect()
    forget_failure(stage.output)
    for name in ("ray.train", "ray.train.v2"):
        logging.getLogger(name).setLevel(logging.ERROR)
    on_gpu = cluster.gpus_per_worker > 0
    num_workers: Any = cluster.ranks if cluster.min_ranks is None else (cluster.min_ranks, cluster.ranks)
    resources: dict[str, float] = {"CPU": actor_cpus(stage.train.threads)}
    if on_gpu:
        resources["GPU"] = cluster.gpus_per_worker
    if cluster.memory_per_worker_gib:
        resources["memory"] = cluster.memory_per_worker_gib * 2**30

    def fit() -> Any:
        # Ray Train's own storage is not used: checkpoints go to the recipe's store, whole or not at all (see `checkpoints`).
        scratch = tempfile.mkdtemp(dir=scratches)
        trainer = TorchTrainer(
            train_under_ray,  # type: ignore[arg-type] # what it returns is the result's `return_value`
            train_loop_config={"stage": stage},
            torch_config=TorchConfig(backend="nccl" if on_gpu else "gloo", timeout_s=patience_s(stage)),
            scaling_config=ScalingConfig(num_workers=num_workers, use_gpu=on_gpu, resources_per_worker=resources),
            run_config=RunConfig(
                name=stage.output.fingerprint[:12],
                storage_path=scratch,
                failure_config=FailureConfig(
                    max_failures=stage.train.max_retries,
                    # else it waits for nodes without end; mypy sees the first version of Ray Train, which the second takes the place of
                    controller_failure_limit=math.ceil(cluster.start_timeout_s / _START_TRY_S),  # type: ignore[call-arg]
                ),
                callbacks=[MemoryWatch(stage, on_gpu=on_gpu)],  # type: ignore[list-item] # mypy: as above
                worker_runtime_env={"env_vars": _RANK_ENVIRONMENT | _accelerator(on_gpu=on_gpu)},
            ),
        )
        say(f"starting {cluster.ranks} {'rank' if cluster.ranks == 1 else 'ranks'}")
        try:
            return trainer.fit()
        except TrainingFailedError as error:
            told = failure(stage.output)
            raise (TrainingError(told) if told else LostRanksError(too_often(stage, error))) from error

    with tempfile.TemporaryDirectory(prefix="bioie-ray-train-") as scratches:
        result = while_it_gets_on(fit, CheckpointStore(stage.output).whole, stage.train.max_retries, say)
    if result.return_value:
        raise TrainingError(str(result.return_value))


class LostRanksError(TrainingError):
    """Ranks were lost as often in a row as is allowed."""


def while_it_gets_on(fit: Callable[[], T], whole: Callable[[], Sequence[Checkpoint]], max_retries: int, say: Callable[[str], None]) -> T:
    """Fit again when ranks were lost too often although a checkpoint came meanwhile.

    Ray Train counts over the whole of a fit, so that a long training on spot nodes would end some day, however far apart its losses are.

    Args:
        fit: trains to the end, or raises ``LostRanksError``.
        whole: the whole checkpoints there are.
        max_retries: as ``train.max_retries``, which ``fit`` counts; with 0 there is no second time here either.
        say: tells people.

    Raises:
        LostRanksError: no checkpoint came during the last fit.
    """
    while True:
        before = set(whole())
        try:
            return fit()
        except LostRanksError as error:
            came = set(whole()) - before  # by step, ranks and launch: after one that was given up for an older one, the step comes again
            if not max_retries or not came:
                raise
            say(f"ranks were lost too often in a row, but step {max(found.step for found in came)} was reached meanwhile: starting again")
            _LOG.warning("%s", error)


def patience_s(stage: Stage) -> int:
    """How long a rank waits for the others before it takes them for lost: the first one asks about dev documents while all others wait."""
    plan = stage.scoring
    if plan is None:
        return _PATIENCE_S
    return _PATIENCE_S + math.ceil(plan.num_batches * plan.max_new_tokens * _TOKEN_S)


def _check_trackers(stage: Stage) -> None:
    """Before a model is loaded for it.

    Raises:
        TrainingError: the package of a tracker is not here.
    """
    for name in stage.train.report_to:
        if find_spec(name) is None:
            raise TrainingError(
                f"train.report_to has {name}, and there is no package {name} here: pip install 'bioie-ray[track]', or take it out; "
                "metrics.jsonl and TensorBoard's files are written all the same"
            )


def _check_ranks(stage: Stage, cluster: ClusterSettings) -> None:
    """What would only come to light once ranks are lost.

    Raises:
        TrainingError: a number of ranks that a training may go on with cannot share its batch, or its optimizer.
    """
    fewest = cluster.min_ranks or cluster.ranks
    if fewest < cluster.ranks and stage.train.zero_stage:
        raise TrainingError(
            f"cluster.min_ranks={fewest} lets a training go on with fewer ranks, and DeepSpeed's shards of the optimizer fit no other number; "
            "leave min_ranks out, or set train.zero_stage=0"
        )
    for num_ranks in range(fewest, cluster.ranks + 1):
        accumulation(stage.settings, stage.name, num_ranks)


def _accelerator(*, on_gpu: bool) -> dict[str, str]:
    """DeepSpeed would take a GPU driver it finds for GPUs that it may use."""
    return {} if on_gpu else {"DS_ACCELERATOR": "cpu"}
