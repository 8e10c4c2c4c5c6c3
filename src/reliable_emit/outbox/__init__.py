"""Where accepted messages wait."""

from reliable_emit.outbox.base import Outbox
from reliable_emit.outbox.memory import MemoryOutbox

__all__ = ["MemoryOutbox", "Outbox"]
