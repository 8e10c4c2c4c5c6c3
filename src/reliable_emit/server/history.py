"""What the reference server keeps: its messages, in the order of their ids, in one database with its inbox.

A row is visible only after its commit, and whoever sees one sees all those with a lower id: ids are in the order of the
commits. So a reader that asks for what follows the last row it has can never miss one. There may be gaps.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from reliable_emit.server.inbox.store import InboxStore


@dataclasses.dataclass(frozen=True, slots=True)
class StoredMessage:
    """A message as the server has stored it. `principal` is who sent it, empty where nobody has to log in."""

    id: int
    text: str
    client_offset: str
    principal: str


class History(Protocol):
    """The stored messages."""

    @property
    def name(self) -> str:
        """What the database is called, for a person; no user, no password."""

    @property
    def chat(self) -> str:
        """What tells this chat from any other, random, the same on all nodes; empty before it is open."""

    @property
    def inbox(self) -> InboxStore[Any]:
        """The inbox's store in the same database, to be opened after this and closed before it."""

    async def open(self) -> None:
        """Open the database, or make its tables.

        Raises:
            StoreError: It cannot be opened, is damaged, or belongs to another program or a newer version.
        """

    async def close(self) -> None:
        """Let go of the database; takes half a second at the most, also if it hangs."""

    def add(self, transaction: Any, text: str, told: Callable[[StoredMessage], object]) -> Awaitable[int]:
        """Store a message in the transaction in which the inbox records it, and give its id; a handler may return it.

        Args:
            transaction: The one that the handler was given.
            text: What the message says.
            told: Called after the commit.
        """
        ...

    async def after(self, row: int, *, rows: int, characters: int) -> list[StoredMessage]:
        """Read what follows a row, in order: at most that many rows, and no further once there is that much text."""
        ...

    async def last(self) -> int:
        """Return the highest id, 0 if there is no row."""
        ...
