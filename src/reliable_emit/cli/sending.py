"""What ``reliable-emit send`` does: reads, sends, waits, and says what became of it."""

from __future__ import annotations

import asyncio
import time

from reliable_emit import MemoryOutbox, ReliableClient
from reliable_emit.cli.connection import Connection, quiet_client
from reliable_emit.cli.decode import PACKET_LIMIT, decode
from reliable_emit.cli.ledger import Ledger
from reliable_emit.cli.options import Options, SummaryFormat
from reliable_emit.cli.output import STDERR, CommandError
from reliable_emit.cli.report import Report, display
from reliable_emit.cli.running import Interrupt
from reliable_emit.cli.source import LineError, Source
from reliable_emit.cli.summary import print_remains, print_summary

_MAX_PENDING = 1000
# Seconds that a polite end of the connection may take.
_CLOSE = 0.5


class Sending:
    """One run of the command, with what waits in memory."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._source = Source(options.file, limit=PACKET_LIMIT)
        self._size = self._source.check()
        self._all_read = False
        self._sio = quiet_client()
        self._client = self._make_client()
        self._ledger = self._make_ledger()
        self._report = Report(self._client, self._ledger, display(typing=self._source.is_terminal))
        self._connection = self._make_connection()

    def _make_client(self) -> ReliableClient:
        return ReliableClient(
            self._sio,
            namespace=self._options.target.namespace,
            # What is shown of dead letters is in the ledger.
            outbox=MemoryOutbox(max_dead_letters=0),
            ack_timeout=self._options.ack_timeout,
            retries=self._options.retries,
            client_offset=self._options.client_offset,
            max_pending=_MAX_PENDING,
            overflow="wait",
        )

    def _make_ledger(self) -> Ledger:
        return Ledger(self._client, self._size)

    def _make_connection(self) -> Connection:
        return Connection(self._client, self._options.target, self._report.say)

    async def run(self, interrupt: Interrupt) -> int:
        """Do it and return the exit status."""
        try:
            # Offline, a volatile message is checked and dropped: a reserved name shows before anything is read.
            await self._client.emit_volatile(self._options.event)
        except ValueError as error:
            raise CommandError(str(error), 2) from None
        await self._prepare()
        started = time.monotonic()
        problem: CommandError | LineError | None = None
        async with self._report.shown():
            try:
                await self._deliver(interrupt)
            except (CommandError, LineError) as error:
                problem = error
        closing = asyncio.ensure_future(self._client.close(timeout=0))
        pending = await self._close(closing)
        self._say_the_end(interrupt, problem, pending)
        if interrupt.status is not None:
            status = interrupt.status
        elif problem is not None:
            status = problem.status
        else:
            status = 1 if self._ledger.dead(self._client.stats) or pending else 0
        self._print_summary(pending, time.monotonic() - started, status)
        await asyncio.wait([closing], timeout=_CLOSE)
        return status

    async def _prepare(self) -> None:
        """Whatever has to be done before anything is read."""

    async def _close(self, closing: asyncio.Future[int]) -> int:
        """Wait until the numbers are final, and return how many messages remain."""
        # Closing gives up what is pending. A step later the hooks are through.
        while self._client.pending and not closing.done():  # noqa: ASYNC110 - a few steps of the event loop
            await asyncio.sleep(0)
        await asyncio.sleep(0)
        return self._client.stats.dropped

    def _say_the_end(self, interrupt: Interrupt, problem: Exception | None, pending: int) -> None:
        stats = self._client.stats
        if problem is not None:
            STDERR.line(f"error: {problem}")
        elif interrupt.status is not None:
            STDERR.line(
                "interrupted"
                if stats.connected
                else "interrupted before there was a connection; nothing was read, nothing was sent"
            )
        if stats.connected:
            print_remains(stats, self._ledger, pending, self._options.file, all_read=self._all_read)

    def _print_summary(self, pending: int, seconds: float, status: int) -> None:
        stats = self._client.stats
        as_json = self._options.summary is SummaryFormat.JSON
        if stats.connected or as_json:
            print_summary(stats, self._ledger, pending, seconds, status, as_json=as_json)

    async def _deliver(self, interrupt: Interrupt) -> None:
        await interrupt.unless(self._connection.open(self._options.connect_timeout))
        if interrupt.status is not None:
            return
        if self._source.is_terminal:
            self._report.say("reading from the terminal, a message a line; Ctrl-D at the start of a line ends")
        await interrupt.unless_over(self._send(), self._connection.keep())

    async def _send(self) -> None:
        """Send all lines and wait until they are settled; those before a line that cannot be sent, too."""
        options = self._options
        try:
            async for line in self._source.lines():
                value = decode(line, as_json=options.as_json, event=options.event)
                await self._ledger.room()
                self._ledger.accepted(line, await self._client.emit(options.event, (value,)))
            self._all_read = True
        except (CommandError, LineError) as error:
            if self._client.pending:  # which may take its time
                self._report.say(f"{error}; delivering what came before")
            await self._client.flush()
            raise
        await self._client.flush()
