#!/usr/bin/env python3
"""Exact against approximate search over shards of sentence vectors: speed, recall@30, memory, growth of the pool.

    scripts/bench_index.py --source CORPORA --work FOLDER --sizes 100000,200000,500000,1000000 --plot growth.svg

CORPORA holds one folder a corpus, named as ``bioie prepare`` names it. The vectors are those of its real sentences; up to
the wanted number they are extended by mixing two sentences' vectors and turning the mixture a little in the direction
from one sentence to another, all of unit length. Queries are real sentences kept out of the pool. FOLDER keeps vectors
and indexes, so that a second run only measures. Every point is measured in a process of its own, with one shard in
memory at a time. Prints Markdown.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPOSITORY))

K = 30
SEED = 20_240
SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=[A-Z0-9])")
KINDS = ("flat", "ivf", "hnsw")


def main() -> None:
    arguments = parse_arguments()
    if arguments.child:
        print(json.dumps(CHILDREN[arguments.child](**json.loads(arguments.task))))
        return
    arguments.work.mkdir(parents=True, exist_ok=True)
    sizes = sorted(int(size) for size in arguments.sizes.split(","))
    num_sentences = make_sentence_vectors(arguments)
    num_shards = make_shards(arguments.work, arguments.queries, max(sizes), arguments.shard)
    kinds = {kind: index_settings(arguments, kind) for kind in KINDS}
    builds = {kind: build_indexes(arguments.work, num_shards, kinds[kind]) for kind in KINDS if kind != "flat"}
    points = [
        run_child("measure", work=str(arguments.work), num_shards=-(-size // arguments.shard), settings=settings,
                  repeats=arguments.repeats, threads=arguments.threads) | {"kind": kind}
        for size in sizes
        for kind, settings in kinds.items()
    ]  # fmt: skip
    print(as_markdown(arguments, num_sentences, builds, points))
    (arguments.work / "points.json").write_text(json.dumps({"builds": builds, "points": points}, indent=1))
    if arguments.plot:
        draw(points, arguments.plot)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", type=Path, help="folder of corpora; not read when FOLDER has sentence vectors")
    parser.add_argument("--work", type=Path, default=Path("/tmp/bench_index"), help="folder for vectors and indexes")
    parser.add_argument("--sizes", default="100000,200000,500000,1000000", help="pool sizes, each a whole number of shards")
    parser.add_argument("--shard", type=int, default=100_000, help="vectors in a shard")
    parser.add_argument("--sentences", type=int, default=20_000, help="real sentences embedded")
    parser.add_argument("--queries", type=int, default=500, help="sentences kept out of the pool as queries")
    parser.add_argument("--threads", type=int, default=1, help="FAISS threads")
    parser.add_argument("--repeats", type=int, default=3, help="timings of a point; the median is given")
    parser.add_argument("--ivf-lists", type=int, default=256)
    parser.add_argument("--ivf-probes", type=int, default=96)
    parser.add_argument("--hnsw-links", type=int, default=16)
    parser.add_argument("--hnsw-build-depth", type=int, default=100)
    parser.add_argument("--hnsw-search-depth", type=int, default=128)
    parser.add_argument("--plot", type=Path, help="write a picture of the growth here (.svg or .png)")
    parser.add_argument("--child", choices=sorted(CHILDREN), help=argparse.SUPPRESS)
    parser.add_argument("--task", help=argparse.SUPPRESS)
    return parser.parse_args()


def index_settings(arguments: argparse.Namespace, kind: str) -> dict[str, Any]:
    names = [name for name in vars(arguments) if name.startswith(f"{kind}_")]
    return {"kind": kind, **{name: getattr(arguments, name) for name in names}}


def run_child(child: str, **task: Any) -> dict[str, Any]:
    command = [sys.executable, __file__, "--child", child, "--task", json.dumps(task)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def make_sentence_vectors(arguments: argparse.Namespace) -> int:
    """Vectors of real sentences, in random order, in ``sentences.npy``; returns their number."""
    path = arguments.work / "sentences.npy"
    if not path.exists():
        if arguments.source is None:
            raise SystemExit(f"{path} does not exist yet: give --source, a folder of corpora, to make it")
        run_child("embed", source=str(arguments.source), path=str(path), num_sentences=arguments.sentences)
    return len(np.load(path, mmap_mode="r"))


def embed(source: str, path: str, num_sentences: int) -> dict[str, Any]:
    from bioie_ray.config.steps import EmbedSettings
    from bioie_ray.retrieval.encoder import Encoder

    sentences = read_sentences(Path(source))
    order = np.random.default_rng(SEED).permutation(len(sentences))[:num_sentences]
    vectors = Encoder(EmbedSettings()).encode([sentences[place] for place in order.tolist()]).vectors
    np.save(path, vectors.astype(np.float32))
    return {}


def read_sentences(source: Path) -> list[str]:
    """All distinct sentences of 30 to 600 characters of the corpora in ``source``, sorted."""
    from bioie_ray.corpora.catalog import CORPORA, find_reader
    from bioie_ray.corpora.document import Document

    found: set[str] = set()
    for name in CORPORA:
        if not (source / name).is_dir():
            continue
        reader, files = find_reader(name, source / name)
        for split in sorted({file.split for file in files}):
            for document in reader.read(files, split):
                if isinstance(document, Document):
                    found.update(sentence.strip() for sentence in SENTENCE_END.split(document.text))
    sentences = sorted(sentence for sentence in found if 30 <= len(sentence) <= 600)
    if not sentences:
        raise SystemExit(f"no corpus was found in {source}; expected folders named {', '.join(CORPORA)}")
    return sentences


def make_shards(work: Path, num_queries: int, size: int, shard_size: int) -> int:
    """Queries and shards of the pool as .npy files; returns the number of shards."""
    sentences = np.load(work / "sentences.npy")
    np.save(work / "queries.npy", sentences[:num_queries])
    real = sentences[num_queries:]
    num_shards = -(-size // shard_size)
    for number in range(num_shards):
        path = shard_path(work, number)
        if not path.exists() or len(np.load(path, mmap_mode="r")) != shard_size:
            np.save(path, grow(real, number, shard_size))
    return num_shards


def grow(real: np.ndarray, number: int, shard_size: int) -> np.ndarray:
    """Vectors [shard_size, d]: the real ones first (over the shards), then mixtures turned a little."""
    start = number * shard_size
    kept = real[start : start + shard_size]
    rng = np.random.default_rng([SEED, number])
    one, two, origin, target = rng.integers(len(real), size=(4, shard_size - len(kept)))
    share = rng.uniform(0.55, 0.95, size=(len(one), 1)).astype(np.float32)
    mixed = share * real[one] + (1 - share) * real[two] + np.float32(0.15) * (real[target] - real[origin])
    mixed /= np.linalg.norm(mixed, axis=1, keepdims=True)
    return np.concatenate([kept, mixed]).astype(np.float32)


def shard_path(work: Path, number: int) -> Path:
    return work / f"shard-{number:05}.npy"


def build_indexes(work: Path, num_shards: int, settings: dict[str, Any]) -> dict[str, Any]:
    """Missing indexes are built, each in its own process; returns seconds and peak memory of one."""
    built = [run_child("build", work=str(work), number=number, settings=settings) for number in range(num_shards)]
    return {name: max(build[name] for build in built) for name in built[0]}


def index_path(work: Path, number: int, settings: dict[str, Any]) -> Path:
    # the search depth may change without building again
    built_by = [value for name, value in settings.items() if name not in {"ivf_probes", "hnsw_search_depth"}]
    return work / f"index-{number:05}-{'-'.join(map(str, built_by))}.faiss"


def build(work: str, number: int, settings: dict[str, Any]) -> dict[str, Any]:
    from bioie_ray.config.steps import IndexSettings
    from bioie_ray.retrieval.index import build_index

    path = index_path(Path(work), number, settings)
    report = path.with_suffix(".json")
    if not report.exists():
        vectors = np.load(shard_path(Path(work), number))
        baseline, started = memory_mib("VmHWM"), time.perf_counter()
        data = build_index(vectors, IndexSettings(**settings), SEED)
        numbers = {
            "seconds": time.perf_counter() - started,
            "peak_mib": memory_mib("VmHWM") - baseline,
            "mib": len(data) / 2**20,
        }
        path.write_bytes(data)
        report.write_text(json.dumps(numbers))
    return json.loads(report.read_text())


def measure(work: str, num_shards: int, settings: dict[str, Any], repeats: int, threads: int) -> dict[str, Any]:
    """Speed, memory and recall of one kind of search over the first ``num_shards`` shards."""
    from bioie_ray.retrieval.index import recall, search_indexes
    from bioie_ray.retrieval.search import Hit, search_shards

    folder = Path(work)
    queries = np.load(folder / "queries.npy")
    search = search_shards if settings["kind"] == "flat" else search_indexes
    search(queries[:32], load_shards(folder, 1, settings, []), K, threads=threads)  # pages and libraries are warm
    baseline = memory_mib("VmRSS")
    timings = []
    for _ in range(repeats):
        loading: list[np.ndarray] = []
        started = clocks()
        hits = search(queries, load_shards(folder, num_shards, settings, loading), K, threads=threads)
        total = clocks() - started
        timings.append([*(total - sum(loading)), total[0]])
    searching, searching_cpu, with_loading = np.median(timings, axis=0).tolist()
    truth_path = folder / f"truth-{num_shards}.json"
    if settings["kind"] == "flat":
        truth_path.write_text(json.dumps([[[hit.id, hit.score] for hit in best] for best in hits]))
    truth = [[Hit(*pair) for pair in best] for best in json.loads(truth_path.read_text())]
    shard_mib = shard_path(folder, 0).stat().st_size / 2**20
    return {
        "size": sum(len(np.load(shard_path(folder, number), mmap_mode="r")) for number in range(num_shards)),
        "num_shards": num_shards,
        "shard_mib": shard_mib,
        "recall": recall(hits, truth),
        "queries_per_s": len(queries) / searching,
        "queries_per_cpu_s": len(queries) / searching_cpu,
        "queries_per_s_with_loading": len(queries) / with_loading,
        "peak_mib": memory_mib("VmHWM") - baseline,
    }


def load_shards(folder: Path, num_shards: int, settings: dict[str, Any], loading: list[np.ndarray]) -> Iterator[Any]:
    """Shards as the searches take them, one in memory at a time; appends the clocks that reading took."""
    import faiss

    from bioie_ray.retrieval.index import load_index

    for number in range(num_shards):
        started = clocks()
        if settings["kind"] == "flat":
            shard: tuple[Any, ...] = (np.load(shard_path(folder, number)),)
        else:
            index = load_index(index_path(folder, number, settings).read_bytes())
            for name, value in settings.items():
                if name == "ivf_probes":
                    index.nprobe = value
                elif name == "hnsw_search_depth":
                    faiss.downcast_index(index).hnsw.efSearch = value
            shard = (np.load(shard_path(folder, number), mmap_mode="r"), index)
            del index
        ids = [f"{number:05}-{row:06}" for row in range(len(shard[0]))]
        loading.append(clocks() - started)
        yield ids, *shard
        del shard


def clocks() -> np.ndarray:
    """Seconds on the wall and of CPU; the second hardly notices what else the machine does."""
    return np.array([time.perf_counter(), time.process_time()])


def memory_mib(field: str) -> float:
    """A field of /proc/self/status: ``VmHWM`` is the peak of this process alone, where ``ru_maxrss`` has its parent's too."""
    [line] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(f"{field}:")]
    return int(line.split()[1]) / 1024


CHILDREN = {"embed": embed, "build": build, "measure": measure}


def as_markdown(arguments: argparse.Namespace, num_sentences: int, builds: dict[str, Any], points: list[dict[str, Any]]) -> str:
    about = (
        f"{points[-1]['size']:,} unit vectors: {num_sentences - arguments.queries:,} of real sentences (MiniLM, 384 dimensions), "
        f"the rest mixtures of two real ones turned a little; {arguments.queries} other sentences as queries, k = {K}; "
        f"shards of {arguments.shard:,} vectors ({points[0]['shard_mib']:.0f} MiB), one in memory at a time; "
        f"{arguments.threads} thread(s), median of {arguments.repeats}. "
        f"IVF: {arguments.ivf_lists} lists a shard, {arguments.ivf_probes} probed. HNSW: {arguments.hnsw_links} links, "
        f"depth {arguments.hnsw_build_depth} to build, {arguments.hnsw_search_depth} to search."
    )
    header = [
        "vectors",
        "search",
        "recall@30",
        "queries/s",
        "queries per CPU second",
        "queries/s with reading the shards",
        "peak memory above baseline, MiB",
    ]
    rows = [
        [
            f"{point['size']:,}",
            "exact" if point["kind"] == "flat" else point["kind"],
            f"{point['recall']:.4f}",
            f"{point['queries_per_s']:.0f}",
            f"{point['queries_per_cpu_s']:.0f}",
            f"{point['queries_per_s_with_loading']:.0f}",
            f"{point['peak_mib']:.0f}",
        ]
        for point in points
    ]
    built_header = ["index of one shard", "MiB", "seconds to build", "peak memory to build above the vectors, MiB"]
    built_rows = [[kind, *(f"{built[name]:.0f}" for name in ("mib", "seconds", "peak_mib"))] for kind, built in builds.items()]
    return "\n\n".join([about, table(header, rows), table(built_header, built_rows)])


def table(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def draw(points: list[dict[str, Any]], path: Path) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    mpl.rcParams["svg.hashsalt"] = "bench_index"  # the same points give the same file
    import matplotlib.pyplot as plt

    figure, (speed, memory) = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    for kind in KINDS:
        mine = [point for point in points if point["kind"] == kind]
        label = "exact" if kind == "flat" else f"{kind}, recall {min(point['recall'] for point in mine):.3f}"
        sizes = [point["size"] / 1000 for point in mine]
        speed.plot(sizes, [point["queries_per_cpu_s"] for point in mine], marker="o", label=label)
        memory.plot(sizes, [point["peak_mib"] for point in mine], marker="o", label=label)
    memory.plot(sizes, [point["shard_mib"] * point["num_shards"] for point in mine], ls=":", color="grey", label="all vectors")
    speed.set(xlabel="thousand vectors", ylabel="queries per CPU second", yscale="log")
    memory.set(xlabel="thousand vectors", ylabel="peak memory above baseline, MiB", yscale="log")
    speed.legend()
    memory.legend()
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)


if __name__ == "__main__":
    main()
