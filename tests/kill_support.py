"""What the tests of servers that are killed share: four clients in a chat, a balancer, and nodes that come again."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import secrets
import signal
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, Self

import socketio
import tenacity

import kill_server
from crash_support import EVENT, Zygote
from node_support import NodeClient, node_client
from reliable_emit import ReliableClient, ServerOffset
from server_support import until
from support import within

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from crash_support import Life

WAITING = 4
"""Messages that each sender has under way or waiting, at the most."""


CONNECTING = 500
"""Milliseconds that the JavaScript client gives a connection to be made.

Without it, they are 20,000; and it waits for them to the end if the server dies while it is being connected to.
"""


class Row(NamedTuple):
    """A message as it is stored."""

    id: int
    text: str
    offset: str


# The clients.


class Client(Protocol):
    """A client of the chat: it reads, and some send too.

    Attributes:
        said: The texts that it was given to send, in order.
    """

    said: list[str]

    @property
    def rows(self) -> Sequence[Sequence[Any]]:
        """The text and the id of each row, in the order in which the program was handed them."""

    @property
    def acknowledged(self) -> Sequence[int]:
        """What the server has replied to the messages, in the order of the replies."""

    @property
    def losses(self) -> int:
        """How many connections it has lost."""

    @property
    def connected(self) -> bool:
        """Whether it has a connection, as far as it knows."""

    async def say(self, text: str) -> None:
        """Send a message, now or later."""


class PythonClient:
    def __init__(self) -> None:
        self.said: list[str] = []
        self.rows: list[tuple[str, int]] = []
        self.acknowledged: list[int] = []
        sio = socketio.AsyncClient(
            handle_sigint=False, reconnection_delay=0.01, reconnection_delay_max=0.03, randomization_factor=0
        )
        self._seen = ServerOffset()
        sio.on(EVENT, self._seen.track(self._on_row))
        options: dict[str, Any] = {"retries": None, "max_losses": None, "ack_timeout": 5}
        self._client = ReliableClient(sio, client_offset=True, backoff=tenacity.wait_none(), **options)

    def _on_row(self, text: str, row: int) -> None:
        self.rows.append((text, row))

    @property
    def losses(self) -> int:
        return self._client.stats.disconnected

    @property
    def connected(self) -> bool:
        return self._client.connected

    async def say(self, text: str) -> None:
        self.said.append(text)
        await self._client.emit(EVENT, text, callback=self.acknowledged.append)

    async def connect(self, url: str) -> None:
        await self._client.connect(
            url, transports="websocket", auth=self._seen.auth, reconnect_backoff=tenacity.wait_fixed(0.02)
        )

    async def close(self) -> None:
        await self._client.close(timeout=0)


class JavaScriptClient:
    def __init__(self, node: NodeClient) -> None:
        self.said: list[str] = []
        self._node = node
        self._prefix = secrets.token_hex(10)

    @property
    def rows(self) -> list[list[Any]]:
        # Also those that it would not show: it is sent nothing twice, though nobody has promised that.
        assert self._node.events("again") == []
        return self._node.events("row")

    @property
    def acknowledged(self) -> list[int]:
        settled = self._node.events("settled")
        assert [error for _, error, _ in settled if error] == []
        return [reply for _, _, reply in settled]

    @property
    def losses(self) -> int:
        return len(self._node.events("disconnect"))

    @property
    def connected(self) -> bool:
        return len(self._node.events("connect")) > self.losses

    async def say(self, text: str) -> None:
        self._node.tell(emit=[text, f"{self._prefix}-{len(self.said)}"])
        self.said.append(text)


class Chat:
    """A sender and a reader of each kind.

    Attributes:
        senders: By name; their texts begin with it.
        readers: By name, the senders too.
    """

    def __init__(self, senders: dict[str, Client], readers: dict[str, Client]) -> None:
        self.senders = senders
        self.readers = readers | senders
        self._talking = asyncio.create_task(self._talk())

    async def _talk(self) -> None:
        while True:
            for name, sender in self.senders.items():
                while len(sender.said) - len(sender.acknowledged) < WAITING:
                    await sender.say(f"{name} {len(sender.said)}")
            await asyncio.sleep(0.005)

    @property
    def losses(self) -> int:
        return sum(reader.losses for reader in self.readers.values())

    def stop(self) -> None:
        """Say nothing more; what was said is still sent."""
        self._talking.cancel()

    async def silence(self) -> None:
        """Wait until all that was said is acknowledged, and everybody has been sent as many rows."""
        self.stop()
        said = sum(len(sender.said) for sender in self.senders.values())

        def quiet() -> bool:
            return all(len(sender.acknowledged) >= len(sender.said) for sender in self.senders.values()) and all(
                len(reader.rows) >= said for reader in self.readers.values()
            )

        try:
            await until(quiet)
        except TimeoutError:
            missing = {name: (len(reader.rows), len(reader.acknowledged)) for name, reader in self.readers.items()}
            raise AssertionError(f"{said} were said, rows and acknowledgements are {missing}") from None

    def check(self, stored: Sequence[Row]) -> None:
        """Each message is stored once, in its sender's order; and everybody has seen each row once, in order."""
        assert len({row.offset for row in stored}) == len(stored)
        for name, sender in self.senders.items():
            mine = [row for row in stored if row.text.split()[0] == name]
            assert [row.text for row in mine] == sender.said
            assert list(sender.acknowledged) == [row.id for row in mine]
        assert sum(len(sender.said) for sender in self.senders.values()) == len(stored)
        assert [row.id for row in stored] == sorted(row.id for row in stored)
        for name, reader in self.readers.items():
            assert [tuple(row) for row in reader.rows] == [(row.text, row.id) for row in stored], name

    def have_seen(self, row: int) -> list[str]:
        """Who has been sent that row."""
        return [name for name, reader in self.readers.items() if any(number == row for _, number in reader.rows)]


@contextlib.asynccontextmanager
async def chat(url: str) -> AsyncIterator[Chat]:
    """Four clients that connect to there, for ever, two of which talk."""
    options: dict[str, Any] = {"retries": None, "ackTimeout": 5000, "transports": ["websocket"], "timeout": CONNECTING}
    ours = PythonClient(), PythonClient()
    async with node_client(url, **options) as one, node_client(url, **options) as other:
        theirs = JavaScriptClient(one), JavaScriptClient(other)
        try:
            await asyncio.gather(*(client.connect(url) for client in ours))
            four = Chat({"python": ours[0], "javascript": theirs[0]}, {"py": ours[1], "js": theirs[1]})
            try:
                yield four
            finally:
                four.stop()
        finally:
            for client in ours:
                await client.close()


# Between the clients and the nodes.


class Balancer:
    """Passes each new connection on to the next node that takes it. Knows nothing of what is said."""

    def __init__(self, nodes: Sequence[Node]) -> None:
        self._nodes = collections.deque(nodes)
        self._passing: set[asyncio.Task[None]] = set()
        self._ends: set[asyncio.StreamWriter] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        self.cut()
        if self._passing:
            await asyncio.wait(self._passing)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    def cut(self) -> None:
        """Cut all connections."""
        for end in self._ends:
            end.transport.abort()

    def _accept(self, *client: Any) -> None:
        passing = asyncio.create_task(self._pass_on(*client))
        self._passing.add(passing)
        passing.add_done_callback(self._passing.discard)

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._ends.add(writer)
        try:
            for _ in range(len(self._nodes)):
                self._nodes.rotate(-1)
                with contextlib.suppress(OSError):
                    node_reader, node_writer = await asyncio.open_connection("127.0.0.1", self._nodes[0].port)
                    self._ends.add(node_writer)
                    try:
                        await asyncio.gather(_pump(reader, node_writer), _pump(node_reader, writer))
                    finally:
                        self._ends.discard(node_writer)
                    return
        finally:
            self._ends.discard(writer)
            writer.transport.abort()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Pass on what comes, up to the end; then this is the end of both directions."""
    with contextlib.suppress(OSError):
        while block := await reader.read(65_536):
            writer.write(block)
            await writer.drain()
    writer.close()


# The nodes.


class Node:
    """A server that has many lives, at one port.

    Args:
        db: The database.
        queue: The message queue, if there is more than one node.

    Attributes:
        port: Where it is, or is to be.
        came: The offsets of the messages that have come to it, in all lives.
        replayed: How often it had something to send to a reader that came.
        kills: How many lives were ended by ``kill -9``.
    """

    def __init__(self, zygote: Zygote, db: str, queue: str | None = None) -> None:
        self._zygote = zygote
        self._arguments: dict[str, Any] = {"db": db, "queue": queue}
        self.port = 0
        self.came: list[str] = []
        self.replayed = 0
        self.kills = 0

    @contextlib.asynccontextmanager
    async def life(self, step: str | None = None, count: int = 1) -> AsyncIterator[Life]:
        """One life. It does not survive the block, and may die before, of the step."""
        arguments = self._arguments | {"port": self.port, "step": step, "count": count}
        async with self._zygote.life(kill_server.serve, **arguments) as life:
            yield life
            life.kill()
            status = await life.ended()
        assert status == -signal.SIGKILL, (status, step)
        self.kills += 1
        self.came += (line.removeprefix("came ") for line in life.lines if line.startswith("came "))
        self.replayed += sum(line.startswith("replays ") for line in life.lines)

    async def up(self, life: Life) -> None:
        """Wait until it can be connected to."""
        await life.lines.until(lambda lines: any(line.startswith("port ") for line in lines))
        (self.port,) = life.numbers("port")


@contextlib.asynccontextmanager
async def one_node(db: str) -> AsyncIterator[Node]:
    async with Zygote("kill_server") as zygote:
        yield Node(zygote, db)


@contextlib.asynccontextmanager
async def two_nodes(db: str, queue: str) -> AsyncIterator[list[Node]]:
    async with Zygote("kill_server") as one, Zygote("kill_server") as other:
        yield [Node(one, db, queue), Node(other, db, queue)]


def repeated(nodes: Sequence[Node]) -> int:
    """How many messages came that had come before, to whichever node."""
    came = collections.Counter(offset for node in nodes for offset in node.came)
    return came.total() - len(came)


async def came(life: Life, messages: int) -> None:
    """Wait until so many messages have come to it."""
    await life.lines.until(lambda lines: sum(line.startswith("came ") for line in lines) >= messages)


async def died(life: Life) -> str:
    """Wait until it has died at its step, and return the offset of the message with which it has."""
    try:
        await within(life.ended())
    except TimeoutError:
        raise AssertionError(f"it lives, and has said {life.lines}") from None
    (line,) = [line for line in life.lines if line.startswith("dies ")]
    return line.removeprefix("dies ")
