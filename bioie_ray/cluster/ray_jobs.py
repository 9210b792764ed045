"""Submitting to, following, listing and stopping on a Ray job server. The submission's id is the job's name, so the same recipe is one job."""

from __future__ import annotations

import asyncio
import shlex
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from bioie_ray.cluster.api import ClusterError
from bioie_ray.cluster.explain import telling_line
from bioie_ray.cluster.naming import WORKDIR, job_name
from bioie_ray.cluster.ray_api import RayServer, asked, find_job, known_job
from bioie_ray.cluster.submit import Submission
from bioie_ray.cluster.terminal import note
from bioie_ray.cluster.work import works_of
from bioie_ray.config.recipe import Recipe

_FINISHED = {"SUCCEEDED", "FAILED", "STOPPED"}
_HEARTBEAT_S = 12.0
_RECONNECT_S = 2.0
_UNREACHABLE_LIMIT_S = 300.0
_MAX_AGAIN = 100


def submit_to_ray(server: RayServer, recipe: Recipe, *, again: bool = False) -> Submission:
    """Start the recipe as a Ray job, or find the one that is there.

    Raises:
        ClusterError: the job server refused or did not answer.
    """
    name, number = job_name(recipe), 2
    while (found := find_job(server, name)) is not None:
        if not again:
            return _existing(name, found, server.where)
        if number > _MAX_AGAIN:
            raise ClusterError(f"{server.where} holds {_MAX_AGAIN} jobs of this recipe already; restart it, or change the recipe's version")
        name, number = job_name(recipe, suffix=str(number)), number + 1
    with tempfile.TemporaryDirectory(prefix="bioie-") as folder:
        # One file and nothing of the checkout: the package in the image is the one that runs.
        Path(folder, "recipe.yaml").write_text(ray_recipe_text(recipe, server.cluster_spec), encoding="utf-8")
        try:
            asked(
                server.jobs.submit_job,
                entrypoint=entrypoint(recipe),
                submission_id=name,
                runtime_env={"working_dir": folder, "env_vars": {"BIOIE_JOB_NAME": name}},
                metadata={"bioie.recipe": recipe.name, "bioie.job": recipe.job},
            )
        except ClusterError as error:
            if "already exists" not in str(error):
                raise
            return _existing(name, find_job(server, name), server.where)
    return Submission(name, "", "created", f"submitted {name} to {server.where}")


def entrypoint(recipe: Recipe) -> str:
    """What the driver runs, in the image that the standing cluster has."""
    return f"python {shlex.quote(f'{WORKDIR}/jobs/{recipe.job}.py')} --recipe recipe.yaml"


def ray_recipe_text(recipe: Recipe, cluster_spec: Mapping[str, Any] | None) -> str:
    """The recipe as the driver gets it; with the number of actors of a standing cluster at its full size, so that it grows from zero."""
    data = recipe.model_dump(mode="json")
    if recipe.cluster.num_workers is None and cluster_spec is not None:
        data["cluster"]["num_workers"] = actors_at_full_size(recipe, cluster_spec)
    for section, key in ((recipe, "store"), (recipe.storage, "endpoint")):
        if key not in section.model_fields_set:
            (data if section is recipe else data["storage"]).pop(key, None)
    return yaml.safe_dump(data, sort_keys=False, allow_unicode=True, width=120)


def actors_at_full_size(recipe: Recipe, cluster_spec: Mapping[str, Any]) -> int:
    """How many actors of a recipe a RayCluster holds with every group at its largest; at least 1."""
    most = 1
    for work in works_of(recipe):
        actors = 0
        groups = [(group, group.get("rayStartParams") or {}) for group in cluster_spec.get("workerGroupSpecs") or ()]
        if not work.uses_gpu:  # pods with GPUs only where there are no others
            groups = [(group, params) for group, params in groups if not int(params.get("num-gpus") or 0)] or groups
        for group, params in groups:
            cpus, gpus = int(params.get("num-cpus") or 0), int(params.get("num-gpus") or 0)
            actors += work.fitting(cpus, gpus, recipe.cluster.gpus_per_worker) * int(group.get("maxReplicas") or 0)
        most = max(most, actors)
    return most


def follow_ray_job(server: RayServer, name: str, *, timeout_s: float, say: Callable[[str], None] = note) -> int:
    """Print the driver's log as it comes, through reconnects; returns 0 if the job succeeded, else 1.

    Raises:
        ClusterError: no such job, or the server did not answer for five minutes.
    """
    return asyncio.run(_follow(server, name, timeout_s, say))


async def _follow(server: RayServer, name: str, timeout_s: float, say: Callable[[str], None]) -> int:
    started = last_answer = time.monotonic()
    last_word = started - _HEARTBEAT_S
    given = _Given()
    while True:
        left_s = timeout_s - (time.monotonic() - started)
        if left_s <= 0:
            say(f"stopped following after {timeout_s:.0f} s (--timeout); the job goes on: bioie status {name} --to ray")
            return 1
        try:
            found = await asyncio.to_thread(_known, server, name)
            last_answer = time.monotonic()
            await _print_log(server, name, given, left_s, started, say)
            if str(found.status) in _FINISHED:
                return _finish(name, found, started, say)
            await asyncio.sleep(0.5)
        except _LostError:
            raise
        except (ClusterError, RuntimeError, OSError) as error:
            if time.monotonic() - last_answer >= _UNREACHABLE_LIMIT_S:
                raise ClusterError(f"{error}; no answer for {_UNREACHABLE_LIMIT_S:.0f} s") from None
            if time.monotonic() - last_word >= _HEARTBEAT_S:
                last_word = time.monotonic()
                say(f"{last_word - started:5.0f} s  the connection broke ({' '.join(str(error).split())[:160]}); connecting again")
            await asyncio.sleep(_RECONNECT_S)


def _known(server: RayServer, name: str) -> Any:
    found = find_job(server, name)
    if found is None:
        raise _LostError(
            f"{server.where} knows no job {name}: its head was replaced and forgot its jobs; submit it again, finished shards are kept"
        )
    return found


@dataclass(slots=True)
class _Given:
    """How much of the log was printed (every new connection begins at the log's beginning), and which causes were said."""

    num_chars: int = 0
    causes: set[str] = field(default_factory=set)


class _LostError(ClusterError):
    """The server forgot the job."""


async def _print_log(server: RayServer, name: str, given: _Given, left_s: float, started: float, say: Callable[[str], None]) -> None:
    """One connection's worth of the log; what earlier ones gave is passed over."""
    ends = time.monotonic() + left_s
    skip = given.num_chars
    chunks: AsyncIterator[str] = server.jobs.tail_job_logs(name)
    task: asyncio.Future[str | None] = asyncio.ensure_future(_next(chunks))
    try:
        while time.monotonic() < ends:
            done, _ = await asyncio.wait({task}, timeout=_HEARTBEAT_S)
            if not done:
                found = await asyncio.to_thread(find_job, server, name)
                state = (
                    "gone"
                    if found is None
                    else f"{found.status}{f': {found.message}' if str(found.status) == 'PENDING' and found.message else ''}"
                )
                say(f"{time.monotonic() - started:5.0f} s  {state}")
                for finding in await asyncio.to_thread(server.findings):
                    if finding.key not in given.causes:
                        given.causes.add(finding.key)
                        say(f"! {finding}")
                continue
            chunk = task.result()
            if chunk is None:
                break
            task = asyncio.ensure_future(_next(chunks))
            fresh = chunk[skip:]
            skip = max(0, skip - len(chunk))
            if fresh:
                print(fresh, end="", flush=True)
                given.num_chars += len(fresh)
    finally:
        task.cancel()


async def _next(chunks: AsyncIterator[str]) -> str | None:
    return await anext(chunks, None)


def _finish(name: str, found: Any, started: float, say: Callable[[str], None]) -> int:
    status = str(found.status)
    if status == "SUCCEEDED":
        say(f"{name}: SUCCEEDED after {time.monotonic() - started:.0f} s")
        return 0
    reason = telling_line(str(found.message or ""))
    say(f"{name}: {status}{f': {reason}' if reason else ''}; --again starts it again: finished shards are kept")
    return 1


def stop_ray_job(server: RayServer, name: str, *, timeout_s: float = 60.0, say: Callable[[str], None] = note) -> None:
    """Stop a job and wait until it has stopped.

    Raises:
        ClusterError: no such job, or it did not stop in time.
    """
    found = known_job(server, name)
    if str(found.status) in _FINISHED:
        say(f"{name} is over already: {found.status}")
        return
    asked(server.jobs.stop_job, name)
    ends = time.monotonic() + timeout_s
    while time.monotonic() < ends:
        found = find_job(server, name)
        if found is None or str(found.status) in _FINISHED:
            say(f"{name} is stopped; its actors give their workers back, which go after the idle time-out")
            return
        time.sleep(0.5)
    raise ClusterError(f"{name} was told to stop, but runs on after {timeout_s:.0f} s; see bioie logs {name} --to ray")


def _existing(name: str, found: Any, where: str) -> Submission:
    status = "gone" if found is None else str(found.status)
    if status == "SUCCEEDED":
        return Submission(name, "", "succeeded", f"{name} has succeeded already on {where}; --again runs the recipe once more")
    if status in _FINISHED:
        return Submission(
            name, "", "failed", f"{name} ended already as {status} on {where}; --again starts it again: finished shards are kept"
        )
    return Submission(
        name, "", "running", f"{name} is there already ({status}) on {where}: the same recipe is the same job; --again starts another"
    )
