"""Wordings of a task: that of generation first, then others that ask for the same."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bioie_ray.corpora.tasks import TASKS, Task
from bioie_ray.prompting.instructions import load_instructions
from bioie_ray.prompting.phrasings import load_phrasings


@pytest.mark.parametrize("task", TASKS.values(), ids=list(TASKS))
def test_every_task_has_four_wordings_or_more_and_all_ask_for_the_same_form(task: Task) -> None:
    base, phrasings = load_instructions("1"), load_phrasings()
    assert phrasings.count(task) >= 4
    asked = [phrasings.instructions(base, task, number).ask(task) for number in range(1, phrasings.count(task) + 1)]
    assert asked[0] == base.ask(task)
    assert len(set(asked)) == len(asked)
    assert all(text.endswith(base.data["form"][task.kind]) for text in asked)
    assert task.kind == "ner" or all("[" in text.removesuffix(base.data["form"]["re"]) for text in asked)


def test_other_tasks_keep_their_wording() -> None:
    base = load_instructions("1")
    other = load_phrasings().instructions(base, TASKS["biorelex"], 2)
    assert other.ask(TASKS["ddi_corpus"]) == base.ask(TASKS["ddi_corpus"])
    assert other.digest != base.digest


def test_a_wording_that_is_not_there_is_refused_with_their_number() -> None:
    with pytest.raises(ValueError, match="biorelex has 5 phrasings, not 6; set phrasings of the source to 5 or less"):
        load_phrasings().instructions(load_instructions("1"), TASKS["biorelex"], 6)


def test_another_wording_is_another_digest() -> None:
    phrasings = load_phrasings()
    assert replace(phrasings, wordings={**phrasings.wordings, "biorelex": ["What binds what?"]}).digest != phrasings.digest
