"""What the sender shows while it works: a progress bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from typing import Protocol

from rich.progress import BarColumn, Progress, TextColumn

from reliable_emit import Delivery, ReliableClient, Stats
from reliable_emit.cli.ledger import Ledger, name
from reliable_emit.cli.output import STDERR, console

_FRAME = 0.1
_LINE = 5.0
# Repetitions and dead letters are told one by one as long as they are rare.
_TOLD, _PAUSE = 5, 1.0


class Display(Protocol):
    """Where it is shown."""

    interval: float

    def start(self) -> None:
        """Begin."""

    def stop(self) -> None:
        """End; nothing is shown any more but what is printed as usual."""

    def say(self, text: str) -> None:
        """Tell of an event."""

    def update(self, stats: Stats, pending: int, rate: float, progress: tuple[int, int | None]) -> None:
        """Show how things stand."""


class Lines:
    """Plain lines, for a file, a pipe or a person who types."""

    interval = _LINE

    def __init__(self) -> None:
        self._last = ""

    def start(self) -> None:
        """Nothing to begin with."""

    def stop(self) -> None:
        """Nothing to end."""

    def say(self, text: str) -> None:
        """Print a line."""
        STDERR.line(text)

    def update(self, stats: Stats, pending: int, rate: float, progress: tuple[int, int | None]) -> None:
        """Print a line if anything has changed since the last one."""
        text = f"{stats.sent} sent, {stats.acknowledged} acknowledged, {stats.retried} retried, {pending} waiting"
        if text != self._last and (stats.accepted or stats.sent):
            self._last = text
            STDERR.line(f"{text}, {rate:.0f}/s")


class Bar:
    """A progress bar on a terminal; events scroll by above it."""

    interval = _FRAME

    def __init__(self) -> None:
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=12),
            console=console(STDERR),
            # Refreshed by us: the thread of its own that it would start has to be waited for at exit.
            auto_refresh=False,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._task = self._progress.add_task("connecting", total=None)

    def start(self) -> None:
        """Show the bar."""
        self._progress.start()
        self._progress.refresh()

    def stop(self) -> None:
        """Leave the bar as it stands."""
        self._progress.stop()

    def say(self, text: str) -> None:
        """Print a line above the bar."""
        self._progress.console.print(text, soft_wrap=True)

    def update(self, stats: Stats, pending: int, rate: float, progress: tuple[int, int | None]) -> None:
        """Move the bar."""
        done, total = progress
        self._progress.update(
            self._task,
            completed=done,
            total=total,
            description=f"sent {stats.sent}  acknowledged {stats.acknowledged}  retried {stats.retried}  "
            f"{rate:.0f}/s  waiting {pending}",
        )
        self._progress.refresh()


def display(*, typing: bool) -> Display:
    """Return the bar if standard error is a terminal that can show one; not while somebody types there."""
    screen = console(STDERR)
    return Bar() if screen.is_terminal and not screen.is_dumb_terminal and not typing else Lines()


class Report:
    """Tells the display of what happens to a client's messages."""

    def __init__(self, client: ReliableClient, ledger: Ledger, shown: Display) -> None:
        self._client = client
        self._ledger = ledger
        self._display = shown
        self._told_retry = 0.0
        self._dead = 0
        client.on("retried", self._on_retried)
        client.on("dead_lettered", self._on_dead_lettered)

    def say(self, text: str) -> None:
        """Tell of an event."""
        self._display.say(text)

    @contextlib.asynccontextmanager
    async def shown(self) -> AsyncIterator[None]:
        """Show how things stand, as long as the block lasts, and once more at its end."""
        self._display.start()
        showing = asyncio.create_task(self._show())
        try:
            yield
        finally:
            showing.cancel()
            await asyncio.wait([showing])
            self._display.stop()

    async def _show(self) -> None:
        then, acknowledged, rate = time.monotonic(), 0, 0.0
        try:
            while True:
                await asyncio.sleep(self._display.interval)
                now, stats = time.monotonic(), self._client.stats
                if now - then >= 1:
                    rate = (stats.acknowledged - acknowledged) / (now - then)
                    then, acknowledged = now, stats.acknowledged
                self._display.update(stats, self._client.pending, rate, self._ledger.progress(stats))
        finally:
            if isinstance(self._display, Bar):
                stats = self._client.stats
                self._display.update(stats, self._client.pending, rate, self._ledger.progress(stats))

    def _on_retried(self, delivery: Delivery) -> None:
        number = self._ledger.number(delivery)
        now = time.monotonic()
        if number is not None and now - self._told_retry >= _PAUSE:
            self._told_retry = now
            self._display.say(f"{name(number)} is sent again, attempt {delivery.attempts}")

    def _on_dead_lettered(self, delivery: Delivery) -> None:
        # The ledger has heard of it before, and has the first ones.
        if not self._ledger.is_given_up(delivery):
            return
        self._dead += 1
        if self._dead <= _TOLD:
            self._display.say(f"given up: {self._ledger.failures[self._dead - 1]}")
        elif self._dead == _TOLD + 1:
            self._display.say("more lines are given up; they are counted, and listed at the end")
