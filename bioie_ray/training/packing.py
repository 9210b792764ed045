"""Filling sequences with several conversations. Which fits where depends on the lengths alone, so the same data packs the same way."""

from __future__ import annotations

from collections.abc import Sequence


def pack(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Best fit, longest first: which items (by index) share a sequence of at most ``capacity`` tokens.

    Every item is in exactly one sequence, and in it they stand in their order. At most 11/9 of the fewest possible sequences, plus 6/9
    (Johnson 1973). Time n log n: the fullest sequence with room is found by a bit mask of the rooms that are there.

    Args:
        lengths: tokens of each item, 1 to ``capacity``.
        capacity: tokens of a sequence.

    Raises:
        ValueError: an item longer than a sequence, or empty.
    """
    wrong = next((n for n in lengths if not 0 < n <= capacity), None)
    if wrong is not None:
        raise ValueError(f"an item has {wrong} tokens, but a sequence holds 1 to {capacity}")
    sequences: list[list[int]] = []
    by_room: dict[int, list[int]] = {}  # tokens of room -> sequences with so much
    rooms = 0  # bit n: there is a sequence with n tokens of room
    for item in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        length = lengths[item]
        enough = rooms >> length
        if enough:
            room = length + (enough & -enough).bit_length() - 1
            sequence = by_room[room].pop()
            if not by_room[room]:
                rooms &= ~(1 << room)
        else:
            room, sequence = capacity, len(sequences)
            sequences.append([])
        sequences[sequence].append(item)
        left = room - length
        by_room.setdefault(left, []).append(sequence)
        rooms |= 1 << left
    return [sorted(sequence) for sequence in sequences]
