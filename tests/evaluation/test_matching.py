from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import maximum_bipartite_matching

from bioie_ray.evaluation.matching import maximum_matching


@given(st.lists(st.lists(st.integers(0, 7), unique=True), max_size=8))
def test_as_many_pairs_as_scipy_finds_and_none_twice(edges: list[list[int]]) -> None:
    found = maximum_matching(edges)
    assert all(right in edges[left] for left, right in found.items())
    assert len(set(found.values())) == len(found)
    graph = np.zeros((len(edges), 8), dtype=np.int8)
    for left, rights in enumerate(edges):
        graph[left, rights] = 1
    expected = (maximum_bipartite_matching(csr_matrix(graph), perm_type="column") >= 0).sum() if edges else 0
    assert len(found) == expected


def test_a_node_moves_over_where_that_makes_room() -> None:
    assert maximum_matching([[0, 1], [0]]) == {0: 1, 1: 0}
