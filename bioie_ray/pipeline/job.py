"""What every ``jobs/*.py`` and ``bioie run`` do: recipe in, exit code out."""

from __future__ import annotations

import argparse
import os
import secrets
import sys
from collections.abc import Sequence
from pathlib import Path

from bioie_ray.config.recipe import JobName, Recipe, load_recipe
from bioie_ray.pipeline.progress import Progress

# Jobs never phone home, never fork tokenizers under Ray, and print no banners.
ENVIRONMENT = {
    "RAY_BACKEND_LOG_LEVEL": "fatal",  # what matters is reported with its unit
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
    "PYTHONWARNINGS": "ignore::FutureWarning,ignore::DeprecationWarning",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "TRANSFORMERS_VERBOSITY": "error",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
}


def set_environment() -> None:
    """Environment of this process and its children; what is set already stays.

    A local Ray gets a token of its own that dies with it: without one anybody on the network could run code in it, and the
    one that Ray would make by itself stays in the home folder and changes what later ``ray`` commands ask for.
    """
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    # Ray reads its mode once, at import: set later, it would hold for the servers that Ray starts and not for this process.
    if "ray" not in sys.modules and not {"RAY_ADDRESS", "RAY_AUTH_MODE"} & os.environ.keys():
        os.environ["RAY_AUTH_MODE"] = "token"
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)


def run_recipe(recipe: Recipe, job: JobName | None = None, *, dry_run: bool = False, verbose: bool = False) -> None:
    """Run a recipe's job with everything it needs, or only say what would be done.

    Raises:
        ValueError: the family of errors that people can mend; the message says how.
    """
    set_environment()
    from bioie_ray.pipeline.plan import Planner

    steps = Planner().plan(recipe, job)
    if dry_run:
        for step in steps:
            state = "done" if step.output.is_finished() else f"{len(step.output.markers())} shards done"
            print(f"{step.output.key}  {state}  {step.output.fingerprint[:12]}  ({step.what})")
        return
    from bioie_ray.pipeline.run import run_plan

    run_plan(steps, Progress(verbose=verbose))


def main(job: JobName, description: str, arguments: Sequence[str] | None = None) -> int:
    """The command line of a job file; returns the exit code."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", type=Path, required=True, help="a YAML file of jobs/recipes/")
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE", help="repeatable")
    parser.add_argument("--dry-run", action="store_true", help="say what would be done")
    parser.add_argument("--verbose", action="store_true", help="print tracebacks of failed shards")
    options = parser.parse_args(arguments)
    try:
        recipe = load_recipe(options.recipe, options.overrides)
        run_recipe(recipe, job, dry_run=options.dry_run, verbose=options.verbose)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped; run the same command again, it goes on where it stopped", file=sys.stderr)
        return 130
    return 0
