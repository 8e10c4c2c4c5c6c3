"""A sensor on a bad network: takes a reading every second, and reports each to a Socket.IO server.

    python examples/sensor.py http://localhost:3000 [seconds between two readings]

Readings are taken from the first second on, whether or not there is a connection, and are sent as soon as there is one.
Ctrl-C and SIGTERM end the program: it gives what waits half a second, and says what remained.
"""

import asyncio
import contextlib
import json
import random
import signal
import sys
import time

import socketio

from reliable_emit import ReliableClient


def take_reading(number: int) -> str:
    """Ask the hardware; this one is made up."""
    celsius = 20 + random.uniform(-0.5, 0.5)  # noqa: S311
    return json.dumps({"number": number, "time": round(time.time(), 3), "celsius": round(celsius, 2)})


async def main(url: str, interval: float) -> int:
    """Take and report readings until a signal comes, and return the exit status."""
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: loop.call_soon_threadsafe(stopping.set))

    client = ReliableClient(
        # Without its own Ctrl-C handler, which disconnects before what waits is sent.
        socketio.AsyncClient(handle_sigint=False, reconnection_delay=0.5, reconnection_delay_max=10),
        client_offset=True,  # so that the server can store each reading once
        retries=None,  # a server that does not answer is asked again, until the reading is too old
        max_pending=3600,  # what fits into this machine's memory;
        overflow="drop_oldest",  # beyond that the newest readings are worth more
    )

    connecting = asyncio.create_task(client.connect(url))  # tries until the server answers; readings go on meanwhile
    taken = 0
    while not stopping.is_set() and not (connecting.done() and connecting.exception()):
        await client.emit("chat message", take_reading(taken), ttl=86_400)
        taken += 1
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stopping.wait(), interval)

    connecting.cancel()
    (outcome,) = await asyncio.gather(connecting, return_exceptions=True)
    remained = await client.close(timeout=0.5)
    if isinstance(outcome, Exception):
        print("cannot connect:", outcome)
    stats = client.stats
    given_up = stats.expired + stats.rejected + stats.dropped - remained
    print(f"{taken} readings taken, {stats.acknowledged} delivered, {given_up} given up, {remained} remained")
    for letter in client.dead_letters()[-3:]:
        print(f"not delivered ({letter.reason}): {letter.data[0]}")
    return 0 if stats.acknowledged == taken else 1


if __name__ == "__main__":
    if len(sys.argv) not in {2, 3}:
        sys.exit(f"usage: python {sys.argv[0]} URL [SECONDS]")
    sys.exit(asyncio.run(main(sys.argv[1], float(sys.argv[2]) if sys.argv[2:] else 1.0)))
