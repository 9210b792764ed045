"""`bioie doctor`: is everything there? One table, a fix for each red line, exit code 1 if there is one. Runs without a cluster, too."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from functools import partial
from pathlib import Path

from bioie_ray.cluster import checks, local_checks
from bioie_ray.cluster.api import Cluster, ClusterError, connect
from bioie_ray.cluster.checks import Check, guarded
from bioie_ray.cluster.image import default_image
from bioie_ray.cluster.site_store import at_site, store_of_recipe, within
from bioie_ray.config.recipe import Recipe, load_recipe

_LIMIT_S = 6.0
_SIGNS = {"ok": ("ok", "green"), "warning": ("warn", "yellow"), "failed": ("FAIL", "bold red"), "unknown": ("?", "cyan")}


def examine(path: Path | None, overrides: Sequence[str], *, as_json: bool, context: str | None) -> int:
    """Run all checks and print them; returns the exit code.

    Raises:
        ValueError: the recipe cannot be read.
    """
    recipe = _defaults(overrides) if path is None else load_recipe(path, overrides)
    found = examine_recipe(recipe, context)
    failed = any(check.state == "failed" for check in found)
    if as_json:
        print(json.dumps({"ok": not failed, "checks": [asdict(check) for check in found]}, indent=2, ensure_ascii=False))
    else:
        _show(found)
    return 1 if failed else 0


def examine_recipe(recipe: Recipe, context: str | None) -> list[Check]:
    """The lines of the table, in its order; nothing takes longer than ten seconds."""
    kube = recipe.cluster.kube
    lines: list[Check] = []
    groups: list[tuple[str, Callable[[], Iterator[Check]]]] = []
    cluster: Cluster | None = None
    try:
        cluster = connect(context)
        version = within(_LIMIT_S, partial(cluster.get, "/version"), "the API server")
        lines.append(
            Check(
                "cluster",
                "ok",
                f"{cluster.server}, Kubernetes {version.get('gitVersion')}{f', context {cluster.context}' if cluster.context else ''}",
            )
        )
    except ClusterError as error:
        lines.append(Check("cluster", "failed", str(error), "without it only local runs work: bioie run RECIPE"))
        cluster = None
    if cluster is not None:
        asked = cluster
        try:
            recipe = within(_LIMIT_S, lambda: at_site(recipe, asked), "the site's ConfigMap")
        except ValueError as error:
            lines.append(Check("site", "failed", str(error), f"mend the ConfigMap {kube.site_config_map}"))
        kube = recipe.cluster.kube
        groups += [
            ("rights", partial(checks.check_rights, cluster, kube.namespace)),
            ("KubeRay", partial(checks.check_operator, cluster)),
            ("namespace", partial(checks.check_namespace, cluster, kube)),
            ("capacity", partial(checks.check_capacity, cluster, kube)),
            ("queues", partial(checks.check_queues, cluster, kube)),
        ]
    groups += [
        ("image", partial(local_checks.check_image, default_image(kube))),
        ("storage", lambda: local_checks.check_store(store_of_recipe(recipe, cluster), kube)),
        ("model", partial(local_checks.check_models, recipe)),
    ]
    with ThreadPoolExecutor(len(groups)) as pool:
        for result in pool.map(lambda group: _within_limit(*group), groups):
            lines.extend(result)
    return lines


def _within_limit(name: str, group: Callable[[], Iterator[Check]]) -> list[Check]:
    try:
        return within(_LIMIT_S, lambda: guarded(name, group), name)
    except ClusterError as error:
        state: checks.State = "unknown" if name in {"image", "model"} else "failed"
        return [Check(name, state, str(error), "it may be away, or not reachable from here")]


def _defaults(overrides: Sequence[str]) -> Recipe:
    """A recipe of defaults, for `--set` without a file."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "defaults.yaml")
        path.write_text("name: doctor\njob: select_examples\n", encoding="utf-8")
        return load_recipe(path, overrides)


def _show(found: list[Check]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for check in found:
        word, style = _SIGNS[check.state]
        table.add_row(Text(word, style), check.name, Text(check.found))
        if check.fix and check.state != "ok":
            table.add_row("", "", Text(f"-> {check.fix}", style if check.state == "failed" else ""))
    Console(width=None if sys.stdout.isatty() else 160).print(table)
    failed = sum(check.state == "failed" for check in found)
    print("everything that could be looked at is there" if not failed else f"{failed} to mend")
