"""Records of the published forms as conversations, and why a record is none."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bioie_ray.training.instructions.adelie import read_adelie
from bioie_ray.training.instructions.conversation import BadRecordError, Conversation, NoAnswerError
from bioie_ray.training.instructions.source_files import Part, find_files, read_records
from bioie_ray.training.instructions.taiyi import read_taiyi

MAX_CHARS = 1_000
Read = Callable[[Any, str, int], Conversation]
TEXTS = st.text(min_size=1, max_size=30).filter(lambda text: text.strip() and text.isprintable())


def user(text: Any = "Which?") -> dict[str, Any]:
    return {"role": "user", "content": text}


def assistant(text: Any = "aspirin") -> dict[str, Any]:
    return {"role": "assistant", "content": text}


def test_taiyi_pairs_become_turns_whatever_the_order_of_keys() -> None:
    pairs = [{"human": "疾病：", "assistant": "肝炎\n"}, {"assistant": "none", "human": " And genes? "}]
    record = {"language": "zh", "conversation": pairs, "dataset": "diakg", "conversation_id": 7}
    found = read_taiyi(record, "file:1", MAX_CHARS)
    assert found == read_taiyi(dict(reversed(record.items())), "file:1", MAX_CHARS)
    assert (found.id, found.source, found.language) == ("taiyi:diakg/7", "taiyi:diakg", "zh")
    assert found.messages == (user("疾病："), assistant("肝炎"), user("And genes?"), assistant("none"))
    assert found.answers == "肝炎\nnone"


def test_adelie_keeps_its_system_turn_and_all_shots() -> None:
    messages = [{"role": "system", "content": "Be terse."}, *[user(), assistant()] * 3]
    found = read_adelie({"datasets": "ondemand", "id": 0, "messages": messages}, "file:1", MAX_CHARS)
    assert (found.id, found.source, found.language) == ("adelie:ondemand/0", "adelie:ondemand", None)
    assert list(found.messages) == messages


def test_a_record_without_an_id_has_its_place_as_one() -> None:
    assert read_adelie({"messages": [user(), assistant()]}, "a/b.jsonl:12", MAX_CHARS).id == "adelie:unnamed/a/b.jsonl:12"


BAD: list[tuple[Read, Any, str]] = [
    (read_taiyi, [1], "the record is no object"),
    (read_taiyi, {"messages": [user(), assistant()]}, "no list `conversation`"),
    (read_taiyi, {"conversation": {"human": "a", "assistant": "b"}}, "no list `conversation`"),
    (read_taiyi, {"conversation": ["a"]}, "entry 1 of the conversation is no object"),
    (read_taiyi, {"conversation": [{"human": "a"}]}, "entry 1 of the conversation has no text as its `assistant`"),
    (read_taiyi, {"conversation": [{"human": 3, "assistant": "b"}]}, "no text as its `human`"),
    (read_taiyi, {"conversation": []}, "has no turns"),
    (read_taiyi, {"conversation": [{"human": " ", "assistant": "b"}]}, "turn 1 is empty"),
    (read_taiyi, {"conversation": [{"human": "a", "assistant": ""}, {"human": "b", "assistant": "c"}]}, "turn 2 is empty"),
    (read_adelie, None, "the record is no object"),
    (read_adelie, {"messages": "user: hello"}, "no list `messages`"),
    (read_adelie, {"messages": [user(), "hello"]}, "turn 2 is no object but a text"),
    (read_adelie, {"messages": [user(["a"]), assistant()]}, "turn 1 has no text as its `content` but a list"),
    (read_adelie, {"messages": [{"content": "a"}, assistant()]}, "turn 1 has no text as its `role` but nothing"),
    (read_adelie, {"messages": [{"role": "tool", "content": "a"}, assistant()]}, "the role 'tool'; known: system, user, assistant"),
    (read_adelie, {"messages": [user(), user(), assistant()]}, "turn 2 is of the user, but one of the assistant"),
    (read_adelie, {"messages": [assistant(), user()]}, "turn 1 is of the assistant, but one of the user"),
    (read_adelie, {"messages": [user(), assistant(), {"role": "system", "content": "a"}]}, "turn 3 is of the system"),
    (read_adelie, {"messages": [{"role": "system", "content": "a"}]}, "the last turn is of the system, not of the assistant"),
    (read_adelie, {"messages": [user(), assistant(), user()]}, "the last turn is of the user"),
    (read_adelie, {"messages": [user("a" * 2**20), assistant()]}, "1,048,583 characters, and instructions.max_chars is 1,000"),
    (read_adelie, {"messages": [user("\ud83d"), assistant()]}, "turn 1 holds half a character"),
    (read_adelie, {"messages": [user(), assistant()], "id": "\udc00"}, "`id` holds half a character"),
]


@pytest.mark.parametrize(("read", "record", "reason"), BAD, ids=[reason[:40] for _, _, reason in BAD])
def test_what_is_no_conversation_is_refused_with_the_reason(read: Read, record: Any, reason: str) -> None:
    with pytest.raises(BadRecordError) as caught:
        read(record, "file:1", MAX_CHARS)
    assert reason in str(caught.value)


def test_a_record_whose_last_answer_is_empty_is_no_defect_of_the_file() -> None:
    for read, record in (
        (read_taiyi, {"conversation": [{"human": "a", "assistant": " \n"}]}),
        (read_adelie, {"messages": [user(), assistant("")]}),
    ):
        with pytest.raises(NoAnswerError):
            read(record, "file:1", MAX_CHARS)


@given(st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=4), st.booleans())
def test_both_forms_of_one_conversation_are_the_same_turns(pairs: list[tuple[str, str]], as_text: bool) -> None:
    taiyi: Any = {"conversation": [{"human": asked, "assistant": answered} for asked, answered in pairs]}
    adelie: Any = {"messages": [turn for asked, answered in pairs for turn in (user(asked), assistant(answered))]}
    if as_text:
        taiyi, adelie = json.loads(json.dumps(taiyi)), json.loads(json.dumps(adelie))
    left, right = read_taiyi(taiyi, "w", MAX_CHARS), read_adelie(adelie, "w", MAX_CHARS)
    assert left.messages == right.messages
    assert left.digest == right.digest
    assert [turn["content"] for turn in left.messages] == [text.strip() for pair in pairs for text in pair]


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=5),
        lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(["messages", "conversation", "role", "content", "human"]), inner),
    )
)
def test_any_json_is_a_conversation_or_a_bad_record(value: Any) -> None:
    for read in (read_taiyi, read_adelie):
        try:
            found = read(value, "w", MAX_CHARS)
        except BadRecordError:
            continue
        assert found.messages[-1]["role"] == "assistant"


@pytest.mark.parametrize(("folder", "read", "records"), [("taiyi", read_taiyi, 21), ("adelie", read_adelie, 180)])
def test_the_published_samples_are_conversations(corpora_dir: Path, folder: str, read: Read, records: int) -> None:
    found: list[Conversation] = []
    unanswered = Counter[str]()
    for file in find_files(corpora_dir / "instructions" / folder):
        for record in read_records(file.path, Part()):
            try:
                found.append(read(record.value, f"{file.name}:{record.line}", 200_000))
            except NoAnswerError:
                unanswered[file.name] += 1
    assert len(found) + unanswered.total() == records
    assert len({conversation.id for conversation in found}) == len(found)
    by_source = Counter(conversation.source for conversation in found)
    if folder == "taiyi":
        assert by_source == {"taiyi:paramed": 6, "taiyi:tcm_sd_tc": 4, "taiyi:geokhoj_v1": 3, "taiyi:cpi": 4, "taiyi:diakg": 4}
        assert all(conversation.language and len(conversation.messages) == 2 for conversation in found)
    else:
        assert by_source == {"adelie:few-nerd-supervised": 49, "adelie:semeval": 47, "adelie:ondemand": 60}
        assert unanswered == {"few-nerd-supervised.jsonl": 11, "semeval.jsonl": 13}
        assert {conversation.messages[0]["role"] for conversation in found if conversation.source == "adelie:ondemand"} == {"system"}
