"""From sources to the conversations that a model is tuned on: what is in them, what is not and why, and that every run makes the same."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import yaml
from pipeline_builders import documents, make_recipe, planned, quarantine, record, rows, run, shards, write_corpus

from bioie_ray.artifacts.output import DriftError, Output
from bioie_ray.artifacts.store import StoreAddress
from bioie_ray.config.keys import RecipeError
from bioie_ray.config.steps import SelectSettings
from bioie_ray.corpora.document import from_table
from bioie_ray.corpora.tasks import get_task, gold
from bioie_ray.pipeline.plan import Planner
from bioie_ray.pipeline.view import View
from bioie_ray.prompting.answers import format_list
from bioie_ray.training.instructions.curation import NOT_KEPT
from bioie_ray.training.instructions.mixture import NOT_MIXED

NEVER_SAID = "The quick brown fox jumps over the lazy dog while {n} other animals watch it from the far side of field {n}."


def taiyi(number: int, text: str = NEVER_SAID, language: str = "en", answer: str = "fox {n}") -> dict[str, Any]:
    pair = {"human": text.format(n=number), "assistant": answer.format(n=number)}
    return {"conversation_id": number, "dataset": "animals", "language": language, "conversation": [pair]}


def write(path: Path, records: list[Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = (record if isinstance(record, str) else json.dumps(record, ensure_ascii=False) for record in records)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


def instructions(*sources: dict[str, Any], **others: Any) -> dict[str, Any]:
    return {"sources": list(sources), "near_duplicates": None, **others}


def accounted_for(store: Path) -> list[dict[str, Any]]:
    """The record's counts by source, none of which lets a record get lost."""
    sources: list[dict[str, Any]] = record(store / "instructions/r@1")["sources"]
    for source in sources:
        assert source["read"] == source["kept"] + sum(source[reason] for reason in NOT_KEPT)
        assert source["kept"] == source["records"]
        assert source["rows"] == source["records"] - sum(source[reason] for reason in NOT_MIXED) + source["copies"]
    made = record(store / "instructions/r@1")
    assert made["counts"]["rows"] == sum(source["rows"] for source in sources) == sum(n["rows"] for n in made["data_sets"].values())
    assert sum(made["languages"].values()) == sum(made["token_lengths"]["rows"]) == made["counts"]["rows"]
    read = record(store / "records/r@1")["counts"]
    assert all(read[reason] == sum(source[reason] for source in sources) for reason in ("read", "kept", *NOT_KEPT))
    return sources


def test_tasks_ask_what_generation_asks_and_answer_with_the_gold_list(tmp_path: Path, settings: dict[str, Any]) -> None:
    source = {"kind": "tasks", "tasks": ["bc5cdr_disease", "bc5cdr_cid"], "splits": ["dev"], "phrasings": 2}
    store = run(tmp_path, **settings, instructions=instructions(source))
    asked = {
        "prompt": {"num_examples": 0},
        "select": {"queries": "dev"},
        "generate": {"model": settings["train"]["base_model"], "max_new_tokens": 1},
    }
    run(tmp_path, **{**settings, **asked, "job": "generate"})
    made = {row["id"]: json.loads(row["messages"]) for row in rows(store / "instructions/r@1")}
    assert len(made) == 2 * 2 * 4
    prompts = rows(store / "prompts/r@1")
    for prompt in prompts:
        *question, answer = made[f"tasks:bc5cdr_disease/{prompt['document_id']}/1"]
        assert question == json.loads(prompt["messages"])
        other = made[f"tasks:bc5cdr_disease/{prompt['document_id']}/2"]
        assert other[-1] == answer
        assert other[0]["content"] != question[0]["content"]
        assert other[0]["content"].partition("\n\n")[2] == question[0]["content"].partition("\n\n")[2]
    documents_by_id = {document.id: document for document in from_table(pa.Table.from_pylist(rows(store / "corpora/bc5cdr@1", "dev")))}
    for task in ("bc5cdr_disease", "bc5cdr_cid"):
        for id_, document in documents_by_id.items():
            assert made[f"tasks:{task}/{id_}/1"][-1]["content"] == format_list(gold(get_task(task), document).answers) != "[]"
    assert len(prompts) == 4
    accounted_for(store)


def test_a_dev_split_that_is_carved_is_not_trained_on(tmp_path: Path, settings: dict[str, Any]) -> None:
    del settings["source"]
    data = {**settings, "task": "biorelex", "select": {"dev_share": 0.25}, "seed": 3}
    store = run(tmp_path, **data, instructions=instructions({"kind": "tasks"}))
    corpus = Output(StoreAddress(str(store)), "corpora/embedded_biorelex@1")
    view = View(corpus, SelectSettings(queries="dev", dev_share=0.25), 3)
    dev = {id_ for unit in view.query_units() for id_ in view.queries(unit, ["id"])["id"].to_pylist()}
    train = {row["id"].split("/")[1] for row in rows(store / "instructions/r@1")}
    assert dev
    assert not dev & train
    (source,) = accounted_for(store)
    assert source["dev_documents"] == len(dev)
    assert source["read"] == len(dev | train) + source["same_text_as_held_out"] + source["test_overlap"]

    both = run(tmp_path, **data, version="2", instructions=instructions({"kind": "tasks", "splits": ["train", "dev"]}))
    asked = [row["id"].split("/")[1] for row in rows(both / "instructions/r@2")]
    assert set(asked) >= dev | train
    assert len(asked) == len(set(asked))


def test_a_test_document_in_a_source_is_found(tmp_path: Path, settings: dict[str, Any], corpus: str) -> None:
    del settings["source"]
    everything = Planner().plan(
        make_recipe(tmp_path, **settings, instructions=instructions({"kind": "tasks", "tasks": ["biorelex", "bc5cdr_disease"]}))
    )
    assert {step.output.key for step in everything} >= {"corpora/embedded_bc5cdr@1", "corpora/embedded_biorelex@1"}
    run(tmp_path, **{**settings, "job": "prepare_corpora"})
    smuggled = [row["text"] for row in rows(tmp_path / "store/corpora/embedded_bc5cdr@1", "test")][:3]
    inside = " ".join(smuggled[0].split()[4:30]).upper().replace(" ", "\n")
    given = [taiyi(1), taiyi(2, f"Diseases? {inside}"), taiyi(3, "Say it", answer=smuggled[1]), taiyi(4, " ".join(smuggled[2].split()[:9]))]
    path = write(tmp_path / "some.jsonl", given)
    store = run(tmp_path, **settings, instructions=instructions({"kind": "taiyi", "path": str(path)}))
    assert {row["id"] for row in rows(store / "instructions/r@1")} == {"taiyi:animals/1", "taiyi:animals/4"}
    (source,) = accounted_for(store)
    assert source["test_overlap"] == 2
    assert record(store / "instructions/r@1")["overlap"] == {"bc5cdr": 2}


def test_a_dev_document_in_a_source_is_found_where_dev_scores_the_model(tmp_path: Path, settings: dict[str, Any]) -> None:
    del settings["source"]
    settings |= {"task": "biorelex", "seed": 3}  # BioRelEx has no dev: some of train is carved for it
    run(tmp_path, **{**settings, "job": "prepare_corpora"})
    view = View(Output(StoreAddress(str(tmp_path / "store")), "corpora/embedded_biorelex@1"), SelectSettings(queries="dev"), 3)
    texts = [text for unit in view.query_units() for text in view.queries(unit, ["id", "text"])["text"].to_pylist()]
    path = write(tmp_path / "some.jsonl", [taiyi(1), taiyi(2, f"Which? {texts[0]}")])
    sources = instructions({"kind": "taiyi", "path": str(path)}, {"kind": "tasks"})

    untold = run(tmp_path, **settings, instructions=sources)
    assert {"taiyi:animals/1", "taiyi:animals/2"} <= {row["id"] for row in rows(untold / "instructions/r@1")}
    settings |= {"train": {**settings["train"], "score_every_steps": 5}}
    store = run(tmp_path, **settings, version="2", instructions=sources)
    kept = {row["id"] for row in rows(store / "instructions/r@2")}
    assert "taiyi:animals/1" in kept
    assert "taiyi:animals/2" not in kept
    assert record(store / "instructions/r@2")["overlap"]["biorelex dev"] >= 1
    assert any("what a test or dev document says" in warning for warning in record(store / "records/r@2")["warnings"])


def test_test_documents_that_are_too_short_to_look_for_are_told(tmp_path: Path, settings: dict[str, Any]) -> None:
    test = [*documents([40], "t"), ("t099", "Rats", "They died.")]
    settings["source"] = str(write_corpus(tmp_path / "bc5cdr", train=documents(range(6)), test=test))
    store = run(tmp_path, **settings, instructions=instructions({"kind": "taiyi", "path": str(write(tmp_path / "a.jsonl", [taiyi(1)]))}))
    assert record(store / "records/r@1")["warnings"] == ["1 test documents have fewer than 5 words and were not looked for (bc5cdr 1)"]


BAD = [
    '{"conversation": [',
    '"a text"',
    {"conversation": "hello"},
    {"conversation": []},
    {"conversation": [{"human": "a"}]},
    {"conversation": [{"human": "", "assistant": "b"}]},
    {"conversation": [{"human": 4, "assistant": "b"}]},
    taiyi(9, "a" * 2**20),
    {"messages": [{"role": "user", "content": "a"}]},
    taiyi(9, "BREAKS the template"),
]
REASONS = [
    "not JSON: Expecting value",
    "the record is no object",
    "no list `conversation`",
    "has no turns",
    "no text as its `assistant`",
    "turn 1 is empty",
    "no text as its `human`",
    "1,048,581 characters, and instructions.max_chars is 200,000",
    "no list `conversation`",
    "the chat template refuses it: not this",
]


@pytest.fixture
def picky(tmp_path: Path) -> str:
    """A template that refuses a word."""
    path = tmp_path / "picky.jinja"
    path.write_text(
        "{% for message in messages %}{% if 'BREAKS' in message.content %}{{ raise_exception('not this') }}{% endif %}"
        "<|{{ message.role }}|>{{ message.content }}<|end|>{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
    )
    return str(path)


def test_every_bad_record_is_in_quarantine_with_file_line_and_reason(tmp_path: Path, settings: dict[str, Any], picky: str) -> None:
    write(tmp_path / "source/a.jsonl", [taiyi(1), *BAD, taiyi(2)])
    write(tmp_path / "source/b/c.json", [json.dumps([taiyi(3), "no object", taiyi(4)], indent=0)])
    settings["train"]["template"] = picky
    source = {"kind": "taiyi", "path": str(tmp_path / "source")}
    store = run(tmp_path, **settings, instructions=instructions(source, max_quarantined_share=1.0))
    told = quarantine(store / "records/r@1")
    assert [(one["file"], one["line"]) for one in told[:-1]] == [("a.jsonl", n) for n in range(2, 12)]
    assert all(reason in one["reason"] for reason, one in zip(REASONS, told, strict=False)), [one["reason"] for one in told]
    assert (told[-1]["file"], told[-1]["reason"], told[-1]["raw"]) == ("b/c.json", "the record is no object", '"no object"')
    assert max(len(one["raw"]) for one in told) <= 2_000
    assert {row["id"] for row in rows(store / "instructions/r@1")} == {f"taiyi:animals/{n}" for n in (1, 2, 3, 4)}
    (counts,) = accounted_for(store)
    assert (counts["read"], counts["quarantined"]) == (15, 11)


def test_too_many_bad_records_end_the_job_and_a_mended_source_takes_the_version(tmp_path: Path, settings: dict[str, Any]) -> None:
    path = write(tmp_path / "a.jsonl", [taiyi(1), "nonsense", taiyi(2)])
    data = {**settings, "instructions": instructions({"kind": "taiyi", "path": str(path)})}
    with pytest.raises(ValueError, match=r"1 of 3 records \(33.3%\) are no conversations.*a\.jsonl:2: not JSON.*_quarantine"):
        run(tmp_path, **data)
    folder = tmp_path / "store/records/r@1"
    assert not list(folder.glob("*.parquet"))
    assert not (folder / "record.json").exists()
    assert [one["line"] for one in quarantine(folder)] == [2]
    write(path, [taiyi(1), taiyi(2)])
    assert record(run(tmp_path, **data) / "instructions/r@1")["counts"]["rows"] == 2


def test_what_is_left_out_is_counted_by_its_reason(tmp_path: Path, settings: dict[str, Any]) -> None:
    given = [taiyi(n) for n in range(6)]
    given += [
        taiyi(10, language="zh"),
        taiyi(11, "Long? " * 300),
        taiyi(12, answer=" "),
        taiyi(3),
        {**taiyi(20), "conversation": taiyi(4)["conversation"]},
    ]
    given += [taiyi(21, f"{NEVER_SAID} {NEVER_SAID} {NEVER_SAID}"), taiyi(21, f"{NEVER_SAID} {NEVER_SAID} {NEVER_SAID} So.")]
    path = write(tmp_path / "a.jsonl", given)
    source = {"kind": "taiyi", "path": str(path), "max_records": 4, "weight": 1.5}
    store = run(tmp_path, **settings, instructions=instructions(source, languages=["en"], max_tokens=1_200, near_duplicates=0.8))
    (counts,) = accounted_for(store)
    left_out = {reason: counts[reason] for reason in (*NOT_KEPT, *NOT_MIXED) if counts[reason]}
    assert left_out == {"no_answer": 1, "other_language": 1, "too_long": 1, "exact_duplicates": 2, "near_duplicates": 1, "not_drawn": 3}
    assert (counts["copies"], counts["rows"]) == (2, 6)
    made = rows(store / "instructions/r@1")
    assert len({row["id"] for row in made}) == 6
    assert Counter(Counter(row["messages"] for row in made).values()) == {1: 2, 2: 2}
    assert all(row["num_tokens"] <= 1_200 and row["source"] == "taiyi:animals" and row["language"] == "en" for row in made)


def test_num_tokens_is_what_the_template_writes(tmp_path: Path, settings: dict[str, Any]) -> None:
    from bioie_ray.training.tokens import load_chat_tokenizer

    store = run(tmp_path, **settings, instructions=instructions({"kind": "tasks"}))
    tokenizer = load_chat_tokenizer(settings["train"]["base_model"])
    made = rows(store / "instructions/r@1")
    assert made
    assert all(row["num_tokens"] == len(tokenizer.encode(json.loads(row["messages"])).input_ids) for row in made)


def two_sources(tmp_path: Path, number: int = 40) -> tuple[dict[str, Any], dict[str, Any]]:
    write(tmp_path / "many/a.jsonl", [taiyi(n) for n in range(number)])
    write(tmp_path / "many/b.json", [json.dumps([taiyi(n) for n in range(number - 10, number + 20)])])
    return {"kind": "tasks", "phrasings": 3}, {"kind": "taiyi", "path": str(tmp_path / "many"), "weight": 1.25}


def test_the_size_of_shards_changes_no_row_and_no_order(tmp_path: Path, settings: dict[str, Any]) -> None:
    sources = two_sources(tmp_path)
    small = run(tmp_path, **settings, instructions=instructions(*sources, records_per_shard=7))
    large = run(tmp_path, **settings, version="2", instructions=instructions(*sources, records_per_shard=1_000))
    assert rows(small / "instructions/r@1") == rows(large / "instructions/r@2")
    sizes = [shard["rows"] for shard in record(small / "instructions/r@1")["shards"]]
    assert set(sizes[:-1]) == {7}
    accounted_for(small)
    other = run(tmp_path, **settings, version="3", seed=1, instructions=instructions(*sources))
    assert rows(other / "instructions/r@3") != rows(large / "instructions/r@2")


@pytest.mark.ray
@pytest.mark.slow
def test_ray_makes_the_same_bytes(tmp_path: Path, settings: dict[str, Any]) -> None:
    given = instructions(*two_sources(tmp_path), records_per_shard=8)
    inline = run(tmp_path, **settings, instructions=given)
    ray = run(tmp_path, **settings, instructions=given, store=str(tmp_path / "ray"), cluster={"num_workers": 2})
    for key in ("records/r@1", "instructions/r@1"):
        assert shards(inline / key) == shards(ray / key)
        assert len(shards(ray / key)) > 8


@pytest.mark.slow
def test_a_killed_run_goes_on_with_the_same_bytes(tmp_path: Path, settings: dict[str, Any], repository: Path) -> None:
    given = instructions(*two_sources(tmp_path, 200), records_per_shard=2)
    undisturbed = run(tmp_path, **settings, instructions=given)
    job = [sys.executable, str(repository / "jobs/prepare_instructions.py"), "--recipe", str(tmp_path / "recipe.yaml")]
    job += ["--set", f"store={tmp_path / 'killed'}"]
    environment = {**os.environ, "PYTHONPATH": str(repository)}
    before: dict[Path, int] = {}
    for kind in ("records", "instructions"):
        process = subprocess.Popen(job, env=environment, stderr=subprocess.DEVNULL)
        markers = tmp_path / "killed" / kind / "r@1/_markers"
        while process.poll() is None and len(list(markers.glob("*.json"))) < 3:
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        process.wait()
        done = {path.stem for path in markers.glob("*.json")}
        before |= {path: path.stat().st_mtime_ns for path in markers.parent.glob("*.parquet") if path.stem in done}
    assert before
    assert not (tmp_path / "killed/instructions/r@1/record.json").exists()
    assert subprocess.run(job, env=environment, check=False).returncode == 0
    assert {path: path.stat().st_mtime_ns for path in before} == before
    for key in ("records/r@1", "instructions/r@1"):
        assert shards(tmp_path / "killed" / key) == shards(undisturbed / key)
        assert record(tmp_path / "killed" / key)["fingerprint"] == record(undisturbed / key)["fingerprint"]
    assert record(tmp_path / "killed/records/r@1")["timings"]["shards_kept"] >= 3


def test_fingerprints_cover_what_changes_bytes_and_no_place(tmp_path: Path, settings: dict[str, Any], other_llm: str) -> None:
    path = write(tmp_path / "one/a.jsonl", [taiyi(1)])

    def prints(path: Path = path, others: dict[str, Any] | None = None, **changes: Any) -> list[str]:
        sources = ({"kind": "tasks", **changes}, {"kind": "taiyi", "path": str(path)})
        data = {**settings, **(others or {}), "instructions": instructions(*sources)}
        return [
            step.output.fingerprint
            for step in Planner().plan(make_recipe(tmp_path, **data))
            if step.output.key.split("/")[0] in ("records", "instructions")
        ]

    records, mixed = prints()
    assert prints(write(tmp_path / "two/a.jsonl", [taiyi(1)])) == [records, mixed]
    assert prints(others={"generate": {"repeats": 7}, "preft": {"epochs": 3}}) == [records, mixed]
    assert prints(weight=2)[0] == records
    assert prints(weight=2)[1] != mixed
    changed = [
        prints(write(tmp_path / "three/a.jsonl", [taiyi(2)])),
        prints(phrasings=2),
        prints(splits=["train", "dev"]),
        prints(others={"train": {"base_model": other_llm}}),
        prints(others={"train": {**settings["train"], "template": "plain"}}),
        prints(others={"source": str(write_corpus(tmp_path / "bc5cdr", train=documents(range(3)), test=documents(range(40, 42), "t")))}),
        prints(others={"select": {"dev_share": 0.2}}),
    ]
    assert all(found[0] != records and found[1] != mixed for found in changed)
    run(tmp_path, **settings, instructions=instructions({"kind": "taiyi", "path": str(path)}))
    with pytest.raises(DriftError, match=r"sources"):
        run(tmp_path, **settings, instructions=instructions({"kind": "taiyi", "path": str(write(path, [taiyi(5)]))}))


def test_one_mixture_serves_all_cells_that_do_not_change_it(tmp_path: Path, settings: dict[str, Any]) -> None:
    matrix = {"preft.epochs": [1, 2], "generate.repeats": [1, 2], "instructions": [{"label": "few", "max_tokens": 500}, {"label": "all"}]}
    keys = planned(make_recipe(tmp_path, **settings, matrix=matrix))
    assert [key for key in keys if not key.startswith("corpora/")] == [
        "records/r-few@1",
        "instructions/r-few@1",
        "records/r-all@1",
        "instructions/r-all@1",
    ]


def test_a_mixture_of_nothing_is_an_error_and_gives_its_version_up(tmp_path: Path, settings: dict[str, Any]) -> None:
    path = str(write(tmp_path / "a.jsonl", [taiyi(1, language="zh")]))
    with pytest.raises(ValueError, match=r"no record is left .*1 other language"):
        run(tmp_path, **settings, instructions=instructions({"kind": "taiyi", "path": path}, languages=["en"]))
    folder = tmp_path / "store/instructions/r@1"
    assert not (folder / "_claim.json").exists()
    assert run(tmp_path, **settings, version="2", instructions=instructions({"kind": "taiyi", "path": path}))
    empty = str(write(tmp_path / "empty.jsonl", []))
    with pytest.raises(ValueError, match=r"instructions.sources\[0\] \(taiyi: .*empty.jsonl\) holds no record"):
        run(tmp_path, **settings, version="3", instructions=instructions({"kind": "taiyi", "path": empty}))


def test_more_wordings_than_there_are_is_told(tmp_path: Path, settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="bc5cdr_disease has 5 phrasings, not 6"):
        run(tmp_path, **settings, instructions=instructions({"kind": "tasks", "phrasings": 6}))
    with pytest.raises(RecipeError, match="nobody trains on test documents"):
        make_recipe(tmp_path, **settings, instructions=instructions({"kind": "tasks", "splits": ["test"]}))


def test_the_published_samples_are_mixed_with_a_real_corpus(tmp_path: Path, corpora_dir: Path, tiny_llm: str) -> None:
    folder = corpora_dir / "instructions"
    sources = [{"kind": kind, "path": str(folder / kind)} for kind in ("taiyi", "adelie")]
    data = {"job": "prepare_instructions", "source": str(corpora_dir), "task": "ncbi_disease", "train": {"base_model": tiny_llm}}
    store = run(tmp_path, **data, instructions={"sources": [*sources, {"kind": "tasks"}], "max_tokens": 100_000})
    published, adelie, ours = accounted_for(store)
    assert (published["read"], published["rows"]) == (21, 21)
    assert (adelie["read"], adelie["no_answer"], adelie["rows"]) == (180, 24, 156)
    assert ours["read"] == 592
    assert ours["test_overlap"] == record(store / "instructions/r@1")["overlap"]["ncbi_disease"] > 0
    assert record(store / "instructions/r@1")["languages"] == {"en": 156 + 7 + ours["rows"], "zh": 8, "en-zh": 4, "zh-en": 2}


def test_the_recipes_that_ship_plan_or_say_what_they_need(tmp_path: Path, repository: Path) -> None:
    demo = yaml.safe_load((repository / "jobs/recipes/instructions_demo.yaml").read_text())
    keys = planned(make_recipe(tmp_path, **demo))
    assert keys[-2:] == ["records/demo@1", "instructions/demo@1"]
    assert {"corpora/embedded_bc5cdr@1", "corpora/embedded_ddi_corpus@1", "corpora/embedded_biorelex@1"} == set(keys[:-2])


def test_the_job_file_plans_without_ray_torch_or_a_hub(tmp_path: Path, settings: dict[str, Any], repository: Path) -> None:
    path = write(tmp_path / "a.jsonl", [taiyi(1)])
    make_recipe(tmp_path, **settings, instructions=instructions({"kind": "taiyi", "path": str(path)}, {"kind": "tasks"}))
    code = (
        "import runpy, sys\n"
        f"sys.argv = ['job', '--recipe', {str(tmp_path / 'recipe.yaml')!r}, '--dry-run']\n"
        "try:\n"
        f"    runpy.run_path({str(repository / 'jobs/prepare_instructions.py')!r}, run_name='__main__')\n"
        "except SystemExit as end:\n"
        "    assert end.code == 0, end.code\n"
        "heavy = {'torch', 'ray', 'transformers', 'datasketch', 'py3langid'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=repository)
    assert done.returncode == 0, done.stderr
    assert [line.split()[0] for line in done.stdout.splitlines()] == ["corpora/bc5cdr@1", "records/r@1", "instructions/r@1"]
