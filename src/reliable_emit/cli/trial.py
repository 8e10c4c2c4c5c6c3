"""The demo's run: the misbehaving server, the sender and the reader together."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import tenacity

from reliable_emit import Delivery, DeliveryFailed, ReliableClient
from reliable_emit.cli.connection import Connection, quiet_client
from reliable_emit.cli.output import CommandError
from reliable_emit.cli.running import cancelled, first_of
from reliable_emit.cli.target import Target
from reliable_emit.cli.verdict import Row, Verdict, judge_database, judge_reader
from reliable_emit.delivery import CHAT_EVENT
from reliable_emit.errors import ReliableEmitError
from reliable_emit.server import FAULTS, Fault, Faults, ReferenceServer, engine

Say = Callable[[str], object]

FAULT_WORDS: dict[Fault, str] = {
    "swallow_ack": "acknowledgement swallowed",
    "answer_late": "acknowledgement late, after a repetition",
    "fail_database": "database failed, no acknowledgement",
    "drop_before_commit": "connection cut before the message was stored",
    "drop_after_commit": "connection cut after the message was stored",
}
CUT_READER = "reader's connection cut"

# A run of 150 lines takes a few seconds with these.
_ACK_TIMEOUT, _LATE = 0.2, 0.3
_BACKOFF = tenacity.wait_random(0.02, 0.1)
# How many of each fault, a line; and how many at the most, so that a long file does not take for ever.
_SHARE, _MOST, _LEAST = 0.04, 12, 1
_CUTS_SHARE, _CUTS_MOST = 0.03, 6
_CONNECT, _PATIENCE = 10.0, 30.0
_LINES_A_SECOND = 50
_READER_PAUSE = 0.05


def schedule(messages: int, seed: int) -> list[Fault | None]:
    """Return what happens to the messages that the server receives, one entry each: some of every fault, shuffled."""
    each = max(_LEAST, min(_MOST, round(messages * _SHARE)))
    faults: list[Fault | None] = [fault for fault in FAULTS for _ in range(each)]
    # A fault makes the server receive the message once more: with the repetitions it receives as many as are in here.
    entries = faults + [None] * messages
    random.Random(seed).shuffle(entries)  # noqa: S311 - draws faults, guards nothing
    return entries


class _Announced(Faults):
    """Faults that are told as they happen."""

    def __init__(self, script: Sequence[Fault | None], say: Say) -> None:
        super().__init__(late=_LATE)
        self.script(*script)
        self._say = say

    def choose(self) -> Fault | None:
        """Decide, and tell."""
        fault = super().choose()
        if fault is not None:
            self._say(FAULT_WORDS[fault])
        return fault


class Reader:
    """A client that reads along, and comes back with the last row that it has.

    Attributes:
        received: The text and the id of each row, as received.
        sio: What it is wrapped around.
    """

    def __init__(self) -> None:
        self.received: list[tuple[str, int]] = []
        self.sio = quiet_client()
        self._client = ReliableClient(self.sio, retries=None, max_losses=None)
        self._news = asyncio.Event()
        self.sio.on(CHAT_EVENT, self._on_row)

    async def connect(self, url: str) -> None:
        """Connect, and stay connected."""
        await self._client.connect(
            url, auth=self._auth, transports="websocket", reconnect_backoff=tenacity.wait_fixed(_READER_PAUSE)
        )

    async def until(self, row: int) -> None:
        """Wait until that row is here, and then until everything sent before now is."""
        while not any(number >= row for _, number in self.received[-1:]) and row:
            await self.news()
        # The server answers in order, so after its answer, be it that it knows no such event, nothing is under way.
        with contextlib.suppress(DeliveryFailed):
            await self._client.call("anything more?")

    async def close(self) -> None:
        """End, in bounded time."""
        await self._client.close(timeout=0)

    async def news(self) -> None:
        """Wait for the next row."""
        self._news.clear()
        await self._news.wait()

    def _auth(self) -> dict[str, int]:
        return {"serverOffset": max((number for _, number in self.received), default=0)}

    def _on_row(self, text: str, number: int) -> None:
        self.received.append((text, number))
        self._news.set()


class Trial:
    """One run.

    Args:
        lines: What is sent.
        seed: Draws the faults.
        db: The server's database, a new file.
        say: Told in words what happens.
    """

    def __init__(self, lines: Sequence[str], *, seed: int, db: Path, say: Say) -> None:
        self._lines = lines
        self._seed = seed
        self._db = db
        self._say = say
        self._started = time.monotonic()
        self._reader = Reader()
        self._cuts = 0
        self._offsets: list[str] = []

    async def run(self) -> Verdict:
        """Do it; ends within half a minute, or a little more for a long file.

        Raises:
            CommandError: The server cannot start, or nobody can connect to it.
        """
        faults = _Announced(schedule(len(self._lines), self._seed), self._tell)
        try:
            server = ReferenceServer(self._db, faults=faults)
            await server.start()
        except (ReliableEmitError, ValueError) as error:
            raise CommandError(str(error), 1) from None
        self._say(f"seed {self._seed}: sending {len(self._lines)} lines to {server.url}, database {self._db}")
        self._started = time.monotonic()
        reading = asyncio.ensure_future(self._reader.connect(server.url))
        cutting = asyncio.ensure_future(self._cut_reader(server))
        try:
            return await self._judge(server, faults)
        finally:
            await cancelled(reading, cutting)
            await self._reader.close()
            await server.stop()

    async def _judge(self, server: ReferenceServer, faults: Faults) -> Verdict:
        client = ReliableClient(
            quiet_client(),
            client_offset=True,
            ack_timeout=_ACK_TIMEOUT,
            retries=None,
            # A message that kills every connection is not to be expected here, a series of cuts is.
            max_losses=None,
            backoff=_BACKOFF,
            max_pending=None,
        )
        connection = Connection(client, Target(server.url), lambda _: None)
        keeping: asyncio.Future[None] | None = None
        try:
            async with asyncio.timeout(_PATIENCE + len(self._lines) / _LINES_A_SECOND):
                await connection.open(_CONNECT)
                keeping = asyncio.ensure_future(connection.keep())
                deliveries: list[Delivery] = [await client.emit(CHAT_EVENT, line) for line in self._lines]
                self._offsets = [delivery.offset for delivery in deliveries]
                await first_of(client.flush(), keeping)
                rows = await server.messages()
                await self._reader.until(rows[-1].id if rows else 0)
        except TimeoutError:
            self._tell("the time is over")
        finally:
            if keeping is not None:
                await cancelled(keeping)  # type: ignore[arg-type]  # a task
            stats = client.stats
            seconds = time.monotonic() - self._started
            await client.close(timeout=0)
        stored = [Row(row.id, row.text, row.client_offset) for row in await server.messages()]
        counts = {words: faults.counts[fault] for fault, words in FAULT_WORDS.items()}
        return Verdict(
            seed=self._seed,
            messages=len(self._lines),
            sent=stats.sent,
            retried=stats.retried,
            seconds=seconds,
            faults={**counts, CUT_READER: self._cuts},
            database=judge_database(self._lines, self._offsets, stored),
            reader=judge_reader(self._lines, stored, self._reader.received),
        )

    async def _cut_reader(self, server: ReferenceServer) -> None:
        """Cut the reader's connection at rows drawn by the seed."""
        messages = len(self._lines)
        number = max(1, min(_CUTS_MOST, round(messages * _CUTS_SHARE)))
        drawn = random.Random(self._seed + 1).sample(range(1, messages + 1), min(number, messages))  # noqa: S311
        for row in sorted(drawn):
            while len(self._reader.received) < row:
                await self._reader.news()
            sid = self._reader.sio.get_sid("/")
            if sid is not None and self._reader.sio.eio.state == "connected":
                self._cuts += 1
                self._tell(CUT_READER)
                await engine.cut(server.sio, sid)

    def _tell(self, what: str) -> None:
        self._say(f"{time.monotonic() - self._started:6.2f} s  {len(self._reader.received):4} read  {what}")
