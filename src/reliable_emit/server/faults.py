"""Switches that make the reference server misbehave on purpose. For tests and the demo only."""

from __future__ import annotations

import collections
import random
from typing import Literal, get_args

from reliable_emit import policy

Fault = Literal["swallow_ack", "answer_late", "fail_database", "drop_before_commit", "drop_after_commit"]
"""One way to misbehave.

``swallow_ack``: store and broadcast, but acknowledge nothing. ``answer_late``: acknowledge ``late`` seconds late.
``fail_database``: behave as if the database had failed. ``drop_before_commit`` and ``drop_after_commit``: cut the
sender's connection, without a word, before or after the message is stored.
"""

FAULTS: tuple[Fault, ...] = get_args(Fault)


class Faults:
    """Decides for each well-formed message that the server receives how to misbehave, and counts what was done.

    A script goes first, one entry a message; when it is used up, the probabilities decide. A message suffers one fault
    at the most. A repetition counts as a message of its own. Malformed messages are rejected and suffer none.

    Args:
        seed: Makes the draws repeatable; ``None`` does not.
        swallow_ack: The probability of this fault, between 0 and 1; all of them together at most 1. The same goes for
            `answer_late`, `fail_database`, `drop_before_commit` and `drop_after_commit`.
        late: How late a late answer is, in seconds.

    Raises:
        ValueError: A probability, or their sum, is not between 0 and 1.
    """

    def __init__(
        self,
        *,
        seed: int | None = None,
        swallow_ack: float = 0.0,
        answer_late: float = 0.0,
        fail_database: float = 0.0,
        drop_before_commit: float = 0.0,
        drop_after_commit: float = 0.0,
        late: float = 1.0,
    ) -> None:
        self._random = random.Random(seed)  # noqa: S311 - chooses faults, guards nothing
        self._odds: dict[Fault, float] = {
            "swallow_ack": swallow_ack,
            "answer_late": answer_late,
            "fail_database": fail_database,
            "drop_before_commit": drop_before_commit,
            "drop_after_commit": drop_after_commit,
        }
        for name, probability in self._odds.items():
            if not 0 <= probability <= 1:
                raise ValueError(f"{name} is {probability!r}; give a probability, between 0 and 1")
        if sum(self._odds.values()) > 1 + 1e-9:
            raise ValueError("the probabilities add up to more than 1; a message suffers one fault at the most")
        self._script: collections.deque[Fault | None] = collections.deque()
        self.late = policy.seconds("late", late, zero=True)
        self.counts: dict[Fault, int] = dict.fromkeys(FAULTS, 0)
        """How often each fault was done so far."""

    def script(self, *faults: Fault | None) -> None:
        """Say what happens to the next messages, one entry each, after those already scripted; ``None``: nothing bad.

        Raises:
            ValueError: There is no such fault.
        """
        for fault in faults:
            if fault is not None and fault not in FAULTS:
                raise ValueError(f"{fault!r} is no fault; choose one of {', '.join(FAULTS)}, or None")
        self._script.extend(faults)

    def calm(self) -> None:
        """Misbehave no more: forget the script and set every probability to 0. The counts stay."""
        self._script.clear()
        self._odds = dict.fromkeys(FAULTS, 0.0)

    def choose(self) -> Fault | None:
        """Decide what happens to the message that has just arrived, and count it."""
        fault = self._script.popleft() if self._script else self._draw()
        if fault is not None:
            self.counts[fault] += 1
        return fault

    def _draw(self) -> Fault | None:
        # One draw a message, whatever the probabilities are: a seed then gives the same faults to the same messages.
        left = self._random.random()
        for fault, probability in self._odds.items():
            left -= probability
            if left < 0:
                return fault
        return None
