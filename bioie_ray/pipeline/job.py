"""What every ``jobs/*.py`` and ``bioie run`` do: recipe in, exit code out."""

from __future__ import annotations

import argparse
import os
import secrets
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import NoReturn

from bioie_ray.artifacts.logs import job_name, kept_log
from bioie_ray.artifacts.store import open_store
from bioie_ray.config.recipe import JobName, Recipe, load_recipe
from bioie_ray.pipeline.progress import Progress

# Jobs never phone home, never fork tokenizers under Ray, and print no banners.
ENVIRONMENT = {
    "RAY_BACKEND_LOG_LEVEL": "fatal",  # what matters is reported with its unit
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
    "RAY_ENABLE_AUTO_CONNECT": "0",  # else the thread that reads outcomes would start a new Ray while a job ends
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

    A submitted job (one with a name, see ``artifacts.logs.job_name``) keeps its log in the recipe's store.

    Raises:
        ValueError: the family of errors that people can mend; the message says how.

    On SIGTERM (a pod that is deleted, ``ray job stop``) the process ends with exit code 143.
    """
    set_environment()
    if dry_run:
        _say_what_is_done(recipe, job)
        return
    from bioie_ray.pipeline.evaluate import EvaluateStep
    from bioie_ray.pipeline.plan import Planner
    from bioie_ray.pipeline.run import run_plan
    from bioie_ray.pipeline.show_scores import score_lines
    from bioie_ray.pipeline.step import address_of

    address = address_of(recipe)
    try:
        with kept_log(open_store(address), job_name(os.environ)) as attempt, _ending_on_sigterm():
            steps = Planner().plan(recipe, job)
            progress = Progress(verbose=verbose)
            progress.line(_first_line(recipe, job, address.url, len(steps)))
            run_plan(steps, progress, attempt=attempt)
            for line in score_lines([(step.output.key, step.output.record()) for step in steps if isinstance(step, EvaluateStep)]):
                progress.line(line)
    except _ToldToEndError:
        sys.stdout.flush()
        sys.stderr.flush()
        # As an unhandled SIGTERM ends a process: Ray's own leave-taking takes seconds, `ray job stop` kills after three, and
        # Ray Data's threads would fill the log's end with what they miss. A Ray of our own dies with this process.
        os._exit(128 + signal.SIGTERM)


def _first_line(recipe: Recipe, job: JobName | None, store: str, num_outputs: int) -> str:
    """What runs, where to, from which image, on which Ray. How many units that is each kind of step says when it begins."""
    ray = "no Ray" if recipe.cluster.executor == "inline" else f"Ray at {os.environ.get('RAY_ADDRESS') or 'this machine'}"
    where = f"{os.environ.get('BIOIE_IMAGE') or 'no image'}, {ray}"
    return f"{job or recipe.job} of {recipe.name}@{recipe.version}: {num_outputs} outputs in {store}; {where}"


def _say_what_is_done(recipe: Recipe, job: JobName | None) -> None:
    from bioie_ray.pipeline.plan import Planner
    from bioie_ray.pipeline.step import Step
    from bioie_ray.pipeline.train_stage import TrainStage, estimates

    steps: list[Step] = []
    try:
        steps = Planner().plan(recipe, job)
    except ValueError as error:  # planned on a laptop, run where models and data are
        print(f"what is done already cannot be said here: {error}")
    for step in steps:
        state = "done" if step.output.is_finished() else f"{len(step.output.markers())} shards done"
        print(f"{step.output.key}  {state}  {step.output.fingerprint[:12]}  ({step.what})")
    for line in estimates(recipe, job or recipe.job, [step for step in steps if isinstance(step, TrainStage)]):
        print(line)


class _ToldToEndError(SystemExit):
    """SIGTERM came."""


def _tell_to_end(signum: int, _frame: FrameType | None) -> NoReturn:
    raise _ToldToEndError(128 + signum)


@contextmanager
def _ending_on_sigterm() -> Iterator[None]:
    """Meanwhile SIGTERM ends the run at once and with a word; what is committed stays."""
    if threading.current_thread() is not threading.main_thread():  # only that one may set handlers
        yield
        return
    before = signal.signal(signal.SIGTERM, _tell_to_end)
    try:
        yield
    except _ToldToEndError:
        print("stopped by SIGTERM; run again, it goes on where it stopped", file=sys.stderr, flush=True)
        raise
    finally:
        signal.signal(signal.SIGTERM, before)


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
    except OSError as error:
        print(f"error: {error.filename or 'the system'}: {error.strerror or error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped; run the same command again, it goes on where it stopped", file=sys.stderr)
        return 130
    return 0
