"""Words of a text as numbers, for finding what two texts have in common.

Case and compatibility forms do not matter. A Han or Kana character is a word of its own, because Chinese and Japanese put no spaces.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from functools import lru_cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

Hashes = NDArray[np.uint64]
_CJK: Final = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_WORD: Final = re.compile(f"[{_CJK}]|[^\\W{_CJK}]+")
_FACTOR: Final = np.uint64(0x9E3779B97F4A7C15)  # odd, so that no bit of a word is lost


def words(text: str) -> list[str]:
    """The words of a text, folded."""
    return _WORD.findall(unicodedata.normalize("NFKC", text).casefold())


def word_hashes(text: str) -> Hashes:
    """A number for each word, in order."""
    return np.fromiter((_hash(word) for word in words(text)), dtype=np.uint64)


def ngram_hashes(hashes: Hashes, num_words: int) -> Hashes:
    """A number for each so many words in a row; none where there are fewer."""
    size = len(hashes) - num_words + 1
    if size <= 0:
        return np.empty(0, dtype=np.uint64)
    total = np.zeros(size, dtype=np.uint64)
    for place in range(num_words):
        total = total * _FACTOR + hashes[place : place + size]
    return total


@lru_cache(maxsize=1 << 18)
def _hash(word: str) -> int:
    return int.from_bytes(hashlib.blake2b(word.encode(), digest_size=8).digest(), "little")
