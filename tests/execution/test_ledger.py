"""Whose fault an ended attempt was: the unit's, or that of a node which is gone."""

from __future__ import annotations

from bioie_ray.execution.ledger import Attempts
from bioie_ray.execution.usage import Retries


def test_a_unit_that_kills_its_workers_is_given_up() -> None:
    attempts = Attempts(max_deaths=2, max_lost=9)
    assert [attempts.begin("u", "n1", {"n1"}) for _ in range(3)] == ["", "", ""]
    assert "died again and again (3 times)" in attempts.begin("u", "n1", {"n1"})
    assert attempts.end("u", {"n1"}) == Retries(worker_deaths=3)
    assert attempts.begin("u", "n1", {"n1"}) == ""  # its account is closed


def test_lost_nodes_are_no_fault_of_the_unit() -> None:
    attempts = Attempts(max_deaths=0, max_lost=9)
    for number in range(10):
        assert attempts.begin("u", f"spot-{number}", {f"spot-{number}"}) == ""
    assert attempts.end("u", {"spot-9"}) == Retries(lost_nodes=9)


def test_a_unit_that_takes_its_node_along_is_given_up_too() -> None:
    attempts = Attempts(max_deaths=5, max_lost=3)
    for number in range(4):
        assert attempts.begin("u", f"n{number}", {f"n{number}"}) == ""
    assert "its node was lost again and again (4 times)" in attempts.begin("u", "n4", {"n4"})


def test_a_node_that_is_known_to_be_gone_only_later_counts_as_gone() -> None:
    attempts = Attempts(max_deaths=0, max_lost=9)
    assert attempts.begin("u", "n1", {"n1", "n2"}) == ""
    assert "died" in attempts.begin("u", "n2", {"n1", "n2"})
    assert attempts.begin("u", "n2", {"n2"}) != ""  # two ended attempts now: one on a lost node, one on this
    assert attempts.end("u", {"n2"}) == Retries(worker_deaths=1, lost_nodes=1)


def test_in_hand_is_what_is_worked_on_by_a_node_that_lives() -> None:
    attempts = Attempts(max_deaths=1, max_lost=1)
    attempts.begin("u", "n1", {"n1", "n2"})
    attempts.begin("v", "n2", {"n1", "n2"})
    assert attempts.num_in_hand({"n1", "n2"}) == 2
    assert attempts.num_in_hand({"n2"}) == 1
    attempts.end("v", {"n2"})
    assert attempts.num_in_hand({"n2"}) == 0
    assert attempts.end("v", {"n2"}) == Retries()


def test_units_have_accounts_of_their_own() -> None:
    attempts = Attempts(max_deaths=0, max_lost=0)
    assert [attempts.begin(unit, "n", {"n"}) for unit in "uvw"] == ["", "", ""]
    assert attempts.end("u", {"n"}) == Retries()
