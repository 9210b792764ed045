"""`bioie submit`: check, submit, and follow where asked."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bioie_ray.cluster.api import Cluster, ClusterError, UnreachableError, connect
from bioie_ray.cluster.follow import follow_job
from bioie_ray.cluster.image import ImageError, check_compatible, default_image
from bioie_ray.cluster.naming import job_name
from bioie_ray.cluster.ray_api import given_address, ray_server
from bioie_ray.cluster.ray_jobs import entrypoint, follow_ray_job, submit_to_ray
from bioie_ray.cluster.rayjob import render_rayjob, to_yaml
from bioie_ray.cluster.registry import ImageMissingError, RegistryUnreachableError, read_image
from bioie_ray.cluster.site_store import at_site
from bioie_ray.cluster.submit import Submission, submit_to_kube, try_submission
from bioie_ray.cluster.terminal import note
from bioie_ray.config.recipe import Recipe, load_recipe

TARGETS = ("kube", "ray")
_REGISTRY_TIMEOUT_S = 5.0
# Beyond the job's own deadline: making the cluster, and noticing the end.
_MARGIN_S = 900.0


def submit(
    path: Path,
    overrides: Sequence[str],
    *,
    to: str,
    follow: bool,
    again: bool,
    dry_run: bool,
    check_image: bool,
    context: str | None,
    address: str | None,
    timeout_s: float | None,
    patience_s: float,
) -> int:
    """Submit a recipe; returns the exit code.

    Raises:
        ValueError: a recipe, image or cluster that cannot be used.
    """
    check_target(to)
    recipe = load_recipe(path, overrides)
    if to == "ray" or address is not None:
        limit_s = _limit_s(recipe, timeout_s)
        return _to_ray(recipe, address, context, follow=follow, again=again, dry_run=dry_run, check_image=check_image, timeout_s=limit_s)
    if dry_run:
        return _dry_run(recipe, context, check_image=check_image)
    cluster = connect(context)
    recipe = at_site(recipe, cluster)
    if check_image:
        note(image_note(default_image(recipe.cluster.kube)))
    submission = submit_to_kube(cluster, recipe, again=again)
    if not follow or submission.outcome in {"succeeded", "failed"}:
        return _end(submission)
    note(submission.message)
    return follow_job(cluster, submission.namespace, submission.name, timeout_s=_limit_s(recipe, timeout_s), patience_s=patience_s)


def _limit_s(recipe: Recipe, timeout_s: float | None) -> float:
    """How long to follow: what was asked for, else as long as all attempts may take."""
    return recipe.cluster.kube.deadline_s * recipe.cluster.kube.max_attempts + _MARGIN_S if timeout_s is None else timeout_s


def image_note(image: str) -> str:
    """What the registry says of the image, in one sentence.

    Raises:
        ImageError: there is no such image, or it does not fit this client; the message says what to do.
    """
    try:
        facts = read_image(image, timeout_s=_REGISTRY_TIMEOUT_S)
        check_compatible(facts)
    except RegistryUnreachableError as error:
        return f"the image {image} could not be checked from here ({error}); going on, since the nodes may reach the registry"
    except ImageMissingError as error:
        if "no right to it" in str(error):
            return f"the image {image} could not be checked from here ({error}); going on, since the nodes may have other credentials"
        raise ImageError(f"{error}; or submit with --no-image-check, if the nodes use another registry of that name") from None
    return f"image {image} ({facts.digest[:19]}): bioie_ray {facts.bioie}, Ray {facts.ray}, Python {facts.python}, as here"


def check_target(to: str) -> None:
    """Refuse a target that is not known.

    Raises:
        ClusterError: it is not.
    """
    if to not in TARGETS:
        raise ClusterError(f"--to {to} is not known; give kube (a RayJob of its own) or ray (a job on a standing cluster)")


def _to_ray(
    recipe: Recipe,
    address: str | None,
    context: str | None,
    *,
    follow: bool,
    again: bool,
    dry_run: bool,
    check_image: bool,
    timeout_s: float,
) -> int:
    if dry_run:
        where = given_address(address) or f"the RayCluster bioie in namespace {recipe.cluster.kube.namespace}"
        print(f"{job_name(recipe)}: {entrypoint(recipe)}")
        note(f"would be submitted to {where}; nothing was")
        return 0
    with ray_server(address, recipe.cluster.kube.namespace, context) as server:
        if check_image and server.cluster_spec is not None:
            note(image_note(server.cluster_spec["headGroupSpec"]["template"]["spec"]["containers"][0]["image"]))
        submission = submit_to_ray(server, recipe, again=again)
        if not follow or submission.outcome in {"succeeded", "failed"}:
            return _end(submission)
        note(submission.message)
        return follow_ray_job(server, submission.name, timeout_s=timeout_s)


def _dry_run(recipe: Recipe, context: str | None, *, check_image: bool) -> int:
    """The manifest to stdout, and to stderr what would happen to it. Where a cluster can be asked, with what its site adds."""
    cluster: Cluster | None = None
    why_not = ""
    try:
        cluster = connect(context)
        recipe = at_site(recipe, cluster)
    except UnreachableError as error:
        cluster, why_not = None, str(error)
    except ClusterError as error:
        if not str(error).startswith(("no Kubernetes to talk to", "this command talks to")):
            raise
        why_not = str(error)
    image = default_image(recipe.cluster.kube)
    print(to_yaml(render_rayjob(recipe, image=image)), end="")
    if check_image:
        note(image_note(image))
    note(try_submission(cluster, recipe) if cluster is not None else f"not tried on a server: {why_not}")
    return 0


def _end(submission: Submission) -> int:
    note(submission.message)
    if submission.outcome == "created":
        note(f"follow it: bioie logs {submission.name} --follow; see where it stands: bioie status {submission.name}")
    print(submission.name)
    return 1 if submission.outcome == "failed" else 0
