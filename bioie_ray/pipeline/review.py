"""``bioie review``: the answers of one output that wait for a person, on a page or in a file."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Collection
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from bioie_ray.artifacts.output import Output
from bioie_ray.corpora.tasks import get_task
from bioie_ray.dmcr.decision_log import DecisionLog
from bioie_ray.dmcr.decisions import load_answers
from bioie_ray.dmcr.review.exchange import export_jsonl, import_jsonl
from bioie_ray.dmcr.review.queue import Item, ItemQueue, digests
from bioie_ray.pipeline.locate import locate

_COLUMNS = (
    "document_id", "repeat", "answer", "verdict", "conversion_a", "conversion_b", "list_a", "list_b", "invented_a", "invented_b",
)  # fmt: skip
_MAX_NAMED = 10
_ADVICE = (
    "Where the answer is another now, decide anew, on the page or in a new --export; decisions without answer_digest get theirs when they are exported by this "
    "release from the output that they were made on"
)


def review(
    place: str,
    *,
    endpoint: str | None = None,
    host: str = "127.0.0.1",
    port: int = 0,
    token: str | None = None,
    export: Path | None = None,
    import_: Path | None = None,
    say: Callable[[str], None] = print,
) -> None:
    """Serve the page until Ctrl-C; or take decisions from a file, write all to a file, or both, and serve nothing.

    Raises:
        ValueError: no finished review output lies there, a file cannot be read or is wrong, or the page may not be served so.
    """
    output = locate(place, endpoint)
    queue = read_queue(output)
    log = DecisionLog(output, digests(queue))
    if num_stale := log.num_stale():
        say(f"{num_stale} decided answers are others now; what was decided about them does not count, and they are open again")
    if import_ is not None:
        done = import_jsonl(_read(import_), queue, log, str(import_))
        say(
            f"{import_}: {done.num_added} decisions added, {done.num_known} known already, {len(done.refused)} refused: somebody decided first"
        )
        if done.not_taken:
            more = f"; and {len(done.not_taken) - _MAX_NAMED} more" if len(done.not_taken) > _MAX_NAMED else ""
            say(f"{import_}: {len(done.not_taken)} lines not taken: {'; '.join(done.not_taken[:_MAX_NAMED])}{more}. {_ADVICE}")
    if export is not None:
        _write(export, export_jsonl(queue, log))
        say(f"{export}: {len(log.all())} decisions; {_waiting(queue, log)}")
    if import_ is None and export is None:
        if not queue.keys:
            say(f"nothing to decide in {output.location}: the evaluators agree on every answer")
            return
        _check_extra()
        from bioie_ray.dmcr.review.serve import serve

        say(f"{_waiting(queue, log)}; Ctrl-C ends this, every decision is saved at once")
        serve(queue, log, host, port, token, on_ready=lambda url: say(f"open {url}"))
    say(f"{_waiting(queue, log)}; run the recipe again to bring the scores up to date")


def read_queue(output: Output) -> ItemQueue:
    """The answers on which the evaluators of a finished ``dmcr/`` output differ, in the order of its shards.

    Raises:
        ValueError: it is another kind of output, is not finished, or its corpus is not there.
    """
    record = output.record()
    if record["kind"] != "dmcr":
        raise ValueError(f"{output.location} holds {record['kind']}; what people decide on is a dmcr/ output of the same store")
    rows = [row for shard in output.shards() for row in output.read_shard(shard, _COLUMNS).to_pylist() if row["verdict"] == "differ"]
    task = get_task(record["task"])
    texts = _texts(Output(output.address, record["corpus"]), {row["document_id"] for row in rows})
    missing = sorted({row["document_id"] for row in rows} - texts.keys())
    if missing:
        raise ValueError(f"{record['corpus']} has no document {missing[0]!r}, which {output.location} is about; was the corpus made again?")
    return ItemQueue(
        output.key,
        (
            Item(
                document_id=row["document_id"],
                repeat=row["repeat"],
                task=task.key,
                kind=task.kind,
                text=texts[row["document_id"]],
                answer=row["answer"],
                conversion_a=row["conversion_a"],
                conversion_b=row["conversion_b"],
                list_a=load_answers(row["list_a"]),
                list_b=load_answers(row["list_b"]),
                invented_a=load_answers(row["invented_a"]) or (),
                invented_b=load_answers(row["invented_b"]) or (),
            )
            for row in rows
        ),
        output.location,
    )


def _texts(corpus: Output, wanted: Collection[str]) -> dict[str, str]:
    ids = pa.array(sorted(wanted), pa.string())
    found: dict[str, str] = {}
    for shard in corpus.shards() if wanted else ():
        table = corpus.read_shard(shard, ["id", "text"])
        table = table.filter(pc.is_in(table["id"], value_set=ids))
        found.update(zip(table["id"].to_pylist(), table["text"].to_pylist(), strict=True))
    return found


def _waiting(queue: ItemQueue, log: DecisionLog) -> str:
    decided = log.standings()
    open_ = [key for key in queue.keys if key not in decided or decided[key].winner is None]
    return f"{len(open_)} of {len(queue.keys)} answers wait for a decision"


def _check_extra() -> None:
    if importlib.util.find_spec("fastapi") is None or importlib.util.find_spec("uvicorn") is None:
        raise ValueError("the review page needs FastAPI and uvicorn: pip install 'bioie-ray[serve]'; --export and --import do without")


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 (byte {error.start})") from None


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ValueError(f"cannot write {path}: {error.strerror}") from None
