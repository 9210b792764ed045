"""``corpora/<corpus>@<version>``: a release in its original format becomes shards of ``DOCUMENT_SCHEMA``."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from importlib.resources import files
from pathlib import Path
from typing import Any, get_args

from bioie_ray.artifacts.output import CLAIM, Marker, Output
from bioie_ray.artifacts.store import StoreAddress
from bioie_ray.config.recipe import Recipe
from bioie_ray.config.steps import CorpusName, PrepareSettings, Split
from bioie_ray.corpora.catalog import find_reader, fingerprint_source
from bioie_ray.corpora.download import Fetched
from bioie_ray.corpora.prepare import PreparedShard, SplitCounts, check_quarantine, describe, iter_corpus, summarise
from bioie_ray.corpora.reading import Reader, Rejected, SourceError, SourceFile
from bioie_ray.execution.units import WorkerSpec
from bioie_ray.pipeline.step import Existing, Step, address_of, existing

FORMAT_VERSION = 2
_REASONS_SHOWN = 3
_NOTE_EVERY_S = 10.0
_UNIT = "corpus"  # one stream: an id is unique over all splits, so they are read together


@dataclass(frozen=True)
class PrepareStep:
    """Reads a source; the unit of work is the corpus, the unit of resume its shards."""

    address: StoreAddress
    key: str
    corpus: CorpusName
    source: str
    settings: PrepareSettings
    recipe: Recipe
    downloaded: tuple[Fetched, ...] = ()

    @cached_property
    def _found(self) -> tuple[Reader, list[SourceFile]]:
        return find_reader(self.corpus, self.source, self.settings.format)

    @cached_property
    def output(self) -> Output:
        """The corpus; its payload covers the source's bytes and how they are read, never where they lie."""
        reader, source_files = self._found
        payload = {
            "kind": "corpora",
            "format_version": FORMAT_VERSION,
            "corpus": self.corpus,
            # The limit decides whether the corpus is finished, not what it holds: with a raised one the same shards do.
            "settings": {**self.settings.model_dump(mode="json", exclude={"max_quarantined_share"}), "format": reader.format},
            "source": fingerprint_source(source_files),
        }
        return Output(self.address, self.key, payload)

    @property
    def inputs(self) -> Sequence[Step]:
        """None: a corpus comes from outside."""
        return ()

    @property
    def takes_notes(self) -> bool:
        """A large corpus takes minutes, and its size is not known beforehand."""
        return True

    @property
    def what(self) -> str:
        """For the progress line."""
        return f"preparing {self.corpus}"

    def units(self) -> list[str]:
        """The corpus is one stream."""
        return [_UNIT]

    def is_done(self, unit: str, markers: Mapping[str, Marker]) -> bool:
        """Only the end of the stream tells that all shards are there."""
        return False

    def worker(self) -> WorkerSpec:
        """A reader with its files."""
        reader, source_files = self._found
        return WorkerSpec(PrepareWorker, {"reader": reader, "files": source_files, "settings": self.settings, "output": self.output})

    def finalise(self, markers: Mapping[str, Marker]) -> dict[str, Any]:
        """Counts per split, and a warning that names the first things that were quarantined.

        Raises:
            SourceError: more was quarantined than ``max_quarantined_share`` allows.
        """
        counts = [(name.rpartition("-")[0], SplitCounts(**marker.counts)) for name, marker in sorted(markers.items())]
        order = get_args(Split)
        summary = summarise(sorted(counts, key=lambda pair: order.index(pair[0])))
        rejected = quarantined(self.output, markers)
        try:
            check_quarantine(summary["splits"], self.settings.max_quarantined_share, rejected)
        except SourceError:
            self.output.discard()
            raise
        _, source_files = self._found
        return {
            "corpus": self.corpus,
            **summary,
            "source_files": [file.name for file in source_files],
            "downloaded": [asdict(file) for file in self.downloaded],
            "warnings": _warnings(rejected),
        }


class PrepareWorker:
    """Streams the source and commits every shard that is not there yet."""

    def __init__(self, reader: Reader, files: Sequence[SourceFile], settings: PrepareSettings, output: Output) -> None:
        self._reader = reader
        self._files = files
        self._settings = settings
        self._output = output

    def process(self, unit: str) -> None:
        """Read the whole source; shards with a marker are passed over.

        Raises:
            SourceError: a file cannot be read. The version is given up, so that the mended source, which is another one, may have it.
        """
        try:
            self._stream()
        except SourceError:
            self._output.discard()
            raise

    def _stream(self) -> None:
        done = self._output.markers()
        began = noted = time.monotonic()
        num_documents = 0
        for shard in iter_corpus(self._reader, self._files, self._settings):
            if shard.name not in done:
                _commit(self._output, shard)
            num_documents += shard.counts.documents
            if time.monotonic() - noted >= _NOTE_EVERY_S:
                noted = time.monotonic()
                self._output.note(f"{num_documents:,} documents, {num_documents / (noted - began):,.0f}/s, at {shard.name}")


def _commit(output: Output, shard: PreparedShard) -> None:
    counts = {name: n for name, n in shard.counts.as_dict().items() if name != "quarantined"}
    output.commit(shard.name, shard.table, counts, [asdict(rejected) for rejected in shard.rejected])


def _warnings(rejected: Sequence[Rejected]) -> list[str]:
    """What is missing from a finished corpus: it must not take reading the record to hear of it."""
    if not rejected:
        return []
    shown = [describe(reject) for reject in rejected[:_REASONS_SHOWN]]
    more = [f"{len(rejected) - len(shown)} more in _quarantine/"] if len(rejected) > len(shown) else []
    return [f"{len(rejected)} document{'s' if len(rejected) > 1 else ''} quarantined: {'; '.join([*shown, *more])}"]


def quarantined(output: Output, markers: Mapping[str, Marker]) -> list[Rejected]:
    """What lies in quarantine, in the order of the shards."""
    rejects = []
    for name, marker in sorted(markers.items()):
        if marker.counts.get("quarantined"):
            lines = output.store.read(f"{output.key}/_quarantine/{name}.jsonl").split(b"\n")
            # Not str.splitlines: a source text may hold U+2028, which JSON leaves as it is.
            rejects += [Rejected(**json.loads(line)) for line in lines if line]
    return rejects


def corpus_step(recipe: Recipe, corpus: CorpusName) -> Step:
    """The corpus of a recipe: ``source`` if given, else what the store has, else the embedded corpus.

    Raises:
        SourceError: nothing of the kind; the message says which corpora are embedded.
    """
    address = address_of(recipe)
    key = f"corpora/{corpus}@{recipe.corpus_version}"
    if recipe.source is None:
        found = existing(address, key)
        if found is not None:
            return Existing(found, recipe, f"corpus {corpus} from the store")
        unfinished = Output(address, key)
        if unfinished.store.exists(f"{key}/{CLAIM}"):
            unfinished.record()  # raises: an unfinished corpus must not silently become the embedded one
        return PrepareStep(
            address, f"corpora/embedded_{corpus}@{recipe.corpus_version}", corpus, str(embedded(corpus)), recipe.prepare, recipe
        )
    return PrepareStep(address, key, corpus, _source_of(recipe.source, corpus), recipe.prepare, recipe)


def _source_of(source: str, corpus: CorpusName) -> str:
    """The corpus's own folder below a folder of corpora, else the source itself; absolute, as actors work elsewhere."""
    if source.startswith("hub:"):
        return source
    folder = Path(source).expanduser().absolute()
    return str(folder / corpus if (folder / corpus).is_dir() else folder)


def embedded(corpus: CorpusName) -> Path:
    """Folder of the corpus that ships with the package.

    Raises:
        ValueError: this one does not.
    """
    folder = Path(str(files("bioie_ray.corpora"))) / "embedded"
    if not (folder / corpus).is_dir():
        shipped = ", ".join(sorted(path.name for path in folder.iterdir() if path.is_dir()))
        raise ValueError(
            f"no {corpus} is embedded (only {shipped} are); give its release by --set source=DIR, "
            f"or prepare it first: bioie prepare {corpus} --download --out STORE/corpora/{corpus}@1"
        )
    return folder / corpus
