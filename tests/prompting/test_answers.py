from __future__ import annotations

import ast
import json
import time
import warnings
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bioie_ray.prompting.answers import Answers, Kind, find_list, format_list, parse_list

# What json.dumps and repr may write and the docstring refuses: backspace, form feed, NUL, halves of pairs, LaTeX after \n \t \r.
_CHARACTERS = st.one_of(
    st.characters(exclude_categories=("Cs",), exclude_characters="\x00\b\f"),
    st.sampled_from("[],'\"\\(){}: \n\t\réβ😀\u0301\u200d\ufeff\x85\u2028n/u"),
)
NAMES = st.text(_CHARACTERS, max_size=12).filter(
    lambda name: (
        not any(control + tail in name for control, tail in [("\n", "u"), ("\n", "eq"), ("\n", "abla"), ("\t", "au"), ("\t", "heta")])
        and not any(control + tail in name for control, tail in [("\t", "imes"), ("\t", "ext"), ("\r", "ho"), ("\r", "ightarrow")])
    )
)
ANSWERS: dict[Kind, st.SearchStrategy[Answers]] = {
    "ner": st.lists(NAMES, max_size=6).map(tuple),
    "re": st.lists(st.tuples(NAMES, NAMES), max_size=6).map(tuple),
}
KINDS: list[Kind] = ["ner", "re"]
# Text that looks like lists, and the places where two readers of one text tend to disagree.
LIST_LIKE = st.lists(
    st.sampled_from(
        [*"[]()'\",\\ \n\t{}:1anbf/x", '"a"', "'b'", ", ", "\\u0041", "\\x41", "\\ud83d\\ude00", "\\'", '\\"', "\\\\", "[[", "]]", "#"]
    ),
    max_size=24,
).map("".join)


def writings(answers: Answers) -> list[str]:
    as_lists = [item if isinstance(item, str) else list(item) for item in answers]
    return [
        json.dumps(as_lists),
        json.dumps(as_lists, ensure_ascii=False),
        json.dumps(as_lists, indent=2),
        repr(as_lists),
        repr(list(answers)),
        f" \n{as_lists!r}\n\n",
        format_list(answers),
    ]


@pytest.mark.parametrize("kind", KINDS)
@given(data=st.data())
def test_whatever_json_and_python_write_is_read_and_found_unchanged(kind: Kind, data: st.DataObject) -> None:
    answers = data.draw(ANSWERS[kind])
    for text in writings(answers):
        assert parse_list(text, kind) == answers
        assert find_list(text, kind) == (text.index("["), text.rindex("]") + 1)
        prose = f"Here's the patient's list [1], as of [p < 0.05]: {text}"
        start, end = find_list(prose, kind) or (0, 0)
        assert parse_list(prose[start:end], kind) == answers


@pytest.mark.parametrize("kind", KINDS)
@given(data=st.data())
def test_a_list_is_found_at_its_last_bracket_and_no_sooner(kind: Kind, data: st.DataObject) -> None:
    answers = data.draw(ANSWERS[kind])
    for text in writings(answers):
        end = text.rindex("]")
        assert all(find_list(text[:cut], kind) is None for cut in range(end + 1))


@given(text=LIST_LIKE)
def test_nothing_is_read_that_neither_json_nor_python_reads_so(text: str) -> None:
    for kind in KINDS:
        answers = parse_list(text, kind)
        found = find_list(text, kind)
        if found:
            assert parse_list(text[found[0] : found[1]], kind) is not None
        if answers is not None:
            assert answers in read_by_others(text)
            assert found is not None
            assert text[found[0] : found[1]] == text.strip()


def read_by_others(text: str) -> list[Any]:
    read: list[Any] = []
    for reader in (json.loads, ast.literal_eval):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                value = reader(text.strip())
        except (ValueError, SyntaxError):
            continue
        read.append(tuple(item if isinstance(item, str) else tuple(item) for item in value))
    return read


@given(text=st.text(st.one_of(st.characters(), st.sampled_from("[]'\"\\,"))))
def test_no_text_is_an_exception(text: str) -> None:
    for kind in KINDS:
        parse_list(text, kind)
        find_list(text, kind)


def test_both_forms_in_full() -> None:
    assert parse_list("[]", "ner") == parse_list(" [ ] ", "re") == ()
    assert parse_list("""['2\\'-deoxy', "5'-AMP", "x, [y]", "x, [y]",]""", "ner") == ("2'-deoxy", "5'-AMP", "x, [y]", "x, [y]")
    assert parse_list("""[["a", "b"], ["b", "a"]]""", "re") == (("a", "b"), ("b", "a"))
    assert parse_list("""[('a', 'b'), ["b", 'a',],]""", "re") == (("a", "b"), ("b", "a"))
    assert parse_list(r'["caf\u00e9", "\ud83d\ude00", "a\/b", "x\\beta"]', "ner") == ("café", "😀", "a/b", "x\\beta")
    assert parse_list(r"['caf\xe9', '\U0001F600', 'two\nlines']", "ner") == ("café", "😀", "two\nlines")


@pytest.mark.parametrize(
    "text",
    [
        "['a' 'b']",
        "['a', b'b']",
        "[f'a']",
        "[u'a']",
        "['''a''']",
        "['a' # why\n]",
        "['Crohn's disease']",
        r"['TGF-\beta']",
        r'["TGF-\beta"]',
        r'["\tau protein"]',
        r"['\nu']",
        r"['\alpha', '\xi', '\upsilon', '\N{BULLET}', '\0']",
        "['a\\\nb']",
        r'["\ud83d"]',
        '["\ud83d"]',
        r'["\u0000"]',
        '["a\x00"]',
        r"['\U00110000']",
        r"""["a\/b", 'c']""",
        '["a\nb"]',
        '["a", 1]',
        '["a", null]',
        '["a", ["b", "c"]]',
        '["a",, "b"]',
        '[, "a"]',
        '["a"',
        '"a"]',
        '("a", "b")',
        '{"a": "b"}',
        '["a"] ["b"]',
        '["a"].',
        "",
        " ",
        "[",
        "[1e999999999, " + "9" * 10_000 + "]",
    ],
)
def test_refused(text: str) -> None:
    assert parse_list(text, "ner") is None
    assert parse_list(text, "re") is None


@pytest.mark.parametrize(
    "text", ['["a", "b"]', '[["a"]]', '[["a", "b", "c"]]', '[["a", "b")]', '[("a", "b"]]', '[["a", "b"], "c"]', "[[]]"]
)
def test_a_relation_is_a_pair(text: str) -> None:
    assert parse_list(text, "re") is None
    assert parse_list('["a", "b"]', "ner") == ("a", "b")


def test_lists_in_prose() -> None:
    def found(text: str, kind: Kind = "ner", start: int = 0) -> str | None:
        span = find_list(text, kind, start)
        return span and text[span[0] : span[1]]

    assert found("""Here's the list: ["a"] and it's done: ["b"]""") == '["a"]'
    assert found("""Here's the list: ["a"] and it's done: ["b"]""", start=18) == '["b"]'
    assert found('As in [1] and [2, 3], [3H]thymidine and [5\'-AMP], see [below]: ["x"]') == '["x"]'
    assert found('["a]", "b') is None
    assert found('[["a", "b"], ', "re") is None
    assert found('[["a", "b"], ', "ner") is None
    assert found('[["a", "b"]] ["c"]', "ner") == '["c"]'
    assert found('["a", "b"] [["c", "d"]]', "re") == '[["c", "d"]]'
    assert found('[1, ["a"]] [null, ["b"]] [{"c": ["d"]}]') is None
    assert found("['Crohn's ]disease', 'b'] ['c']") == "['c']"
    assert found('["entities": ["a"]') is None
    assert found('{"entities": ["a"]}') == '["a"]'


@pytest.mark.parametrize(
    "text",
    [
        "[" * 200_000,
        '["' * 100_000,
        "['" + "a" * 1_000_000,
        '["' + "\\" * 1_000_001,
        '["' + "\\n" * 500_000 + '"',
        "[1] " * 200_000,
        ("[" + " " * 400) * 2000,
        "['a', " * 150_000,
        "[('a', " * 150_000,
        "[ x" * 200_000 + "]" * 200_000,
        '["a" ' + "['b'] " * 100_000,
        '[["a"' + " " * 500_000,
    ],
    ids=lambda text: text[:8],
)
def test_linear_in_the_length(text: str) -> None:
    begun = time.process_time()
    for kind in KINDS:
        parse_list(text, kind)
        find_list(text, kind)
    assert time.process_time() - begun < 60  # under half a second of this process alone; anything quadratic takes many minutes


def test_a_megabyte_is_read_whole() -> None:
    name = "a😀'\"" * 250_000
    assert parse_list(json.dumps([name]), "ner") == (name,)
    assert parse_list(repr([(name, name)]), "re") == ((name, name),)
