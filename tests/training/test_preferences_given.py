"""Given pairs: what is read, and why a record is none."""

from __future__ import annotations

import json
from typing import Any

import pytest

from bioie_ray.training.instructions.conversation import BadRecordError
from bioie_ray.training.preferences.given import read_pair

GOOD = {"prompt": "List all.", "chosen": '["a"]', "rejected": ""}
TURNS = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "List all."}]
BAD: dict[str, tuple[Any, str]] = {
    "no object": (["a"], "a pair is an object with prompt, chosen, rejected; this is a list"),
    "keys missing": ({"prompt": "a"}, "it lacks chosen, rejected"),
    "chosen no string": ({**GOOD, "chosen": ["a"]}, "chosen is no string"),
    "rejected no string": ({**GOOD, "rejected": None}, "rejected is no string"),
    "prompt empty": ({**GOOD, "prompt": " \n"}, "prompt is empty"),
    "prompt a number": ({**GOOD, "prompt": 4}, "prompt is neither a string nor turns"),
    "no turns": ({**GOOD, "prompt": []}, "prompt is neither a string nor turns"),
    "turns end with the assistant": ({**GOOD, "prompt": [*TURNS, {"role": "assistant", "content": "b"}]}, "end with the user's"),
    "unknown role": ({**GOOD, "prompt": [{"role": "tool", "content": "b"}]}, "prompt is neither a string nor turns"),
    "turn without text": ({**GOOD, "prompt": [{"role": "user", "content": None}]}, "prompt is neither a string nor turns"),
    "prompt too long": ({**GOOD, "prompt": "a" * 101}, "prompt turn 1 has 101 characters, and 100 are allowed (instructions.max_chars)"),
    "rejected too long": ({**GOOD, "rejected": "a" * 101}, "rejected has 101 characters"),
    "half a character": ({**GOOD, "chosen": "a\ud800"}, "chosen"),
    "chosen empty": ({**GOOD, "chosen": " "}, "chosen is empty"),
    "unknown role of another kind": ({**GOOD, "prompt": [{"role": ["user"], "content": "b"}]}, "prompt is neither a string nor turns"),
    "the same but for space": ({**GOOD, "rejected": '["a"] \n'}, "chosen and rejected are the same"),
    "the same list in another order": ({**GOOD, "chosen": '["a", "b"]', "rejected": '["B", "a"]'}, "chosen and rejected are the same"),
    "the same pairs": (
        {**GOOD, "chosen": '[["a", "b"]]', "rejected": '```[["a", "b"], ["a", "b"]]```'},
        "chosen and rejected are the same",
    ),
    "both the same": ({**GOOD, "rejected": '["a"]'}, "chosen and rejected are the same"),
}


@pytest.mark.parametrize(("record", "reason"), BAD.values(), ids=list(BAD))
def test_a_record_that_is_no_pair_is_told_why(record: Any, reason: str) -> None:
    with pytest.raises(BadRecordError) as caught:
        read_pair(record, 100)
    assert reason in str(caught.value)


def test_a_prompt_may_be_text_or_turns_and_other_keys_are_left_alone() -> None:
    told = {"chosen": '["a"]', "rejected": ""}
    assert read_pair({**GOOD, "strategy_used": "empty"}, 100) == {
        **told,
        "messages": json.dumps([{"role": "user", "content": "List all."}]),
    }
    assert read_pair({**GOOD, "prompt": [{**turn, "name": "x"} for turn in TURNS]}, 100) == {**told, "messages": json.dumps(TURNS)}


@pytest.mark.parametrize(
    ("chosen", "rejected"), [('["a"]', '["a", "b"]'), ('[["a", "b"]]', '[["b", "a"]]'), ("[]", "none"), ("no list", "no list either")]
)
def test_answers_that_differ_are_a_pair(chosen: str, rejected: str) -> None:
    assert read_pair({**GOOD, "chosen": chosen, "rejected": rejected}, 100)["rejected"] == rejected
