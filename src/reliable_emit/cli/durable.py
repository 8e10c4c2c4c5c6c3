"""What ``reliable-emit send --outbox`` does otherwise: it accepts without a connection, and what waits is in a file."""

from __future__ import annotations

import asyncio
import contextlib
import os
from pathlib import Path
from typing import Any

from reliable_emit import FlushTimeout, ReliableClient, ReliableEmitError, SQLiteOutbox
from reliable_emit.cli.connection import Connection
from reliable_emit.cli.decode import decode
from reliable_emit.cli.ledger import DurableLedger, NumberedOffsets
from reliable_emit.cli.options import Options, SummaryFormat
from reliable_emit.cli.outbox_file import OutboxFile, in_words
from reliable_emit.cli.output import STDERR, CommandError, plural
from reliable_emit.cli.running import Interrupt
from reliable_emit.cli.sending import Sending
from reliable_emit.cli.source import NOTHING, Line, LineError
from reliable_emit.cli.summary import Remains, print_durable_remains, print_summary

# Lines that are stored in one transaction; and seconds that an interrupted one may take.
_TOGETHER = 64
_STORED_WITHIN = 1.0
# Seconds for a polite end of the connection, and to write down what became of the last messages.
_CLOSE = 1.5


class DurableSending(Sending):
    """One run of the command, with what waits in a file.

    Args:
        options: What is sent where, and how.
        path: The file.
    """

    def __init__(self, options: Options, path: Path) -> None:
        self._path = path
        self._file = OutboxFile(path)
        self._offsets = NumberedOffsets()
        self._input_over = asyncio.Event()
        self._durable_ledger: DurableLedger
        self._earlier_dead = 0
        super().__init__(options)

    def _make_client(self) -> ReliableClient:
        return ReliableClient(
            self._sio,
            namespace=self._options.target.namespace,
            outbox=SQLiteOutbox(self._path),
            ack_timeout=self._options.ack_timeout,
            retries=self._options.retries,
            client_offset=self._options.client_offset,
            new_offset=self._offsets,
            max_pending=None,
        )

    def _make_ledger(self) -> DurableLedger:
        self._durable_ledger = DurableLedger(self._client, self._offsets)
        return self._durable_ledger

    def _make_connection(self) -> Connection:
        return Connection(self._client, self._options.target, self._report.say, input_over=self._input_over)

    async def _prepare(self) -> None:
        self._options.target.check()
        if self._is_binary():
            raise CommandError(
                f"what waits in {self._path} was emitted by a client with another serializer, msgpack; that client has "
                f"to send it",
                1,
            )
        try:
            with contextlib.suppress(FlushTimeout):
                await self._client.flush(0)  # which opens it
            self._earlier_dead = self._file.count_letters()
        except (ReliableEmitError, CommandError) as error:
            await self._client.close(timeout=0)
            raise CommandError(in_words(error), 1) from None
        # What cannot be read has been given up already.
        self._durable_ledger.resumed = self._client.pending + self._client.stats.dropped
        if resumed := self._durable_ledger.resumed:
            STDERR.line(f"{plural(resumed, 'message')} left by an earlier run in {self._path}, to be sent first")
        if self._options.file == NOTHING and os.isatty(0):
            STDERR.line("sending only what is there; --file - reads lines from the terminal")
        if self._source.is_terminal:
            STDERR.line("reading from the terminal, a message a line; Ctrl-D at the start of a line ends")

    def _is_binary(self) -> bool:
        try:
            return self._file.is_binary()
        except CommandError:  # there is no such file yet, or whoever opens it explains why it cannot be read
            return False

    async def _deliver(self, interrupt: Interrupt) -> None:
        await interrupt.unless_over(self._send(), self._stay_connected())

    async def _stay_connected(self) -> None:
        await self._connection.open(self._options.connect_timeout)
        await self._connection.keep()

    async def _send(self) -> None:
        try:
            async for lines in self._source.batches(_TOGETHER):
                await self._store(lines)
            self._all_read = True
        except (CommandError, LineError) as error:
            if self._client.pending:
                self._report.say(f"{error}; delivering what came before")
            self._input_over.set()
            await self._client.flush()
            raise
        self._input_over.set()
        await self._client.flush()

    async def _store(self, lines: list[Line]) -> None:
        """Accept some lines; those before one that cannot be sent, too."""
        values: list[Any] = []
        bad: LineError | None = None
        for line in lines:
            try:
                values.append(decode(line, as_json=self._options.as_json, event=self._options.event))
            except LineError as error:
                bad = error
                break
        accepting = asyncio.ensure_future(self._accept(values))
        try:
            await asyncio.shield(accepting)
        except asyncio.CancelledError:
            # On its way to the disk already; afterwards it is known how far it came.
            await asyncio.wait([accepting], timeout=_STORED_WITHIN)
            raise
        if bad is not None:
            raise bad

    async def _accept(self, values: list[Any]) -> None:
        # Emitted in one step of the event loop, they are stored together or not at all.
        emits = [self._client.emit(self._options.event, (value,)) for value in values]
        for result in await asyncio.gather(*emits, return_exceptions=True):
            if isinstance(result, ReliableEmitError):
                raise CommandError(in_words(result), 1)
            if isinstance(result, BaseException):
                raise result
            self._durable_ledger.accepted_to += 1

    async def _close(self, closing: asyncio.Future[int]) -> int:
        pending = self._client.pending
        await asyncio.wait([closing], timeout=_CLOSE)
        if not closing.done():
            return pending
        try:
            return self._file.count()  # which the next run goes on with
        except CommandError:
            return closing.result()

    def _say_the_end(self, interrupt: Interrupt, problem: Exception | None, pending: int) -> None:
        if problem is not None:
            STDERR.line(f"error: {problem}")
        elif interrupt.status is not None:
            STDERR.line("interrupted")
        print_durable_remains(
            Remains(
                stats=self._client.stats,
                ledger=self._durable_ledger,
                pending=pending,
                earlier_dead=self._earlier_dead,
                all_read=self._all_read,
                options=self._options,
                path=self._path,
            )
        )

    def _print_summary(self, pending: int, seconds: float, status: int) -> None:
        as_json = self._options.summary is SummaryFormat.JSON
        ledger = self._durable_ledger
        print_summary(
            self._client.stats,
            ledger,
            pending,
            seconds,
            status,
            as_json=as_json,
            resumed=ledger.resumed,
            more={
                "resumed": ledger.resumed,
                "accepted_to_line": ledger.accepted_to,
                "earlier_dead_letters": self._earlier_dead,
                "outbox": str(self._path),
            },
        )
