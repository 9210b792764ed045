"""Wrong answers made from gold ones: one mistake of a wanted kind, drawn by a seed, for what a model's own answers do not give."""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from bioie_ray.config.training import ErrorKind
from bioie_ray.corpora.tasks import Answer, answer_key, forms
from bioie_ray.evaluation.gold_view import GoldView
from bioie_ray.prompting.answers import format_list
from bioie_ray.training.preferences.wrongness import Wrong, judge

_WORD: Final = re.compile(r"[^\W\d_][\w-]{2,}")
_TRIES: Final = 8


def corrupt(view: GoldView, gold: Sequence[Answer], text: str, kind: ErrorKind, max_f1: float, seed: str) -> Wrong | None:
    """An answer with a mistake of that kind; ``None`` where none can be made (no pair to turn round, say).

    What comes out is judged like a model's answer: it is never the gold as a set, and its kind is what it was judged to be.

    Args:
        view: the document's gold, for judging.
        gold: its gold answers.
        text: the document.
        kind: what is wanted.
        max_f1: an answer nearer to the gold is not wrong enough.
        seed: names the draw: the same one gives the same answer.
    """
    for number in range(_TRIES):
        rng = random.Random(hashlib.sha256(f"corruption:{seed}:{kind}:{number}".encode()).digest())  # noqa: S311 - a draw, no secret
        made = _MAKERS[kind](view, list(gold), text, rng)
        wrong = None if made is None else judge(view, made, max_f1)
        if wrong is not None and wrong.kind == kind:
            return wrong
    return None


def _missed(view: GoldView, gold: list[Answer], _text: str, rng: random.Random) -> str | None:
    """Leave some out: one of a few, up to half of many."""
    if not gold:
        return None
    left_out = {view.as_meant(answer_key(answer)) for answer in rng.sample(gold, rng.randint(1, max(1, len(gold) // 2)))}
    return format_list([answer for answer in gold if view.as_meant(answer_key(answer)) not in left_out])


def _invented(view: GoldView, gold: list[Answer], text: str, rng: random.Random) -> str | None:
    """Add something of the text that is no answer: a word, or a pair of forms that belong to none."""
    known = {form.lower() for answer in gold for form in forms(answer)}
    words = sorted({word for word in _WORD.findall(text) if word.lower() not in known})
    if not words:
        return None
    extra: Answer = rng.choice(words)
    if view.task.kind == "re":  # where nothing is related, two words of the text are
        left = rng.choice(sorted({form for answer in gold for form in forms(answer)}) or words)
        others = [word for word in words if word.lower() != left.lower()]
        if not others:
            return None
        extra = (left, rng.choice(others))
    return format_list(_inserted(gold, extra, rng))


def _boundary(_view: GoldView, gold: list[Answer], text: str, rng: random.Random) -> str | None:
    """Make a form longer or shorter by a word of the text: of those that can be, a drawn one."""
    places = [(number, place) for number, answer in enumerate(gold) for place in range(len(forms(answer)))]
    for number, place in rng.sample(places, len(places)):
        answer = gold[number]
        parts = list(forms(answer))
        moved = _moved(parts[place], text, rng)
        if moved is not None:
            parts[place] = moved
            changed: Answer = parts[0] if isinstance(answer, str) else (parts[0], parts[1])
            return format_list([*gold[:number], changed, *gold[number + 1 :]])
    return None


def _moved(form: str, text: str, rng: random.Random) -> str | None:
    words = form.split()
    shorter = [" ".join(words[1:]), " ".join(words[:-1])] if len(words) > 1 else []
    longer = []
    at = text.lower().find(form.lower())
    if at >= 0:
        before, after = text[:at].split(), text[at + len(form) :].split()
        if before and text[:at].endswith(" "):
            longer.append(f"{before[-1]} {form}")
        if after and text[at + len(form) :].startswith(" "):
            longer.append(f"{form} {after[0].rstrip('.,;:)')}".rstrip())
    choices = [choice for choice in [*shorter, *longer] if choice and choice.lower() != form.lower()]
    return rng.choice(choices) if choices else None


def _direction(view: GoldView, gold: list[Answer], _text: str, rng: random.Random) -> str | None:
    """Turn a pair round; one that is gold in both directions stays gold, and is no choice. Where pairs have no direction, none is wrong that way."""
    if view.task.symmetric:
        return None
    pairs = [number for number, answer in enumerate(gold) if not isinstance(answer, str) and answer_key(answer)[::-1] not in view.gold]
    if not pairs:
        return None
    number = rng.choice(pairs)
    answer = gold[number]
    assert not isinstance(answer, str), "only pairs were listed"
    return format_list([*gold[:number], (answer[1], answer[0]), *gold[number + 1 :]])


def _malformed(_view: GoldView, gold: list[Answer], _text: str, rng: random.Random) -> str | None:
    """What models write instead of a list: lines, an unfinished list, a sentence."""
    names = [" - ".join(forms(answer)) for answer in gold] or ["none"]
    return rng.choice(
        [
            "\n".join(f"- {name}" for name in names),
            format_list(gold)[:-1] + ", ",
            f"The text names {', '.join(names)}.",
            "; ".join(names),
        ]
    )


def _inserted(gold: list[Answer], extra: Answer, rng: random.Random) -> list[Answer]:
    at = rng.randint(0, len(gold))
    return [*gold[:at], extra, *gold[at:]]


_MAKERS: Final[Mapping[ErrorKind, Callable[[GoldView, list[Answer], str, random.Random], str | None]]] = {
    "missed": _missed,
    "invented": _invented,
    "boundary": _boundary,
    "direction": _direction,
    "malformed": _malformed,
}
