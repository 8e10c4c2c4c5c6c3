"""What the demo ends in: what was lost, duplicated or out of order, counted by comparing, not by believing."""

from __future__ import annotations

import bisect
import collections
import dataclasses
from collections.abc import Hashable, Mapping, Sequence

from rich.box import ROUNDED
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text


@dataclasses.dataclass(frozen=True, slots=True)
class Tally:
    """What is wrong with a sequence."""

    lost: int = 0
    duplicated: int = 0
    out_of_order: int = 0
    foreign: int = 0

    @property
    def flawless(self) -> bool:
        """Whether nothing is wrong."""
        return not (self.lost or self.duplicated or self.out_of_order or self.foreign)


@dataclasses.dataclass(frozen=True, slots=True)
class Row:
    """A message in the server's database."""

    id: int
    text: str
    offset: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """The outcome of a run.

    Attributes:
        seed: What the faults were drawn with.
        messages: How many lines there were to send.
        sent: Attempts.
        retried: Attempts after the first one of a line.
        seconds: How long it took.
        faults: What was done on purpose, in words, and how often.
        database: What is wrong in the server's database.
        reader: What is wrong with what the reader received.
    """

    seed: int
    messages: int
    sent: int
    retried: int
    seconds: float
    faults: Mapping[str, int]
    database: Tally
    reader: Tally

    @property
    def passed(self) -> bool:
        """Whether every message is in both places, once, in order."""
        return self.database.flawless and self.reader.flawless


def judge(expected: Sequence[Hashable], found: Sequence[Hashable]) -> Tally:
    """Compare what was found with what should have been.

    Lost is what was found less often than expected; duplicated what was found more often; foreign what was not expected
    at all. Of the rest, the fewest items that would have to move to put it in order are out of order. Where the same
    item is expected several times, the first one found is the first one expected.
    """
    places: dict[Hashable, list[int]] = {}
    for place, item in enumerate(expected):
        places.setdefault(item, []).append(place)
    taken: collections.Counter[Hashable] = collections.Counter()
    duplicated = foreign = 0
    order: list[int] = []
    for item in found:
        if item not in places:
            foreign += 1
        elif taken[item] == len(places[item]):
            duplicated += 1
        else:
            order.append(places[item][taken[item]])
            taken[item] += 1
    return Tally(
        lost=len(expected) - len(order),
        duplicated=duplicated,
        out_of_order=len(order) - _longest_rising(order),
        foreign=foreign,
    )


def judge_database(lines: Sequence[str], offsets: Sequence[str], rows: Sequence[Row]) -> Tally:
    """Compare the database with the file: by the text, and by the offsets, which tell equal lines apart."""
    return _strictest(
        judge(lines, [row.text for row in rows]),
        judge(list(zip(offsets, lines, strict=False)), [(row.offset, row.text) for row in rows]),
    )


def judge_reader(lines: Sequence[str], rows: Sequence[Row], received: Sequence[tuple[str, int]]) -> Tally:
    """Compare what a reader received with the file by the text, and with the database by the ids."""
    return _strictest(
        judge(lines, [text for text, _ in received]),
        judge([(row.text, row.id) for row in rows], received),
    )


def _strictest(one: Tally, other: Tally) -> Tally:
    return Tally(*(max(pair) for pair in zip(dataclasses.astuple(one), dataclasses.astuple(other), strict=True)))


def _longest_rising(numbers: Sequence[int]) -> int:
    """Return the length of the longest rising subsequence, by patience sorting."""
    tops: list[int] = []
    for number in numbers:
        place = bisect.bisect_left(tops, number)
        tops[place : place + 1] = [number]
    return len(tops)


def picture(verdict: Verdict) -> RenderableType:
    """Return the verdict as a table, to be printed on a rich console."""
    done = Table(box=ROUNDED, title="What was done to the messages", title_style="bold", title_justify="left")
    done.add_column("", min_width=44)
    done.add_column("", justify="right", min_width=11)
    done.add_row("lines in the file", str(verdict.messages))
    done.add_row("sent", str(verdict.sent))
    done.add_row("retried", str(verdict.retried))
    done.add_section()
    for fault, number in verdict.faults.items():
        done.add_row(fault, str(number))
    done.show_header = False

    found = Table(box=ROUNDED, title="What was found", title_style="bold", title_justify="left")
    found.add_column("", min_width=14)
    found.add_column("in the database", justify="right", min_width=18)
    found.add_column("with the reader", justify="right", min_width=18)
    for name in ("lost", "duplicated", "out of order", "foreign"):
        numbers = [getattr(tally, name.replace(" ", "_")) for tally in (verdict.database, verdict.reader)]
        if name == "foreign" and not any(numbers):
            continue
        found.add_row(name, *(Text(str(number), style="bold red" if number else "bold green") for number in numbers))
    if verdict.passed:
        end = Text(f"PASSED: all {verdict.messages} messages are there, once each, in order", style="bold green")
    else:
        end = Text("FAILED: not every message is there, once, in order", style="bold red")
    end.append(f" (seed {verdict.seed}, {verdict.seconds:.1f} s)", style="not bold default")
    return Group(done, found, end)
