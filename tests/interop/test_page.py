"""The chat page in a real browser, with servers that die and networks that fail."""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import TYPE_CHECKING

import pytest
import socketio
import tenacity

from browser_support import Browser, Tab, need_chromium
from cli_support import Served, stored
from crash_support import Witness
from node_support import CLIENT_SCRIPT, need_script
from reliable_emit import ReliableClient
from reliable_emit.server import Faults, ReferenceServer
from reliable_emit.testing import FaultProxy
from server_support import store, until
from support import PATIENCE

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

ROWS = "#messages li"
WAITING = "#waiting li"
HOSTILE = [
    "<img src=x onerror=\"document.title='taken over'\">",
    "<script>document.title='taken over'</script>",
    "</li></ol><style>body { display: none }</style>",
    "&lt;b&gt; &amp; \u202eright to left",
    "{{7*7}} ${7*7} javascript:alert(1)",
]


@pytest.fixture
async def browser() -> AsyncIterator[Browser]:
    need_chromium()
    need_script()
    async with Browser() as started:
        yield started


@contextlib.asynccontextmanager
async def page(
    browser: Browser, url: str, *, width: int = 900, height: int = 700, dark: bool = False
) -> AsyncIterator[Tab]:
    """A tab that shows the page; in the end nothing must have gone wrong in it."""
    async with browser.tab(url, width=width, height=height, dark=dark) as tab:
        yield tab
        assert tab.complaints == []


@contextlib.asynccontextmanager
async def behind_a_proxy(browser: Browser) -> AsyncIterator[tuple[ReferenceServer, FaultProxy, Tab]]:
    """A server, and a tab that is connected to it by way of a proxy."""
    async with (
        ReferenceServer(client_script=CLIENT_SCRIPT) as server,
        FaultProxy("127.0.0.1", server.port) as proxy,
        page(browser, proxy.url) as tab,
    ):
        await is_in(tab, "connected")
        yield server, proxy, tab


async def is_in(tab: Tab, state: str) -> None:
    await tab.until(f"document.getElementById('status').dataset.state === {json.dumps(state)}")


async def shows(tab: Tab, rows: int, waiting: int = 0) -> None:
    """Wait until so many rows are shown, and so many messages wait."""
    await tab.until(f"document.querySelectorAll('{ROWS}').length === {rows}")
    await tab.until(f"document.querySelectorAll('{WAITING}').length === {waiting}")


async def words(tab: Tab) -> str:
    shown: str = await tab.value("document.getElementById('status').innerText.replace(/\\s+/g, ' ').trim()")
    return shown


async def test_two_tabs_and_a_sender_in_python_over_the_death_of_the_server(browser: Browser, tmp_path: Path) -> None:
    db = tmp_path / "chat.db"
    async with (
        Served(db, "--client-script", str(CLIENT_SCRIPT)) as served,
        page(browser, served.url) as one,
        page(browser, served.url, width=360, height=640) as two,
        ReliableClient(socketio.AsyncClient(), client_offset=True, retries=None) as sender,
    ):
        await sender.connect(served.url, transports="websocket", reconnect_backoff=tenacity.wait_fixed(0.05))
        await one.write("from the first tab")
        await two.write("from the second tab")
        await sender.call("chat message", "from Python")
        for tab in (one, two):
            await shows(tab, 3)
            assert await words(tab) == "Connected"
        await one.picture("connected")
        await served.kill()
        for tab in (one, two):
            await is_in(tab, "offline")
        await one.write("typed while the server is dead")
        await one.write("and one more")
        await two.write("the second tab as well")
        await sender.emit("chat message", "Python too")
        assert await words(one) == "Offline, trying again 2 waiting"
        assert await one.value("document.title") == "(2) Chat"
        assert await one.texts(f"{WAITING} .text") == ["typed while the server is dead", "and one more"]
        await one.picture("offline")
        await served.start()
        await sender.flush(timeout=PATIENCE)
        for tab in (one, two):
            await shows(tab, 7)
            await is_in(tab, "connected")
        kept = stored(db)
        assert sorted(kept[3:]) == sorted(
            ["typed while the server is dead", "and one more", "the second tab as well", "Python too"]
        )
        assert kept.index("typed while the server is dead") < kept.index("and one more")
        assert await one.texts(ROWS) == await two.texts(ROWS) == kept
        assert await words(one) == "Connected"
        await two.picture("phone")


async def test_what_waits_survives_reloads_and_is_sent_in_order_under_the_same_offsets(browser: Browser) -> None:
    async with behind_a_proxy(browser) as (server, proxy, tab):
        await tab.write("zero")
        await shows(tab, 1)
        # The server stores the next one, and the page does not hear of it.
        proxy.half_open("to_client")
        texts = ["one", "two", "three"]
        for text in texts:
            await tab.write(text)
        while len(await server.messages()) < 2:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
        assert [message.text for message in await server.messages()] == ["zero", "one"]
        offset = (await server.messages())[1].client_offset
        await tab.click("#toggle")
        await is_in(tab, "disconnected")
        proxy.heal()
        before = await tab.value("Object.keys(sessionStorage).sort()")
        assert len(before) == 3
        await tab.reload()
        await shows(tab, 4)
        assert await tab.texts(ROWS) == ["zero", *texts]
        await tab.until("sessionStorage.length === 0")
        await tab.write("four")
        await shows(tab, 5)
        messages = await server.messages()
        assert [message.text for message in messages] == ["zero", *texts, "four"]
        offsets = [message.client_offset for message in messages]
        assert offsets[1] == offset
        assert sorted(f"reliable-emit/waiting/{offset}" for offset in offsets[1:4]) == before
        assert len(set(offsets)) == 5
        assert not any("undefined" in offset for offset in offsets)


async def test_entries_that_the_page_has_not_written_hinder_nothing_and_stay(browser: Browser) -> None:
    async with ReferenceServer(client_script=CLIENT_SCRIPT) as server, page(browser, server.url) as tab:
        await is_in(tab, "connected")
        foreign = ["", "{", "5", "null", "[]", '"text"', '{"order": 1}', '{"text": 5, "order": 1}']
        entries = {f"reliable-emit/waiting/foreign-{number}": entry for number, entry in enumerate(foreign)}
        own = {"reliable-emit/waiting/own-0": '{"order": 3, "text": "typed before"}'}
        await tab.value(f"Object.assign(sessionStorage, {json.dumps(entries | own)})")
        await tab.reload()
        await is_in(tab, "connected")
        await shows(tab, 1)
        await tab.write("typed now")
        await shows(tab, 2)
        assert [row.text for row in await server.messages()] == ["typed before", "typed now"]
        assert json.loads(await tab.value("JSON.stringify({...sessionStorage})")) == entries


async def test_messages_that_wait_are_there_again_after_a_reload_that_finds_no_connection(browser: Browser) -> None:
    """The page comes, and the messages cannot go yet."""
    async with (
        ReferenceServer(client_script=CLIENT_SCRIPT, authenticate=lambda auth, _: None) as server,
        page(browser, server.url, width=360, height=640) as tab,
    ):
        for text in ("one", "two"):
            await tab.write(text)
        await tab.until("document.getElementById('state').textContent.startsWith('The server refuses')")
        assert await words(tab) == "The server refuses: authentication failed 2 waiting"
        await tab.picture("refused-phone")
        await tab.reload()
        await shows(tab, 0, 2)
        assert await tab.texts(f"{WAITING} .text") == ["one", "two"]
        assert (await words(tab)).endswith("2 waiting")
        # Let in at last, without anybody's doing: the client library alone would have stayed away.
        server._chat._authenticate = lambda *_: "somebody"
        await shows(tab, 2)
        assert [message.text for message in await server.messages()] == ["one", "two"]


async def test_nothing_that_is_written_is_taken_for_html(browser: Browser) -> None:
    async with ReferenceServer(client_script=CLIENT_SCRIPT) as server, page(browser, server.url) as tab:
        await is_in(tab, "connected")
        await tab.click("#toggle")
        await is_in(tab, "disconnected")
        for text in HOSTILE:
            await tab.write(text)
        assert await tab.texts(f"{WAITING} .text") == HOSTILE
        await tab.click("#toggle")
        await shows(tab, len(HOSTILE))
        assert await tab.texts(ROWS) == HOSTILE
        assert await tab.value("document.querySelectorAll('main img, main script, main style, main b').length") == 0
        assert await tab.value("document.title") == "Chat"
        await tab.picture("hostile")
        # And could not be: the browser itself refuses.
        refused = await tab.value("try { document.body.innerHTML = '<b>x</b>'; false } catch (error) { error.name }")
        assert refused == "TypeError"
        tab.complaints.clear()


async def test_a_refused_message_is_shown_as_refused_until_it_is_dismissed(browser: Browser) -> None:
    async with (
        ReferenceServer(client_script=CLIENT_SCRIPT, max_text=30) as server,
        page(browser, server.url, width=360, height=640, dark=True) as tab,
    ):
        await tab.write("short enough")
        await tab.write("this one is longer than the thirty characters that the server takes")
        await tab.write("also short enough")
        await shows(tab, 2, 1)
        for _ in range(2):
            note = await tab.texts(f"{WAITING}.refused .note")
            assert note == ["Refused by the server: the text has 67 characters, more than 30"]
            assert await words(tab) == "Connected"
            await tab.picture("refusal-dark-phone")
            await tab.reload()  # not sent again, nor forgotten
            await shows(tab, 2, 1)
        await tab.click(f"{WAITING} button")
        await shows(tab, 2, 0)
        await tab.reload()
        await shows(tab, 2, 0)
        assert [message.text for message in await server.messages()] == ["short enough", "also short enough"]


async def test_the_button_disconnects_and_stays_so_and_a_kick_does_not(browser: Browser) -> None:
    async with ReferenceServer(client_script=CLIENT_SCRIPT) as server, page(browser, server.url) as tab:
        await is_in(tab, "connected")
        assert await tab.texts("#toggle") == ["Disconnect"]
        (sid,) = server._chat._clients
        await server.sio.disconnect(sid)
        await until(lambda: server._chat._clients and sid not in server._chat._clients)
        await is_in(tab, "connected")
        await tab.click("#toggle")
        await is_in(tab, "disconnected")
        await until(lambda: not server._chat._clients)
        assert await tab.texts("#toggle") == ["Connect"]
        await tab.write("kept meanwhile")
        assert await words(tab) == "Disconnected 1 waiting"
        await tab.picture("disconnected")
        await tab.click("#toggle")
        await shows(tab, 1)
        assert await words(tab) == "Connected"


async def test_a_link_that_flaps_loses_nothing_and_repeats_nothing(browser: Browser) -> None:
    async with behind_a_proxy(browser) as (server, proxy, tab):
        texts = [f"message {number}" for number in range(20)]
        for text in texts[:10]:
            await tab.write(text)
        for _ in range(6):
            proxy.cut()
            await is_in(tab, "offline")
            await is_in(tab, "connected")
        for number, text in enumerate(texts[10:]):
            await tab.write(text)
            if number % 3 == 0:
                proxy.reset()
        await shows(tab, 20)
        assert await tab.texts(ROWS) == texts == [message.text for message in await server.messages()]


async def test_lost_acknowledgements_end_in_one_row_each(browser: Browser) -> None:
    faults = Faults(seed=3, drop_after_commit=0.3, drop_before_commit=0.2)
    async with (
        ReferenceServer(client_script=CLIENT_SCRIPT, faults=faults) as server,
        page(browser, server.url) as tab,
    ):
        texts = [f"message {number}" for number in range(12)]
        for text in texts:
            await tab.write(text)
        await shows(tab, len(texts))
        assert await tab.texts(ROWS) == texts == [message.text for message in await server.messages()]
        assert await words(tab) == "Connected"


async def test_ten_thousand_rows_leave_a_page_of_bounded_size_that_follows_the_newest(
    browser: Browser, tmp_path: Path
) -> None:
    async with ReferenceServer(tmp_path / "chat.db", client_script=CLIENT_SCRIPT, synchronous="normal") as server:
        await asyncio.gather(*(store(server, f"row {number}", f"a-{number}") for number in range(10_000)))
        await store(server, "the last one", "last")
        async with page(browser, server.url, width=360, height=640) as tab:
            await tab.until("document.querySelector('#messages li:last-child')?.textContent === 'the last one'")
            shown = await tab.texts(ROWS)
            assert shown == [*(f"row {number}" for number in range(10_001 - len(shown), 10_000)), "the last one"]
            assert 499 <= len(shown) <= 500
            assert await tab.texts("#earlier") == [f"{10_001 - len(shown)} earlier messages are not shown"]
            bottom = "(({scrollHeight: all, scrollTop: top, clientHeight: seen}) => all - top - seen)(scroller)"
            assert await tab.value(bottom) < 2
            # Who reads older rows is left where she is, and told.
            await tab.value("scroller.scrollTop = 1000")
            top = await tab.value("document.elementFromPoint(180, 300).closest('li').textContent")
            await store(server, "another one", "another")
            await tab.until("!document.getElementById('latest').hidden")
            assert await tab.value("document.elementFromPoint(180, 300).closest('li').textContent") == top
            await tab.picture("scrolled-up-phone")
            await tab.click("#latest")
            await tab.until(f"{bottom} < 2")
            assert await tab.value("document.getElementById('latest').hidden")
            # The window shrinks, as when the keyboard of a phone comes up: the last row stays in sight.
            await tab.send(
                "Emulation.setDeviceMetricsOverride", width=360, height=330, deviceScaleFactor=1, mobile=True
            )
            await tab.until(f"innerHeight === 330 && {bottom} < 2")


async def test_on_a_phone_nothing_is_wider_than_the_screen(browser: Browser) -> None:
    async with (
        ReferenceServer(client_script=CLIENT_SCRIPT) as server,
        page(browser, server.url, width=360, height=640) as tab,
    ):
        await is_in(tab, "connected")
        for text in ("w" * 400, "Grüße 🎉 שלום", "several words " * 30):
            await tab.write(text)
        await shows(tab, 3)
        wide = (
            "Array.from(document.querySelectorAll('body *'), (e) => e.getBoundingClientRect())"
            ".filter((box) => box.width > 0 && (box.right > 360.5 || box.left < -0.5)).length"
        )
        assert await tab.value(wide) == 0
        assert await tab.value("document.documentElement.scrollWidth") == 360
        await tab.click("#toggle")
        await tab.write("waiting " * 20)
        assert await tab.value(wide) == 0
        await tab.picture("long-phone")


async def test_without_the_client_script_the_page_says_so_and_how_to_get_it(browser: Browser, tmp_path: Path) -> None:
    other = tmp_path / "other.js"
    other.write_text("// defines no io\n")
    async with (
        ReferenceServer(client_script=other) as server,
        page(browser, server.url, width=360, height=640) as tab,
    ):
        shown = await tab.value("document.body.innerText")
        assert "The Socket.IO client script is missing" in shown
        assert "--client-script" in shown
        assert not await tab.value("document.getElementById('form').checkVisibility()")
        await tab.picture("missing-phone")


async def test_a_duplicated_tab_sends_what_waits_no_second_time(browser: Browser) -> None:
    async with behind_a_proxy(browser) as (server, proxy, tab):
        await tab.click("#toggle")
        await tab.write("mine")
        copied = await tab.value("JSON.stringify({...sessionStorage})")
        async with page(browser, proxy.url) as other:
            await other.value(f"Object.assign(sessionStorage, JSON.parse({json.dumps(copied)}))")
            await other.reload()
            await shows(other, 1)
            await tab.click("#toggle")
            await shows(tab, 1)
            await tab.write("first of the one")
            await other.write("first of the other")
            await shows(tab, 3)
            await shows(other, 3)
        messages = await server.messages()
        assert messages[0].text == "mine"
        assert len({message.client_offset for message in messages}) == len(messages) == 3


async def test_a_full_storage_accepts_nothing_and_says_so(browser: Browser) -> None:
    async with ReferenceServer(client_script=CLIENT_SCRIPT) as server, page(browser, server.url) as tab:
        await is_in(tab, "connected")
        await tab.value(
            "for (let size = 1e6, n = 0; size >= 1; )"
            " try { sessionStorage.setItem(`fill${n}`, 'x'.repeat(size)); n += 1 } catch { size >>= 1 }"
        )
        await tab.write("no room for this")
        await tab.until("!document.getElementById('problem').hidden")
        assert await tab.value("document.getElementById('text').value") == "no room for this"
        assert await tab.texts(WAITING) == []
        await tab.picture("full")
        await tab.value("sessionStorage.removeItem('fill0')")
        await tab.write("")  # the text is still there: Enter sends it
        await shows(tab, 1)
        assert await tab.value("document.getElementById('problem').hidden")
        assert [message.text for message in await server.messages()] == ["no room for this"]


async def test_a_message_that_would_end_every_connection_is_not_accepted(browser: Browser) -> None:
    async with ReferenceServer(client_script=CLIENT_SCRIPT) as server, page(browser, server.url) as tab:
        await is_in(tab, "connected")
        (sid,) = server._chat._clients
        await tab.value("text.value = 'x'.repeat(3_000_000)")
        await tab.write("")
        await tab.until("!problem.hidden")
        assert await tab.texts("#problem") == ["Not accepted: the message has 3000000 characters, more than 65536."]
        assert await tab.value("text.value.length") == 3_000_000
        # The longest that it takes, and each character of it the longest there is on the wire.
        await tab.value("text.value = '\u0001'.repeat(65_535) + '\u20ac'")
        await tab.write("")
        await shows(tab, 1)
        assert await tab.value("problem.hidden")
        assert [len(message.text) for message in await server.messages()] == [65_536]
        assert list(server._chat._clients) == [sid]


# Messages are sent when the computer has slept: the client finds that the last heartbeat is long ago, keeps the message
# back, and reconnects. Here the page is kept too busy to notice anything, and that is the same.
_SLEEP = "const end = Date.now() + 4000; while (Date.now() < end);"


@contextlib.asynccontextmanager
async def after_a_sleep(browser: Browser) -> AsyncIterator[tuple[ReferenceServer, Witness, Tab]]:
    """A server that does not take the message B when it comes for the first time, and a tab that is connected to it."""
    server = ReferenceServer(client_script=CLIENT_SCRIPT, ping_interval=1, ping_timeout=0.5)
    witness = Witness(server)

    async def admit(text: str) -> bool:
        return text != "B" or witness.received["B"] > 1

    witness.admit = admit
    async with server, page(browser, server.url) as tab:
        await is_in(tab, "connected")
        yield server, witness, tab


async def test_after_a_sleep_nothing_is_lost(browser: Browser) -> None:
    async with after_a_sleep(browser) as (server, witness, tab):
        await tab.value(
            f"(() => {{ {_SLEEP} for (const message of 'ABC') {{ text.value = message; form.requestSubmit(); }} }})()"
        )
        await shows(tab, 3)
        assert await tab.texts(ROWS) == ["A", "B", "C"] == [message.text for message in await server.messages()]
        assert witness.received["A"] == 2, "the case did not arise"


async def test_after_a_sleep_the_browser_build_of_the_client_loses_a_message_by_itself(browser: Browser) -> None:
    """The reason why the page does not use `retries`. If this fails, the page can be simpler."""
    async with after_a_sleep(browser) as (server, witness, tab):
        await tab.value(
            """(async () => {
                window.other = io({
                    forceNew: true, transports: ["websocket"], reconnectionDelay: 100,
                    retries: Infinity, ackTimeout: 500,
                });
                await new Promise((connected) => other.once("connect", connected));
                window.settled = [];
                SLEEP
                for (const text of "ABCD") other.emit("chat message", text, `a-${text}`, () => settled.push(text));
            })()""".replace("SLEEP", _SLEEP)
        )
        await tab.until("settled.includes('D')")
        await tab.value("new Promise((later) => setTimeout(later, 1500))")  # three times what one attempt may take
        assert await tab.value("settled") == ["A", "A", "C", "D"]
        assert [message.text for message in await server.messages()] == ["A", "C", "D"]
        assert witness.received["B"] == 1
        await tab.value("other.disconnect() && undefined")
