"""Running a plan: done steps are passed over, the others do what is missing, and each ends with its record.

Steps of one kind do not depend on each other, so they share one pool of actors: a matrix of a thousand small cells starts it
once. A step gets its record as soon as its own units are done.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime

from bioie_ray.artifacts.record import Provenance, Timings, make_record, now
from bioie_ray.execution.units import UnitFailure, UnitsFailedError, WorkerSpec, run_units
from bioie_ray.execution.usage import Meter, Monitor
from bioie_ray.pipeline.group import GroupWorker, join, part
from bioie_ray.pipeline.progress import Progress
from bioie_ray.pipeline.step import Step

KINDS = (
    "corpora",
    "records",
    "instructions",
    "tokens-preft",
    "models-preft",
    "candidates",
    "preferences",
    "tokens-dpop",
    "reference",
    "models-dpop",
    "tokens-postft",
    "models-postft",
    "vectors",
    "indexes",
    "rerankers",
    "selections",
    "prompts",
    "generations",
    "conversions-a",
    "conversions-b",
    "dmcr",
    "scores",
)


def run_plan(steps: Sequence[Step], progress: Progress, *, attempt: int = 1) -> None:
    """Run the steps, kind by kind; ``attempt`` counts the starts of a submitted job, for the records.

    Raises:
        DriftError: an output of another fingerprint has the version.
        UnitsFailedError: some units failed, or some steps refused; what does not need them was done all the same: one model that cannot
            be had costs a grid of models its own cells and no other.
        ValueError: one step refused to begin or to finish (too much in quarantine, say), and nothing else went wrong.
    """
    ordered = sorted(steps, key=_rank)
    for step in ordered:
        step.output.check_drift()  # before any work, not after an hour of it
    meter = Meter(attempt)
    failed: list[_Running] = []
    try:
        for _, same_kind in itertools.groupby(ordered, key=_rank):
            group = list(same_kind)
            if failed:
                ready = [step for step in group if all(needed.output.is_finished() for needed in step.inputs)]
                if len(ready) < len(group):
                    progress.line(f"{group[0].what}: {len(group) - len(ready)} of {len(group)} outputs wait for what failed")
                group = ready
            failed += _run_group(group, progress, meter)
    finally:
        meter.stop()
    _raise(failed)


def _rank(step: Step) -> int:
    return KINDS.index(step.output.key.partition("/")[0]) if "/" in step.output.key else 0


@dataclass
class _Running:
    """A step under way: which units are still out, which shards were there before, and why it is not finished, if it will not be."""

    step: Step
    started: datetime
    num_kept: int
    has_begun: bool = False
    waiting: set[str] = field(default_factory=set)
    failures: list[UnitFailure] = field(default_factory=list)
    refusal: ValueError | None = None

    @property
    def failed(self) -> bool:
        """Whether it is over without its record."""
        return bool(self.failures) or self.refusal is not None

    @contextmanager
    def may_refuse(self) -> Iterator[None]:
        """What a step refuses ends the step; others of its kind go on."""
        try:
            yield
        except ValueError as error:
            self.refusal = error


def _run_group(steps: Sequence[Step], progress: Progress, meter: Meter) -> list[_Running]:
    """Run steps of one kind together; those that failed or refused come back."""
    running: dict[str, _Running] = {}
    pending: dict[str, list[str]] = {}
    specs: dict[str, WorkerSpec] = {}
    num_done = 0
    for step in steps:
        if step.output.is_finished():
            progress.line(f"{step.what}: done before, {step.output.location}")
            continue
        step.output.claim()
        kept = step.output.markers()
        state = running[step.output.key] = _Running(step, now(), len(kept))
        with state.may_refuse():
            left = [unit for unit in step.units() if not step.is_done(unit, kept)]
            if left:
                specs[step.output.key] = step.worker()
                pending[step.output.key] = left
                state.waiting = set(left)
                num_done += len(kept)
            else:
                _finish(state, progress, meter)
    if pending:
        _run_units([running[key] for key in pending], pending, specs, num_done, progress, meter)
    return [state for state in running.values() if state.failed]


def _run_units(
    states: Sequence[_Running],
    pending: Mapping[str, Sequence[str]],
    specs: Mapping[str, WorkerSpec],
    num_done: int,
    progress: Progress,
    meter: Meter,
) -> None:
    running = {state.step.output.key: state for state in states}
    in_turn = sorted(specs, key=lambda key: specs[key].affinity)
    units = [join(key, unit) for key in in_turn for unit in pending[key]]
    first = states[0].step
    what = first.what if len(states) == 1 else f"{first.what} and {len(states) - 1} more"

    spec = WorkerSpec(
        GroupWorker,
        {"specs": specs},
        threads=max(spec.threads for spec in specs.values()),
        uses_gpu=any(spec.uses_gpu for spec in specs.values()),
        in_driver=any(spec.in_driver for spec in specs.values()),
    )
    # Where one unit follows the other (trainings, each on all the machines there are), an output's time begins when its first one does.
    one_by_one = first.recipe.cluster.executor == "inline" or spec.in_driver
    free_since = now()

    noted = [state.step.output for state in states if state.step.takes_notes]
    with progress.notes(noted), progress.track(what, total=len(units) + num_done, done=num_done) as advance:

        def on_done(joined: str, failure: UnitFailure | None) -> None:
            nonlocal free_since
            key, unit = part(joined)
            advance(joined, failure)
            state = running[key]
            if one_by_one and not state.has_begun:
                state.has_begun, state.started = True, free_since
            state.waiting.discard(unit)
            if failure:
                progress.debug(failure.details)
                state.failures.append(UnitFailure(unit, failure.reason, failure.details))
            elif not state.waiting and not state.failures:
                with state.may_refuse():
                    _finish(state, progress, meter)
            free_since = now()

        run_units(spec, units, first.recipe.cluster, on_done, Monitor(meter, progress.line))


def _finish(state: _Running, progress: Progress, meter: Meter) -> None:
    step, output = state.step, state.step.output
    markers = output.markers()
    extra = step.finalise(markers)
    provenance = Provenance(
        recipe=step.recipe.model_dump(mode="json", exclude={"matrix"}),
        inputs=[{"output": i.output.key, "fingerprint": i.output.fingerprint} for i in step.inputs],
        seeds={"recipe": step.recipe.seed},
    )
    timings = Timings(state.started, now(), shards_made=len(markers) - state.num_kept, shards_kept=state.num_kept)
    for warning in extra.get("warnings", []):
        progress.line(f"{step.what}: {warning}")
    if output.finish(make_record(output, list(markers.values()), provenance, timings, extra, meter.snapshot())):
        progress.line(f"{step.what}: {output.location}")
    else:
        progress.line(f"{step.what}: another run of the same recipe finished it first, {output.location}")


def _raise(failed: Sequence[_Running]) -> None:
    if not failed:
        return
    first = failed[0]
    if len(failed) == 1 and first.refusal is not None:
        raise first.refusal
    failures: list[UnitFailure] = []
    for state in failed:
        place = state.step.output.location
        failures += [UnitFailure(f"{place} {failure.unit}", failure.reason, failure.details) for failure in state.failures]
        if state.refusal is not None:
            failures.append(UnitFailure(place, str(state.refusal), ""))
    firsts = {state.step.output.key.partition("/")[0]: state.step.what for state in reversed(failed)}
    raise UnitsFailedError("; ".join(reversed(firsts.values())), failures)
