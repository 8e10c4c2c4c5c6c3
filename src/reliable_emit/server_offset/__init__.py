"""The way back: which events a program has had from its server, over lost connections and restarts.

`tracking` stands around the user's handlers; `numbers` knows which events have come before; `line` is whose turn it is
among those that have come, and how far the offset may move; `file` keeps the offset.
"""

from reliable_emit.server_offset.tracking import ServerOffset

__all__ = ["ServerOffset"]
