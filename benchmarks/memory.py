"""What a waiting message costs: bytes for each of 100,000 of 100 bytes, payload, offset and handle included.

``python benchmarks/memory.py [messages]``
"""

from __future__ import annotations

import asyncio
import gc
import logging
import sys
import tracemalloc

import socketio

from reliable_emit import ReliableClient


async def measure(messages: int, *, client_offset: bool) -> float:
    """Return the bytes a message, with nobody connected."""
    client = ReliableClient(socketio.AsyncClient(), max_pending=None, client_offset=client_offset)
    await client.emit("chat message", "warm")
    gc.collect()
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    handles = [await client.emit("chat message", f"{number:0100d}") for number in range(messages)]
    gc.collect()
    after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(handles) == client.pending - 1 == messages
    await client.close(timeout=0)
    return (after - before) / messages


def main() -> None:
    """Measure with and without the offset in the payload."""
    logging.disable()  # closing with messages pending is said aloud
    messages = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000
    for client_offset in (False, True):
        per_message = asyncio.run(measure(messages, client_offset=client_offset))
        appended = "appended" if client_offset else "kept apart"
        print(f"{messages} waiting messages of 100 bytes, offset {appended}: {per_message:.0f} bytes each")


if __name__ == "__main__":
    main()
