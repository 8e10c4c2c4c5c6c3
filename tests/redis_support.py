"""What the tests with Redis share."""

from __future__ import annotations

import functools
import os
import urllib.parse

import redis

from crash_support import need

URL = os.environ.get("RELIABLE_EMIT_REDIS", "redis://127.0.0.1:6379")


def address() -> tuple[str, int]:
    parsed = urllib.parse.urlsplit(URL)
    return parsed.hostname or "127.0.0.1", parsed.port or 6379


def url_at(host: str) -> str:
    """The URL by way of another host (with the port) that passes on to it."""
    parsed = urllib.parse.urlsplit(URL)
    return parsed._replace(netloc=f"{parsed.netloc.rpartition('@')[0]}@{host}".removeprefix("@")).geturl()


@functools.cache
def _reachable() -> str | None:
    client = redis.Redis.from_url(URL, socket_timeout=5)
    try:
        client.ping()
    except redis.RedisError as error:
        return str(error) or type(error).__name__
    finally:
        client.close()
    return None


def need_redis() -> None:
    """Skip the test if there is no Redis; or fail, see `need`."""
    error = _reachable()
    need("redis", error is None, f"no Redis at RELIABLE_EMIT_REDIS ({error})")
