"""Where accepted messages wait."""

from reliable_emit.outbox.base import Outbox, OutboxOwner, offset_taken
from reliable_emit.outbox.memory import MemoryOutbox

__all__ = ["MemoryOutbox", "Outbox", "OutboxOwner", "offset_taken"]
