from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from bioie_ray.retrieval.pair_tokens import TokenisedPairs, cut_lengths, read_template, tokenise

texts = st.lists(st.text(alphabet="aspirn cuhb,.-(3\té", max_size=60), min_size=1, max_size=6)


@pytest.fixture(params=["bert_reranker", "roberta_reranker"], scope="module")
def tokenizer(request: pytest.FixtureRequest) -> Any:
    folder: Path = request.getfixturevalue(request.param)
    return AutoTokenizer.from_pretrained(folder)


def assert_same_tokens(tokenizer: Any, contents: list[str], max_length: int) -> None:
    """Every pair of ``contents``, joined by us and by the tokenizer."""
    template = read_template(tokenizer)
    assert template is not None
    pairs = np.array([(a, b) for a in range(len(contents)) for b in range(len(contents))])
    ours = TokenisedPairs(template, tokenise(tokenizer, contents), pairs, max_length)
    left, right = [contents[a] for a, _ in pairs], [contents[b] for _, b in pairs]
    theirs = tokenizer(left, right, truncation="longest_first", max_length=max_length, padding=True)
    collated = ours.collate(np.arange(len(pairs)))
    assert collated.keys() == theirs.keys()
    for name, values in collated.items():
        assert values.tolist() == theirs[name], name
    assert ours.lengths.tolist() == [sum(mask) for mask in theirs["attention_mask"]]
    full = tokenizer(left, right, truncation=False)["input_ids"]
    assert ours.truncated.tolist() == [len(ids) > max_length for ids in full]


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(texts, st.integers(8, 70))
def test_pairs_are_token_for_token_the_tokenizers_own(tokenizer: Any, contents: list[str], max_length: int) -> None:
    assert_same_tokens(tokenizer, contents, max_length)


@pytest.mark.parametrize("side", ["padding_side", "truncation_side"])
def test_tokenizers_that_pad_or_cut_on_the_left(bert_reranker: Path, side: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(bert_reranker, **{side: "left"})
    assert_same_tokens(tokenizer, ["aspirin", "acute renal failure in patients " * 5, ""], 24)


@pytest.mark.slow
def test_real_texts_through_the_packaged_tokenizer(corpora_dir: Path) -> None:
    pytest.importorskip("all_minilm_l6_v2", reason="the extra `offline` is not installed")
    from bioie_ray.corpora.catalog import find_reader, read_split
    from bioie_ray.corpora.document import Document
    from bioie_ray.retrieval.models import resolve_model

    reader, files = find_reader("bc5cdr", corpora_dir / "bc5cdr")
    documents = [item for item in read_split(reader, files, "test") if isinstance(item, Document)][:40]
    tokenizer = AutoTokenizer.from_pretrained(resolve_model("offline:all-minilm-l6-v2"))
    assert_same_tokens(tokenizer, [document.text for document in documents], 512)


@given(st.integers(0, 300), st.integers(0, 300), st.integers(0, 400))
def test_the_cut_is_fair(a: int, b: int, room: int) -> None:
    kept_a, kept_b = (int(kept[0]) for kept in cut_lengths(np.array([a]), np.array([b]), room))
    assert kept_a + kept_b == min(a + b, room)
    assert kept_a <= a
    assert kept_b <= b
    if kept_a < a and kept_b < b:
        assert abs(kept_a - kept_b) <= 1
    elif kept_a < a:
        assert kept_a >= kept_b, "a text is cut only while it is the longer one"
    elif kept_b < b:
        assert kept_b >= kept_a


def test_a_tokenizer_that_changes_texts_beside_each_other_has_no_template(bert_reranker: Path) -> None:
    class Upside:
        """Joins a pair the other way round."""

        def __init__(self, inner: Any) -> None:
            self._inner = inner

        def __getattr__(self, name: str) -> Any:
            return getattr(self._inner, name)

        def __call__(self, first: Any, second: Any = None, **options: Any) -> Any:
            return self._inner(first, **options) if second is None else self._inner(second, first, **options)

    assert read_template(Upside(AutoTokenizer.from_pretrained(bert_reranker))) is None
