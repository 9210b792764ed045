#!/usr/bin/env python3
"""Kill jobs at seeded moments, run them again, and compare what they leave with an undisturbed run, byte by byte.

    scripts/chaos.py --moments 20                         every job, 20 kills each; about a minute a kill on two idle cores
    scripts/chaos.py --job embed --moments 3 --seed 7     one job
    scripts/chaos.py --results kills.jsonl                go on where an earlier chaos was stopped

Each kill starts `python jobs/JOB.py` on a fresh store that holds the job's inputs and nothing else, waits until some of its
pieces (shards, checkpoints, files of a model, kept answers) are done or a share of its usual time has passed, and sends SIGKILL
to its driver, to one of its Ray actors or to its raylet, in turn. What is left of that run is ended (by process id: other Rays on the
machine are not touched), every shard on disk is compared, and the same command runs again until it exits with 0, three times
at most. In the end all files must be those of the reference, and what was finished before must have been left alone.
Prints a table; exit 1 on any difference. Linux only.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path

from chaos_outputs import Before, Pieces, differences, half_made
from chaos_runs import JOBS, MAX_RERUNS, REPOSITORY, Job, Reference, Run, asking

RECIPE = REPOSITORY / "jobs/recipes/select_demo.yaml"
# One corpus in many small shards and a training of some dozen steps: a run is short, but long enough to be hit half-way.
NARROWED = (
    "matrix={}",
    "name=chaos",
    "task=bc5cdr_chemical",
    "prepare.documents_per_shard=3",
    "embed.max_seq_length=64",
    "train_reranker.name=chaos",
    "train_reranker.tasks=[bc5cdr_chemical]",
    "train_reranker.max_length=64",
    "train_reranker.batch_size=4",
    "train_reranker.checkpoint_every_steps=4",
    "rerank.max_length=64",
    "select.k=12",
    "prompt.num_examples=1",
    "generate.repeats=2",
    "generate.max_new_tokens=32",
    "dmcr.max_new_tokens=16",
    "instructions.sources=[{kind: tasks}]",
    "instructions.records_per_shard=8",
    "instructions.near_duplicates=null",
    "preferences.samples=2",
    "preferences.max_new_tokens=16",
    "dpop.max_prompt_tokens=1536",
    "train.threads=1",
    "train.checkpoint_every_steps=4",
    *(f"{stage}.{setting}" for stage in ("preft", "dpop", "postft") for setting in ("batch_size=2", "micro_batch_size=2", "epochs=2")),
)
VICTIMS = ("driver", "worker", "raylet")
POLL_S = 0.002
LOOK_EVERY_S = 0.3


@dataclass(frozen=True)
class Moment:
    """When to strike: at a number of finished pieces or, without one, after a share of the usual time; then ``delay_s`` more."""

    victim: str
    pieces: int | None
    share: float
    delay_s: float

    def __str__(self) -> str:
        when = f"{self.share:.0%} of the usual time" if self.pieces is None else f"{self.pieces} pieces"
        return f"{self.victim} at {when} + {self.delay_s * 1000:.0f} ms"


@dataclass
class Kill:
    """What a kill did. ``problems`` is empty when all was as it should be."""

    job: str
    victim: str
    moment: str
    pieces_done: int = 0
    pieces_total: int = 0
    shards_kept: int = 0
    answers_kept: int = 0
    first_exit: int | None = None
    reruns: int = 0
    problems: list[str] = field(default_factory=list)

    @property
    def is_half_way(self) -> bool:
        """Whether some pieces were done and some were not."""
        return 0 < self.pieces_done < self.pieces_total


class NotHitError(Exception):
    """The run was over before its moment came."""


def draw_moment(rng: random.Random, victim: str, num_pieces: int) -> Moment:
    """Three of four moments are at a number of pieces, the others anywhere."""
    pieces = rng.randrange(1, num_pieces) if num_pieces > 1 and rng.random() < 0.75 else None
    return Moment(victim, pieces, rng.uniform(0.05, 1.0), rng.choice((0.0, rng.uniform(0.0, 0.05))))


def strike(reference: Reference, job: Job, moment: Moment, rng: random.Random, work: Path) -> Kill:
    """Start the job on a fresh store in ``work``, kill as ``moment`` says, run it to the end, and compare.

    Raises:
        NotHitError: the run was over before its moment came.
    """
    store = work / "store"
    shutil.rmtree(store, ignore_errors=True)
    reference.copy_inputs(job, store)
    undisturbed, pieces = reference.outputs(job), reference.pieces(job)
    outputs = [store / output.relative_to(reference.store) for output in undisturbed]
    pairs = list(zip(undisturbed, outputs, strict=True))
    settings, log = (*reference.settings, f"store={store}"), work / "runs.log"
    patience_s = max(300.0, 10 * reference.seconds.get(job.name, 0.0))
    kill = Kill(job.name, moment.victim, str(moment), pieces_total=pieces.total)

    run = Run(job, reference.recipe, settings, log)
    try:
        kill.pieces_done = _kill_at(moment, run, pieces, outputs, reference.seconds.get(job.name, 0.0), rng)
        kill.first_exit = code = run.wait(patience_s)
    finally:
        run.clear()
    if code is None:
        kill.problems.append(f"the run hung for {patience_s:.0f} s after its {moment.victim} was killed")
    kill.problems += [problem for pair in pairs for problem in half_made(*pair)]

    while code != 0 and kill.reruns < MAX_RERUNS:
        kill.reruns += 1
        before = [Before(output) for output in outputs]
        code = Run(job, reference.recipe, settings, log).wait(patience_s, partial(watch, before))
        kill.shards_kept = sum(len(each.markers) for each in before)
        kill.answers_kept = sum(len(each.parts) for each in before)
        kill.problems += [problem for each in before for problem in each.made_again()] if code == 0 else []
    if code != 0:
        kill.problems.append(f"not finished after {MAX_RERUNS} more runs; the last ended with {code}, see {log}")
    else:
        kill.problems += [problem for pair in pairs for problem in differences(*pair)]
    return kill


def watch(before: Sequence[Before]) -> None:
    """Note what the run under way makes again."""
    for output in before:
        output.watch()


def _kill_at(moment: Moment, run: Run, pieces: Pieces, outputs: Sequence[Path], usual_s: float, rng: random.Random) -> int:
    """Wait for the moment and kill; returns the number of pieces that were done.

    Raises:
        NotHitError: the run ended before.
    """
    began = looked = time.monotonic()
    pids: list[int] = []
    while run.driver.poll() is None:
        passed_s = time.monotonic() - began
        done = pieces.done(outputs)
        is_time = passed_s >= moment.share * usual_s if moment.pieces is None else done >= moment.pieces
        if is_time and pids:
            time.sleep(moment.delay_s)
            done = pieces.done(outputs)
            if run.kill(rng.choice(pids)):
                return done
            pids = []
        if time.monotonic() - looked > LOOK_EVERY_S or (is_time and not pids):  # beforehand, because a look takes longer than a shard
            pids, looked = run.victims(moment.victim), time.monotonic()
        time.sleep(POLL_S)
    raise NotHitError


def strike_all(reference: Reference, job: Job, arguments: argparse.Namespace, work: Path, done: Sequence[Kill]) -> Iterator[Kill]:
    """As many kills of one job as asked for, less those that an earlier chaos did; victims take turns."""
    for number in range(len(done), arguments.moments):
        for attempt in range(20):
            rng = random.Random(f"{arguments.seed} {job.name} {number} {attempt}")
            moment = draw_moment(rng, VICTIMS[number % len(VICTIMS)], reference.pieces(job).total)
            try:
                yield strike(reference, job, moment, rng, work)
            except NotHitError:
                continue
            break
        else:
            raise SystemExit(f"{job.name}: 20 runs ended before they could be killed")


def as_table(kills: Sequence[Kill]) -> str:
    """Markdown, one row a job and victim."""
    lines = [
        "| job | killed | kills | some done, some not | runs that went on by themselves | reruns | identical |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for job in JOBS:
        for victim in VICTIMS:
            rows = [kill for kill in kills if (kill.job, kill.victim) == (job, victim)]
            if rows:
                alone, reruns = sum(kill.first_exit == 0 for kill in rows), sum(kill.reruns for kill in rows)
                identical = "yes" if not any(kill.problems for kill in rows) else "**no**"
                half_way = sum(kill.is_half_way for kill in rows)
                lines.append(f"| `{job}` | {victim} | {len(rows)} | {half_way} | {alone} | {reruns} | {identical} |")
    return "\n".join(lines)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--job", action="append", choices=sorted(JOBS), help="repeatable; left out: all")
    parser.add_argument("--moments", type=int, default=20, help="kills of each job")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--recipe", type=Path, help=f"left out: {RECIPE.name}, narrowed to one small task")
    parser.add_argument("--set", dest="settings", action="append", default=[], metavar="KEY=VALUE", help="repeatable")
    parser.add_argument("--results", type=Path, help="append each kill here as a line of JSON, and do not repeat those in it")
    parser.add_argument("--keep", type=Path, help="work in this folder and leave stores and logs there")
    return parser.parse_args()


def main() -> int:
    arguments = parse_arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that a run under way is ended and tidied up
    jobs = [JOBS[name] for name in arguments.job or JOBS]
    narrowed = () if arguments.recipe else NARROWED
    kills: list[Kill] = []
    if arguments.results and arguments.results.exists():
        kills = [Kill(**json.loads(line)) for line in arguments.results.read_text().splitlines()]
    if arguments.keep:
        arguments.keep.mkdir(parents=True, exist_ok=True)
    work = arguments.keep or Path(tempfile.mkdtemp(prefix="chaos-"))
    try:
        if narrowed and any({"prompts", "records"}.intersection((*job.kinds, *job.reads)) for job in jobs):
            narrowed = (*narrowed, *asking(work / "models"))
        reference = Reference(work / "reference", arguments.recipe or RECIPE, (*narrowed, *arguments.settings))
        reference.make(jobs, work / "runs.log")
        say("undisturbed: " + ", ".join(f"{name} {seconds:.0f} s" for name, seconds in reference.seconds.items()))
        for job in jobs:
            for kill in strike_all(reference, job, arguments, work, [kill for kill in kills if kill.job == job.name]):
                kills.append(kill)
                say(f"{job.name}: {kill.moment}: {kill.pieces_done}/{kill.pieces_total} done, exit {kill.first_exit}, {kill.reruns} reruns")
                for problem in kill.problems:
                    say(f"  {problem}")
                if arguments.results:
                    with arguments.results.open("a") as file:
                        file.write(json.dumps(asdict(kill)) + "\n")
    finally:
        if not arguments.keep:
            shutil.rmtree(work, ignore_errors=True)
    print(as_table(kills))
    return 1 if any(kill.problems for kill in kills) else 0


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
