"""At-least-once emit for python-socketio, around an existing ``socketio.AsyncClient``."""

from reliable_emit.client import ReliableClient
from reliable_emit.delivery import DeadLetter, Delivery
from reliable_emit.errors import (
    CallTimeout,
    ClientClosed,
    ConnectionRejected,
    DeliveryFailed,
    FlushTimeout,
    OutboxCorrupt,
    OutboxFull,
    OutboxLocked,
    OutboxUnavailable,
    ReliableEmitError,
    ServerOffsetError,
)
from reliable_emit.hooks import Stats
from reliable_emit.offsets import ClientOffsets, random_offset
from reliable_emit.outbox import MemoryOutbox, Outbox, OutboxOwner, SQLiteOutbox
from reliable_emit.server_offset import ServerOffset
from reliable_emit.state import ClientState

__all__ = [
    "CallTimeout",
    "ClientClosed",
    "ClientOffsets",
    "ClientState",
    "ConnectionRejected",
    "DeadLetter",
    "Delivery",
    "DeliveryFailed",
    "FlushTimeout",
    "MemoryOutbox",
    "Outbox",
    "OutboxCorrupt",
    "OutboxFull",
    "OutboxLocked",
    "OutboxOwner",
    "OutboxUnavailable",
    "ReliableClient",
    "ReliableEmitError",
    "SQLiteOutbox",
    "ServerOffset",
    "ServerOffsetError",
    "Stats",
    "random_offset",
]
