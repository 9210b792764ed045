"""Records that say again what an earlier one has said.

Near-duplicates are found by MinHash (Broder 1997) over word 5-grams with locality-sensitive hashing, and then judged by the estimated
Jaccard similarity of both the whole conversations and their answers: one abstract that is asked about twice, once for chemicals and once
for diseases, is no duplicate. Of several the first stays, whatever the number of workers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, Literal

import numpy as np
from numpy.typing import NDArray

from bioie_ray.training.instructions.words import Hashes, ngram_hashes, word_hashes

if TYPE_CHECKING:
    from datasketch import MinHashLSH

Signature = NDArray[np.uint32]
NUM_PERMUTATIONS: Final = 128
_SHINGLE_WORDS: Final = 5
_SEED: Final = 1
_SCHEME: Final = "affine32"
# Missing a pair costs, a candidate too many does not, because it is judged: with equal weights 31 % of the pairs that are 0.9 alike are found,
# with these 96 %.
_WEIGHTS: Final = (0.02, 0.98)


class Signer:
    """Makes signatures; holds the permutations, which take longer to draw than a text takes to sign."""

    def __init__(self) -> None:
        from datasketch import MinHash

        self._empty = MinHash(NUM_PERMUTATIONS, seed=_SEED, hashfunc=int, scheme=_SCHEME)

    def sign(self, hashes: Hashes) -> Signature:
        """The signature of a text, given by its word hashes; a text of fewer than five words is one shingle."""
        shingles = ngram_hashes(hashes, max(1, min(_SHINGLE_WORDS, len(hashes))))
        minhash = self._empty.copy()
        minhash.update_batch(np.unique(shingles >> np.uint64(32)).tolist())
        return np.asarray(minhash.hashvalues, dtype=np.uint32)


def answer_words(text: str) -> list[int]:
    """The distinct words of the answers, as 32-bit numbers in ascending order."""
    found: list[int] = np.unique(word_hashes(text) >> np.uint64(32)).tolist()
    return found


class Seen:
    """The records so far. Records of different groups are never near-duplicates of each other: the wordings of our own tasks are groups."""

    def __init__(self, threshold: float | None) -> None:
        self._threshold = threshold
        self._digests: set[str] = set()
        self._signatures: list[Signature] = []
        self._answers: list[NDArray[np.uint32]] = []
        self._indexes: dict[str, MinHashLSH] = {}

    def judge(self, digest: str, group: str, signature: Sequence[int], answers: Sequence[int]) -> Literal["exact", "near"] | None:
        """Which kind of duplicate a record is; one that is none is remembered."""
        if digest in self._digests:
            return "exact"
        if self._threshold is not None and self._is_near(group, np.asarray(signature, np.uint32), np.asarray(answers, np.uint32)):
            return "near"
        self._digests.add(digest)
        return None

    def _is_near(self, group: str, signature: Signature, answers: NDArray[np.uint32]) -> bool:
        from datasketch import LeanMinHash, MinHashLSH

        assert self._threshold is not None, "exact duplicates only"
        index = self._indexes.get(group)
        if index is None:
            index = self._indexes[group] = MinHashLSH(self._threshold, NUM_PERMUTATIONS, weights=_WEIGHTS, hashfunc=_bucket)
        minhash = LeanMinHash(seed=_SEED, hashvalues=signature, scheme=_SCHEME)
        for number in index.query(minhash):
            alike = float(np.mean(self._signatures[number] == signature))
            if alike >= self._threshold and _jaccard(self._answers[number], answers) >= self._threshold:
                return True
        index.insert(len(self._signatures), minhash)
        self._signatures.append(signature)
        self._answers.append(answers)
        return False


def _jaccard(left: NDArray[np.uint32], right: NDArray[np.uint32]) -> float:
    num_both = len(np.intersect1d(left, right, assume_unique=True))
    num_any = len(left) + len(right) - num_both
    return num_both / num_any if num_any else 1.0


def _bucket(rows: bytes) -> bytes:
    """16 bytes in place of a band's: the index of 200,000 records is half as large."""
    return hashlib.blake2b(rows, digest_size=16).digest()
