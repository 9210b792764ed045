"""The known defects of the source corpora and the rules that mend them.

A rule never alters the text of a document; it moves a mention, takes its spelling from the text, or tidies an id. Each
use is noted in ``Document.repairs`` (rule, detail). What no rule mends fails ``bioie_ray.corpora.checks.check``, and its
document is quarantined with the reason.

==================== ============================================================ ==================================
rule                 when                                                         what
==================== ============================================================ ==================================
offsets_in_bytes     the text is not ASCII, and read as offsets into its UTF-8    all offsets of that text converted
offsets_in_utf16     (or UTF-16) form more mentions match than in code points     to code points
strip_mention        the mention is the text at its offset but for white space    its text without it
                     around it (NCBI Disease 10923035)
take_text_case       the mention differs from the text at its offset in case      its text taken from the text
                     only (NLM-Gene 20105280)
take_text_symbol     same length, and it differs from the text at its offset in   its text taken from the text
                     symbols only: a character outside ASCII on either side (Greek
                     letters folded away, hard spaces), or punctuation and spaces
                     on both; at least half of it, and a letter or digit, agree
take_text_letters    it differs from the text at its offset, which ends as it     its text taken from the text
                     does, in spaces, punctuation and how Greek letters are
                     written only ("IL-1beta" for "IL-1β", "BRCA 1" for "BRCA1")
take_text_fragments  the fragments of a discontinuous mention have its words in   its text is the fragments joined
                     another order or case, or differs in punctuation only        with one space
shift_span           consecutive mentions that do not match all do so when moved  moved
                     by one same amount, the smallest of at most 20 characters
                     (NLM-Gene 19430421); one mention alone only to the sole
                     occurrence as whole words within 20 characters, where no
                     other mention of its type is; never one beyond the text
place_passage        a BioC passage whose offset lies before the end of the one    put after one space, with its
                     before or far behind it, or counts bytes                     annotations
strip_id             white space around a concept id (NCBI Disease, five times)   the id without it
bare_mesh_id         ``MESH:D...`` where the corpus writes ``D...`` (NCBI Disease the id without prefix; the column
                     test, twice)                                                 is kept in ``attributes``
==================== ============================================================ ==================================

A document that occurs twice is the work of ``bioie_ray.corpora.prepare``, which sees all of them: an identical one counts
once and is noted in the record, one with other content under the same id is quarantined.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import replace
from itertools import accumulate
from typing import TYPE_CHECKING, Final

from bioie_ray.corpora.checks import agrees
from bioie_ray.corpora.document import Mention, Repair, Span

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

# The one known run of shifted mentions is 7 off. Twenty characters are two or three words: further away an equal
# string is another mention of the same thing rather than the same mention misplaced.
MAX_SHIFT: Final = 20
# Bytes a character takes in UTF-8 by code point, and units in UTF-16.
_UTF8_STEPS: Final = (0x80, 0x800, 0x10000)
_UTF16_STEPS: Final = (0x10000,)
_MESH_PREFIX: Final = re.compile(r"MESH:(?=[CD]\d)", re.IGNORECASE)
_GREEK_NAMES: Final = (
    "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi omicron pi rho sigma sigma tau upsilon phi chi psi omega"
)
_GREEK: Final = {ord("α") + i: name for i, name in enumerate(_GREEK_NAMES.split())}
_LATIN: Final = {char: name[0] for char, name in _GREEK.items()}
_NO_CONCEPT: Final = frozenset({"", "-", "-1"})


def mend(text: str, mentions: Sequence[Mention]) -> tuple[tuple[Mention, ...], tuple[Repair, ...]]:
    """The mentions after all rules for offsets and spellings, and a note for each that was changed.

    What no rule mends is returned as it was. Order and number of mentions stay.
    """
    if all(agrees(text, mention) for mention in mentions):
        return tuple(mentions), ()
    mended, repairs = convert_offsets(text, mentions)
    mended = tuple(mention if agrees(text, mention) else _take_text(text, mention, repairs) for mention in mended)
    return _shift_runs(text, mended, repairs), tuple(repairs)


def convert_offsets(text: str, mentions: Sequence[Mention]) -> tuple[tuple[Mention, ...], list[Repair]]:
    """Offsets in bytes or UTF-16 units as code points, where that makes more of the mentions match.

    ``text`` is what the offsets count in: a document, or a section of it for formats that count in sections.
    """
    if text.isascii():
        return tuple(mentions), []
    best, num_best, repairs = tuple(mentions), _num_agreeing(text, mentions), []
    for rule, steps in (("offsets_in_bytes", _UTF8_STEPS), ("offsets_in_utf16", _UTF16_STEPS)):
        converted = tuple(_in_code_points(text, mentions, steps))
        num_agreeing = _num_agreeing(text, converted)
        if num_agreeing > num_best:
            detail = f"{num_agreeing} of {len(mentions)} mentions match so, {num_best} in code points"
            best, num_best, repairs = converted, num_agreeing, [Repair(rule, detail)]
    return best, repairs


def clean_ids(column: str, separators: str, mention_id: str) -> tuple[tuple[str, ...], list[Repair]]:
    """The concept ids of an id column, in order and without repetition; ``-1``, ``-`` and empty parts mean none.

    Args:
        column: the column as the source has it.
        separators: characters that part ids in this corpus.
        mention_id: whose ids they are, for the notes.
    """
    ids: dict[str, None] = {}
    repairs = []
    for part in re.split(f"[{re.escape(separators)}]", column):
        stripped = part.strip()
        bare = _MESH_PREFIX.sub("", stripped)
        if part != stripped:
            repairs.append(Repair("strip_id", f"{mention_id}: {part!r} -> {stripped!r}"))
        if bare != stripped:
            repairs.append(Repair("bare_mesh_id", f"{mention_id}: {stripped!r} -> {bare!r}"))
        if bare not in _NO_CONCEPT:
            ids[bare] = None
    return tuple(ids), repairs


def _num_agreeing(text: str, mentions: Iterable[Mention]) -> int:
    return sum(agrees(text, mention) for mention in mentions)


def _in_code_points(text: str, mentions: Sequence[Mention], steps: Sequence[int]) -> Iterator[Mention]:
    sizes = (1 + sum(ord(char) >= step for step in steps) for char in text)
    index = {unit: position for position, unit in enumerate(accumulate(sizes, initial=0))}
    for mention in mentions:
        places = [(index.get(span.start), index.get(span.end)) for span in mention.spans]
        spans = [Span(start, end) for start, end in places if start is not None and end is not None]
        # An offset inside a character or beyond the text converts to nothing: the mention stays as it is.
        yield replace(mention, spans=tuple(spans)) if len(spans) == len(places) else mention


def _take_text(text: str, mention: Mention, repairs: list[Repair]) -> Mention:
    """The mention with the spelling that the text has at its place, if a rule allows it."""
    if not mention.spans or not all(0 <= span.start < span.end <= len(text) for span in mention.spans):
        return mention
    there = " ".join(text[span.start : span.end] for span in mention.spans)
    rule = _spelling_rule(mention.text, there) if len(mention.spans) == 1 else _fragments_rule(mention.text, there)
    if rule is None:
        return mention
    mended = replace(mention, text=there)
    repairs.append(Repair(rule, _detail(mention, mended)))
    return mended


def _spelling_rule(claimed: str, there: str) -> str | None:
    if claimed.strip() == there:
        return "strip_mention"
    if claimed.casefold() == there.casefold():
        return "take_text_case"
    if len(claimed) == len(there) and _differ_in_symbols(claimed, there):
        return "take_text_symbol"
    return "take_text_letters" if _have_same_letters(claimed, there) else None


def _differ_in_symbols(claimed: str, there: str) -> bool:
    pairs = list(zip(claimed, there, strict=True))
    same = [a for a, b in pairs if a.casefold() == b.casefold()]
    symbols = all(a.casefold() == b.casefold() or _is_symbol_pair(a, b) for a, b in pairs)
    return symbols and 2 * len(same) >= len(pairs) and any(char.isalnum() for char in same)


def _have_same_letters(claimed: str, there: str) -> bool:
    if not claimed or any(b != a and not b.isalnum() for a, b in ((claimed[0], there[0]), (claimed[-1], there[-1]))):
        return False  # the span takes in a bracket or a comma too much
    return not _spelled(claimed).isdisjoint(_spelled(there)) and any(map(str.isalnum, claimed))


def _spelled(text: str) -> set[str]:
    """The letters and digits of a text, Greek ones by their name and by their Latin initial."""
    letters = "".join(filter(str.isalnum, unicodedata.normalize("NFKC", text).casefold()))
    return {letters.translate(_GREEK), letters.translate(_LATIN)}


def _is_symbol_pair(a: str, b: str) -> bool:
    return not (a.isascii() and b.isascii()) or not (a.isalnum() or b.isalnum())


def _fragments_rule(claimed: str, there: str) -> str | None:
    same_words = sorted(claimed.casefold().split()) == sorted(there.casefold().split())
    same_letters = any(map(str.isalnum, claimed)) and not _spelled(claimed).isdisjoint(_spelled(there))
    return "take_text_fragments" if same_words or same_letters else None


def _shift_runs(text: str, mentions: tuple[Mention, ...], repairs: list[Repair]) -> tuple[Mention, ...]:
    mended = list(mentions)
    for run in _runs(text, mentions):
        shift = _common_shift(text, [mentions[i] for i in run]) if len(run) > 1 else None
        for i in run:
            own = shift if shift is not None else _own_shift(text, mended, i)
            if own is not None:
                mended[i] = _moved(mentions[i], own)
                repairs.append(Repair("shift_span", _detail(mentions[i], mended[i])))
    return tuple(mended)


def _runs(text: str, mentions: Sequence[Mention]) -> Iterator[list[int]]:
    """Indices of consecutive mentions that do not match but lie in the text as one span each."""
    run: list[int] = []
    for i, mention in enumerate(mentions):
        inside = len(mention.spans) == 1 and 0 <= mention.spans[0].start < mention.spans[0].end <= len(text)
        if inside and not agrees(text, mention):
            run.append(i)
        elif run:
            yield run
            run = []
    if run:
        yield run


def _common_shift(text: str, mentions: Sequence[Mention]) -> int | None:
    for size in range(1, MAX_SHIFT + 1):
        found = [shift for shift in (size, -size) if all(agrees(text, _moved(m, shift)) for m in mentions)]
        if found:
            return found[0] if len(found) == 1 else None
    return None


def _own_shift(text: str, mentions: Sequence[Mention], i: int) -> int | None:
    mention = mentions[i]
    if len(mention.text) != mention.spans[0].end - mention.spans[0].start:
        return None
    shifts = [s for s in range(-MAX_SHIFT, MAX_SHIFT + 1) if agrees(text, _moved(mention, s))]
    if len(shifts) != 1:
        return None
    place = _moved(mention, shifts[0]).spans[0]
    taken = any(other.type == mention.type and place in other.spans for other in mentions)
    return shifts[0] if not taken and _is_whole_words(text, place) else None


def _is_whole_words(text: str, span: Span) -> bool:
    before, after = text[max(span.start - 1, 0) : span.start], text[span.end : span.end + 1]
    return not before.isalnum() and not after.isalnum()


def _moved(mention: Mention, shift: int) -> Mention:
    return replace(mention, spans=tuple(Span(span.start + shift, span.end + shift) for span in mention.spans))


def _detail(before: Mention, after: Mention) -> str:
    return f"{before.id}: {_place(before)} {before.text!r} -> {_place(after)} {after.text!r}"


def _place(mention: Mention) -> str:
    return ";".join(f"{span.start}-{span.end}" for span in mention.spans)
