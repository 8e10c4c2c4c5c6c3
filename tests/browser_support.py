"""Headless Chromium, told what to do over its own debugging protocol: nothing is needed but the browser."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import itertools
import json
import os
import re
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import aiohttp

from crash_support import need
from support import Log

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

PATIENCE = 30.0
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
_FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--no-default-browser-check",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-extensions",
    "--remote-debugging-port=0",
    "--window-size=1000,700",
)


def need_chromium() -> None:
    need("chromium", CHROMIUM, "chromium, a browser, is not installed")


class Browser:
    """A Chromium with a profile of its own; ``async with`` starts and ends it."""

    def __init__(self) -> None:
        self._numbers = itertools.count(1)
        self._replies: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._tabs: dict[str, Tab] = {}
        self._stack = contextlib.AsyncExitStack()

    async def __aenter__(self) -> Self:
        assert CHROMIUM is not None
        async with contextlib.AsyncExitStack() as stack:
            # It goes on writing into its profile for a moment after it has been killed.
            profile = stack.enter_context(tempfile.TemporaryDirectory(prefix="chromium-", ignore_cleanup_errors=True))
            process = await asyncio.create_subprocess_exec(
                CHROMIUM,
                *_FLAGS,
                f"--user-data-dir={profile}",
                "about:blank",
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.PIPE,
                start_new_session=True,
            )
            stack.push_async_callback(_end, process)
            assert process.stderr is not None
            async with asyncio.timeout(PATIENCE):
                while not (found := re.search(rb"DevTools listening on (ws://\S+)", await process.stderr.readline())):
                    assert process.returncode is None
            self._tasks = [asyncio.create_task(_drain(process.stderr))]
            session = await stack.enter_async_context(aiohttp.ClientSession())
            self._socket = await session.ws_connect(found[1].decode(), max_msg_size=0)
            self._tasks.append(asyncio.create_task(self._listen()))
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, *_: object) -> None:
        with contextlib.suppress(ConnectionError):
            await self._socket.send_json({"id": next(self._numbers), "method": "Browser.close"})
        await self._socket.close()
        await self._stack.aclose()
        for task in self._tasks:
            task.cancel()
        await asyncio.wait(self._tasks)

    async def send(self, method: str, session: str | None = None, **parameters: Any) -> dict[str, Any]:
        number = next(self._numbers)
        self._replies[number] = asyncio.get_running_loop().create_future()
        message = {"id": number, "method": method, "params": parameters}
        await self._socket.send_json(message if session is None else message | {"sessionId": session})
        async with asyncio.timeout(PATIENCE):
            reply = await self._replies[number]
        assert "error" not in reply, f"{method}: {reply['error']}"
        result: dict[str, Any] = reply["result"]
        return result

    async def _listen(self) -> None:
        async for raw in self._socket:
            message = json.loads(raw.data)
            if (number := message.get("id")) is not None:
                future = self._replies.pop(number, None)
                if future is not None and not future.done():
                    future.set_result(message)
            elif (tab := self._tabs.get(message.get("sessionId", ""))) is not None:
                tab.happened(message["method"], message["params"])

    @contextlib.asynccontextmanager
    async def tab(self, url: str, *, width: int = 900, height: int = 700, dark: bool = False) -> AsyncIterator[Tab]:
        """Open a tab, and wait until the page is there."""
        target = (await self.send("Target.createTarget", url="about:blank"))["targetId"]
        session = (await self.send("Target.attachToTarget", targetId=target, flatten=True))["sessionId"]
        tab = self._tabs[session] = Tab(self, session)
        for domain in ("Page", "Runtime", "Log"):
            await tab.send(f"{domain}.enable")
        await tab.send(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 500
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        await tab.send("Emulation.setEmulatedMedia", features=[scheme])
        # Only one tab is in front; the others are to behave as if they were.
        await tab.send("Emulation.setFocusEmulationEnabled", enabled=True)
        await tab.go(url)
        try:
            yield tab
        finally:
            await self.send("Target.closeTarget", targetId=target)


class Tab:
    """A tab.

    Attributes:
        complaints: What the page has done wrong: exceptions nobody caught, and violations of its security policy.
    """

    def __init__(self, browser: Browser, session: str) -> None:
        self._browser = browser
        self._session = session
        self._loads: Log[str] = Log()
        self.complaints: list[str] = []

    def happened(self, event: str, parameters: dict[str, Any]) -> None:
        if event == "Page.loadEventFired":
            self._loads.add(event)
        elif event == "Runtime.exceptionThrown":
            self.complaints.append(json.dumps(parameters["exceptionDetails"]))
        elif event == "Log.entryAdded" and parameters["entry"]["source"] != "network":
            self.complaints.append(parameters["entry"]["text"])
        elif event == "Runtime.consoleAPICalled" and parameters["type"] in {"error", "warning", "assert"}:
            self.complaints.append(json.dumps(parameters["args"]))

    async def send(self, method: str, **parameters: Any) -> dict[str, Any]:
        return await self._browser.send(method, self._session, **parameters)

    async def go(self, url: str) -> None:
        loads = len(self._loads)
        await self.send("Page.navigate", url=url)
        await self._loads.has(loads + 1)

    async def reload(self) -> None:
        loads = len(self._loads)
        await self.send("Page.reload")
        await self._loads.has(loads + 1)

    async def value(self, expression: str) -> Any:
        """Evaluate JavaScript in the page."""
        reply = await self.send("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in reply, reply
        return reply["result"].get("value")

    async def until(self, expression: str) -> None:
        """Wait until JavaScript in the page is true."""
        try:
            async with asyncio.timeout(PATIENCE):
                while not await self.value(expression):  # noqa: ASYNC110
                    await asyncio.sleep(0.02)
        except TimeoutError:
            shown = await self.value("document.body.innerText")
            raise AssertionError(f"never true: {expression}; the page ends with:\n{shown[-2000:]}") from None

    async def click(self, selector: str) -> None:
        """Click where the element is, as a mouse does."""
        where = await self.value(
            f"(() => {{ const box = document.querySelector({json.dumps(selector)}).getBoundingClientRect();"
            " return [box.x + box.width / 2, box.y + box.height / 2] })()"
        )
        for kind in ("mousePressed", "mouseReleased"):
            await self.send("Input.dispatchMouseEvent", type=kind, x=where[0], y=where[1], button="left", clickCount=1)

    async def write(self, text: str) -> None:
        """Type a text and Enter into the field."""
        await self.value("document.getElementById('text').focus()")
        await self.send("Input.insertText", text=text)
        for kind in ("keyDown", "keyUp"):
            key = {"key": "Enter", "code": "Enter", "windowsVirtualKeyCode": 13}
            await self.send("Input.dispatchKeyEvent", type=kind, **key, **({"text": "\r"} if kind == "keyDown" else {}))

    async def texts(self, selector: str) -> list[str]:
        """The text of all elements that match."""
        found: list[str] = await self.value(
            f"Array.from(document.querySelectorAll({json.dumps(selector)}), (element) => element.textContent)"
        )
        return found

    async def picture(self, name: str) -> None:
        """Save a screenshot in the folder that ``RELIABLE_EMIT_SCREENSHOTS`` gives, if it gives one."""
        if folder := os.environ.get("RELIABLE_EMIT_SCREENSHOTS"):
            data = await self.send("Page.captureScreenshot", format="png")
            path = Path(folder)
            await asyncio.to_thread(path.mkdir, parents=True, exist_ok=True)
            await asyncio.to_thread((path / f"{name}.png").write_bytes, base64.b64decode(data["data"]))


async def _end(process: asyncio.subprocess.Process) -> None:
    try:
        async with asyncio.timeout(5):
            await process.wait()
    except TimeoutError:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, 9)
        await process.wait()


async def _drain(stream: asyncio.StreamReader) -> None:
    while await stream.read(65_536):
        pass
