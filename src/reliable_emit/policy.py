"""What is given: timeouts, retries, backoff, limits, URLs. Validated where it is given; seconds everywhere."""

from __future__ import annotations

import dataclasses
import urllib.parse
from collections.abc import Callable
from typing import Literal, get_args

import tenacity

Overflow = Literal["raise", "wait", "drop_oldest", "drop_newest"]
OnExhausted = Literal["dead_letter", "hold"]
Backoff = Callable[[tenacity.RetryCallState], float]

_LONGEST = 1e9
"""Seconds, thirty years: more is no time to wait for, but a mistake."""

DEFAULT_BACKOFF: Backoff = tenacity.wait_random_exponential(multiplier=0.5, max=30)
"""Full jitter: between nothing and 0.5 s, doubling with each attempt, to 30 s at the most."""

RECONNECT_BACKOFF: Backoff = tenacity.wait_random_exponential(multiplier=0.5, max=10)
"""The same to 10 s at the most: a server that is back should not be kept waiting."""


def seconds(name: str, value: object, *, zero: bool = False) -> float:
    """Return `value` as a finite number of seconds, or raise, naming the argument."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name} is {value!r}; give seconds, a number")
    if not 0 <= value <= _LONGEST or (value == 0 and not zero):
        least = "0 or more" if zero else "above 0"
        raise ValueError(f"{name} is {value!r}; give a finite number of seconds, {least} and up to {_LONGEST:.0e}")
    return float(value)


def count(name: str, value: object, *, least: int) -> int:
    """Return `value` as a whole number, or raise, naming the argument."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} is {value!r}; give a whole number, or None for no limit")
    if value < least:
        raise ValueError(f"{name} is {value!r}; give {least} or more, or None for no limit")
    return value


def one_of(name: str, value: object, choices: tuple[str, ...]) -> None:
    """Raise unless `value` is one of `choices`, naming the argument."""
    if value not in choices:
        raise ValueError(f"{name} is {value!r}; choose one of {', '.join(map(repr, choices))}")


def check_url(url: object) -> None:
    """Raise unless `url` is one that a Socket.IO client can connect to."""
    if not isinstance(url, str):
        raise TypeError(f"the url is {url!r}; give a str, or a function that returns one")
    try:
        parsed = urllib.parse.urlsplit(url)
        sound = parsed.scheme in {"http", "https", "ws", "wss"} and bool(parsed.hostname)
        sound = sound and parsed.port != 0
    except ValueError:
        sound = False
    if not sound:
        raise ValueError(f"{url!r} is not the URL of a Socket.IO server; give one like http://localhost:3000")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """How messages are delivered; the arguments of :class:`~reliable_emit.ReliableClient` explain each."""

    ack_timeout: float = 10.0
    retries: int | None = 3
    max_losses: int | None = 10
    backoff: Backoff = DEFAULT_BACKOFF
    on_exhausted: OnExhausted = "dead_letter"
    max_pending: int | None = 10_000
    overflow: Overflow = "raise"

    def __post_init__(self) -> None:
        """Refuse what cannot work at the call that gave it."""
        seconds("ack_timeout", self.ack_timeout, zero=True)
        if self.retries is not None:
            count("retries", self.retries, least=0)
        if self.max_losses is not None:
            count("max_losses", self.max_losses, least=1)
        if self.max_pending is not None:
            count("max_pending", self.max_pending, least=1)
        check_backoff("backoff", self.backoff)
        one_of("on_exhausted", self.on_exhausted, get_args(OnExhausted))
        one_of("overflow", self.overflow, get_args(Overflow))

    def backoff_seconds(self, failures: int) -> float:
        """Ask the wait strategy how long to wait after that many failed attempts of a message, in seconds."""
        return backoff_seconds(self.backoff, failures, TimeoutError("no acknowledgement"))


def check_backoff(name: str, backoff: object) -> None:
    """Raise unless `backoff` is a wait strategy, naming the argument."""
    if not callable(backoff):
        raise TypeError(f"{name} is {backoff!r}; give a tenacity wait strategy, such as tenacity.wait_fixed(1)")
    # One that cannot answer must say so here, not from a timer later.
    backoff_seconds(backoff, 1, TimeoutError("a question"))


def backoff_seconds(backoff: Backoff, failures: int, error: Exception) -> float:
    """Ask a wait strategy how long to wait after that many failures, in seconds."""
    # The strategies of tenacity read a RetryCallState; most look at the attempt's number alone, some at its outcome.
    state = tenacity.RetryCallState(retry_object=_RETRYING, fn=None, args=(), kwargs={})
    state.attempt_number = failures
    state.set_exception((type(error), error, None))
    return seconds("the backoff strategy's answer", backoff(state), zero=True)


_RETRYING = tenacity.Retrying()
