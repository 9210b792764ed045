"""``bioie prepare``: one corpus, without a recipe file and without Ray."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import Path

from bioie_ray.artifacts.files import cache_folder
from bioie_ray.config.recipe import Recipe, resolve
from bioie_ray.corpora.catalog import corpus_info
from bioie_ray.corpora.download import Download, Release, ReleaseFile, with_checksums
from bioie_ray.corpora.download import download as fetch
from bioie_ray.corpora.tasks import TASKS
from bioie_ray.execution.units import UnitsFailedError
from bioie_ray.pipeline.prepare import PrepareStep
from bioie_ray.pipeline.progress import Progress
from bioie_ray.pipeline.run import run_plan
from bioie_ray.pipeline.step import address_of

_PLACE = re.compile(r"^(?P<store>.*)/(?P<key>corpora/[^/@]+@(?P<version>[^/@]+))$")


def prepare_corpus(
    corpus: str,
    source: str | None,
    out: str,
    *,
    download: bool,
    urls: Sequence[str],
    sha256: Sequence[str],
    overrides: Sequence[str],
) -> None:
    """Prepare a corpus at ``out``; a finished one with the same fingerprint is left alone.

    Raises:
        ValueError: neither or both of source and download, or anything that keeps the corpus from being finished.
    """
    info = corpus_info(corpus)
    if (source is None) != download:
        raise ValueError(
            f"give either the folder of the {corpus} release or --download, for example: bioie prepare {corpus} DIR --out {out}"
        )
    store, key, version = _split_place(out)
    fetched = _fetch(corpus, info.release, urls, sha256) if source is None else None
    place = str(fetched.folder) if fetched else str(source)
    recipe = _recipe(corpus, store, version, place, overrides)
    step = PrepareStep(address_of(recipe), key, info.name, place, recipe.prepare, recipe, fetched.files if fetched else ())
    try:
        run_plan([step], Progress())
    except UnitsFailedError as error:  # its one unit is the whole corpus: nothing of it may be called done
        raise ValueError(f"{corpus} is not prepared: {error.failures[0].reason}") from None


def _fetch(corpus: str, release: Release, urls: Sequence[str], sha256: Sequence[str]) -> Download:
    """The official release, or the given addresses, in the cache; told line by line."""
    wanted = Release(tuple(ReleaseFile(url) for url in urls), release.homepage) if urls else release
    return fetch(corpus, cache_folder() / "releases", with_checksums(wanted, tuple(sha256)), lambda line: print(line, file=sys.stderr))


def _split_place(out: str) -> tuple[str, str, str]:
    """(store, key, version) of ``STORE/corpora/NAME@VERSION``; any other folder is an output of its own.

    Raises:
        ValueError: the root of a file system or of a bucket, which is no folder of an output.
    """
    text = out.rstrip("/")
    if not text or re.fullmatch(r"\w+:(//[^/]*)?", text):
        raise ValueError(f"--out {out}: give a folder for the corpus itself, for example STORE/corpora/NAME@1")
    if "://" not in text:
        text = str(Path(text).absolute())
    match = _PLACE.match(text)
    if match:
        return match["store"], match["key"], match["version"]
    store, _, key = text.rpartition("/")
    return store or "/", key, "1"


def _recipe(corpus: str, store: str, version: str, source: str, overrides: Sequence[str]) -> Recipe:
    """The recipe that the same preparation would have as a file, so that both give one fingerprint.

    Raises:
        ValueError: an override that cannot be, or of what the command's arguments say already.
    """
    data = {
        "name": f"prepare_{corpus}",
        "job": "prepare_corpora",
        "task": next(key for key, task in TASKS.items() if task.corpus == corpus),
        "corpus_version": version,
        "store": store,
        "source": source,
    }
    recipe = resolve({**data, "cluster": {"executor": "inline"}}, overrides, where=f"bioie prepare {corpus}")
    contrary = [key for key, value in {**data, "matrix": {}}.items() if getattr(recipe, key) != value]
    if contrary:
        raise ValueError(f"--set {contrary[0]}: the arguments of bioie prepare say that; set keys below prepare., or use bioie run")
    return recipe
