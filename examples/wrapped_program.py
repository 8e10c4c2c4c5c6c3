"""A python-socketio program that is older than its wrapper: its handlers are as they were, the marked lines changed.

    python examples/wrapped_program.py http://localhost:3000 [seconds between two jobs]

It lost what it emitted on a dying connection, and had to leave out what it had to say while there was none.
"""

import asyncio
import itertools
import sys

import socketio

from reliable_emit import ReliableClient  # new

# was `socketio.AsyncClient()`, which at Ctrl-C disconnects before anything else, whatever waits to be sent
sio = socketio.AsyncClient(handle_sigint=False)
client = ReliableClient(sio, client_offset=True)  # new


@sio.event
async def connect():
    """Greet: whoever connects again is told so."""
    print("connected as", sio.get_sid(), flush=True)


@sio.event
def disconnect(reason):
    """Say why."""
    print("disconnected:", reason, flush=True)


@sio.on("*")
def anything(event, *arguments):
    """Print whatever the server has to say."""
    print(f"{event}:", *arguments, flush=True)


async def work(interval):
    """Do one job after the other, and report each."""
    for number in itertools.count():
        await asyncio.sleep(interval)
        # was `if sio.connected: await sio.emit("chat message", f"job {number} is done")`
        await client.emit("chat message", f"job {number} is done")


async def main(url, interval):
    """Connect, work, disconnect."""
    async with client:  # new: ends with what waits sent, or given up
        await client.connect(url)  # was `await sio.connect(url, retry=True)`, which turns Ctrl-C into an error
        await work(interval)


if __name__ == "__main__":
    if len(sys.argv) not in {2, 3}:
        sys.exit(f"usage: python {sys.argv[0]} URL [SECONDS]")
    try:
        asyncio.run(main(sys.argv[1], float(sys.argv[2]) if sys.argv[2:] else 1.0))
    except KeyboardInterrupt:
        print("interrupted;", client.stats.acknowledged, "jobs reported,", len(client.dead_letters()), "not")  # new
