"""Connections that are dead one after the other, and polls that nobody answers although requests are."""

from __future__ import annotations

import asyncio
from typing import Any

import tenacity

from support import Log, Server, within
from test_silence import through


async def test_one_dead_connection_after_the_other_is_recycled_every_other_attempt_at_least(server: Server) -> None:
    async with through(server, ack_timeout=1.0, retries=3) as it:
        ups = Log[str]()

        def spoil(sid: str) -> None:
            ups.add(sid)
            if len(ups) < 4:
                it.proxy.blackhole()

        it.client.on("connected", spoil)
        it.proxy.blackhole()
        delivery = await it.client.emit("echo", "x")
        assert (await within(delivery))[0] == "x"
        assert it.client.stats.recycled == 4
        assert it.client.stats.timed_out <= 3


async def test_a_poll_whose_connection_is_dead_is_found_out_although_requests_are_answered(server: Server) -> None:
    async with through(server, "polling", retries=3, backoff=tenacity.wait_none()) as it:
        eio: Any = it.sio.eio
        polling = {each.transport.get_extra_info("sockname")[1] for each in eio.http.connector._acquired}
        answers = it.proxy._network.pipes("to_client")
        (spoiled,) = [pipe for pipe in answers if port(pipe.destination) in polling]
        for pipe in spoiled._connection.pipes.values():
            pipe.swallowing = True
        assert (await within(it.client.call("echo", "x")))[0] == "x"
        assert it.client.stats.recycled == 1
        assert it.client.stats.timed_out == 1


def port(destination: asyncio.Transport | None) -> Any:
    return destination and destination.get_extra_info("peername")[1]


async def test_over_polling_a_message_that_nobody_answers_recycles_once(server: Server) -> None:
    """Such a poll waits for as long as the server has nothing to say."""
    async with through(server, "polling", ack_timeout=0.5, retries=3, backoff=tenacity.wait_none()) as it:
        delivery = await it.client.emit("nobody answers this")
        assert "exhausted" in str(await within(_failure(delivery)))
        assert (it.client.stats.recycled, it.client.stats.timed_out) == (1, 4)
        assert await within(it.client.call("echo", "x", ack_timeout=10))


async def _failure(delivery: Any) -> BaseException | None:
    try:
        await delivery
    except Exception as error:
        return error
    return None
