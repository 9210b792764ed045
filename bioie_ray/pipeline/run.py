"""Running a plan: done steps are passed over, the others do what is missing, and each ends with its record."""

from __future__ import annotations

from collections.abc import Sequence

from bioie_ray.artifacts.record import Provenance, Timings, make_record, now
from bioie_ray.execution.units import UnitFailure, UnitsFailedError, run_units
from bioie_ray.pipeline.progress import Progress
from bioie_ray.pipeline.step import Step


def run_plan(steps: Sequence[Step], progress: Progress) -> None:
    """Run the steps in order.

    Raises:
        DriftError: an output of another fingerprint has the version.
        UnitsFailedError: some units of a step failed; the steps after it were not started.
        ValueError: a step refused to finish (too much in quarantine, say).
    """
    for number, step in enumerate(steps, start=1):
        _run_step(step, progress, f"[{number}/{len(steps)}]")


def _run_step(step: Step, progress: Progress, position: str) -> None:
    output = step.output
    if output.is_finished():
        progress.skip(f"{position} {step.what}: done before, {output.location}")
        return
    output.claim()
    started = now()
    kept = output.markers()
    units = step.units()
    pending = [unit for unit in units if not step.is_done(unit, kept)]
    failures: list[UnitFailure] = []
    if pending:
        with progress.track(f"{position} {step.what}", total=len(units), done=len(units) - len(pending)) as advance:
            failures = run_units(step.worker(), pending, step.recipe.cluster, advance)
    if failures:
        for failure in failures:
            progress.debug(failure.details)
        raise UnitsFailedError(step.what, failures, len(pending))
    markers = output.markers()
    lost = [unit for unit in units if not step.is_done(unit, markers) and unit in pending and len(units) > 1]
    assert not lost, f"{step.what}: units without an outcome: {lost}"
    extra = step.finalise(markers)
    provenance = Provenance(
        recipe=step.recipe.model_dump(mode="json", exclude={"matrix"}),
        inputs=[{"output": i.output.key, "fingerprint": i.output.fingerprint} for i in step.inputs],
        seeds={"recipe": step.recipe.seed},
    )
    timings = Timings(started, now(), shards_made=len(markers) - len(kept), shards_kept=len(kept))
    if output.finish(make_record(output, list(markers.values()), provenance, timings, extra)):
        progress.done(f"{position} {step.what}: {output.location}")
    else:
        progress.done(f"{position} {step.what}: another run of the same recipe finished it first, {output.location}")
