"""The decisions on an output, one object each, only ever added.

    dmcr/NAME@V/_decisions/20260131T120000000000Z-0a1b2c3d4e5f.json     a decision
    dmcr/NAME@V/_decisions/_after/<digest>.json                         the one decision that may follow another

The second kind is the lock-free lock: before a decision is written it is created under the digest of what it builds on, so that of
two reviewers who saw the same, in one process or on two machines, exactly one goes on. Killed between the two objects, the
decision is in the log as well: it was made.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

from bioie_ray.artifacts.output import DECISIONS, Output
from bioie_ray.dmcr.decisions import Decision, Key, Standing, new_id, resolve, stale, standings, winners

_AFTER = f"{DECISIONS}/_after"


class ConflictError(ValueError):
    """Somebody decided first. ``standing`` is how things stand now; the refused decision is kept as a conflict."""

    def __init__(self, refused: Decision, standing: Standing) -> None:
        other = standing.chain[-1] if standing.chain else None
        who = f"{other.reviewer} decided ({other.choice}) at {other.time}" if other else "it builds on a decision that is not in the log"
        super().__init__(f"{refused.document_id}, repeat {refused.repeat}: not taken, because {who}; look at that and decide again")
        self.standing = standing


@dataclass(frozen=True, slots=True)
class Imported:
    """How many decisions an import added, knew already, and kept as conflicts (those that were refused).

    ``not_taken`` are lines about other answers, in words; nothing of them is kept.
    """

    num_added: int
    num_known: int
    refused: tuple[Decision, ...]
    not_taken: tuple[str, ...] = ()


class DecisionLog:
    """The decisions on one output. Objects never change, so each is read once; safe for several processes, one thread each.

    ``digests`` are those of the answers as they are now: decisions about others have no effect. Where none is given, all have.
    """

    def __init__(self, output: Output, digests: Mapping[Key, str] = MappingProxyType({})) -> None:
        self._output = output
        self._digests = digests
        self._read: dict[str, Decision] = {}

    def all(self) -> list[Decision]:
        """All decisions, conflicts and skips too, in the order of their ids.

        Raises:
            ValueError: an object is no decision; the message names it.
        """
        found: dict[str, Decision] = {}
        for key in self._output.store.keys(f"{self._output.key}/{DECISIONS}"):
            if key not in self._read:
                self._read[key] = self._load(key)
            found.setdefault(self._read[key].id, self._read[key])
        return sorted(found.values(), key=lambda decision: decision.id)

    def standings(self) -> dict[Key, Standing]:
        """How things stand with every answer that somebody looked at."""
        return standings(self.all(), self._digests)

    def standing(self, key: Key) -> Standing:
        """How things stand with one answer."""
        return self.standings().get(key, Standing())

    def add(self, decision: Decision) -> Decision:
        """Add a decision; the one that is in the log, which is the earlier where the same was sent twice.

        Raises:
            ConflictError: somebody decided since; nothing of theirs is touched.
            StoreError: it could not be written, and is not in the log.
        """
        return self._append(decision, self.standing(decision.key))

    def merge(self, decisions: Iterable[Decision]) -> Imported:
        """Add decisions made elsewhere, each after what it builds on; what is in the log already keeps standing."""
        waiting = sorted(decisions, key=lambda decision: decision.id)
        log = self.all()
        known_ids, known = {decision.id for decision in log}, {decision.substance for decision in log}
        new = [one for one in waiting if one.id not in known_ids and one.substance not in known]
        num_known = len(waiting) - len(new)
        num_added = 0
        refused: list[Decision] = []
        while new:
            now = self.standings()
            ready = [one for one in new if one.choice == "skip" or one.seen == now.get(one.key, Standing()).head]
            if not ready:
                break
            for decision in ready:
                try:
                    num_added += self._append(decision, now.get(decision.key, Standing())) is decision
                except ConflictError:
                    refused.append(decision)
            done = {decision.id for decision in ready}
            new = [one for one in new if one.id not in done]
        for decision in new:
            self._refuse(decision)
        return Imported(num_added, num_known, (*refused, *new))

    def digest(self) -> str:
        """What scores depend on: a digest of the ids that count, and their number; empty when nothing is decided.

        Skips, conflicts and what was taken back do not change it. It does not depend on which answers there are now: it is asked for
        when these may not have been made yet.
        """
        return digest_of(self.all())

    def num_effective(self) -> int:
        """How many answers are decided."""
        return len(resolve(self.all(), self._digests))

    def num_stale(self) -> int:
        """How many answers were decided that are others now."""
        return len(stale(self.all(), self._digests))

    def _append(self, decision: Decision, standing: Standing) -> Decision:
        if decision.choice != "skip":
            known = next((other for other in standing.chain if other.substance == decision.substance), None)
            if known:
                return known
            if standing.head != decision.seen or not self._go_on_from(decision):
                raise self._refuse(decision)
        self._write(decision)
        return decision

    def _go_on_from(self, decision: Decision) -> bool:
        """Be the one that follows what it builds on; otherwise see to it that the one who does is in the log."""
        named = [decision.answer_digest] if decision.answer_digest else []  # what another answer was given stands in nobody's way
        place = "\n".join((decision.document_id, str(decision.repeat), decision.seen, *named))
        key = f"{self._output.key}/{_AFTER}/{hashlib.sha256(place.encode()).hexdigest()}.json"
        return self._output.store.create(key, decision.to_json().encode()) or self._load(key).id == decision.id

    def _refuse(self, decision: Decision) -> ConflictError:
        """Keep a decision that lost, under an id that comes after all others, so that it never wins by an early clock."""
        log = self.all()
        if not any(other.substance == decision.substance for other in log):
            self._write(replace(decision, id=new_id(after=max((other.id for other in log), default=""))[0]))
        return ConflictError(decision, self.standing(decision.key))

    def _write(self, decision: Decision) -> None:
        self._output.store.create(f"{self._output.key}/{DECISIONS}/{decision.id}.json", decision.to_json().encode())

    def _load(self, key: str) -> Decision:
        try:
            return Decision.from_json(self._output.store.read(key).decode())
        except ValueError as error:
            raise ValueError(f"{self._output.store.describe(key)} is no decision: {error}; move it away") from None


def digest_of(decisions: Iterable[Decision]) -> str:
    """``DecisionLog.digest`` of decisions that were read."""
    ids = [decision.id for decision in winners(decisions)]
    return f"{hashlib.sha256(' '.join(ids).encode()).hexdigest()}-{len(ids)}" if ids else ""
