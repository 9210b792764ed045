"""Maximum one-to-one matching of answers and gold forms."""

from __future__ import annotations

from collections.abc import Sequence


def maximum_matching(edges: Sequence[Sequence[int]]) -> dict[int, int]:
    """Left node -> right node, as many pairs as there can be, each node in one at most (augmenting paths, Kuhn 1955).

    ``edges[left]`` lists the right nodes that ``left`` may take. A dozen nodes a document: a library's set-up would cost
    more than this does.
    """
    taken: dict[int, int] = {}

    def place(left: int, tried: set[int]) -> bool:
        for right in edges[left]:
            if right in tried:
                continue
            tried.add(right)
            if right not in taken or place(taken[right], tried):
                taken[right] = left
                return True
        return False

    for left in range(len(edges)):
        place(left, set())
    return {left: right for right, left in sorted(taken.items(), key=lambda pair: pair[1])}
