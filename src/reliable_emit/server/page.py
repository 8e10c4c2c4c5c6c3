"""The page at ``/``: what this server is."""

from __future__ import annotations

PAGE_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>reliable-emit reference server</title>
<style>body {{ font: 1rem/1.5 system-ui, sans-serif; max-width: 42rem; margin: 2rem auto; padding: 0 1rem }}</style>
</head>
<body>
<h1>reliable-emit reference server</h1>
<p>A Socket.IO chat server that stores each message once, however often it is sent. Messages stored: {count}.</p>
<p>Emit <code>chat message</code> with two arguments, the text and the client offset. The acknowledgement is the id of
the row that holds the message; a repetition gets the same one. Everybody connected receives <code>chat message</code>
with the text and the id.</p>
<p>Connect with <code>auth: {{ serverOffset: id }}</code> to be sent what came after that row; without it,
everything.</p>
</body>
</html>
"""


def page(count: int) -> str:
    """Return the page, as HTML. Nothing that a user has sent is in it."""
    return _PAGE.format(count=count)
