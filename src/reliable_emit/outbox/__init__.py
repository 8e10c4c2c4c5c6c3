"""Where accepted messages wait."""

from reliable_emit.outbox.base import Outbox, OutboxOwner, offset_taken
from reliable_emit.outbox.memory import MemoryOutbox
from reliable_emit.outbox.sqlite import SQLiteOutbox

__all__ = ["MemoryOutbox", "Outbox", "OutboxOwner", "SQLiteOutbox", "offset_taken"]
