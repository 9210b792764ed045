"""Names, labels and places of what goes to Kubernetes. Imports neither Ray nor the Kubernetes client."""

from __future__ import annotations

import re
from typing import Any

from bioie_ray import __version__
from bioie_ray.artifacts.fingerprint import fingerprint
from bioie_ray.config.recipe import Recipe

# The operator adds up to 16 characters to make names of RayClusters, services and pods: above 47 it refuses a RayJob
# (MaxRayJobNameLength), and a RayCronJob adds 6 for each of its RayJobs.
MAX_RAYJOB_NAME = 47
MAX_RAYCLUSTER_NAME = 53
MAX_RAYCRONJOB_NAME = MAX_RAYJOB_NAME - 6

COMMON_LABELS = {"app.kubernetes.io/part-of": "bioie-ray"}
LABEL_RECIPE = "bioie/recipe"
LABEL_JOB = "bioie/job"
LABEL_FINGERPRINT = "bioie/fingerprint"
# The head's pod carries its recipe as an annotation, which a downward-API volume shows as a file.
RECIPE_ANNOTATION = "bioie/recipe"
RECIPE_FILE = "/etc/bioie/recipe.yaml"
WORKDIR = "/opt/bioie"
STANDING_CLUSTER = "bioie"

HEAD_ACCOUNT = "bioie-head"
WORKER_ACCOUNT = "bioie-worker"
SUBMITTER_ACCOUNT = "bioie-submitter"

_HASH_DIGITS = 8
_LABEL_LENGTH = 63


def submission_fingerprint(recipe: Recipe) -> str:
    """What makes two submissions the same job: recipe, store, job and package version; not the cluster's shape. 64 hex digits.

    A store that the recipe does not name is the site's, which only the pod knows: it is left out, whatever this machine's is.
    """
    payload = without_places(recipe)
    del payload["cluster"]
    return fingerprint({"recipe": payload, "job": recipe.job, "version": __version__})


def without_places(recipe: Recipe) -> dict[str, Any]:
    """The resolved recipe as JSON, without ``store`` and ``storage.endpoint`` where they were left out."""
    data = recipe.model_dump(mode="json")
    if "store" not in recipe.model_fields_set:
        del data["store"]
    if "endpoint" not in recipe.storage.model_fields_set:
        del data["storage"]["endpoint"]
    return data


def job_name(recipe: Recipe, *, suffix: str = "") -> str:
    """The RayJob's name: the recipe's, cut to fit, and eight digits of its fingerprint; ``suffix`` makes another of the same.

    Raises:
        ValueError: a suffix of something other than one to six of a-z and 0-9.
    """
    if suffix and not re.fullmatch(r"[a-z0-9]{1,6}", suffix):
        raise ValueError(f"{suffix!r} cannot end a job's name; give one to six of a-z and 0-9")
    tail = f"-{submission_fingerprint(recipe)[:_HASH_DIGITS]}" + (f"-{suffix}" if suffix else "")
    return dns_name(recipe.name, MAX_RAYJOB_NAME - len(tail)) + tail


def dns_name(text: str, length: int) -> str:
    """A DNS-1035 label from any text: a-z, 0-9 and single hyphens, a letter first, no hyphen last, at most ``length`` long."""
    name = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
    if not name or not name[0].isalpha():
        name = f"r-{name}"
    return name[:length].strip("-")


def label_value(text: str) -> str:
    """A label's value from any text: at most 63 of letters, digits, ``.``, ``_`` and ``-``, letters or digits at both ends."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", text)[:_LABEL_LENGTH].strip("-_.")


def labels(recipe: Recipe) -> dict[str, str]:
    """Labels of a RayJob."""
    return {"app.kubernetes.io/name": "bioie", **pod_labels(recipe)}


def pod_labels(recipe: Recipe) -> dict[str, str]:
    """Labels of a recipe's pods.

    ``app.kubernetes.io/name`` is not among them: KubeRay sets it to ``kuberay``, and the head service that it makes for a
    RayJob finds the head by that (``BuildHeadServiceForRayJob``); with another value the service would have no endpoint.
    """
    return {
        **COMMON_LABELS,
        LABEL_RECIPE: label_value(recipe.name),
        LABEL_JOB: recipe.job,
        LABEL_FINGERPRINT: submission_fingerprint(recipe)[:16],
    }
